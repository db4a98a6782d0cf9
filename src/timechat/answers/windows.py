"""Long videos in windows: where each lies, and what several windows tell, told once on the video's clock.

A window is looked at as if it were a video of its own. Neighbours overlap, so that what is cut off at the border of
one is seen whole in the other.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from timechat.answers.events import Event

SAME_IOU = 0.3
"""Events of neighbouring windows are one where what both see of them overlaps so far (temporal IoU) and words agree."""

SAME_WORDS = 0.5
"""Two captions tell of the same where at least this share of their words is common (Dice coefficient)."""

MAX_WINDOWS = 20_000
"""Of one video: five hours in windows of a second."""

_START_GRID = (
    0.5  # seconds: windows start at whole multiples, so that times that are round in a window are round in the video
)
_SAME_MOMENT = 1.0  # seconds: moments that lie no further apart are one
_EPSILON = 1e-6  # seconds


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """How a video is looked at: in which windows, how densely, and whether moments are looked at again.

    Attributes:
        window: Seconds of one window; None takes what the model was trained on (`TimeChatConfig.window_seconds`), 0
            takes the whole video at once.
        overlap: Seconds that neighbouring windows share, at most half a window; None takes a sixth of a window.
        step: Seconds from frame to frame of the first look; None takes the model's own. A larger step makes windows
            longer by as much, and the job shorter.
        refine: Whether a moment's borders are looked at again with denser frames; None does so where the first
            look's step is over half a second.
        batch_size: Windows that are encoded and asked at once.
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
    """A stretch of a video that is looked at as a video of its own, whose clock starts at 0.

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
        """Seconds on the window's clock of a time on the video's."""
        return max(0.0, (time - self.start) / self.time_scale)

    def to_video(self, time: float) -> float:
        """Seconds on the video's clock of a time on the window's."""
        return min(self.end, self.start + time * self.time_scale)

    def to_video_event(self, event: Event) -> Event:
        """An event of the window on the video's clock."""
        return replace(event, start=self.to_video(event.start), end=self.to_video(event.end))


def split_into_windows(start: float, end: float, *, length: float, overlap: float) -> tuple[Window, ...]:
    """Cover a stretch of a video with windows of one length.

    Args:
        start: Seconds.
        end: Seconds.
        length: Seconds, the most that a window may take; 0 for all at once.
        overlap: Seconds that neighbours share at least, at most half of `length`.

    Raises:
        ValueError: There would be more than `MAX_WINDOWS`, or `overlap` is more than half of `length`.

    Returns:
        Windows in order of time. A stretch that fits into one window gives one; otherwise all are equally long and no
        longer than `length`, but for the rounding of their starts to half seconds.
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
    """Tell once what overlapping windows have told, in order of time.

    Two events of different windows are the same where their captions agree (`SAME_WORDS`) and the parts of them that
    both windows can see overlap (`SAME_IOU`). Each border is then taken from the window that sees more around it.

    Args:
        windows: Each window with its events, on the video's clock.
    """
    merged: list[_WindowEvent] = []
    for window, events in sorted(windows, key=lambda pair: pair[0].start):
        recent = [told for told in merged if told.window.end > window.start]
        for event in events:
            told = _WindowEvent(event, window)
            twin = max(recent, key=told.overlap_with, default=None)
            if twin is not None and told.overlap_with(twin) > 0:
                merged[merged.index(twin)] = twin.merged_with(told)
                recent = [other for other in recent if other is not twin]
            else:
                merged.append(told)
    return sorted((told.event for told in merged), key=lambda event: (event.start, event.end))


@dataclass(frozen=True, slots=True)
class _WindowEvent:
    """An event and the stretch of the video that those who told it could see."""

    event: Event
    window: Window

    def overlap_with(self, other: "_WindowEvent") -> float:
        """How far two events of different windows are the same: the overlap of what both see, 0 for another event."""
        if self.window == other.window or word_overlap(self.event.caption, other.event.caption) < SAME_WORDS:
            return 0.0
        if self.event.start == self.event.end and other.event.start == other.event.end:
            return float(abs(self.event.start - other.event.start) <= _SAME_MOMENT)
        low, high = max(self.window.start, other.window.start), min(self.window.end, other.window.end)
        seen = [replace(told.event, start=_clip(told.event.start, low, high), end=_clip(told.event.end, low, high))
                for told in (self, other)]  # fmt: skip
        overlap = temporal_iou(*seen)
        return overlap if overlap >= SAME_IOU else 0.0

    def visible_margin(self, time: float) -> float:
        """Seconds of the video that the window sees on both sides of a time."""
        return min(time - self.window.start, self.window.end - time)

    def merged_with(self, later: "_WindowEvent") -> "_WindowEvent":
        """The same event as two windows tell it, the earlier one being this."""
        start = max((self, later), key=lambda told: told.visible_margin(told.event.start)).event.start
        end = max((self, later), key=lambda told: told.visible_margin(told.event.end)).event.end
        sees_more = later.event.duration > self.event.duration
        caption = (later if sees_more else self).event.caption
        scores = [event.score for event in (self.event, later.event) if event.score is not None]
        event = Event(min(start, end), max(start, end), caption, max(scores, default=None))
        return _WindowEvent(event, Window(self.window.start, later.window.end))


def _clip(time: float, low: float, high: float) -> float:
    return min(max(time, low), high)


def merge_texts(windows: Iterable[tuple[Window, str]]) -> list[tuple[float, float, str]]:
    """What windows answer in words, `(start, end, text)`: what neighbours say alike is said once, empty text never."""
    told: list[tuple[float, float, str]] = []
    for window, text in windows:
        if told and told[-1][2] == text and told[-1][1] >= window.start:
            told[-1] = (told[-1][0], window.end, text)
        elif text:
            told.append((window.start, window.end, text))
    return told


def best_moments(events: Iterable[Event], *, max_moments: int | None) -> list[Event]:
    """The best of overlapping moments, best first: one that overlaps a better one by half (temporal IoU) goes.

    Args:
        events: With scores.
        max_moments: How many are wanted, None for all.
    """
    kept: list[Event] = []
    for event in sorted(events, key=lambda event: (-(event.score or 0.0), event.start)):
        if all(temporal_iou(event, better) < 0.5 for better in kept):
            kept.append(event)
    return kept[:max_moments]


def temporal_iou(a: Event, b: Event) -> float:
    """Length that two spans share over the length that they cover together; 0 where both are moments."""
    shared = min(a.end, b.end) - max(a.start, b.start)
    covered = max(a.end, b.end) - min(a.start, b.start)
    return max(0.0, shared) / covered if covered > 0 else 0.0


def word_overlap(a: str, b: str) -> float:
    """Share of words that two captions have in common, from 0 to 1 (Dice coefficient); 1 for two empty ones."""
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
        notes.append(f"the same event is told {longest} times in a row: the model may be repeating itself")
    return tuple(notes)
