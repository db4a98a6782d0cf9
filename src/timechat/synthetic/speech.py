"""Speech in synthetic videos: there is no sound, only a transcript, as if from a speech recognizer.

A *narrator* names every event when it starts, so the frames determine the speech. *Talk* is not determined by them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from timechat.synthetic.scene import TICK, SyntheticVideo
from timechat.synthetic.templates import NARRATION, SMALL_TALK
from timechat.synthetic.wording import action_phrases

SPEECH_SHARE = 0.3
"""Share of videos with speech."""
NARRATION_SHARE = 0.6
"""Share of narrated videos among those with speech."""
SENTENCE_SECONDS = 2.0
"""Length of every sentence, in seconds."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence that is spoken from `start` to `end` seconds."""

    id: str
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Speech:
    """The speech of a video.

    Attributes:
        utterances: Sentences in order of time, without overlap.
        is_narration: Whether the frames determine the speech. Each event that starts outside another sentence is named
            from its start on, in fixed words, and there is no other speech.
    """

    utterances: tuple[Utterance, ...]
    is_narration: bool


def make_speech(video: SyntheticVideo) -> Speech | None:
    """Return the speech of a video, None if it has none; it depends on the script of the video only."""
    rng = random.Random(f"{video.id} speech")
    if rng.random() >= SPEECH_SHARE:
        return None
    is_narrated = rng.random() < NARRATION_SHARE
    sentences = _narrate(video) if is_narrated else _talk(video, rng)
    return Speech(
        tuple(Utterance(f"s{i}", start, start + SENTENCE_SECONDS, text) for i, (start, text) in enumerate(sentences)),
        is_narrated,
    )


def _narrate(video: SyntheticVideo) -> list[tuple[float, str]]:
    phrases = action_phrases(video)
    sentences: list[tuple[float, str]] = []
    for action in video.actions:
        if not sentences or action.start >= sentences[-1][0] + SENTENCE_SECONDS:
            sentences.append((action.start, NARRATION[0].format(text=phrases[action.id].clause().text)))
    return sentences


def _talk(video: SyntheticVideo, rng: random.Random) -> list[tuple[float, str]]:
    """Name some events in random words at a random time during them, and add small talk, without overlap."""
    phrases = action_phrases(video)
    candidates: list[tuple[float, str]] = []
    for action in rng.sample(video.actions, (len(video.actions) + 1) // 2):
        spare = int((action.end - action.start - SENTENCE_SECONDS) / TICK)
        text = rng.choice(NARRATION).format(text=phrases[action.id].any_clause(rng).text)
        candidates.append((action.start + rng.randint(0, max(0, spare)) * TICK, text))
    latest = int((video.duration - SENTENCE_SECONDS) / TICK)
    for text in rng.sample(SMALL_TALK, rng.randint(1, 4)):
        candidates.append((rng.randint(0, latest) * TICK, text))
    sentences: list[tuple[float, str]] = []
    for start, text in sorted(candidates):
        if not sentences or start >= sentences[-1][0] + SENTENCE_SECONDS:
            sentences.append((start, text))
    return sentences
