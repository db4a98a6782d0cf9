"""Windows of long videos, and the merging of their events on the clock of the video.

A window is encoded like a video of its own. Neighboring windows overlap, so that an event that the border of one window
cuts off is whole in the other.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from timechat.answers.events import MOMENT_SECONDS, Event

SAME_IOU = 0.3
"""Minimum temporal IoU of two events of neighboring windows that are the same, in the part that both windows see."""

SAME_WORDS = 0.5
"""Minimum share of common words (Dice coefficient) of two captions that describe the same event."""

MAX_WINDOWS = 20_000
"""Maximum number of windows of one video: five hours in windows of one second."""

# Seconds: windows start at whole multiples, so that times that are round in a window are round in the video.
_START_GRID = 0.5
_SAME_MOMENT = 1.0  # seconds between two moments that count as one
_EPSILON = 1e-6  # seconds


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """Options of the windows of a video.

    Attributes:
        window: Length of a window in seconds; None takes that of the model's training
            (`TimeChatConfig.window_seconds`), 0 makes one window of the whole video.
        overlap: Overlap of neighboring windows in seconds, at most half a window; None takes a sixth of a window.
        step: Seconds between frames; None takes the model's. A larger step makes windows longer in proportion, and the
            job faster.
        refine: Whether the borders of moments are refined with denser frames; None refines if frames are more than half
            a second apart and the model reads denser ones.
        batch_size: Number of windows that are answered in one batch.
    """

    window: float | None = None
    overlap: float | None = None
    step: float | None = None
    refine: bool | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("window", "overlap"):
            if (value := getattr(self, name)) is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be seconds, at least 0, got {value}")
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step must be seconds above 0, got {self.step}")
        if self.window and self.overlap is not None:
            _check_overlap(self.overlap, self.window)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 window, got {self.batch_size}")

    def check_density(self, *, num_frames: int | None, fps: float | None) -> None:
        """Raise a `ValueError` if `step` and another option both say how dense the frames are."""
        for name, value in (("num_frames", num_frames), ("fps", fps)):
            if self.step is not None and value is not None:
                raise ValueError(
                    f"step and {name} both say how dense the frames are, got step={self.step:g} and {name}={value:g}; "
                    "give one of them"
                )


def _check_overlap(overlap: float, length: float) -> None:
    if overlap > length / 2 + _EPSILON:
        raise ValueError(
            f"overlap must be at most half a window, got {overlap:g} of {length:g} seconds; take a smaller overlap or "
            "a longer window"
        )


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a video that is encoded like a video of its own, whose clock starts at 0.

    Attributes:
        start: Seconds on the video's clock.
        end: Seconds on the video's clock.
        time_scale: Seconds of the video in one second of the window's clock. A model that was trained on one frame rate
            sees another frame rate as fast or slow motion, with a value other than 1.
    """

    start: float
    end: float
    time_scale: float = 1.0

    @property
    def duration(self) -> float:
        """Seconds on the window's own clock."""
        return (self.end - self.start) / self.time_scale

    def to_window(self, time: float) -> float:
        """Convert a time on the video's clock to the window's clock, in seconds."""
        return max(0.0, (time - self.start) / self.time_scale)

    def to_video(self, time: float) -> float:
        """Convert a time on the window's clock to the video's clock, in seconds."""
        return min(self.end, self.start + time * self.time_scale)

    def to_video_event(self, event: Event) -> Event:
        """Return an event of the window with its times on the video's clock."""
        return replace(event, start=self.to_video(event.start), end=self.to_video(event.end))


def split_into_windows(start: float, end: float, *, length: float, overlap: float) -> tuple[Window, ...]:
    """Cover a part of a video with windows of one length.

    Args:
        start: Start of the part in seconds.
        end: End of the part in seconds.
        length: Maximum length of a window in seconds; 0 makes one window.
        overlap: Minimum overlap of neighboring windows in seconds, at most half of `length`.

    Raises:
        ValueError: There would be more than `MAX_WINDOWS`, or `overlap` is more than half of `length`.

    Returns:
        Windows in order of time. A part that fits into one window gives one; otherwise all windows are equally long and
        not longer than `length`, except for the rounding of their starts to half seconds.
    """
    whole = end - start
    if length:
        _check_overlap(overlap, length)
    if not length or whole <= length:
        return (Window(start, end),)
    count = math.ceil((whole - overlap) / (length - overlap) - 1e-9)
    if count > MAX_WINDOWS:
        raise ValueError(
            f"windows of {length:g} s would be {count} for {whole:g} s, more than {MAX_WINDOWS}; take longer ones"
        )
    share = (whole + (count - 1) * overlap) / count
    step = share - overlap
    starts = [start + math.floor(i * step / _START_GRID) * _START_GRID for i in range(count)]
    ends = [min(end, begin + overlap) for begin in starts[1:]]
    return tuple(Window(a, b) for a, b in zip(starts, [*ends, end], strict=True))


# ---------------------------------------------------------------------------------------------------- merging


def merge_events(windows: Sequence[tuple[Window, Sequence[Event]]]) -> list[Event]:
    """Merge the events of overlapping windows, in order of time.

    Two events of different windows are the same if their captions agree (`SAME_WORDS`) and if they overlap in the part
    that both windows see (`SAME_IOU`). Each border is then taken from the window that sees more of the video around it.

    Args:
        windows: Windows with their events, on the video's clock.
    """
    merged: list[_WindowEvent] = []
    for window, events in sorted(windows, key=lambda pair: pair[0].start):
        recent = [other for other in merged if other.window.end > window.start]
        for event in events:
            found = _WindowEvent(event, window)
            same = max(recent, key=found.overlap_with, default=None)
            if same is not None and found.overlap_with(same) > 0:
                merged[merged.index(same)] = same.merged_with(found)
                recent = [other for other in recent if other is not same]
            else:
                merged.append(found)
    return sorted((found.event for found in merged), key=lambda event: (event.start, event.end))


@dataclass(frozen=True, slots=True)
class _WindowEvent:
    """An event and the part of the video that its windows see."""

    event: Event
    window: Window

    def overlap_with(self, other: "_WindowEvent") -> float:
        """Temporal IoU of the same event in two windows, in the part that both see; 0 for different events."""
        if self.window == other.window or word_overlap(self.event.caption, other.event.caption) < SAME_WORDS:
            return 0.0
        if self.event.start == self.event.end and other.event.start == other.event.end:
            return float(abs(self.event.start - other.event.start) <= _SAME_MOMENT)
        low, high = max(self.window.start, other.window.start), min(self.window.end, other.window.end)
        visible = [
            replace(one.event, start=_clip(one.event.start, low, high), end=_clip(one.event.end, low, high))
            for one in (self, other)
        ]
        overlap = temporal_iou(*visible)
        return overlap if overlap >= SAME_IOU else 0.0

    def visible_margin(self, time: float) -> float:
        """Seconds of the video that the window sees before and after a time, whichever is less."""
        return min(time - self.window.start, self.window.end - time)

    def merged_with(self, later: "_WindowEvent") -> "_WindowEvent":
        """Merge with the same event of a later window."""
        start = max((self, later), key=lambda one: one.visible_margin(one.event.start)).event.start
        end = max((self, later), key=lambda one: one.visible_margin(one.event.end)).event.end
        sees_more = later.event.duration > self.event.duration
        caption = (later if sees_more else self).event.caption
        scores = [event.score for event in (self.event, later.event) if event.score is not None]
        ratings = [event.saliency for event in (self.event, later.event) if event.saliency is not None]
        event = Event(min(start, end), max(start, end), caption, max(scores, default=None), max(ratings, default=None))
        return _WindowEvent(event, Window(self.window.start, later.window.end))


def _clip(time: float, low: float, high: float) -> float:
    return min(max(time, low), high)


def merge_texts(windows: Iterable[tuple[Window, str]]) -> list[tuple[float, float, str]]:
    """Merge equal free answers of neighboring windows and drop empty ones; returns `(start, end, text)` of each."""
    merged: list[tuple[float, float, str]] = []
    for window, text in windows:
        if merged and merged[-1][2] == text and merged[-1][1] >= window.start:
            merged[-1] = (merged[-1][0], window.end, text)
        elif text:
            merged.append((window.start, window.end, text))
    return merged


def best_moments(events: Iterable[Event], *, max_moments: int | None) -> list[Event]:
    """Return the best moments first, without those that overlap a better one by half (temporal IoU).

    Args:
        events: Events with scores.
        max_moments: Maximum number of moments; None for all.
    """
    kept: list[Event] = []
    for event in sorted(events, key=lambda event: (-(event.score or 0.0), event.start)):
        if all(temporal_iou(event, better) < 0.5 for better in kept):
            kept.append(event)
    return kept[:max_moments]


def best_highlights(events: Iterable[Event]) -> list[Event]:
    """Return highlights in order of time, without those closer than one clip (`MOMENT_SECONDS`) to a better one."""
    kept: list[Event] = []
    for event in sorted(events, key=lambda event: (-(event.saliency or 0.0), event.start)):
        if all(abs(event.start - better.start) >= MOMENT_SECONDS - _EPSILON for better in kept):
            kept.append(event)
    return sorted(kept, key=lambda event: event.start)


def distinct_events(events: Iterable[Event]) -> list[Event]:
    """Return events without repetitions: of events with equal times and captions, the first with the best score."""
    distinct: dict[tuple[float, float, str], Event] = {}
    for event in events:
        key = (event.start, event.end, " ".join(event.caption.lower().split()))
        known = distinct.setdefault(key, event)
        if (event.score or 0.0, event.saliency or 0.0) > (known.score or 0.0, known.saliency or 0.0):
            distinct[key] = event
    return list(distinct.values())


def temporal_iou(a: Event, b: Event) -> float:
    """Return the intersection of two spans over their union; 0 if both are moments."""
    shared = min(a.end, b.end) - max(a.start, b.start)
    covered = max(a.end, b.end) - min(a.start, b.start)
    return max(0.0, shared) / covered if covered > 0 else 0.0


def word_overlap(a: str, b: str) -> float:
    """Return the share of common words of two captions, from 0 to 1 (Dice coefficient); 1 for two empty ones."""
    first, second = ({word.strip(".,!?;:\"'").lower() for word in text.split()} for text in (a, b))
    return 2 * len(first & second) / (len(first) + len(second)) if first or second else 1.0


# ------------------------------------------------------------------------------------------- degenerate answers

_WHOLE_VIDEO_SHARE = 0.95  # share of the video
_MIN_REPEATS = 3  # times


def degenerate_notes(events: Sequence[Event], duration: float) -> tuple[str, ...]:
    """Say in plain sentences what makes an answer suspicious: all of the video, or the same again and again."""
    notes = []
    if any(event.duration >= _WHOLE_VIDEO_SHARE * duration > 0 for event in events):
        notes.append("an event covers (nearly) the whole video: the model may not have found where it happens")
    again = longest = 1
    for earlier, later in pairwise(events):
        same = bool(later.caption) and later.caption == earlier.caption and later.start != later.end
        again = again + 1 if same and later.start <= earlier.end + _EPSILON else 1
        longest = max(longest, again)
    if longest >= _MIN_REPEATS:
        notes.append(f"the same event occurs {longest} times in a row: the model may be repeating itself")
    return tuple(notes)
