"""Instruction records about a synthetic video: all questions that its script answers, with the answers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from timechat.answers.events import Event
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import format_events
from timechat.synthetic import templates, wording
from timechat.synthetic.questions import make_question
from timechat.synthetic.scene import Action, SyntheticVideo
from timechat.synthetic.speech import Speech, make_speech
from timechat.synthetic.wording import ActionPhrase, absent_action, action_phrases, ask_grounding, ask_preset_or

SyntheticTask = Literal["dense_caption", "grounding", "highlights", "steps", "summary", "transcribe", "qa"]

CLIP_SECONDS = 2.0
"""Length of the clips that get a saliency score, in seconds, as in QVHighlights."""
NEGATIVE_SHARE = 1 / 8
"""Share of the grounding records of training whose query does not happen."""
STEPS_OF_ONE_SHARE = 0.25
"""Share of videos with a `steps` record that asks for the steps of one object."""
TRANSCRIPT_SHARE = 0.5
"""Share of the questions about a video with speech that contain its transcript."""
_MAX_MOMENTS = 10
_MAX_RELEVANT_MOMENTS = 12  # for a query about several events; a query about one event may have more
_MAX_SENTENCES = 5


@dataclass(frozen=True, slots=True)
class SyntheticEvent:
    """An event in a record; the same action of a video has the same `id` in all records."""

    id: str
    start: float
    end: float
    caption: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"id": self.id, "start": self.start, "end": self.end, "caption": self.caption}


@dataclass(frozen=True, slots=True)
class SyntheticRecord:
    """One question about a video and its answer.

    Attributes:
        id: Unique id among the records of all videos.
        video: Path of the video file, relative to the folder of the records.
        duration: Length of the video, in seconds.
        task: Task of the question.
        question: Complete message of the user.
        response: Complete message of the assistant.
        events: Events of the answer, in its order.
        part: Part of the split, as in `SyntheticVideo.part`.
        query: Query, for tasks that have one.
        kind: Kind of question for the task `qa`; `"moments"` or `"sentences"` for the task `summary`.
        answer: For the task `qa`, the response in lower case without the full stop.
        moments: For highlights and for summaries of the kind `"moments"`, the scored moments in the response.
        transcript: Speech of the video, the same in all its records; None without speech.
        is_negative: Whether the query does not happen in the video.
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
        """Return the record as an object of `records.jsonl`, without keys for None."""
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
            record["moments"] = [{"start": m.start, "end": m.end, "score": m.saliency} for m in self.moments]
        if self.transcript is not None:
            record["transcript"] = [{"start": s.start, "end": s.end, "text": s.caption} for s in self.transcript]
        if self.is_negative:
            record["negative"] = True
        return record


@dataclass(frozen=True, slots=True)
class _Draft:
    """A record without the fields that all records of a video share."""

    task: SyntheticTask
    question: str
    response: str
    events: Sequence[SyntheticEvent] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _DescribedVideo:
    """A video with descriptions of its actions."""

    video: SyntheticVideo
    phrases: dict[str, ActionPhrase]
    events: dict[str, SyntheticEvent]
    speech: Speech | None


def synthetic_records(
    video: SyntheticVideo, *, variant: int = 0, has_negatives: bool | None = None
) -> list[SyntheticRecord]:
    """Make the records of a video. Equal arguments give equal records.

    Args:
        video: Script of the video; it need not be rendered.
        variant: Number of the variant. Variants differ in wording and in the choice of questions, not in facts. The
            files of `timechat data draw` have variant 0.
        has_negatives: Whether to add queries that do not happen; None adds them for the training split only.

    Returns:
        Records of every task: one or two for highlights, summaries and steps; one for transcription if the speech is a
        narration; one of grounding for every event; and questions of every kind.
    """
    rng = random.Random(f"{video.id} records {variant}")
    if has_negatives is None:
        has_negatives = video.split == "train"
    phrases = action_phrases(video)
    events = {
        action.id: SyntheticEvent(action.id, action.start, action.end, wording.caption(phrases[action.id]))
        for action in video.actions
    }
    described = _DescribedVideo(video, phrases, events, make_speech(video))
    return _finish(described, _drafts(described, rng, has_negatives), rng)


def negative_record(video: SyntheticVideo, phrase: ActionPhrase, rng: random.Random) -> SyntheticRecord:
    """Make a grounding record whose query does not happen in the video.

    Args:
        video: Script of the video.
        phrase: Description of the query.
        rng: Random number generator for the words.
    """
    described = _DescribedVideo(video, {}, {}, make_speech(video))
    [record] = _finish(described, [_negative(phrase, rng)], rng)
    return record


def _drafts(described: _DescribedVideo, rng: random.Random, has_negatives: bool) -> Iterator[_Draft]:
    yield _dense_caption(described, rng)
    yield from _grounding(described, rng)
    if has_negatives:
        yield from _negatives(described, rng)
    yield from _highlights(described, rng)
    yield from _steps(described, rng)
    yield _moments_summary(described, rng)
    yield _sentences_summary(described, rng)
    if described.speech and described.speech.is_narration:
        yield _transcribe(described.speech, rng)
    for kind, question, answer, ids in make_question(described.video, described.phrases, rng):
        events = [described.events[i] for i in ids]
        response = f"{answer[0].upper()}{answer[1:]}."
        yield _Draft("qa", question, response, events, {"kind": kind, "answer": answer})


def _finish(described: _DescribedVideo, drafts: Iterable[_Draft], rng: random.Random) -> list[SyntheticRecord]:
    """Add the fields that all records of the video share, and the transcript to some of the questions."""
    video = described.video
    utterances = described.speech.utterances if described.speech else ()
    transcript = tuple(Event(item.start, item.end, item.text) for item in utterances) or None
    spoken = [(item.start, item.end, item.text) for item in utterances]
    records = []
    for number, draft in enumerate(drafts):
        question = draft.question
        if spoken and draft.task != "transcribe" and rng.random() < TRANSCRIPT_SHARE:
            question = wording.with_speech(question, spoken)
        records.append(
            SyntheticRecord(
                id=f"{video.id}-{number:02d}",
                video=f"videos/{video.id}.mp4",
                duration=video.duration,
                task=draft.task,
                question=question,
                response=draft.response,
                events=tuple(draft.events),
                part=video.part,
                transcript=transcript,
                **draft.details,
            )
        )
    return records


def _spans(events: Iterable[SyntheticEvent]) -> list[Event]:
    return [Event(event.start, event.end, event.caption) for event in events]


def _dense_caption(described: _DescribedVideo, rng: random.Random) -> _Draft:
    events = list(described.events.values())
    question = ask_preset_or(rng, "dense_caption", templates.DENSE_CAPTION)
    return _Draft("dense_caption", question, format_events(_spans(events), "dense_caption"), events)


def _grounding(described: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    for event in described.events.values():
        question, query = ask_grounding(rng, described.phrases[event.id])
        yield _Draft("grounding", question, format_events(_spans([event]), "grounding"), [event], {"query": query})


def _negatives(described: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    count = len(described.events) * NEGATIVE_SHARE / (1 - NEGATIVE_SHARE)
    for _ in range(int(count + rng.random())):
        yield _negative(absent_action(described.video, rng), rng)


def _negative(phrase: ActionPhrase, rng: random.Random) -> _Draft:
    question, query = ask_grounding(rng, phrase)
    return _Draft("grounding", question, NOT_FOUND_ANSWER, [], {"query": query, "is_negative": True})


def _highlights(described: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    """Ask for the highlights of one event, and of all events of a kind."""
    action = rng.choice(described.video.actions)
    yield _highlight_query(described, rng, described.phrases[action.id].any_clause(rng).text, [action])
    kinds = list(dict.fromkeys(action.kind for action in described.video.actions if action.kind != "meet"))
    rng.shuffle(kinds)
    for kind in kinds:
        group = [action for action in described.video.actions if action.kind == kind]
        if len(relevant_moments(group)) <= _MAX_RELEVANT_MOMENTS:
            canonical = rng.random() < wording.CANONICAL_SHARE
            verb = wording.ACTIONS[kind][0] if canonical else rng.choice(wording.ACTIONS[kind])
            subject = "something" if canonical else rng.choice(("something", "anything", "a thing", "any thing"))
            yield _highlight_query(described, rng, f"{subject} {verb.finite}", group)
            return


def _highlight_query(described: _DescribedVideo, rng: random.Random, query: str, actions: Sequence[Action]) -> _Draft:
    moments = relevant_moments(actions)
    question = ask_preset_or(rng, "highlights", templates.HIGHLIGHTS, query)
    events = [described.events[action.id] for action in actions]
    details = {"query": query, "moments": tuple(moments)}
    return _Draft("highlights", question, format_events(moments, "highlights"), events, details)


def _clip_weights(action: Action) -> Iterator[tuple[int, float]]:
    """Yield clips that an action fills by half, with a weight: 1 in the middle of the action, less at its ends."""
    middle, reach = (action.start + action.end) / 2, (action.end - action.start + CLIP_SECONDS) / 2
    first, last = int(action.start // CLIP_SECONDS), math.ceil(action.end / CLIP_SECONDS)
    for clip in range(first, last):
        begin = clip * CLIP_SECONDS
        if min(action.end, begin + CLIP_SECONDS) - max(action.start, begin) >= CLIP_SECONDS / 2:
            yield clip, max(0.0, 1 - abs(begin + CLIP_SECONDS / 2 - middle) / reach)


def relevant_moments(actions: Iterable[Action]) -> list[Event]:
    """Score every clip that shows one of the actions: 4.0 in the middle of an action, down to 1.0 at its ends."""
    weights: dict[int, float] = {}
    for action in actions:
        for clip, weight in _clip_weights(action):
            weights[clip] = max(weight, weights.get(clip, 0.0))
    return [_moment(clip, 1 + 3 * weight) for clip, weight in sorted(weights.items())]


def _important_moments(actions: Iterable[Action]) -> list[Event]:
    """Score clips by the number of actions, 1.0 plus up to 1.5 for each, and return the ten best."""
    weights: dict[int, float] = {}
    for action in actions:
        for clip, weight in _clip_weights(action):
            weights[clip] = weight + weights.get(clip, 0.0)
    best = sorted(weights, key=lambda clip: (-round(weights[clip], 6), clip))[:_MAX_MOMENTS]
    return [_moment(clip, min(4.0, 1 + 1.5 * weights[clip])) for clip in sorted(best)]


def _moment(clip: int, score: float) -> Event:
    return Event(clip * CLIP_SECONDS, clip * CLIP_SECONDS, saliency=round(score, 1))


def _steps(described: _DescribedVideo, rng: random.Random) -> Iterator[_Draft]:
    """Ask for the steps of the object with most actions; for some videos also for those of an object that is named."""
    own: dict[int, list[SyntheticEvent]] = {}
    for action in described.video.actions:
        own.setdefault(action.object, []).append(described.events[action.id])
    busiest = max(own.values(), key=len)  # of several, the one with the first action
    question = ask_preset_or(rng, "steps", templates.STEPS)
    yield _Draft("steps", question, format_events(_spans(busiest), "steps"), busiest)
    if rng.random() < STEPS_OF_ONE_SHARE:
        index, events = rng.choice(list(own.items()))
        name = f"the {described.video.objects[index].name}"
        question = rng.choice(templates.STEPS_OF_ONE).format(object=name)
        yield _Draft("steps", question, format_events(_spans(events), "steps"), events, {"query": name})


def _moments_summary(described: _DescribedVideo, rng: random.Random) -> _Draft:
    """Ask for a summary as the most important moments, as in the training data of the original."""
    moments = _important_moments(described.video.actions)
    question = ask_preset_or(rng, "highlights", templates.MOMENTS)  # without a query
    shown = [
        event
        for event in described.events.values()
        if any(event.start < moment.start + CLIP_SECONDS and moment.start < event.end for moment in moments)
    ]
    details = {"kind": "moments", "moments": tuple(moments)}
    return _Draft("summary", question, format_events(moments, "summary"), shown, details)


def _sentences_summary(described: _DescribedVideo, rng: random.Random) -> _Draft:
    """Ask for a summary in sentences, as the command line does: the longest events in order of time."""
    longest = sorted(described.events.values(), key=lambda event: event.start - event.end)[:_MAX_SENTENCES]
    kept = [event for event in described.events.values() if event in longest]
    question = ask_preset_or(rng, "summary", templates.SUMMARY)
    return _Draft("summary", question, wording.narrate_in_order([e.caption for e in kept]), kept, {"kind": "sentences"})


def _transcribe(speech: Speech, rng: random.Random) -> _Draft:
    events = [SyntheticEvent(item.id, item.start, item.end, item.text) for item in speech.utterances]
    question = ask_preset_or(rng, "transcribe", templates.TRANSCRIBE)
    return _Draft("transcribe", question, format_events(_spans(events), "transcribe"), events)
