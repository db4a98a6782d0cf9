"""Which windows a video is looked at in, and which frames of each, by what the model was trained on."""

import math
from dataclasses import dataclass, replace
from typing import Any

from timechat.model.configuration import TimeChatConfig
from timechat.windows import Looking, Window, plan_windows

_OVERLAP_SHARE = 1 / 6  # of a window
_REFINES_ABOVE = 0.5  # seconds: a coarser first look is followed by a second one


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames are wanted, where the model's own choice will not do; see `load_frames`."""

    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None
    sampling: str = "exact"


@dataclass(frozen=True, slots=True)
class LookPlan:
    """Windows, and how each is sampled.

    Attributes:
        windows: In order of time.
        frames: Arguments of `load_frames` that are the same for all windows.
        step: Seconds of the video from frame to frame, about.
        refines: Whether moments are looked at again.
    """

    windows: tuple[Window, ...]
    frames: dict[str, Any]
    step: float
    refines: bool

    @property
    def num_frames(self) -> int:
        """Frames of all windows, about."""
        return sum(max(1, round((window.end - window.start) / self.step)) for window in self.windows)

    def load_arguments(self, window: Window) -> dict[str, Any]:
        """Arguments of `load_frames` for a window."""
        return {**self.frames, "start": window.start, "end": window.end}


def plan_look(config: TimeChatConfig, duration: float, looking: Looking, sampling: Sampling) -> LookPlan:
    """Choose windows and frames.

    A model that was trained on one frame rate sees a larger step as fast motion: the window's clock then runs as its
    frames do. A model that spreads a number of frames over any video has as many in each window.

    Args:
        config: Of the model.
        duration: Seconds of the video.
        looking: How it shall be looked at.
        sampling: Which frames are wanted. A number of frames without a window takes the whole video at once, as the
            original does.
    """
    start = max(0.0, sampling.start or 0.0)
    end = duration if sampling.end is None else min(sampling.end, duration)
    is_whole = looking.window == 0 or (looking.window is None and sampling.num_frames is not None)
    rate = sampling.fps or config.fps
    if sampling.num_frames is not None or rate is None:
        return _spread(config, start, end, looking, sampling, is_whole)
    pace = 1.0 if looking.step is None or sampling.fps else looking.step * rate
    length = 0.0 if is_whole else looking.window or config.window_seconds * pace
    windows = _windows(start, end, length, looking)
    fps = rate / pace
    max_frames = sampling.max_frames if sampling.max_frames is not None else config.max_frames
    frames = {"fps": fps, "max_frames": max_frames, "sampling": sampling.sampling}
    longest = max(window.end - window.start for window in windows)
    step = max(1 / fps, longest / max_frames) if max_frames else 1 / fps
    return LookPlan(tuple(replace(w, pace=pace) for w in windows), frames, step, _refines(looking, step))


def _spread(
    config: TimeChatConfig, start: float, end: float, looking: Looking, sampling: Sampling, is_whole: bool
) -> LookPlan:
    """The same number of frames in every window."""
    num_frames = sampling.num_frames or config.max_frame_positions
    length = looking.window or (config.window_seconds if looking.step is None else looking.step * num_frames)
    windows = _windows(start, end, 0.0 if is_whole else length, looking)
    step = max(window.end - window.start for window in windows) / num_frames
    return LookPlan(
        windows, {"num_frames": num_frames, "sampling": sampling.sampling}, step, _refines(looking, step)
    )  # fmt: skip


def _windows(start: float, end: float, length: float, looking: Looking) -> tuple[Window, ...]:
    overlap = length * _OVERLAP_SHARE if looking.overlap is None else looking.overlap
    return plan_windows(start, end, length=length, overlap=overlap)


def _refines(looking: Looking, step: float) -> bool:
    return step > _REFINES_ABOVE + 1e-6 if looking.refine is None else looking.refine


# ------------------------------------------------------------------------------------------------ the second look

_FINER = 4  # times denser than the first look
_FINEST = 0.1  # seconds: the resolution in which times are told


def border_window(config: TimeChatConfig, border: float, step: float, duration: float) -> tuple[Window, dict[str, Any]]:
    """Where to look again at a border of a moment, and which frames to take.

    Args:
        config: Of the model.
        border: Seconds, as the first look tells it.
        step: Seconds from frame to frame of the first look.
        duration: Seconds of the video.

    Returns:
        A window around the border, with frames several times as dense as before but no denser than times can be told or
        the model is used to, and arguments of `load_frames` for it.
    """
    usual = 1 / config.fps if config.fps else _FINEST
    fine = max(min(step, usual), step / _FINER, _FINEST)
    num_frames = round(config.window_seconds * config.fps) if config.fps else config.max_frame_positions
    reach = fine * num_frames / 2
    start = max(0.0, math.floor((border - reach) / _FINEST) * _FINEST)
    window = Window(start, min(duration, start + 2 * reach), pace=fine * config.fps if config.fps else 1.0)
    return window, {"fps": 1 / fine, "start": window.start, "end": window.end}
