"""Retrieval before an answer: the windows of a long video are ranked, and the model reads only the best of them."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Task
from timechat.answers.windows import Window
from timechat.search.encoder import BUILT_IN, FrameTextEncoder

DEFAULT_READ = 1.0
"""Share of a video that is read unless an option says otherwise; 1 reads all of it."""

RANKED_TASKS: tuple[Task, ...] = ("ask", "grounding")
"""Tasks whose answers can be about a part of a video."""

MIN_WINDOWS = 4
"""Minimum number of windows of a video that is ranked; a shorter one is read as a whole."""

_EPSILON = 1e-6
_LEVEL = 0.3  # height between the mean and the peak of the scores, as of the borders of spans (`best_spans`)

Source = Literal["auto", "model", "search"]
"""What answers a query: the model, the search, or the search only for a video outside of the model's domain."""


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """Options of what is read of a video, and of what answers a query.

    Attributes:
        read: Maximum share of the video that the model reads, above 0 and at most 1, but at least one window. Videos
            of fewer than `MIN_WINDOWS` windows are read as a whole.
        by: What answers a grounding query. `auto` takes the search for a video outside of the model's domain.
        encoder: Frame-text encoder, or its name as in `load_encoder`.
    """

    read: float = DEFAULT_READ
    by: Source = "model"
    encoder: str | FrameTextEncoder = BUILT_IN

    def __post_init__(self) -> None:
        if not 0 < self.read <= 1:
            raise ValueError(f"read must be a share of the video above 0 and at most 1, or all, got {self.read}")
        if self.by not in ("auto", "model", "search"):
            raise ValueError(f"by must be auto, model or search, got {self.by!r}")

    def reads_all(self, num_windows: int) -> bool:
        """Return whether all windows of a video with this number of windows are read."""
        return self.read == 1 or num_windows < MIN_WINDOWS


def parse_read(value: float | str) -> float:
    """Return the share of a video to read, from a number or the word `all`.

    Raises:
        ValueError: It is no such share.
    """
    if value == "all":
        return 1.0
    try:
        return RetrievalConfig(read=float(value)).read
    except (TypeError, ValueError):
        raise ValueError(
            f"read must be a share of the video above 0 and at most 1, such as 0.1, or all, got {value!r}"
        ) from None


@dataclass(frozen=True, slots=True)
class RankedWindow:
    """A window and its highest smoothed score."""

    window: Window
    score: float


def rank_windows(
    windows: Sequence[Window], times: NDArray[np.floating], smoothed: NDArray[np.floating]
) -> list[RankedWindow]:
    """Return all windows, the best first.

    A window is ranked by its best frame. Of windows with the same best frame, the one that sees more of the span around
    it comes first. If that span crosses a border of a window, the neighbor behind the border follows immediately.

    Args:
        windows: Windows in order of time.
        times: `(frames,)` times of the scores in seconds, rising, at least one.
        smoothed: `(frames,)` smoothed scores of one query.
    """
    places = [frames_between(window, times) for window in windows]
    peaks = [first + int(np.argmax(smoothed[first:after])) for first, after in places]
    spans = [_span_around(smoothed, peak) for peak in peaks]

    def priority(i: int) -> tuple[float, int, int]:
        visible = min(spans[i][1], places[i][1]) - max(spans[i][0], places[i][0])
        return -float(smoothed[peaks[i]]), -visible, i

    order: dict[int, None] = {}  # an ordered set
    for i in sorted(range(len(windows)), key=priority):
        order[i] = None
        if i > 0 and spans[i][0] < places[i][0]:
            order[i - 1] = None
        if i < len(windows) - 1 and spans[i][1] > places[i][1]:
            order[i + 1] = None
    return [RankedWindow(windows[i], float(smoothed[peaks[i]])) for i in order]


def best_windows(
    ranking: Sequence[RankedWindow], read: float, smoothed: NDArray[np.floating], *, until_scores_fall: bool
) -> tuple[Window, ...]:
    """Return the windows to read, in order of time.

    Args:
        ranking: All windows, the best first.
        read: Maximum share of the video that the windows cover together; the best window is always read.
        smoothed: `(frames,)` smoothed scores of the query.
        until_scores_fall: Whether the windows after these follow too, as long as their scores are near the best one.
    """
    every = [one.window for one in ranking]
    whole = _in_order(every)
    count = bisect.bisect_right(
        range(len(every) + 1), read + _EPSILON, key=lambda i: read_share(_in_order(every[:i]), whole)
    )
    chosen = every[: max(1, count - 1)]
    if until_scores_fall:
        mean, top = float(smoothed.mean()), float(smoothed.max())
        near = mean + _LEVEL * (top - mean)
        chosen += [one.window for one in ranking[len(chosen) :] if one.score > near]
    return _in_order(chosen)


def window_priors(
    windows: Sequence[Window], times: NDArray[np.floating], evidence: NDArray[np.floating]
) -> dict[Window, float]:
    """Return the probability of each window to hold the moment, if one of them does.

    Args:
        windows: All windows of the video.
        times: `(frames,)` times of the evidence in seconds, rising, at least one.
        evidence: `(frames,)` smoothed evidence of the query, in nats.
    """
    peaks = np.array([evidence[slice(*frames_between(window, times))].max() for window in windows], np.float64)
    odds = np.exp(peaks - peaks.max())
    return dict(zip(windows, (odds / odds.sum()).tolist(), strict=True))


def read_share(read: Sequence[Window], windows: Sequence[Window]) -> float:
    """Return the share of the video in all `windows` that the windows `read` cover together; both in order of time."""
    whole = _covered(windows)
    return 1.0 if whole <= 0 else _covered(read) / whole


def frames_between(window: Window, times: NDArray[np.floating]) -> tuple[int, int]:
    """Return the first frame of a window and the frame after its last one; at least the nearest frame."""
    first, after = np.searchsorted(times, [window.start, window.end], "left")
    if after > first:
        return int(first), int(after)
    nearest = int(np.argmin(np.abs(times - (window.start + window.end) / 2)))
    return nearest, nearest + 1


def _in_order(windows: Sequence[Window]) -> tuple[Window, ...]:
    return tuple(sorted(windows, key=lambda window: window.start))


def _covered(windows: Sequence[Window]) -> float:
    """Return the seconds of video that windows in order of time cover together."""
    seconds, end = 0.0, -math.inf
    for window in windows:
        seconds += max(0.0, window.end - max(window.start, end))
        end = max(end, window.end)
    return seconds


def _span_around(smoothed: NDArray[np.floating], peak: int) -> tuple[int, int]:
    """Return the run of frames around a frame whose scores are above a level between the mean and its own score."""
    mean = float(smoothed.mean())
    outside = np.flatnonzero(smoothed < mean + _LEVEL * (float(smoothed[peak]) - mean))
    place = int(np.searchsorted(outside, peak))
    first = int(outside[place - 1]) + 1 if place else 0
    after = int(outside[place]) if place < len(outside) else len(smoothed)
    return (first, after) if first <= peak < after else (peak, peak + 1)
