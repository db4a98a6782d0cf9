"""Backgrounds of synthetic videos."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Background:
    """The background of a video from `start` on.

    Attributes:
        start: Time of its first frame, in seconds.
        pattern: `"plain"`, `"gradient"`, `"checks"` or `"blobs"`.
        colors: Two RGB colors.
        seed: Random seed for the details of the pattern.
    """

    start: float
    pattern: str
    colors: tuple[tuple[int, int, int], tuple[int, int, int]]
    seed: int


def draw_backgrounds(
    rng: random.Random, patterns: Sequence[str], max_cuts: int, duration: float
) -> tuple[Background, ...]:
    """Draw backgrounds in muted colors, which no object has.

    Args:
        rng: Random number generator.
        patterns: Patterns to choose from.
        max_cuts: Maximum number of cuts, at which the background changes.
        duration: Length of the video, in seconds.

    Returns:
        Backgrounds in order of time; the first starts at 0.
    """
    starts = [0.0, *sorted(rng.randint(2, int(duration) - 2) * 1.0 for _ in range(rng.randint(0, max_cuts)))]
    backgrounds = []
    for start in dict.fromkeys(starts):
        level = rng.randint(30, 150)
        first, second = (tuple(max(0, min(255, level + rng.randint(-22, 22))) for _ in range(3)) for _ in range(2))
        backgrounds.append(Background(start, rng.choice(patterns), (first, second), rng.randrange(2**31)))  # type: ignore[arg-type]
    return tuple(backgrounds)
