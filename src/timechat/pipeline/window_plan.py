"""Which windows a video is looked at in, and which frames of each, by what the model was trained on."""

import math
from dataclasses import dataclass, replace
from typing import Any

from timechat.answers.windows import Window, WindowConfig, split_into_windows
from timechat.model.configuration import TimeChatConfig

_OVERLAP_SHARE = 1 / 6  # of a window
_START_ROUNDING = 0.5  # seconds by which a window may be longer than planned, see `split_into_windows`
_REFINE_ABOVE = 0.5  # seconds: a coarser first look is followed by a second one


@dataclass(frozen=True, slots=True)
class WindowSampling:
    """Which frames are wanted, where the model's own choice will not do; see `load_frames`."""

    num_frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None
    sampling: str = "exact"


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows, and how each is sampled.

    Attributes:
        windows: In order of time.
        frame_options: Arguments of `load_frames` that are the same for all windows.
        frame_interval: Seconds of the video from frame to frame, about.
        refines: Whether moments are looked at again.
    """

    windows: tuple[Window, ...]
    frame_options: dict[str, Any]
    frame_interval: float
    refines: bool

    @property
    def num_frames(self) -> int:
        """Frames of all windows, about."""
        return sum(max(1, round((window.end - window.start) / self.frame_interval)) for window in self.windows)

    def load_arguments(self, window: Window) -> dict[str, Any]:
        """Arguments of `load_frames` for a window."""
        return {**self.frame_options, "start": window.start, "end": window.end}


def plan_windows(
    config: TimeChatConfig, duration: float, window_config: WindowConfig, sampling: WindowSampling
) -> WindowPlan:
    """Choose windows and frames.

    A model that was trained on one frame rate sees a larger step as fast motion: the window's clock then runs as its
    frames do. A model that spreads a number of frames over any video has as many in each window.

    Args:
        config: Of the model.
        duration: Seconds of the video.
        window_config: How it shall be looked at.
        sampling: Which frames are wanted. A number of frames without a window takes the whole video at once, as the
            original does.

    Raises:
        ValueError: The step or the overlap asked for cannot be kept.
    """
    window_config.check_density(num_frames=sampling.num_frames, fps=sampling.fps)
    start = max(0.0, sampling.start or 0.0)
    end = duration if sampling.end is None else min(sampling.end, duration)
    is_whole = window_config.window == 0 or (window_config.window is None and sampling.num_frames is not None)
    rate = sampling.fps or config.fps
    if sampling.num_frames is not None or rate is None:
        return _plan_fixed_count(config, start, end, window_config, sampling, is_whole)
    pace = 1.0 if window_config.step is None else window_config.step * rate
    length = 0.0 if is_whole else window_config.window or config.window_seconds * pace
    windows = _windows(start, end, length, window_config)
    fps = rate / pace
    max_frames = sampling.max_frames if sampling.max_frames is not None else config.max_frames
    frames = {"fps": fps, "max_frames": max_frames, "sampling": sampling.sampling}
    longest = max(window.end - window.start for window in windows)
    if max_frames:
        _check_step(window_config, longest - _START_ROUNDING, max_frames)
    step = max(1 / fps, longest / max_frames) if max_frames else 1 / fps
    return WindowPlan(
        tuple(replace(w, time_scale=pace) for w in windows), frames, step, _should_refine(window_config, step)
    )


def _plan_fixed_count(
    config: TimeChatConfig,
    start: float,
    end: float,
    window_config: WindowConfig,
    sampling: WindowSampling,
    is_whole: bool,
) -> WindowPlan:
    """The same number of frames in every window."""
    num_frames = sampling.num_frames or config.max_frame_positions
    if sampling.max_frames is not None:
        num_frames = min(num_frames, sampling.max_frames)
    if window_config.step is not None and window_config.window is not None:
        seconds = window_config.window or end - start
        _check_step(window_config, seconds, num_frames)
        num_frames = max(1, round(seconds / window_config.step))
    length = window_config.window or (
        config.window_seconds if window_config.step is None else window_config.step * num_frames
    )
    windows = _windows(start, end, 0.0 if is_whole else length, window_config)
    step = max(window.end - window.start for window in windows) / num_frames
    return WindowPlan(
        windows, {"num_frames": num_frames, "sampling": sampling.sampling}, step, _should_refine(window_config, step)
    )  # fmt: skip


def _windows(start: float, end: float, length: float, window_config: WindowConfig) -> tuple[Window, ...]:
    overlap = length * _OVERLAP_SHARE if window_config.overlap is None else window_config.overlap
    return split_into_windows(start, end, length=length, overlap=overlap)


def _check_step(looking: WindowConfig, seconds: float, num_frames: int) -> None:
    """Raise a `ValueError` if windows of so many seconds need more than `num_frames` frames to keep the step."""
    if looking.step is not None and seconds / looking.step > num_frames + 0.5:
        raise ValueError(
            f"a step of {looking.step:g} s in windows of {seconds:g} s takes {round(seconds / looking.step)} frames, "
            f"more than the {num_frames} of a window; take a larger step or a shorter window"
        )


def _should_refine(window_config: WindowConfig, frame_interval: float) -> bool:
    return frame_interval > _REFINE_ABOVE + 1e-6 if window_config.refine is None else window_config.refine


# ------------------------------------------------------------------------------------------------ the second look

_REFINE_FACTOR = 4  # times denser than the first look
_MIN_FRAME_INTERVAL = 0.1  # seconds: the resolution in which times are told


def border_window(
    config: TimeChatConfig, border: float, frame_interval: float, duration: float
) -> tuple[Window, dict[str, Any]]:
    """Where to look again at a border of a moment, and which frames to take.

    Args:
        config: Of the model.
        border: Seconds, as the first look tells it.
        frame_interval: Seconds from frame to frame of the first look.
        duration: Seconds of the video.

    Returns:
        A window around the border, with frames several times as dense as before but no denser than times can be told or
        the model is used to, and arguments of `load_frames` for it.
    """
    usual = 1 / config.fps if config.fps else _MIN_FRAME_INTERVAL
    fine = max(min(frame_interval, usual), frame_interval / _REFINE_FACTOR, _MIN_FRAME_INTERVAL)
    num_frames = round(config.window_seconds * config.fps) if config.fps else config.max_frame_positions
    reach = fine * num_frames / 2
    start = max(0.0, math.floor((border - reach) / _MIN_FRAME_INTERVAL) * _MIN_FRAME_INTERVAL)
    window = Window(start, min(duration, start + 2 * reach), time_scale=fine * config.fps if config.fps else 1.0)
    return window, {"fps": 1 / fine, "start": window.start, "end": window.end}
