"""What is said while a film is shown. There is no sound: the words are given as a transcript, as if from a recogniser.

A *narrator* says what begins when it begins, so that what he says can be told from the pictures; *talk* cannot.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from timechat.synthetic.scene import TICK, SyntheticVideo
from timechat.synthetic.wording import NARRATION, SMALL_TALK, action_phrases

SPEECH_SHARE = 0.3
"""Share of films with speech."""
NARRATION_SHARE = 0.6
"""Share of narrators among them."""
SENTENCE_SECONDS = 2.0
"""How long every sentence takes."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence that is said from `start` to `end` seconds."""

    id: str
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Speech:
    """All that is said in a film.

    Attributes:
        utterances: In order of time, never two at once.
        can_be_seen: Whether all of it follows from the pictures: each event that begins while nobody speaks is told
            from its start on, in fixed words, and nothing else is said.
    """

    utterances: tuple[Utterance, ...]
    can_be_seen: bool


def make_speech(film: SyntheticVideo) -> Speech | None:
    """What is said in a film, None where nothing is; it depends on the film alone."""
    rng = random.Random(f"{film.id} speech")
    if rng.random() >= SPEECH_SHARE:
        return None
    is_narrated = rng.random() < NARRATION_SHARE
    said = _narrate(film) if is_narrated else _talk(film, rng)
    return Speech(
        tuple(Utterance(f"s{i}", start, start + SENTENCE_SECONDS, text) for i, (start, text) in enumerate(said)),
        is_narrated,
    )


def _narrate(film: SyntheticVideo) -> list[tuple[float, str]]:
    deeds = action_phrases(film)
    said: list[tuple[float, str]] = []
    for happening in film.actions:
        if not said or happening.start >= said[-1][0] + SENTENCE_SECONDS:
            said.append((happening.start, NARRATION[0].format(text=deeds[happening.id].clause().text)))
    return said


def _talk(film: SyntheticVideo, rng: random.Random) -> list[tuple[float, str]]:
    """Some events in any words at some time while they last, and small talk, where it fits."""
    deeds = action_phrases(film)
    wanted: list[tuple[float, str]] = []
    for happening in rng.sample(film.actions, (len(film.actions) + 1) // 2):
        spare = int((happening.end - happening.start - SENTENCE_SECONDS) / TICK)
        text = rng.choice(NARRATION).format(text=deeds[happening.id].any_clause(rng).text)
        wanted.append((happening.start + rng.randint(0, max(0, spare)) * TICK, text))
    latest = int((film.duration - SENTENCE_SECONDS) / TICK)
    for text in rng.sample(SMALL_TALK, rng.randint(1, 4)):
        wanted.append((rng.randint(0, latest) * TICK, text))
    said: list[tuple[float, str]] = []
    for start, text in sorted(wanted):
        if not said or start >= said[-1][0] + SENTENCE_SECONDS:
            said.append((start, text))
    return said
