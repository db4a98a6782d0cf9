"""Questions about a film that are answered in a few words: what, when, how often, how long, whether at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from timechat.synthetic import wording
from timechat.synthetic.scene import KINDS, TICK, Kind, SyntheticVideo
from timechat.synthetic.wording import ActionPhrase, Clause, absent_action, fill_template

QuestionKind = Literal[
    "what_at", "what_after", "how_often", "how_many", "how_long", "does_happen", "which_first", "what_color",
    "what_shape",
]  # fmt: skip
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)

_CLEAR = 1.0  # seconds between a time that is asked about and the ends of any event
_NOTHING_SHARE = 0.15
_ABSENT_SHARE = 0.3


class QuestionAnswer(NamedTuple):
    """A question and its answer in small letters without a full stop, with the ids of the events that it is about."""

    kind: QuestionKind
    question: str
    answer: str
    event_ids: Sequence[str]


def make_question(
    film: SyntheticVideo, deeds: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask one question of every kind, and whether something happens twice: once it does, once it does not.

    A kind is left out where a film allows no clear question of it.

    Args:
        film: What is asked about.
        deeds: A name for every happening, by its id.
        rng: Chooses what is asked, and the words.
    """
    for ask in _QUESTION_MAKERS:
        yield from ask(film, deeds, rng)


def _what_at(film: SyntheticVideo, deeds: Mapping[str, ActionPhrase], rng: random.Random) -> Iterator[QuestionAnswer]:
    """A time at which one event lasts, or none, well away from the ends of any."""
    spans = [(h.start, h.end) for h in film.actions]
    wants_nothing = rng.random() < _NOTHING_SHARE
    for _ in range(30):
        happening = rng.choice(film.actions)
        if wants_nothing:
            time = rng.randint(1, int(film.duration / TICK) - 1) * TICK
        else:
            time = happening.start + rng.randint(0, round((happening.end - happening.start) / TICK)) * TICK
        if any(abs(time - edge) < _CLEAR for span in spans for edge in span):
            continue
        shown = [h for h in film.actions if h.start < time < h.end]
        if len(shown) == (0 if wants_nothing else 1):
            answer = _lower(wording.caption(deeds[shown[0].id]) if shown else wording.NOTHING)
            question = rng.choice(wording.WHAT_AT).format(time=f"{time:.1f}")
            yield QuestionAnswer("what_at", question, answer, [h.id for h in shown])
            return


def _what_after(
    film: SyntheticVideo, deeds: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """The first event to start when another has ended, where that is clear: none starts while the other lasts."""
    for happening in rng.sample(film.actions, len(film.actions)):
        later = [h for h in film.actions if h.start >= happening.start and h is not happening]  # by their start
        if later and later[0].start >= happening.end and (len(later) == 1 or later[1].start >= later[0].start + _CLEAR):
            question = fill_template(rng.choice(wording.WHAT_AFTER), deeds[happening.id].any_clause(rng))
            answer = _lower(wording.caption(deeds[later[0].id]))
            yield QuestionAnswer("what_after", question, answer, [later[0].id])
            return


def _how_often(film: SyntheticVideo, deeds: Mapping[str, ActionPhrase], rng: random.Random) -> Iterator[QuestionAnswer]:
    """How many times one thing does something that it does again; or anything does."""
    repeated = [h for h in film.actions if deeds[h.id].ordinal is not None and h.kind != "meet"]
    if repeated and rng.random() < 0.5:
        chosen = rng.choice(repeated)
        found = [h for h in film.actions if (h.kind, h.object) == (chosen.kind, chosen.object)]
        clause = ActionPhrase(chosen.kind, deeds[chosen.id].object).any_clause(rng)
    else:
        kind = _some_kind(film, rng)
        found = [h for h in film.actions if h.kind == kind]
        action = rng.choice(wording.ACTIONS[kind])
        clause = Clause(rng.choice(("anything", "something")), action.bare, action.finite, action.ing)
    question = fill_template(rng.choice(wording.HOW_OFTEN), clause)
    yield QuestionAnswer("how_often", question, wording.TIMES[len(found)], [h.id for h in found])


def _how_many(film: SyntheticVideo, _deeds: Mapping[str, ActionPhrase], rng: random.Random) -> Iterator[QuestionAnswer]:
    """How many things do something."""
    kind = _some_kind(film, rng)
    found = [h for h in film.actions if h.kind == kind]
    action = rng.choice(wording.ACTIONS[kind])
    question = fill_template(rng.choice(wording.HOW_MANY), Clause("", action.bare, action.finite, action.ing))
    yield QuestionAnswer("how_many", question, wording.NUMBERS[len({h.object for h in found})], [h.id for h in found])


def _some_kind(film: SyntheticVideo, rng: random.Random) -> Kind:
    """A kind of event that a film has, or now and then one that it has not; never one with two things in it."""
    shown = {h.kind for h in film.actions}
    is_absent = rng.random() < _ABSENT_SHARE
    return rng.choice([kind for kind in KINDS if kind != "meet" and (kind not in shown) == is_absent] or KINDS[:1])


def _how_long(film: SyntheticVideo, deeds: Mapping[str, ActionPhrase], rng: random.Random) -> Iterator[QuestionAnswer]:
    happening = rng.choice(film.actions)
    question = fill_template(rng.choice(wording.HOW_LONG), deeds[happening.id].any_clause(rng))
    yield QuestionAnswer("how_long", question, f"{happening.end - happening.start:.1f} seconds", [happening.id])


def _does_happen(
    film: SyntheticVideo, deeds: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Once something that does, once something that nearly does; as often one first as the other."""
    happening = rng.choice(film.actions)
    there = ActionPhrase(happening.kind, deeds[happening.id].object, deeds[happening.id].other)
    asked = [
        QuestionAnswer("does_happen", _does_question(deed, rng), answer, ids)
        for deed, answer, ids in ((there, "yes", [happening.id]), (absent_action(film, rng), "no", []))
    ]
    yield from rng.sample(asked, 2)


def _does_question(deed: ActionPhrase, rng: random.Random) -> str:
    return fill_template(rng.choice(wording.DOES_HAPPEN), deed.any_clause(rng))


def _which_first(
    film: SyntheticVideo, deeds: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    for _ in range(10):
        one, two = rng.sample(film.actions, 2)
        if abs(one.start - two.start) >= _CLEAR:
            first = min(one, two, key=lambda happening: happening.start)
            clauses = {h.id: deeds[h.id].any_clause(rng) for h in (one, two)}
            question = fill_template(rng.choice(wording.WHICH_FIRST), clauses[one.id], other=clauses[two.id].text)
            yield QuestionAnswer("which_first", question, deeds[first.id].clause().text, [first.id])
            return


def _what_color(
    film: SyntheticVideo, _deeds: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """The color of the only thing that does something, or of the only one of its shape."""
    yield from _what_look(film, rng, "what_color", "shape", "color", wording.WHAT_COLOR)


def _what_shape(
    film: SyntheticVideo, _deeds: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """The shape of the only thing that does something, or of the only one of its color."""
    yield from _what_look(film, rng, "what_shape", "color", "shape", wording.WHAT_SHAPE)


def _what_look(
    film: SyntheticVideo,
    rng: random.Random,
    kind: QuestionKind,
    known: Literal["color", "shape"],
    wanted: Literal["color", "shape"],
    templates: Sequence[str],
) -> Iterator[QuestionAnswer]:
    doers = [h for h in film.actions if h.kind not in ("meet", "recolor")]
    acts = {(h.kind, h.object) for h in doers}
    alone = Counter(act for act, _ in acts)
    alike = Counter((act, getattr(film.objects[thing], known)) for act, thing in acts)
    for happening in rng.sample(doers, len(doers)):
        thing = film.objects[happening.object]
        look = getattr(thing, known)
        if alike[happening.kind, look] > 1:
            continue
        if alone[happening.kind] == 1 and rng.random() < 0.7:
            noun = "thing"
        else:
            noun = look if known == "shape" else f"{look} thing"
        action = rng.choice(wording.ACTIONS[happening.kind])
        question = fill_template(rng.choice(templates), Clause("", action.bare, action.finite, action.ing), noun=noun)
        found = [h.id for h in doers if (h.kind, h.object) == (happening.kind, happening.object)]
        yield QuestionAnswer(kind, question, getattr(thing, wanted), found)
        return


def _lower(text: str) -> str:
    return text[0].lower() + text[1:].removesuffix(".")


_QuestionMaker = Callable[[SyntheticVideo, Mapping[str, ActionPhrase], random.Random], Iterator[QuestionAnswer]]
_QUESTION_MAKERS: tuple[_QuestionMaker, ...] = (
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
