"""What a model says about time, as values: an event, an answer, and events written as text.

Every time is float seconds from the start of the video. `timechat.answers.parsing` reads the text back.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

Task = Literal["ask", "dense_caption", "grounding", "highlights", "steps", "summary", "transcribe"]

MOMENT_SECONDS = 2.0
"""How long a moment (an event with `start == end`) is shown where something must have a length, in seconds."""


# ---------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens in a video from `start` to `end`; a highlight is a moment, `start == end`.

    Args:
        start: Seconds from the start of the video.
        end: Seconds, at least `start`.
        caption: What happens, in words; may be empty.
        score: How much it matters (a highlight's saliency), or None where nobody said.
    """

    start: float
    end: float
    caption: str = ""
    score: float | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            seconds = float(getattr(self, name))
            if not math.isfinite(seconds) or seconds < 0:
                raise ValueError(f"{name} must be a finite number of seconds from 0, got {seconds}")
            object.__setattr__(self, name, seconds)
        if self.start > self.end:
            raise ValueError(f"an event must not end before it starts, got start={self.start}, end={self.end}")
        if self.score is not None:
            if not math.isfinite(self.score):
                raise ValueError(f"score must be a finite number or None, got {self.score}")
            object.__setattr__(self, "score", float(self.score))

    @property
    def duration(self) -> float:
        """Seconds from start to end, 0.0 for a moment."""
        return self.end - self.start

    def to_dict(self) -> dict[str, Any]:
        """The event as `{"start", "end", "caption", "score"}`, ready for JSON."""
        return {"start": self.start, "end": self.end, "caption": self.caption, "score": self.score}


@dataclass(frozen=True)
class Answer:
    """What the model said about a video, and the events read out of it.

    Args:
        text: The raw answer, as the model wrote it.
        events: The events in the order in which the answer names them; empty where it names none.
        task: Which task was asked.
        question: The question or the query that was asked, empty where the task needs none.
        video: Path or address of the video, None where it had none (ready-made frames).
        duration: Length of the video in seconds.
        model: Which model answered.
        found: Whether what was looked for happens in the video; None where nothing was looked for.
        score: How sure the model is that it happens, from 0 to 1; None where nobody can say.
        step: Resolution in seconds: how far apart the frames are from which the events' borders were told.
        timings: Seconds that the answer took, by stage; not compared.
        notes: Plain sentences that whoever reads the answer should know, such as untrained weights.
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
            "timings": dict(self.timings),
            "notes": list(self.notes),
        }


def event_time_range(event: Event, duration: float | None = None) -> tuple[float, float]:
    """Start and end of an event for what needs a length, in seconds.

    A moment, or what is shorter than the millisecond that subtitles count in, lasts `MOMENT_SECONDS` from its start
    on, ending with the video (of `duration` seconds) at the latest.
    """
    if round(event.end * 1000) > round(event.start * 1000):
        return event.start, event.end
    start = event.start if duration is None else max(0.0, min(event.start, duration - MOMENT_SECONDS))
    return start, start + MOMENT_SECONDS


def check_duration(duration: float | None) -> None:
    """Raise a `ValueError` for a length that no video has."""
    if duration is not None and not (math.isfinite(duration) and duration >= 0):
        raise ValueError(f"duration must be a finite number of seconds from 0, or None, got {duration}")


# ------------------------------------------------------------------------------------------- writing events


def format_time(seconds: float) -> str:
    """A time for people: `m:ss.s`, from one hour on `h:mm:ss.s`, rounded to a tenth (59.96 is `1:00.0`)."""
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"seconds must be a finite number from 0, got {seconds}")
    # Formatting rounds the decimal that a reader sees; rounding 10 * seconds would not always.
    minutes, tenths = divmod(round(float(f"{seconds:.1f}") * 10), 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def format_events(events: Sequence[Event], task: Task) -> str:
    """Write events in the wording of the original's training answers, times and scores to a tenth.

    `parse_events` reads the same events back, where their times and scores are whole tenths and their
    captions end with a full stop.

    Args:
        events: In the order in which the answer shall name them; grounding takes exactly one, or none.
        task: Any task that answers in events.

    Returns:
        The answer text; `""` for no events where the original has no words for that.
    """
    if task not in _WRITERS:
        raise ValueError(f"task must be one of {', '.join(_WRITERS)}, got {task!r}")
    return _WRITERS[task](events)


def _write_captions(events: Sequence[Event]) -> str:
    return "  ".join(f"{e.start:.1f} - {e.end:.1f} seconds, {_sentence(e.caption)}".rstrip(" ") for e in events)


def _sentence(caption: str) -> str:
    """The caption on one line, ended by a full stop unless it ends otherwise."""
    caption = " ".join(caption.split())
    return caption if not caption or caption.endswith((".", "!", "?")) else f"{caption}."


def _write_speech(events: Sequence[Event]) -> str:
    return f"Transcribed speech: {_write_captions(events)}" if events else ""


def _write_grounding(events: Sequence[Event]) -> str:
    if len(events) > 1:
        raise ValueError(f"grounding answers with one event, got {len(events)}")
    return "".join(f"The given query happens in {e.start:.1f} - {e.end:.1f} seconds." for e in events)


def _write_highlights(events: Sequence[Event]) -> str:
    if not events:
        return "No highlight moments were found."
    times = ", ".join(f"{event.start:.1f}" for event in events)
    return f"There are {len(events)} highlight moments in the {times} second. {_write_scores(events)}"


def _write_summary(events: Sequence[Event]) -> str:
    if not events:
        return "No highlight moments were found."
    times = ", ".join(f"{event.start:.1f}".removesuffix(".0") for event in events)
    return f"The highlight timestamps are in the {times} seconds. {_write_scores(events)}"


def _write_scores(events: Sequence[Event]) -> str:
    return f"Their saliency scores are {', '.join(f'{event.score or 0.0:.1f}' for event in events)}."


_WRITERS: dict[str, Callable[[Sequence[Event]], str]] = {
    "dense_caption": _write_captions,
    "steps": _write_captions,
    "transcribe": _write_speech,
    "grounding": _write_grounding,
    "highlights": _write_highlights,
    "summary": _write_summary,
}


def clip_scores(
    events: Iterable[Event], duration: float, clip_seconds: float = 2.0, *, as_published: bool = False
) -> list[float]:
    """Spread highlights over the clips of a video, as highlight benchmarks score them.

    Clip `i` covers the seconds from `i * clip_seconds` to `(i + 1) * clip_seconds`; a time at the very end
    counts for the last clip; several times in one clip are averaged; every other clip is 0.0.

    Args:
        events: Highlights; a missing score counts as 0.0. Times past the end are left out.
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
            found.setdefault(clip, []).append(event.score or 0.0)
    return [sum(found[clip]) / len(found[clip]) if clip in found else 0.0 for clip in range(num_clips)]
