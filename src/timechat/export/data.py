"""Answers as data: JSON, JSON lines, a table, and what the QVHighlights benchmark takes."""

import csv
import io
import json
import math
import re

from timechat.answers.events import Answer, Event, clip_scores, event_time_range, printable
from timechat.export.text import video_name


def to_json(answer: Answer) -> str:
    """The whole answer as one JSON object, see `Answer.to_dict`; times in seconds."""
    return _json_text(answer.to_dict(), indent=2) + "\n"


def to_jsonl(answer: Answer) -> str:
    """One JSON object per event and line, see `Event.to_dict`; times in seconds."""
    # Some readers take these three for line ends; JSON allows them bare.
    line_ends = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}
    return "".join(f"{_json_text(event.to_dict()).translate(line_ends)}\n" for event in answer.events)


def _json_text(value: object, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    # A file name that is not UTF-8 holds lone surrogates; replaced this way they are JSON escapes.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_csv(answer: Answer) -> str:
    """A table `start,end,caption,score`, and `saliency` for highlights; times in seconds, unknown values empty.

    A caption that a spreadsheet would run as a formula (it begins with `=`, `+`, `-`, `@` or a tab) gets a `'` in
    front, as spreadsheets themselves mark text.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    rates = any(event.saliency is not None for event in answer.events)
    writer.writerow(("start", "end", "caption", "score", *(("saliency",) if rates else ())))
    for event in answer.events:
        caption = printable(event.caption)
        caption = f"'{caption}" if caption.startswith(tuple("=+-@\t")) else caption
        ratings = (event.score, event.saliency) if rates else (event.score,)
        writer.writerow((event.start, event.end, caption, *("" if value is None else value for value in ratings)))
    return table.getvalue()


QVHIGHLIGHTS_CLIP_SECONDS = 2.0
"""QVHighlights scores a video in clips of this length, in seconds."""


def to_qvhighlights(answer: Answer, *, qid: int = 0) -> str:
    """The answer as a line of a QVHighlights submission; times in seconds.

    An event is a window `[start, end, score]`, a moment one of `MOMENT_SECONDS`. The score of a highlight is its
    saliency. An event without either has the score of the answer, or 1.0. A clip of 2 s has the mean score of what the
    answer says about it, or 0.0.

    Args:
        answer: The answer; `answer.question` is the query, and the video's file name without ending is its `vid`.
        qid: The benchmark's number for the query.
    """
    usual = 1.0 if answer.score is None else answer.score
    rated = [(event, _rating(event, usual)) for event in answer.events]
    ends = [event_time_range(event)[1] for event in answer.events]
    duration = max(ends, default=0.0) if answer.duration is None else answer.duration
    moments = [moment for event, rating in rated for moment in _moments(event, rating, duration)]
    line = {
        "qid": qid,
        "query": answer.question,
        "vid": re.sub(r"\.(?!\d+$)\w{2,5}$", "", video_name(answer)),  # but not the ".0" of "NUsG9BgSes0_210.0_360.0"
        "pred_relevant_windows": [[*event_time_range(event, answer.duration), rating] for event, rating in rated],
        "pred_saliency_scores": clip_scores(moments, duration, QVHIGHLIGHTS_CLIP_SECONDS),
    }
    return _json_text(line) + "\n"


def qvhighlights_notes(answer: Answer) -> list[str]:
    """Say that the scores of highlights are saliencies, as this format has one field for both."""
    if any(event.saliency is not None for event in answer.events):
        return ["the scores in this file are saliencies, because the format has no other field for them"]
    return []


def _rating(event: Event, usual: float) -> float:
    if event.saliency is not None:
        return event.saliency
    return usual if event.score is None else event.score


def _moments(event: Event, rating: float, duration: float) -> list[Event]:
    """An event as one moment for each clip whose middle it covers, at least the one where it starts."""
    clip = QVHIGHLIGHTS_CLIP_SECONDS
    first, last = math.ceil(event.start / clip - 0.5), math.ceil(min(event.end, duration) / clip - 0.5)
    middles = [(number + 0.5) * clip for number in range(first, last)] or [event.start]
    return [Event(middle, middle, saliency=rating) for middle in middles]
