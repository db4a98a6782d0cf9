"""Instruction records about a long synthetic video: dense captioning, grounding and highlights.

A description such as "the red circle bounces" may fit several moments of a long video. A grounding record lists all of
them. Most records ask for an action that happens once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from timechat.answers.events import Event
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import format_events
from timechat.synthetic import templates, wording
from timechat.synthetic.long import LongSyntheticVideo
from timechat.synthetic.records import SyntheticEvent, SyntheticRecord, SyntheticTask, relevant_moments
from timechat.synthetic.scene import Action, Kind
from timechat.synthetic.wording import ActionPhrase, absent_action, ask_grounding, ask_preset_or, is_shown

MAX_UNIQUE = 32
"""Maximum number of grounding records of a video about actions that happen once."""
MAX_REPEATED = 16
"""Maximum number of grounding records of a video about actions that happen several times."""
NEGATIVE_RATIO = 0.5
"""Ratio of grounding records about actions that never happen to the others, in both splits."""
_TRIES = 50  # per negative

_Key = tuple[Kind, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class _DescribedLongVideo:
    """A long video with descriptions of its actions; `alike` groups actions of equal description, in order of time."""

    video: LongSyntheticVideo
    events: dict[str, SyntheticEvent]
    phrases: dict[str, ActionPhrase]
    alike: dict[_Key, list[Action]] = field(default_factory=dict)


def long_records(video: LongSyntheticVideo) -> list[SyntheticRecord]:
    """Make the records of a long video, which need not be rendered. Equal videos give equal records.

    Returns:
        One record of dense captioning with all events; at most `MAX_UNIQUE` grounding records about actions that happen
        once and `MAX_REPEATED` about actions that happen several times, each with all its events; half as many about
        actions that never happen; and one record of highlights.
    """
    rng = random.Random(f"{video.id} records")
    described = _describe(video)
    drafts = [_dense_caption(described, rng), *_grounding(described, rng), _highlights(described, rng)]
    return [
        SyntheticRecord(
            id=f"{video.id}-{number:02d}",
            video=f"videos/{video.id}.mp4",
            duration=video.duration,
            part=video.part,
            task=task,
            question=question,
            response=response,
            events=tuple(events),
            **details,
        )
        for number, (task, question, response, events, details) in enumerate(drafts)
    ]


_Draft = tuple[SyntheticTask, str, str, Sequence[SyntheticEvent], dict[str, Any]]


def _describe(video: LongSyntheticVideo) -> _DescribedLongVideo:
    described = _DescribedLongVideo(video, {}, {})
    objects = video.objects
    for action in video.actions:
        look, *others = ((objects[i].color, objects[i].shape) for i in action.actors)
        phrase = ActionPhrase(action.kind, look, others[0] if others else None)
        described.phrases[action.id] = phrase
        described.events[action.id] = SyntheticEvent(action.id, action.start, action.end, wording.caption(phrase))
        described.alike.setdefault(_key(phrase), []).append(action)
    return described


def _key(phrase: ActionPhrase) -> _Key:
    """Return a key that is equal for actions with the same description; meeting has no direction."""
    return phrase.kind, frozenset(look for look in (phrase.object, phrase.other) if look is not None)


def _dense_caption(described: _DescribedLongVideo, rng: random.Random) -> _Draft:
    events = list(described.events.values())
    question = ask_preset_or(rng, "dense_caption", templates.DENSE_CAPTION)
    spans = [Event(event.start, event.end, event.caption) for event in events]
    return "dense_caption", question, format_events(spans, "dense_caption"), events, {}


def _grounding(described: _DescribedLongVideo, rng: random.Random) -> Iterator[_Draft]:
    unique = [group for group in described.alike.values() if len(group) == 1]
    repeated = [group for group in described.alike.values() if len(group) > 1]
    chosen = [*_sample(unique, MAX_UNIQUE, rng), *_sample(repeated, MAX_REPEATED, rng)]
    for group in sorted(chosen, key=lambda group: group[0].start):
        question, query = ask_grounding(rng, described.phrases[group[0].id])
        sentences = (format_events([Event(action.start, action.end)], "grounding") for action in group)
        yield (
            "grounding",
            question,
            " ".join(sentences),
            [described.events[action.id] for action in group],
            {"query": query},
        )
    for phrase in _absent_actions(described.video, rng, round(len(chosen) * NEGATIVE_RATIO)):
        question, query = ask_grounding(rng, phrase)
        yield "grounding", question, NOT_FOUND_ANSWER, [], {"query": query, "is_negative": True}


def _sample(groups: Sequence[list[Action]], count: int, rng: random.Random) -> list[list[Action]]:
    return rng.sample(groups, min(count, len(groups)))


def _absent_actions(video: LongSyntheticVideo, rng: random.Random, count: int) -> Iterator[ActionPhrase]:
    """Yield different descriptions that resemble an action of one scene and fit no action of any scene."""
    keys: set[_Key] = set()
    for _ in range(count * _TRIES):
        if len(keys) == count:
            return
        phrase = absent_action(rng.choice(video.parts), rng)
        if _key(phrase) not in keys and not any(is_shown(part, phrase) for part in video.parts):
            keys.add(_key(phrase))
            yield phrase


def _highlights(described: _DescribedLongVideo, rng: random.Random) -> _Draft:
    """Ask for the highlights of an action that happens once, if there is one."""
    group = rng.choice(
        [group for group in described.alike.values() if len(group) == 1] or list(described.alike.values())
    )
    query = described.phrases[group[0].id].any_clause(rng).text
    moments = relevant_moments(group)
    question = ask_preset_or(rng, "highlights", templates.HIGHLIGHTS, query)
    details = {"query": query, "moments": tuple(moments)}
    return (
        "highlights",
        question,
        format_events(moments, "highlights"),
        [described.events[action.id] for action in group],
        details,
    )
