"""The script of a film → all that can be asked about it, with the answers, as instruction records."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from timechat.answers.events import Event
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import format_events
from timechat.synthetic import wording
from timechat.synthetic.questions import make_question
from timechat.synthetic.scene import Action, SyntheticVideo
from timechat.synthetic.speech import Speech, make_speech
from timechat.synthetic.wording import ActionPhrase, absent_action, action_phrases, ask_grounding, ask_preset_or

SyntheticTask = Literal["dense_caption", "grounding", "highlights", "steps", "summary", "transcribe", "qa"]

CLIP_SECONDS = 2.0
"""Length of the clips that highlights are rated by, as in QVHighlights."""
NEGATIVE_SHARE = 1 / 8
"""Share of the grounding records of training that ask for something that does not happen."""
STEPS_OF_ONE_SHARE = 0.25
"""Share of films with a record that names the thing whose steps are wanted."""
HEARD_SHARE = 0.5
"""Share of the questions about a film with speech that tell what is said."""
_MAX_MOMENTS = 10
_MAX_RELEVANT_MOMENTS = 12  # of a query about many things; a query about one event may have more
_MAX_SENTENCES = 5


@dataclass(frozen=True, slots=True)
class SyntheticEvent:
    """An event as records name it: the same happening of a film has the same `id` in all of them."""

    id: str
    start: float
    end: float
    caption: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"id": self.id, "start": self.start, "end": self.end, "caption": self.caption}


@dataclass(frozen=True, slots=True)
class SyntheticRecord:
    """One question about a film and its answer.

    Attributes:
        id: Unique among the records of all films.
        video: Path of the film's file, relative to the folder of the records.
        duration: Of the film, in seconds.
        task: What is asked.
        question: The whole message of the user.
        response: The whole message of the assistant.
        events: What the answer is about, in the order in which it tells it.
        part: `Film.part`.
        query: What is looked for, where the task has a query.
        kind: Of a question (`qa`) or a summary (`"moments"` or `"sentences"`).
        answer: Of a question, in short: the response in small letters without its full stop.
        moments: Of highlights and of summaries in moments: what the response says, one a clip, with scores.
        transcript: What is said in the film, in every record of it; None where nothing is.
        is_negative: What is looked for does not happen.
    """

    id: str
    video: str
    duration: float
    task: SyntheticTask
    question: str
    response: str
    events: tuple[SyntheticEvent, ...]
    part: str
    query: str | None = None
    kind: str | None = None
    answer: str | None = None
    moments: tuple[Event, ...] | None = None
    transcript: tuple[Event, ...] | None = None
    is_negative: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The record as a line of `records.jsonl`; what it lacks has no key."""
        record: dict[str, Any] = {
            "id": self.id,
            "video": self.video,
            "duration": self.duration,
            "task": self.task,
            "messages": [
                {"role": "user", "content": self.question},
                {"role": "assistant", "content": self.response},
            ],
            "events": [event.to_dict() for event in self.events],
            "source": "drawn",
            "part": self.part,
        }
        for name in ("query", "kind", "answer"):
            if (value := getattr(self, name)) is not None:
                record[name] = value
        if self.moments is not None:
            record["moments"] = [{"start": m.start, "end": m.end, "score": m.score} for m in self.moments]
        if self.transcript is not None:
            record["transcript"] = [{"start": s.start, "end": s.end, "text": s.caption} for s in self.transcript]
        if self.is_negative:
            record["negative"] = True
        return record


@dataclass(frozen=True, slots=True)
class _Draft:
    """A record without what all records of its film share."""

    task: SyntheticTask
    question: str
    response: str
    events: Sequence[SyntheticEvent] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _DescribedVideo:
    """A film and the words for what happens in it."""

    video: SyntheticVideo
    phrases: dict[str, ActionPhrase]
    events: dict[str, SyntheticEvent]
    speech: Speech | None


def synthetic_records(
    film: SyntheticVideo, *, variant: int = 0, has_negatives: bool | None = None
) -> list[SyntheticRecord]:
    """Ask all that can be asked about a film.

    Args:
        film: What is asked about; not drawn.
        variant: Another number gives other wordings and other choices of what is asked, and the same facts. The
            files of `timechat data draw` have variant 0.
        has_negatives: Whether to ask for what does not happen as well; None does in training only.

    Returns:
        One record of every task (speech only where all of it can be seen; one or two for highlights, summaries and
        steps), one of grounding for every event, and questions of every kind; the same for the same arguments.
    """
    rng = random.Random(f"{film.id} records {variant}")
    if has_negatives is None:
        has_negatives = film.split == "train"
    deeds = action_phrases(film)
    events = {h.id: SyntheticEvent(h.id, h.start, h.end, wording.caption(deeds[h.id])) for h in film.actions}
    told = _DescribedVideo(film, deeds, events, make_speech(film))
    return _finish(told, _drafts(told, rng, has_negatives), rng)


def _drafts(told: _DescribedVideo, rng: random.Random, has_negatives: bool) -> Iterator[_Draft]:
    yield _dense_caption(told, rng)
    yield from _grounding(told, rng)
    if has_negatives:
        yield from _negatives(told, rng)
    yield from _highlights(told, rng)
    yield from _steps(told, rng)
    yield _moments_summary(told, rng)
    yield _sentences_summary(told, rng)
    if told.speech and told.speech.can_be_seen:
        yield _transcribe(told.speech, rng)
    for kind, question, answer, ids in make_question(told.video, told.phrases, rng):
        events = [told.events[i] for i in ids]
        response = f"{answer[0].upper()}{answer[1:]}."
        yield _Draft("qa", question, response, events, {"kind": kind, "answer": answer})


def _finish(told: _DescribedVideo, drafts: Iterable[_Draft], rng: random.Random) -> list[SyntheticRecord]:
    """Add what is the same for all records, and what is said in the film to some of the questions."""
    film, video = told.video, f"videos/{told.video.id}.mp4"
    utterances = told.speech.utterances if told.speech else ()
    transcript = tuple(Event(said.start, said.end, said.text) for said in utterances) or None
    spoken = [(said.start, said.end, said.text) for said in utterances]
    records = []
    for number, draft in enumerate(drafts):
        question = draft.question
        if spoken and draft.task != "transcribe" and rng.random() < HEARD_SHARE:
            question = wording.with_speech(question, spoken)
        records.append(
            SyntheticRecord(
                id=f"{film.id}-{number:02d}",
                video=video,
                duration=film.duration,
                task=draft.task,
                question=question,
                response=draft.response,
                events=tuple(draft.events),
                part=film.part,
                transcript=transcript,
                **draft.details,
            )
        )
    return records


# ----------------------------------------------------------------------------------------------------- tasks


def _spans(events: Iterable[SyntheticEvent]) -> list[Event]:
    return [Event(event.start, event.end, event.caption) for event in events]


def _dense_caption(told: _DescribedVideo, rng: random.Random) -> _Draft:
    events = list(told.events.values())
    question = ask_preset_or(rng, "dense_caption", wording.DENSE_CAPTION)
    return _Draft("dense_caption", question, format_events(_spans(events), "dense_caption"), events)


def _grounding(told: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    for event in told.events.values():
        question, query = ask_grounding(rng, told.phrases[event.id])
        yield _Draft("grounding", question, format_events(_spans([event]), "grounding"), [event], {"query": query})


def _negatives(told: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    wanted = len(told.events) * NEGATIVE_SHARE / (1 - NEGATIVE_SHARE)
    for _ in range(int(wanted + rng.random())):
        question, query = ask_grounding(rng, absent_action(told.video, rng))
        yield _Draft("grounding", question, NOT_FOUND_ANSWER, [], {"query": query, "is_negative": True})


def _highlights(told: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    """One query about one event, and one about all events of a kind."""
    happening = rng.choice(told.video.actions)
    yield _highlight_query(told, rng, told.phrases[happening.id].any_clause(rng).text, [happening])
    kinds = list(dict.fromkeys(h.kind for h in told.video.actions if h.kind != "meet"))
    rng.shuffle(kinds)
    for kind in kinds:
        group = [h for h in told.video.actions if h.kind == kind]
        if len(relevant_moments(group)) <= _MAX_RELEVANT_MOMENTS:
            canonical = rng.random() < wording.CANONICAL_SHARE
            action = wording.ACTIONS[kind][0] if canonical else rng.choice(wording.ACTIONS[kind])
            subject = "something" if canonical else rng.choice(("something", "anything", "a thing", "any thing"))
            yield _highlight_query(told, rng, f"{subject} {action.finite}", group)
            return


def _highlight_query(told: _DescribedVideo, rng: random.Random, query: str, happenings: Sequence[Action]) -> _Draft:
    moments = relevant_moments(happenings)
    question = ask_preset_or(rng, "highlights", wording.HIGHLIGHTS, query)
    events = [told.events[h.id] for h in happenings]
    details = {"query": query, "moments": tuple(moments)}
    return _Draft("highlights", question, format_events(moments, "highlights"), events, details)


def _clip_weights(happening: Action) -> Iterator[tuple[int, float]]:
    """Clips of which a happening takes at least half, with 1 in its middle, falling towards its ends."""
    middle, reach = (happening.start + happening.end) / 2, (happening.end - happening.start + CLIP_SECONDS) / 2
    first, last = int(happening.start // CLIP_SECONDS), math.ceil(happening.end / CLIP_SECONDS)
    for clip in range(first, last):
        begin = clip * CLIP_SECONDS
        if min(happening.end, begin + CLIP_SECONDS) - max(happening.start, begin) >= CLIP_SECONDS / 2:
            yield clip, max(0.0, 1 - abs(begin + CLIP_SECONDS / 2 - middle) / reach)


def relevant_moments(happenings: Iterable[Action]) -> list[Event]:
    """Rate every clip that shows what is asked for: 4.0 in the middle of an event, towards 1.0 at its ends."""
    weights: dict[int, float] = {}
    for happening in happenings:
        for clip, weight in _clip_weights(happening):
            weights[clip] = max(weight, weights.get(clip, 0.0))
    return [_moment(clip, 1 + 3 * weight) for clip, weight in sorted(weights.items())]


def _important_moments(happenings: Iterable[Action]) -> list[Event]:
    """Rate clips by how much is going on: 1.0 and 1.5 for each event in its middle, less at its ends; the ten best."""
    weights: dict[int, float] = {}
    for happening in happenings:
        for clip, weight in _clip_weights(happening):
            weights[clip] = weight + weights.get(clip, 0.0)
    best = sorted(weights, key=lambda clip: (-round(weights[clip], 6), clip))[:_MAX_MOMENTS]
    return [_moment(clip, min(4.0, 1 + 1.5 * weights[clip])) for clip in sorted(best)]


def _moment(clip: int, score: float) -> Event:
    return Event(clip * CLIP_SECONDS, clip * CLIP_SECONDS, score=round(score, 1))


def _steps(told: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    """What the busiest thing does, in order; of some films also what a thing does that the question names."""
    own: dict[int, list[SyntheticEvent]] = {}
    for happening in told.video.actions:
        own.setdefault(happening.object, []).append(told.events[happening.id])
    busiest = max(own.values(), key=len)  # of several, the one that acts first
    question = ask_preset_or(rng, "steps", wording.STEPS)
    yield _Draft("steps", question, format_events(_spans(busiest), "steps"), busiest)
    if rng.random() < STEPS_OF_ONE_SHARE:
        thing, events = rng.choice(list(own.items()))
        name = f"the {told.video.objects[thing].name}"
        question = rng.choice(wording.STEPS_OF_ONE).format(thing=name)
        yield _Draft("steps", question, format_events(_spans(events), "steps"), events, {"query": name})


def _moments_summary(told: _DescribedVideo, rng: random.Random) -> _Draft:
    """The film in its most important moments, as the original's training data has it."""
    moments = _important_moments(told.video.actions)
    question = ask_preset_or(rng, "highlights", wording.MOMENTS)  # without a query
    shown = [
        event
        for event in told.events.values()
        if any(event.start < moment.start + CLIP_SECONDS and moment.start < event.end for moment in moments)
    ]
    details = {"kind": "moments", "moments": tuple(moments)}
    return _Draft("summary", question, format_events(moments, "summary"), shown, details)


def _sentences_summary(told: _DescribedVideo, rng: random.Random) -> _Draft:
    """The longest events in the order of time, in sentences: what the command line's question asks for."""
    longest = sorted(told.events.values(), key=lambda event: event.start - event.end)[:_MAX_SENTENCES]
    kept = [event for event in told.events.values() if event in longest]
    question = ask_preset_or(rng, "summary", wording.SUMMARY)
    return _Draft("summary", question, wording.narrate_in_order([e.caption for e in kept]), kept, {"kind": "sentences"})


def _transcribe(speech: Speech, rng: random.Random) -> _Draft:
    events = [SyntheticEvent(said.id, said.start, said.end, said.text) for said in speech.utterances]
    question = ask_preset_or(rng, "transcribe", wording.TRANSCRIBE)
    return _Draft("transcribe", question, format_events(_spans(events), "transcribe"), events)
