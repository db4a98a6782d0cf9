"""Answers in the words of the original's training data."""

from collections.abc import Sequence

from timechat.answers.prompts import transcript_text
from timechat.data.builders.annotation import Span, Time


def tenth(value: Time) -> str:
    """Write seconds or a score with one decimal."""
    return str(round(float(value), 1))


def write_captions(spans: Sequence[Span]) -> str:
    """Write captions with times: dense captions and steps."""
    return "  ".join(f"{tenth(span.start)} - {tenth(span.end)} seconds, {span.text}." for span in spans)


def write_starts(spans: Sequence[Span]) -> str:
    """Write captions with start times only, as for ViTT."""
    return "  ".join(f"{tenth(span.start)} seconds, {span.text}." for span in spans)


def write_moment(spans: Sequence[Span]) -> str:
    """Write the time of a query with one decimal; equal times are written once."""
    start, end = tenth(spans[0].start), tenth(spans[0].end)
    return f"The given query happens in {start if start == end else f'{start} - {end}'} seconds."


def write_span(spans: Sequence[Span]) -> str:
    """Write the start and the end of a query with one decimal."""
    return f"The given query happens in {tenth(spans[0].start)} - {tenth(spans[0].end)} seconds."


def write_digits(spans: Sequence[Span]) -> str:
    """Write the time of a query with the digits of the annotation."""
    return f"The given query happens in {spans[0].start} - {spans[0].end} seconds."


def write_highlights(spans: Sequence[Span]) -> str:
    """Write the highlights of a query: number, times and scores."""
    times = ", ".join(str(span.start) for span in spans)
    return (
        f"There are {len(spans)} highlight moments in the {times} second. Their saliency scores are {_scores(spans)}."
    )


def write_summary(spans: Sequence[Span]) -> str:
    """Write the highlights of a whole video: times, whole seconds without decimals, and scores."""
    times = ", ".join(str(round(span.start, 1)) for span in spans)
    return f"The highlight timestamps are in the {times} seconds. Their saliency scores are {_scores(spans)}."


def write_speech(spans: Sequence[Span]) -> str:
    """Write the speech of a video."""
    return transcript_text((float(span.start), float(span.end), span.text) for span in spans)


def _scores(spans: Sequence[Span]) -> str:
    return ", ".join(tenth(span.saliency or 0.0) for span in spans)
