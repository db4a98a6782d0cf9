"""The script of a long film → instruction records: one of dense captioning, many of grounding, one of highlights.

A description, such as "the red circle bounces", may be true of several moments of a long film: a record of grounding
lists all of them. Most ask for what happens once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from timechat.answers.events import Event
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import format_events
from timechat.synthetic import wording
from timechat.synthetic.long import LongSyntheticVideo
from timechat.synthetic.records import SyntheticEvent, SyntheticRecord, SyntheticTask, relevant_moments
from timechat.synthetic.scene import Action, Kind
from timechat.synthetic.wording import ActionPhrase, absent_action, ask_grounding, ask_preset_or, is_shown

MAX_UNIQUE = 32
"""Most records of grounding of a chain that ask for what happens once."""
MAX_REPEATED = 16
"""Most that ask for what happens several times."""
NEGATIVE_RATIO = 0.5
"""Records that ask for what never happens, to those that ask for what does; in testing as well."""
_TRIES = 50  # for every negative

_Key = tuple[Kind, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class _DescribedChain:
    """A chain, and what happens in it gathered under its descriptions, in order of time."""

    chain: LongSyntheticVideo
    events: dict[str, SyntheticEvent]
    phrases: dict[str, ActionPhrase]
    alike: dict[_Key, list[Action]] = field(default_factory=dict)


def long_records(chain: LongSyntheticVideo) -> list[SyntheticRecord]:
    """Ask about a long film; not drawn.

    Returns:
        A record of dense captioning with all events; at most `MAX_UNIQUE` of grounding for what happens once and
        `MAX_REPEATED` for what happens several times, each with all of its events; half as many for what never
        happens; and one of highlights. The same for the same chain.
    """
    rng = random.Random(f"{chain.id} records")
    told = _describe(chain)
    drafts = [_dense_caption(told, rng), *_grounding(told, rng), _highlights(told, rng)]
    return [
        SyntheticRecord(
            id=f"{chain.id}-{number:02d}",
            video=f"videos/{chain.id}.mp4",
            duration=chain.duration,
            part=chain.part,
            task=task,
            question=question,
            response=response,
            events=tuple(events),
            **details,
        )
        for number, (task, question, response, events, details) in enumerate(drafts)
    ]


_Draft = tuple[SyntheticTask, str, str, Sequence[SyntheticEvent], dict[str, Any]]


def _describe(chain: LongSyntheticVideo) -> _DescribedChain:
    told = _DescribedChain(chain, {}, {})
    things = chain.objects
    for happening in chain.actions:
        thing, *others = ((things[i].color, things[i].shape) for i in happening.actors)
        deed = ActionPhrase(happening.kind, thing, others[0] if others else None)
        told.phrases[happening.id] = deed
        told.events[happening.id] = SyntheticEvent(happening.id, happening.start, happening.end, wording.caption(deed))
        told.alike.setdefault(_key(deed), []).append(happening)
    return told


def _key(deed: ActionPhrase) -> _Key:
    """What deeds share of which one description is true; meeting has no direction."""
    return deed.kind, frozenset(look for look in (deed.object, deed.other) if look is not None)


def _dense_caption(told: _DescribedChain, rng: random.Random) -> _Draft:
    events = list(told.events.values())
    question = ask_preset_or(rng, "dense_caption", wording.DENSE_CAPTION)
    spans = [Event(event.start, event.end, event.caption) for event in events]
    return "dense_caption", question, format_events(spans, "dense_caption"), events, {}


def _grounding(told: _DescribedChain, rng: random.Random) -> Iterator[_Draft]:
    unique = [group for group in told.alike.values() if len(group) == 1]
    repeated = [group for group in told.alike.values() if len(group) > 1]
    chosen = [*_sample(unique, MAX_UNIQUE, rng), *_sample(repeated, MAX_REPEATED, rng)]
    for group in sorted(chosen, key=lambda group: group[0].start):
        question, query = ask_grounding(rng, told.phrases[group[0].id])
        sentences = (format_events([Event(h.start, h.end)], "grounding") for h in group)
        yield "grounding", question, " ".join(sentences), [told.events[h.id] for h in group], {"query": query}
    for deed in _absent_actions(told.chain, rng, round(len(chosen) * NEGATIVE_RATIO)):
        question, query = ask_grounding(rng, deed)
        yield "grounding", question, NOT_FOUND_ANSWER, [], {"query": query, "is_negative": True}


def _sample(groups: Sequence[list[Action]], most: int, rng: random.Random) -> list[list[Action]]:
    return rng.sample(groups, min(most, len(groups)))


def _absent_actions(chain: LongSyntheticVideo, rng: random.Random, wanted: int) -> Iterator[ActionPhrase]:
    """What nearly happens in one of the films, and neither happens nor seems to happen in any; never one twice."""
    told: set[_Key] = set()
    for _ in range(wanted * _TRIES):
        if len(told) == wanted:
            return
        deed = absent_action(rng.choice(chain.parts), rng)
        if _key(deed) not in told and not any(is_shown(film, deed) for film in chain.parts):
            told.add(_key(deed))
            yield deed


def _highlights(told: _DescribedChain, rng: random.Random) -> _Draft:
    """A query about what happens once, if anything does."""
    group = rng.choice([group for group in told.alike.values() if len(group) == 1] or list(told.alike.values()))
    query = told.phrases[group[0].id].any_clause(rng).text
    moments = relevant_moments(group)
    question = ask_preset_or(rng, "highlights", wording.HIGHLIGHTS, query)
    details = {"query": query, "moments": tuple(moments)}
    return "highlights", question, format_events(moments, "highlights"), [told.events[h.id] for h in group], details
