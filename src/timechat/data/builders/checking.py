"""Events of an annotation against the length of the video: what is outside is dropped or clipped."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from timechat.data.builders.annotation import MIN_LETTERS, Annotation, Span

END_SLACK = 1.0
"""Seconds by which an event may end after the video, because annotations are rounded; it is kept as it is."""

_TASKS_WITHOUT_TEXT = ("highlights", "highlights_without_query")


@dataclass(frozen=True)
class CheckedSpan:
    """An event and what was wrong with it.

    Attributes:
        span: Event to use; None if it is dropped.
        reason: Reason of the drop or change; None if the event is kept as it is.
        detail: Times and text of the event as annotated.
    """

    span: Span | None
    reason: str | None = None
    detail: str = ""


def check_spans(annotation: Annotation, spans: Sequence[Span], duration: float | None) -> Iterator[CheckedSpan]:
    """Yield every event of an annotation after its check.

    Args:
        annotation: Annotation of the events.
        spans: Events.
        duration: Length in seconds on the clock of the events; None if it is unknown.
    """
    for span in spans:
        yield _check(span, annotation, duration)


def _check(span: Span, annotation: Annotation, duration: float | None) -> CheckedSpan:
    detail = f"{span.start} - {span.end} s{f', {span.text}' if span.text else ''}"
    reason = _problem(span, annotation, duration)
    if reason is not None:
        return CheckedSpan(None, reason, detail)
    if span.start < 0:
        return CheckedSpan(replace(span, start=0.0), "clipped start", detail)
    if duration is not None and span.end > duration + END_SLACK:
        end = span.start if span.start == span.end else max(span.start, round(duration, 2))
        return CheckedSpan(replace(span, end=end), "clipped end", detail)
    return CheckedSpan(span)


def _problem(span: Span, annotation: Annotation, duration: float | None) -> str | None:
    """Return the reason for which an event is dropped; None if it is kept."""
    times = (span.start, span.end)
    if any(isinstance(time, bool | str) or time is None or not math.isfinite(time) for time in times):
        return "invalid time"
    if annotation.task not in _TASKS_WITHOUT_TEXT and len(span.text) < MIN_LETTERS:
        return "empty text"
    if span.end < span.start:
        return "reversed event"
    is_moment = span.end == span.start
    if is_moment and not annotation.has_moments:
        return "event without length"
    if span.end < 0 or (span.end == 0 and not is_moment):
        return "invalid time"
    if duration is not None and (span.start > duration or (span.start == duration and not is_moment)):
        return "event after the end"
    return None
