"""Questions about a video with short answers: what, when, how often, how long, and whether at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from timechat.synthetic import templates, wording
from timechat.synthetic.scene import KINDS, TICK, Kind, SyntheticVideo
from timechat.synthetic.wording import ActionPhrase, Clause, absent_action, fill_template

QuestionKind = Literal[
    "what_at", "what_after", "how_often", "how_many", "how_long", "does_happen", "which_first", "what_color",
    "what_shape",
]  # fmt: skip

_MARGIN = 1.0  # minimum distance in seconds between the time in a question and the start or end of an event
_NOTHING_SHARE = 0.15
_ABSENT_SHARE = 0.3


class QuestionAnswer(NamedTuple):
    """A question, its answer in lower case without a full stop, and the ids of the events that it is about."""

    kind: QuestionKind
    question: str
    answer: str
    event_ids: Sequence[str]


def make_question(
    video: SyntheticVideo, phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Yield one question of every kind, and two of the kind `does_happen`: one with the answer yes, one with no.

    A kind is left out if the video allows no clear question of it.

    Args:
        video: Script of the video.
        phrases: Description of every action, by its id.
        rng: Random number generator for the choice of questions and words.
    """
    for ask in _QUESTION_MAKERS:
        yield from ask(video, phrases, rng)


def _what_at(
    video: SyntheticVideo, phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask what happens at a time during one event or during none, away from the starts and ends of events."""
    spans = [(event.start, event.end) for event in video.actions]
    needs_no_event = rng.random() < _NOTHING_SHARE
    for _ in range(30):
        action = rng.choice(video.actions)
        if needs_no_event:
            time = rng.randint(1, int(video.duration / TICK) - 1) * TICK
        else:
            time = action.start + rng.randint(0, round((action.end - action.start) / TICK)) * TICK
        if any(abs(time - edge) < _MARGIN for span in spans for edge in span):
            continue
        shown = [event for event in video.actions if event.start < time < event.end]
        if len(shown) == (0 if needs_no_event else 1):
            answer = _lower(wording.caption(phrases[shown[0].id]) if shown else wording.NOTHING)
            question = rng.choice(templates.WHAT_AT).format(time=f"{time:.1f}")
            yield QuestionAnswer("what_at", question, answer, [event.id for event in shown])
            return


def _what_after(
    video: SyntheticVideo, phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask for the first event after the end of another, during which no other event starts."""
    for action in rng.sample(video.actions, len(video.actions)):
        later = [
            event for event in video.actions if event.start >= action.start and event is not action
        ]  # by their start
        if later and later[0].start >= action.end and (len(later) == 1 or later[1].start >= later[0].start + _MARGIN):
            question = fill_template(rng.choice(templates.WHAT_AFTER), phrases[action.id].any_clause(rng))
            answer = _lower(wording.caption(phrases[later[0].id]))
            yield QuestionAnswer("what_after", question, answer, [later[0].id])
            return


def _how_often(
    video: SyntheticVideo, phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask how often one object does a repeated action, or how often any object does an action."""
    repeated = [event for event in video.actions if phrases[event.id].ordinal is not None and event.kind != "meet"]
    if repeated and rng.random() < 0.5:
        chosen = rng.choice(repeated)
        found = [event for event in video.actions if (event.kind, event.object) == (chosen.kind, chosen.object)]
        clause = ActionPhrase(chosen.kind, phrases[chosen.id].object).any_clause(rng)
    else:
        kind = _some_kind(video, rng)
        found = [event for event in video.actions if event.kind == kind]
        verb = rng.choice(wording.ACTIONS[kind])
        clause = Clause(rng.choice(("anything", "something")), verb.bare, verb.finite, verb.ing)
    question = fill_template(rng.choice(templates.HOW_OFTEN), clause)
    yield QuestionAnswer("how_often", question, wording.TIMES[len(found)], [event.id for event in found])


def _how_many(
    video: SyntheticVideo, _phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask how many objects do an action."""
    kind = _some_kind(video, rng)
    found = [event for event in video.actions if event.kind == kind]
    verb = rng.choice(wording.ACTIONS[kind])
    question = fill_template(rng.choice(templates.HOW_MANY), Clause("", verb.bare, verb.finite, verb.ing))
    yield QuestionAnswer(
        "how_many", question, wording.NUMBERS[len({event.object for event in found})], [event.id for event in found]
    )


def _some_kind(video: SyntheticVideo, rng: random.Random) -> Kind:
    """Choose a kind of action that the video has or, sometimes, one that it does not have; never `meet`."""
    shown = {event.kind for event in video.actions}
    is_absent = rng.random() < _ABSENT_SHARE
    return rng.choice([kind for kind in KINDS if kind != "meet" and (kind not in shown) == is_absent] or KINDS[:1])


def _how_long(
    video: SyntheticVideo, phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    action = rng.choice(video.actions)
    question = fill_template(rng.choice(templates.HOW_LONG), phrases[action.id].any_clause(rng))
    yield QuestionAnswer("how_long", question, f"{action.end - action.start:.1f} seconds", [action.id])


def _does_happen(
    video: SyntheticVideo, phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask about an action that happens and about one that only resembles one, in random order."""
    action = rng.choice(video.actions)
    present = ActionPhrase(action.kind, phrases[action.id].object, phrases[action.id].other)
    questions = [
        QuestionAnswer("does_happen", _does_question(phrase, rng), answer, ids)
        for phrase, answer, ids in ((present, "yes", [action.id]), (absent_action(video, rng), "no", []))
    ]
    yield from rng.sample(questions, 2)


def _does_question(phrase: ActionPhrase, rng: random.Random) -> str:
    return fill_template(rng.choice(templates.DOES_HAPPEN), phrase.any_clause(rng))


def _which_first(
    video: SyntheticVideo, phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    for _ in range(10):
        one, two = rng.sample(video.actions, 2)
        if abs(one.start - two.start) >= _MARGIN:
            first = min(one, two, key=lambda action: action.start)
            clauses = {event.id: phrases[event.id].any_clause(rng) for event in (one, two)}
            question = fill_template(rng.choice(templates.WHICH_FIRST), clauses[one.id], other=clauses[two.id].text)
            yield QuestionAnswer("which_first", question, phrases[first.id].clause().text, [first.id])
            return


def _what_color(
    video: SyntheticVideo, _phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask for the color of the only object that does an action, or of the only one of its shape."""
    yield from _what_look(video, rng, "what_color", "shape", "color", templates.WHAT_COLOR)


def _what_shape(
    video: SyntheticVideo, _phrases: Mapping[str, ActionPhrase], rng: random.Random
) -> Iterator[QuestionAnswer]:
    """Ask for the shape of the only object that does an action, or of the only one of its color."""
    yield from _what_look(video, rng, "what_shape", "color", "shape", templates.WHAT_SHAPE)


def _what_look(
    video: SyntheticVideo,
    rng: random.Random,
    kind: QuestionKind,
    known: Literal["color", "shape"],
    target: Literal["color", "shape"],
    templates: Sequence[str],
) -> Iterator[QuestionAnswer]:
    actions = [event for event in video.actions if event.kind not in ("meet", "recolor")]
    pairs = {(event.kind, event.object) for event in actions}
    num_objects = Counter(kind for kind, _ in pairs)
    num_alike = Counter((kind, getattr(video.objects[index], known)) for kind, index in pairs)
    for action in rng.sample(actions, len(actions)):
        obj = video.objects[action.object]
        look = getattr(obj, known)
        if num_alike[action.kind, look] > 1:
            continue
        if num_objects[action.kind] == 1 and rng.random() < 0.7:
            noun = "thing"
        else:
            noun = look if known == "shape" else f"{look} thing"
        verb = rng.choice(wording.ACTIONS[action.kind])
        question = fill_template(rng.choice(templates), Clause("", verb.bare, verb.finite, verb.ing), noun=noun)
        found = [event.id for event in actions if (event.kind, event.object) == (action.kind, action.object)]
        yield QuestionAnswer(kind, question, getattr(obj, target), found)
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
