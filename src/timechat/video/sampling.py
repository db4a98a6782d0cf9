"""Choice of frames by the times at which they are on screen."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_NUM_FRAMES = 96

TIME_SLACK = 1e-6
"""Seconds of floating-point error around the time of a frame."""


_HIGHEST_FPS = 1e6


@dataclass(frozen=True)
class FrameSampling:
    """Frames to take from a video; without any option, the caller's or the model's default.

    Attributes:
        num_frames: Number of frames, spread evenly.
        fps: Frames per second of video, instead of a number of frames; never more than the video has.
        max_frames: Maximum number of frames; where `fps` gives more, they are spread evenly.
        start: Seconds; frames from the one on screen at this time.
        end: Seconds; frames shown before this time.
        timestamps: Seconds; the frame on screen at each of these times, instead of all options above.
        sampling: `"exact"` frames, or the nearest `"keyframes"` with their own times, which is faster.
    """

    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None
    timestamps: ArrayLike | None = None
    sampling: str = "exact"

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
            self._check_timestamps()
        if self.sampling not in ("exact", "keyframes"):
            raise ValueError(f"sampling must be 'exact' or 'keyframes', got {self.sampling!r}")

    def _check_timestamps(self) -> None:
        """Check the timestamps and make them a tuple."""
        given = self.timestamps
        # Numbers of a list stay as they are (0 is not 0.0), because cache keys contain them.
        times = tuple(given if isinstance(given, list | tuple) else np.asarray(given).ravel().tolist())
        if any(option is not None for option in (self.fps, self.max_frames, self.start, self.end)):
            raise ValueError("timestamps already say which frames: leave out fps, max_frames, start and end")
        if not times or not np.isfinite(np.asarray(times, dtype=np.float64)).all():
            raise ValueError(f"timestamps must be one or more times in seconds, got {times}")
        object.__setattr__(self, "timestamps", times)

    @property
    def has_rate(self) -> bool:
        """Whether an option says how many frames are taken."""
        return self.num_frames is not None or self.fps is not None or self.timestamps is not None

    def notes(self, end_time: float) -> list[str]:
        """Sentences about times that the video does not reach."""
        times = np.asarray(() if self.timestamps is None else self.timestamps, dtype=np.float64)
        late = int((times >= end_time).sum())
        return [f"{late} of the times asked for lie after the end: the last frame is given"] if late else []


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and bool(np.isfinite(float(value)))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer())


def uniform_indices(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """Return the frame indices that the original TimeChat takes from a video of `num_available` frames.

    Returns:
        `(min(num_frames, num_available),)`, increasing. The original's floating-point steps are kept on purpose: for
        some lengths they are one frame below the exact quotient. If they give one frame too many, it is dropped.
    """
    n = min(num_frames, num_available)
    indices: NDArray[np.int64] = np.arange(0, num_available, num_available / n).astype(np.int64)
    return indices[:n]


def random_indices(num_available: int, num_frames: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return one random frame index from each of `num_frames` equal intervals.

    The original never takes the last frame of an interval, and takes random frames of the whole video if an interval
    has only one; these errors are not repeated here.

    Returns:
        `(min(num_frames, num_available),)`, increasing, each index once.
    """
    n = min(num_frames, num_available)
    borders = np.arange(n + 1) * num_available // n
    drawn: NDArray[np.int64] = generator.integers(borders[:-1], borders[1:])
    return drawn


def is_constant_rate(times: NDArray[np.float64], tick: float) -> bool:
    """Return whether frame times lie on an even grid, up to the rounding of the container's clock.

    Args:
        times: `(frames,)`, increasing seconds.
        tick: Time base of the container in seconds.
    """
    if len(times) < 3:
        return True
    step = (times[-1] - times[0]) / (len(times) - 1)
    grid = times[0] + step * np.arange(len(times))
    return bool(np.abs(times - grid).max() <= time_slack(step, tick) + TIME_SLACK)


def sample_indices(
    times: NDArray[np.float64],
    end_time: float,
    sampling: FrameSampling | None = None,
    *,
    tick: float = TIME_SLACK,
    generator: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Choose frames by the times at which they are on screen.

    Args:
        times: `(frames,)`, increasing seconds at which each frame appears.
        end_time: Seconds at which the last frame leaves the screen.
        sampling: Frame options; None takes `DEFAULT_NUM_FRAMES` frames, spread evenly.
        tick: Time base of the container in seconds; times may be rounded by up to this much.
        generator: Random generator that places one frame in each interval; None takes the start of each interval.

    Returns:
        Increasing frame indices. A frame that is on screen at several of the requested times is repeated.
    """
    sampling = FrameSampling() if sampling is None else sampling
    if sampling.timestamps is not None:
        return frame_at(times, np.sort(np.ravel(np.asarray(sampling.timestamps, dtype=np.float64))))
    start, end, fps = sampling.start, sampling.end, sampling.fps
    begin = times[0] if start is None else max(start, times[0])
    stop = end_time if end is None else min(end, end_time)
    first = int(frame_at(times, begin))
    last = int(np.searchsorted(times, stop - TIME_SLACK)) if end is not None else len(times)
    if last <= first or (start is not None and start >= end_time):
        until = "the end" if end is None else f"{end:g} s"
        raise ValueError(f"nothing is shown between {begin:g} s and {until}")
    num_available = last - first
    count = sampling.num_frames or DEFAULT_NUM_FRAMES
    if fps is not None:
        count = max(1, int(np.ceil(min(float(stop - begin) * float(fps), num_available) - 1e-6)))
    limit = min(num_available, count if sampling.max_frames is None else sampling.max_frames)
    frame_interval = (times[last - 1] - times[first]) / max(1, num_available - 1)
    is_constant = is_constant_rate(times[first:last], tick)
    if count >= num_available and limit == num_available:
        if fps is None or is_constant:
            return np.arange(first, last)
        return first + _on_screen_at_steps(np.append(times[first:last], stop), float(begin), float(fps))
    slack = TIME_SLACK
    if is_constant:
        if fps is None or count > limit:
            count = min(count, limit)
            if generator is not None:
                return first + random_indices(num_available, count, generator)
            return first + uniform_indices(num_available, count)
        slack += time_slack(frame_interval, tick)
    grid_fps = fps if count <= limit else None
    count = min(count, limit)
    steps = np.arange(count) + (0.0 if generator is None else generator.random(count))
    requested = begin + (steps * ((stop - begin) / count) if grid_fps is None else steps / grid_fps)
    return np.clip(frame_at(times, requested, slack), first, last - 1)


def _on_screen_at_steps(times: NDArray[np.float64], begin: float, fps: float) -> NDArray[np.int64]:
    """Return the frames on screen at `begin`, `begin + 1 / fps`, ..., each once; of a burst of frames only some.

    Args:
        times: `(frames + 1,)`, increasing seconds at which each frame appears, and at which the last one ends.
        begin: Time of the first step in seconds.
        fps: Steps per second.
    """
    steps_before = np.ceil((np.maximum(times, begin) - begin - TIME_SLACK) * min(fps, _HIGHEST_FPS))
    return np.flatnonzero(np.maximum(steps_before, 0)[1:] > np.maximum(steps_before, 0)[:-1])


def frame_at(times: NDArray[np.float64], at: ArrayLike, slack: float = TIME_SLACK) -> NDArray[np.int64]:
    """Return the index of the frame on screen at each time; the first or last frame for times outside the video."""
    after = np.searchsorted(times, np.asarray(at, dtype=np.float64) + slack, side="right")
    return np.clip(after - 1, 0, len(times) - 1).astype(np.int64)


def time_slack(step: float, tick: float) -> float:
    """Return the seconds by which a time may be rounded; a tick as long as a frame is exact."""
    return tick if tick < step / 8 else step * 1e-3
