"""An event, an answer, and events written as text.

Every time is float seconds from the start of the video. `timechat.answers.parsing` reads the text back.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any, Literal

Task = Literal["ask", "dense_caption", "grounding", "highlights", "steps", "summary", "transcribe"]

AnsweredBy = Literal["model", "search"]

MOMENT_SECONDS = 2.0
"""Seconds for which a moment (an event with `start == end`) is shown in formats that need a length."""


# ---------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens in a video from `start` to `end`; a highlight is a moment, `start == end`.

    Args:
        start: Seconds from the start of the video.
        end: Seconds, at least `start`.
        caption: Description of the event; may be empty.
        score: Probability from 0 to 1 that the event is right; None if it is not known, and for highlights.
        saliency: Rating of a highlight, usually from 1 to 5; None for all other events.
    """

    start: float
    end: float
    caption: str = ""
    score: float | None = None
    saliency: float | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            seconds = float(getattr(self, name))
            if not math.isfinite(seconds) or seconds < 0:
                raise ValueError(f"{name} must be a finite number of seconds from 0, got {seconds}")
            object.__setattr__(self, name, seconds)
        if self.start > self.end:
            raise ValueError(f"an event must not end before it starts, got start={self.start}, end={self.end}")
        if self.score is not None:
            if not 0 <= self.score <= 1:
                raise ValueError(
                    f"score must be a probability from 0 to 1 or None, got {self.score}; a rating is a saliency"
                )
            object.__setattr__(self, "score", float(self.score))
        if self.saliency is not None:
            if not math.isfinite(self.saliency):
                raise ValueError(f"saliency must be a finite number or None, got {self.saliency}")
            object.__setattr__(self, "saliency", float(self.saliency))

    @property
    def duration(self) -> float:
        """Seconds from start to end, 0.0 for a moment."""
        return self.end - self.start

    def to_dict(self) -> dict[str, Any]:
        """The event as `{"start", "end", "caption", "score"}`, with `saliency` for a highlight, ready for JSON."""
        event = {"start": self.start, "end": self.end, "caption": self.caption, "score": self.score}
        return event if self.saliency is None else event | {"saliency": self.saliency}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Event":
        """Read the output of `to_dict`."""
        return cls(content["start"], content["end"], content["caption"], content["score"], content.get("saliency"))


@dataclass(frozen=True)
class Answer:
    """The answer of a model about a video, and the events read out of it.

    Args:
        text: The raw answer, as the model wrote it.
        events: Events in the order of the answer; empty if it names none.
        task: Task of the request.
        question: Question or query of the request; empty for a task without one.
        video: Path or address of the video; None for ready-made frames without one.
        duration: Duration of the video in seconds.
        model: Name of the model; name of the encoder where `by` is `"search"`.
        found: Whether the query happens in the video; None for a task that does not look for a query.
        score: Probability from 0 to 1 that the query happens; None if it is not known.
        player_offset: Seconds by which the clock of players is ahead of the clock of the events, as where audio begins
            before the first frame; formats for players add it, JSON and tables do not.
        step: Resolution of the events' borders: seconds between the frames in which they were found.
        by: What answered: `"model"`, or `"search"` where the scores of a frame-text encoder gave the moments.
        read_share: Share of the video that was read, from 0 to 1, see `timechat.search.retrieval`.
        timings: Seconds that the answer took, by stage; not compared.
        notes: Sentences for readers of the answer, such as untrained weights.
    """

    text: str
    events: list[Event] = field(default_factory=list)
    _: KW_ONLY
    task: Task = "ask"
    question: str = ""
    video: str | None = None
    duration: float | None = None
    model: str | None = None
    found: bool | None = None
    score: float | None = None
    step: float | None = None
    by: AnsweredBy = "model"
    read_share: float = 1.0
    player_offset: float = 0.0
    timings: Mapping[str, float] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", list(self.events))
        object.__setattr__(self, "notes", tuple(self.notes))
        if self.video is not None:
            object.__setattr__(self, "video", str(self.video))
        check_duration(self.duration)

    def to_dict(self) -> dict[str, Any]:
        """The answer as the JSON object that every `--json` prints."""
        return {
            "video": self.video,
            "duration": self.duration,
            "task": self.task,
            "question": self.question,
            "text": self.text,
            "events": [event.to_dict() for event in self.events],
            "model": self.model,
            "found": self.found,
            "score": self.score,
            "step": self.step,
            "by": self.by,
            "read_share": self.read_share,
            "player_offset": self.player_offset,
            "timings": dict(self.timings),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Answer":
        """Read the output of `to_dict`, the JSON object that every `--json` prints."""
        events = [Event.from_dict(event) for event in content["events"]]
        return cls(content["text"], events, **{name: content[name] for name in _ANSWER_FIELDS})


_ANSWER_FIELDS = [each.name for each in fields(Answer) if each.kw_only]  # all but text and events


def on_player_clock(answer: Answer) -> Answer:
    """Return the answer with times for players, which count from the start of the file, not from its first frame."""
    offset = answer.player_offset
    if not offset:
        return answer
    events = [move_event(event, offset) for event in answer.events]
    duration = None if answer.duration is None else answer.duration + offset
    return replace(answer, events=events, duration=duration, player_offset=0.0)


def move_event(event: Event, offset: float) -> Event:
    """Return the event later by `offset` seconds."""
    return replace(event, start=event.start + offset, end=event.end + offset)


def event_time_range(event: Event, duration: float | None = None) -> tuple[float, float]:
    """Start and end of an event in seconds, for formats in which an event must have a length.

    A moment, or an event shorter than the millisecond of subtitles, lasts `MOMENT_SECONDS`, and ends with the video of
    `duration` seconds at the latest.
    """
    if round(event.end * 1000) > round(event.start * 1000):
        return event.start, event.end
    if not duration:
        return event.start, event.start + MOMENT_SECONDS
    start = max(0.0, min(event.start, duration - MOMENT_SECONDS))
    return start, min(start + MOMENT_SECONDS, duration)


def check_duration(duration: float | None) -> None:
    """Raise a `ValueError` if no video can have this duration."""
    if duration is not None and not (math.isfinite(duration) and duration >= 0):
        raise ValueError(f"duration must be a finite number of seconds from 0, or None, got {duration}")


def printable(text: str) -> str:
    """Return the text without control characters, which could steer a terminal or break a file."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def one_line(text: str) -> str:
    """Return the text on one line, without control characters and with single spaces."""
    return " ".join(printable(text).split())


# ------------------------------------------------------------------------------------------- writing events


def format_time(seconds: float) -> str:
    """A time for people: `m:ss.s`, from one hour on `h:mm:ss.s`, rounded to a tenth (59.96 is `1:00.0`)."""
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"seconds must be a finite number from 0, got {seconds}")
    # Formatting rounds the decimal that a reader sees; rounding 10 * seconds does not always give the same.
    minutes, tenths = divmod(round(float(f"{seconds:.1f}") * 10), 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def write_captions(events: Sequence[Event]) -> str:
    """Write dense captions or steps."""
    return "  ".join(f"{e.start:.1f} - {e.end:.1f} seconds, {_sentence(e.caption)}".rstrip(" ") for e in events)


def _sentence(caption: str) -> str:
    """The caption on one line, ended by a full stop unless it ends otherwise."""
    caption = " ".join(caption.split())
    return caption if not caption or caption.endswith((".", "!", "?")) else f"{caption}."


def write_speech(events: Sequence[Event]) -> str:
    """Write transcribed speech."""
    return f"Transcribed speech: {write_captions(events)}" if events else ""


def write_grounding(events: Sequence[Event]) -> str:
    """Write a grounding answer."""
    if len(events) > 1:
        raise ValueError(f"grounding answers with one event, got {len(events)}")
    return "".join(f"The given query happens in {e.start:.1f} - {e.end:.1f} seconds." for e in events)


def write_highlights(events: Sequence[Event]) -> str:
    """Write highlights."""
    if not events:
        return "No highlight moments were found."
    times = ", ".join(f"{event.start:.1f}" for event in events)
    return f"There are {len(events)} highlight moments in the {times} second. {_write_scores(events)}"


def write_summary(events: Sequence[Event]) -> str:
    """Write highlights as a summary."""
    if not events:
        return "No highlight moments were found."
    times = ", ".join(f"{event.start:.1f}".removesuffix(".0") for event in events)
    return f"The highlight timestamps are in the {times} seconds. {_write_scores(events)}"


def _write_scores(events: Sequence[Event]) -> str:
    return f"Their saliency scores are {', '.join(f'{event.saliency or 0.0:.1f}' for event in events)}."


def clip_scores(
    events: Iterable[Event], duration: float, clip_seconds: float = 2.0, *, as_published: bool = False
) -> list[float]:
    """Spread highlights over the clips of a video, as highlight benchmarks score them.

    Clip `i` covers the seconds from `i * clip_seconds` to `(i + 1) * clip_seconds`; a time at the very end
    counts for the last clip; several times in one clip are averaged; every other clip is 0.0.

    Args:
        events: Highlights; a missing saliency counts as 0.0. Times past the end are left out.
        duration: Length of the video in seconds; a last clip that is shorter counts as a clip.
        clip_seconds: Length of a clip in seconds.
        as_published: Use the original's mapping, `int((time - 1) / clip_seconds)`, which is one clip early:
            only for comparing with figures published with it.

    Returns:
        One score per clip.
    """
    check_duration(duration)
    if not clip_seconds > 0:
        raise ValueError(f"clip_seconds must be above 0, got {clip_seconds}")
    num_clips = max(1, math.ceil(duration / clip_seconds - 1e-6))
    found: dict[int, list[float]] = {}
    for event in events:
        if event.start <= duration:
            time = event.start - 1 if as_published else event.start
            clip = min(max(0, int(time / clip_seconds + 1e-9)), num_clips - 1)
            found.setdefault(clip, []).append(event.saliency or 0.0)
    return [sum(found[clip]) / len(found[clip]) if clip in found else 0.0 for clip in range(num_clips)]
