"""Questions about a film that are answered in a few words: what, when, how often, how long, whether at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from timechat.data.drawing import wording
from timechat.data.drawing.film import KINDS, TICK, Film, Kind
from timechat.data.drawing.wording import Clause, Deed, absent_deed, fill

QuestionKind = Literal[
    "what_at", "what_after", "how_often", "how_many", "how_long", "does_happen", "which_first", "what_color",
    "what_shape",
]  # fmt: skip
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)

_CLEAR = 1.0  # seconds between a time that is asked about and the ends of any event
_NOTHING_SHARE = 0.15
_ABSENT_SHARE = 0.3


class Asked(NamedTuple):
    """A question and its answer in small letters without a full stop, with the ids of the events that it is about."""

    kind: QuestionKind
    question: str
    answer: str
    event_ids: Sequence[str]


def ask_about(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:
    """Ask one question of every kind, and whether something happens twice: once it does, once it does not.

    A kind is left out where a film allows no clear question of it.

    Args:
        film: What is asked about.
        deeds: A name for every happening, by its id.
        rng: Chooses what is asked, and the words.
    """
    for ask in _ASKERS:
        yield from ask(film, deeds, rng)


def _what_at(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:
    """A time at which one event lasts, or none, well away from the ends of any."""
    spans = [(h.start, h.end) for h in film.happenings]
    wants_nothing = rng.random() < _NOTHING_SHARE
    for _ in range(30):
        happening = rng.choice(film.happenings)
        if wants_nothing:
            time = rng.randint(1, int(film.duration / TICK) - 1) * TICK
        else:
            time = happening.start + rng.randint(0, round((happening.end - happening.start) / TICK)) * TICK
        if any(abs(time - edge) < _CLEAR for span in spans for edge in span):
            continue
        shown = [h for h in film.happenings if h.start < time < h.end]
        if len(shown) == (0 if wants_nothing else 1):
            answer = _lower(wording.caption(deeds[shown[0].id]) if shown else wording.NOTHING)
            question = rng.choice(wording.WHAT_AT).format(time=f"{time:.1f}")
            yield Asked("what_at", question, answer, [h.id for h in shown])
            return


def _what_after(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:
    """The first event to start when another has ended, where that is clear: none starts while the other lasts."""
    for happening in rng.sample(film.happenings, len(film.happenings)):
        later = [h for h in film.happenings if h.start >= happening.start and h is not happening]  # by their start
        if later and later[0].start >= happening.end and (len(later) == 1 or later[1].start >= later[0].start + _CLEAR):
            question = fill(rng.choice(wording.WHAT_AFTER), deeds[happening.id].any_clause(rng))
            answer = _lower(wording.caption(deeds[later[0].id]))
            yield Asked("what_after", question, answer, [later[0].id])
            return


def _how_often(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:
    """How many times one thing does something that it does again; or anything does."""
    repeated = [h for h in film.happenings if deeds[h.id].ordinal is not None and h.kind != "meet"]
    if repeated and rng.random() < 0.5:
        chosen = rng.choice(repeated)
        found = [h for h in film.happenings if (h.kind, h.thing) == (chosen.kind, chosen.thing)]
        clause = Deed(chosen.kind, deeds[chosen.id].thing).any_clause(rng)
    else:
        kind = _some_kind(film, rng)
        found = [h for h in film.happenings if h.kind == kind]
        action = rng.choice(wording.ACTIONS[kind])
        clause = Clause(rng.choice(("anything", "something")), action.bare, action.finite, action.ing)
    question = fill(rng.choice(wording.HOW_OFTEN), clause)
    yield Asked("how_often", question, wording.TIMES[len(found)], [h.id for h in found])


def _how_many(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:  # noqa: ARG001
    """How many things do something."""
    kind = _some_kind(film, rng)
    found = [h for h in film.happenings if h.kind == kind]
    action = rng.choice(wording.ACTIONS[kind])
    question = fill(rng.choice(wording.HOW_MANY), Clause("", action.bare, action.finite, action.ing))
    yield Asked("how_many", question, wording.NUMBERS[len({h.thing for h in found})], [h.id for h in found])


def _some_kind(film: Film, rng: random.Random) -> Kind:
    """A kind of event that a film has, or now and then one that it has not; never one with two things in it."""
    shown = {h.kind for h in film.happenings}
    is_absent = rng.random() < _ABSENT_SHARE
    return rng.choice([kind for kind in KINDS if kind != "meet" and (kind not in shown) == is_absent] or KINDS[:1])


def _how_long(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:
    happening = rng.choice(film.happenings)
    question = fill(rng.choice(wording.HOW_LONG), deeds[happening.id].any_clause(rng))
    yield Asked("how_long", question, f"{happening.end - happening.start:.1f} seconds", [happening.id])


def _does_happen(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:
    """Once something that does, once something that nearly does; as often one first as the other."""
    happening = rng.choice(film.happenings)
    there = Deed(happening.kind, deeds[happening.id].thing, deeds[happening.id].other)
    asked = [
        Asked("does_happen", _does_question(deed, rng), answer, ids)
        for deed, answer, ids in ((there, "yes", [happening.id]), (absent_deed(film, rng), "no", []))
    ]
    yield from rng.sample(asked, 2)


def _does_question(deed: Deed, rng: random.Random) -> str:
    return fill(rng.choice(wording.DOES_HAPPEN), deed.any_clause(rng))


def _which_first(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:
    for _ in range(10):
        one, two = rng.sample(film.happenings, 2)
        if abs(one.start - two.start) >= _CLEAR:
            first = min(one, two, key=lambda happening: happening.start)
            clauses = {h.id: deeds[h.id].any_clause(rng) for h in (one, two)}
            question = fill(rng.choice(wording.WHICH_FIRST), clauses[one.id], other=clauses[two.id].text)
            yield Asked("which_first", question, deeds[first.id].clause().text, [first.id])
            return


def _what_color(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:  # noqa: ARG001
    """The color of the only thing that does something, or of the only one of its shape."""
    yield from _what_look(film, rng, "what_color", "shape", "color", wording.WHAT_COLOR)


def _what_shape(film: Film, deeds: Mapping[str, Deed], rng: random.Random) -> Iterator[Asked]:  # noqa: ARG001
    """The shape of the only thing that does something, or of the only one of its color."""
    yield from _what_look(film, rng, "what_shape", "color", "shape", wording.WHAT_SHAPE)


def _what_look(
    film: Film,
    rng: random.Random,
    kind: QuestionKind,
    known: Literal["color", "shape"],
    wanted: Literal["color", "shape"],
    templates: Sequence[str],
) -> Iterator[Asked]:
    doers = [h for h in film.happenings if h.kind not in ("meet", "recolor")]
    acts = {(h.kind, h.thing) for h in doers}
    alone = Counter(act for act, _ in acts)
    alike = Counter((act, getattr(film.things[thing], known)) for act, thing in acts)
    for happening in rng.sample(doers, len(doers)):
        thing = film.things[happening.thing]
        look = getattr(thing, known)
        if alike[happening.kind, look] > 1:
            continue
        if alone[happening.kind] == 1 and rng.random() < 0.7:
            noun = "thing"
        else:
            noun = look if known == "shape" else f"{look} thing"
        action = rng.choice(wording.ACTIONS[happening.kind])
        question = fill(rng.choice(templates), Clause("", action.bare, action.finite, action.ing), noun=noun)
        found = [h.id for h in doers if (h.kind, h.thing) == (happening.kind, happening.thing)]
        yield Asked(kind, question, getattr(thing, wanted), found)
        return


def _lower(text: str) -> str:
    return text[0].lower() + text[1:].removesuffix(".")


_Asker = Callable[[Film, Mapping[str, Deed], random.Random], Iterator[Asked]]
_ASKERS: tuple[_Asker, ...] = (
    _what_at,
    _what_after,
    _how_often,
    _how_many,
    _how_long,
    _does_happen,
    _which_first,
    _what_color,
    _what_shape,
)
