"""What the synthetic videos of each level of difficulty are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LevelSettings:
    """Ranges and choices from which the videos of a level are drawn; ranges include both ends.

    Attributes:
        num_objects: Number of objects.
        duration: Length of a video, in seconds.
        longer_duration: Length of a video of the part `"longer"`, in seconds.
        event_seconds: Length of an event, in seconds.
        radius: Radius of an object, as a share of the frame's shorter side.
        grid: Rows and columns of the grid on which objects are placed.
        noise: Standard deviation of the pixel noise, in grey levels.
        shake: Shake of the camera, as a share of the frame.
        max_cuts: Maximum number of cuts to another background.
        texture_share: Share of objects with a texture.
        patterns: Patterns of the backgrounds.
        may_repeat: Whether an object may do the same action several times.
        sizes: Frame sizes `(width, height)`, in pixels.
        rates: Frame rates, in frames per second.
    """

    num_objects: tuple[int, int]
    duration: tuple[int, int]
    longer_duration: tuple[int, int]
    event_seconds: tuple[float, float]
    radius: tuple[float, float]
    grid: int
    noise: tuple[float, float] = (0, 0)
    shake: tuple[float, float] = (0, 0)
    max_cuts: int = 0
    texture_share: float = 0.0
    patterns: tuple[str, ...] = ("plain", "gradient")
    may_repeat: bool = False
    sizes: tuple[tuple[int, int], ...] = ((224, 224), (256, 192), (192, 256), (320, 240), (256, 144))
    rates: tuple[int, ...] = (8, 10, 12, 15)


LEVELS: Mapping[int, LevelSettings] = {
    1: LevelSettings((2, 3), (20, 60), (65, 90), (4.0, 10.0), (0.095, 0.11), grid=3),
    2: LevelSettings(
        (2, 5), (20, 120), (130, 180), (3.0, 10.0), (0.065, 0.08), grid=4, noise=(2, 10), texture_share=0.25,
        patterns=("plain", "gradient", "checks"), rates=(8, 10, 12, 15, 24, 25),
    ),
    3: LevelSettings(
        (2, 6), (20, 180), (190, 280), (2.0, 10.0), (0.055, 0.08), grid=4, noise=(2, 14), shake=(0, 0.015),
        max_cuts=3, texture_share=0.4, patterns=("plain", "gradient", "checks", "blobs"), may_repeat=True,
        rates=(8, 10, 12, 15, 24, 25, 30),
    ),
}  # fmt: skip


def durations(level: int) -> tuple[int, int]:
    """Lengths of the shortest and of the longest video of a level in seconds, without the part `"longer"`."""
    return LEVELS[level].duration
