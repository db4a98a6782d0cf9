"""Which frames of a video are taken, chosen by the times at which they are on screen."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.errors import VideoError

DEFAULT_NUM_FRAMES = 96

TIME_SLACK = 1e-6
"""Seconds: float noise around a frame's own time."""


def uniform_indices(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """Frame indices that the original TimeChat takes from a video of `num_available` frames.

    Returns:
        `(min(num_frames, num_available),)`, rising. The original's float steps are kept on purpose: they fall one
        frame short of the exact quotient for some lengths. Where they would give one frame too many, it is cut.
    """
    n = min(num_frames, num_available)
    indices: NDArray[np.int64] = np.arange(0, num_available, num_available / n).astype(np.int64)
    return indices[:n]


def random_indices(num_available: int, num_frames: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """One frame index from each of `num_frames` equal intervals, any of the interval's frames.

    The original never takes an interval's last frame, and random frames of the whole video where an interval has
    but one: a slip that is not repeated here.

    Returns:
        `(min(num_frames, num_available),)`, rising, each index once.
    """
    n = min(num_frames, num_available)
    borders = np.arange(n + 1) * num_available // n
    drawn: NDArray[np.int64] = generator.integers(borders[:-1], borders[1:])
    return drawn


def is_constant_rate(times: NDArray[np.float64], tick: float) -> bool:
    """True if frame times lie on an even grid, up to the rounding of the container's clock.

    Args:
        times: `(frames,)`, seconds, rising.
        tick: seconds, the container's time base.
    """
    if len(times) < 3:
        return True
    step = (times[-1] - times[0]) / (len(times) - 1)
    grid = times[0] + step * np.arange(len(times))
    return bool(np.abs(times - grid).max() <= time_slack(step, tick) + TIME_SLACK)


def sample_indices(
    times: NDArray[np.float64],
    end_time: float,
    *,
    num_frames: int = DEFAULT_NUM_FRAMES,
    fps: float | None = None,
    max_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    timestamps: ArrayLike | None = None,
    tick: float = TIME_SLACK,
    generator: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Choose frames by the times at which they are on screen; options as in `load_frames`.

    Args:
        times: `(frames,)`, seconds, rising: when each frame appears.
        end_time: seconds, when the last frame leaves the screen.
        num_frames: how many, spread evenly.
        fps: frames per second instead.
        max_frames: at most so many.
        start: seconds.
        end: seconds.
        timestamps: seconds, instead of all the above.
        tick: seconds, the container's time base: times may be rounded by up to this much.
        generator: draws a frame from each interval; None takes the first.

    Returns:
        Rising frame indices; one that is on screen at several of the wanted times appears that often.
    """
    if timestamps is not None:
        wanted = np.sort(np.atleast_1d(np.asarray(timestamps, dtype=np.float64)))
        return frame_at(times, wanted)
    begin = times[0] if start is None else max(start, times[0])
    stop = end_time if end is None else min(end, end_time)
    first = int(frame_at(times, begin))
    last = int(np.searchsorted(times, stop - TIME_SLACK)) if end is not None else len(times)
    if last <= first or (start is not None and start >= end_time):
        until = "the end" if end is None else f"{end:g} s"
        raise ValueError(f"nothing is shown between {begin:g} s and {until}")
    num_available = last - first
    count = num_frames
    if fps is not None:
        count = max(1, int(np.ceil(min(float(stop - begin) * float(fps), num_available) - 1e-6)))
    limit = min(num_available, count if max_frames is None else max_frames)
    step = (times[last - 1] - times[first]) / max(1, num_available - 1)
    if count >= num_available and limit == num_available:
        return np.arange(first, last)
    slack = TIME_SLACK
    if is_constant_rate(times[first:last], tick):
        if fps is None or count > limit:
            count = min(count, limit)
            if generator is not None:
                return first + random_indices(num_available, count, generator)
            return first + uniform_indices(num_available, count)
        slack += time_slack(step, tick)
    grid_fps = fps if count <= limit else None
    count = min(count, limit)
    steps = np.arange(count) + (0.0 if generator is None else generator.random(count))
    wanted = begin + (steps * ((stop - begin) / count) if grid_fps is None else steps / grid_fps)
    return np.clip(frame_at(times, wanted, slack), first, last - 1)


def frame_at(times: NDArray[np.float64], at: ArrayLike, slack: float = TIME_SLACK) -> NDArray[np.int64]:
    """Index of the frame on screen at each wanted time; before the first and after the last, that one."""
    after = np.searchsorted(times, np.asarray(at, dtype=np.float64) + slack, side="right")
    return np.clip(after - 1, 0, len(times) - 1).astype(np.int64)


def time_slack(step: float, tick: float) -> float:
    """Seconds by which a time may be rounded. A tick as long as a frame is exact: nothing was rounded."""
    return tick if tick < step / 8 else step * 1e-3


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and bool(np.isfinite(float(value)))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())


@dataclass(frozen=True)
class FrameSampling:
    """Which frames a call wants; see `load_frames`."""

    num_frames: int
    fps: float | None
    max_frames: int | None
    start: float | None
    end: float | None
    timestamps: tuple[float, ...] | None
    sampling: str
    generator: np.random.Generator | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_frames"):
            if (value := getattr(self, name)) is not None:
                if not _is_whole(value) or value < 1:
                    raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
                object.__setattr__(self, name, int(value))
        if self.fps is not None and not (_is_finite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be frames per second, above 0, got {self.fps!r}")
        for name in ("start", "end"):
            if (value := getattr(self, name)) is not None and not _is_finite(value):
                raise ValueError(f"{name} must be a time in seconds, got {value!r}")
        if self.start is not None and self.end is not None and not self.start < self.end:
            raise ValueError(f"start must be before end, got start={self.start} and end={self.end}")
        if self.timestamps is not None:
            if any(option is not None for option in (self.fps, self.max_frames, self.start, self.end)):
                raise ValueError("timestamps already say which frames: leave out fps, max_frames, start and end")
            if not self.timestamps or not np.isfinite(self.timestamps).all():
                raise ValueError(f"timestamps must be one or more times in seconds, got {self.timestamps}")
        if self.generator is not None and self.timestamps is not None:
            raise ValueError("timestamps already say which frames: leave out generator")
        if self.sampling not in ("exact", "keyframes"):
            raise ValueError(f"sampling must be 'exact' or 'keyframes', got {self.sampling!r}")

    def choose_indices(self, times: NDArray[np.float64], end_time: float, tick: float, name: str) -> NDArray[np.int64]:
        """Indices of the frames wanted, rising, repeated where one is on screen at several wanted times."""
        try:
            return sample_indices(
                times,
                end_time,
                num_frames=self.num_frames,
                fps=self.fps,
                max_frames=self.max_frames,
                start=self.start,
                end=self.end,
                timestamps=self.timestamps,
                tick=tick,
                generator=self.generator,
            )
        except ValueError as error:
            raise VideoError(f"{name}: {error}; its pictures run from {times[0]:.3f} to {end_time:.3f} s") from error

    def notes(self, end_time: float) -> list[str]:
        """What the caller should know about times that the video does not reach."""
        late = sum(t >= end_time for t in self.timestamps or ())
        return [f"{late} of the times asked for lie after the end: the last frame is given"] if late else []
