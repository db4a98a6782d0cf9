"""Answers as text for people."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from timechat.answers.events import Answer, Event, format_time, one_line, printable
from timechat.answers.tasks import TASKS


def to_text(answer: Answer) -> str:
    """Text for people: an event a line with its times as `m:ss.s`; a free answer stands before its times.

    What was looked for and not found is said in one line.
    """
    if answer.found is False:
        sure = "" if answer.score is None else f" (score {answer.score:.2f})"
        return f"not found: {one_line(answer.question)}{sure}\n"
    lines = event_lines(answer)
    if TASKS[answer.task].is_free or not lines:
        lines = [printable(answer.text).strip(), *lines]
    return "".join(f"{line}\n" for line in lines)


def event_lines(answer: Answer) -> list[str]:
    """The events alone, a line each for people; below a free answer they are indented and don't repeat it."""
    is_free, text = TASKS[answer.task].is_free, printable(answer.text).strip()
    times = [time_range(event) for event in answer.events]
    labels = ["" if is_free and event.caption == text else _shown(event, answer) for event in answer.events]
    width = max(map(len, times), default=0)
    indent = "  " if is_free else ""
    return [f"{indent}{time:<{width}}  {label}".rstrip() for time, label in zip(times, labels, strict=True)]


def time_range(event: Event) -> str:
    """Start and end as `m:ss.s – m:ss.s`, a moment as one time."""
    start = format_time(event.start)
    return start if event.start == event.end else f"{start} – {format_time(event.end)}"


def event_label(event: Event) -> str:
    """The caption on one line, with the score or the saliency of the event."""
    caption, rating = one_line(event.caption), rating_text(event)
    return f"{caption} ({rating})".strip() if rating else caption


def _shown(event: Event, answer: Answer) -> str:
    """The label of an event; how sure the model is of a caption is left to data."""
    is_asked_for = answer.task == "grounding" or event.start == event.end
    return event_label(event if is_asked_for else replace(event, score=None))


def rating_text(event: Event) -> str:
    """The score with two decimals or the saliency as it is, with its name; empty for an event without either."""
    if event.saliency is not None:
        return f"saliency {event.saliency:g}"
    return "" if event.score is None else f"score {event.score:.2f}"


def video_name(answer: Answer) -> str:
    """The file name of the video, empty where it has none."""
    if not answer.video:
        return ""
    path = urlsplit(answer.video).path if "://" in answer.video else answer.video
    return one_line(Path(path).name)
