"""Answers as data: JSON, JSON lines, a table, and what the QVHighlights benchmark takes."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from timechat.answers.events import Answer, Event, event_time_range, printable
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


# Where a cell can begin: the start, after signs that some spreadsheets take as a separator, and after blanks.
_FORMULA = re.compile(r"(^|[;\t\n])([^\S\t\n]*+)(?=[=+\-@\t＝＋－﹢﹣＠﹦﹫])")


def to_csv(answer: Answer) -> str:
    """A table `start,end,caption,score`, and `saliency` for highlights; times in seconds, unknown values empty.

    A caption that a spreadsheet would run as a formula gets a `'` in front of the formula, as spreadsheets themselves
    mark text: `=`, `+`, `-`, `@` (also as full-width signs) or a tab at its start, after blanks, or after a `;`, a tab
    or a new line, which start a cell in some spreadsheets.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    rates = any(event.saliency is not None for event in answer.events)
    writer.writerow(("start", "end", "caption", "score", *(("saliency",) if rates else ())))
    for event in answer.events:
        caption = _FORMULA.sub(r"\1'\2", printable(event.caption))
        ratings = (event.score, event.saliency) if rates else (event.score,)
        writer.writerow((event.start, event.end, caption, *("" if value is None else value for value in ratings)))
    return table.getvalue()


QVHIGHLIGHTS_CLIP_SECONDS = 2.0
"""QVHighlights scores a video in clips of this length, in seconds."""

QVHIGHLIGHTS_MAX_SECONDS = 24 * 3600.0
"""Maximum duration of a video in a QVHighlights file, in seconds; the benchmark's own videos last 150 s."""


def to_qvhighlights(answer: Answer, *, qid: int = 0) -> str:
    """The answer as a line of a QVHighlights submission; times in seconds.

    An event is a window `[start, end, score]`, a moment one of `MOMENT_SECONDS`. The score of a highlight is its
    saliency. An event without either has the score of the answer, or 1.0. A clip of 2 s has the mean score of what the
    answer says about it, or 0.0.

    Args:
        answer: The answer; `answer.question` is the query, and the video's file name without ending is its `vid`.
        qid: The benchmark's number for the query.

    Raises:
        ValueError: The video, or the last event, ends after `QVHIGHLIGHTS_MAX_SECONDS`.
    """
    usual = 1.0 if answer.score is None else answer.score
    rated = [(event, _rating(event, usual)) for event in answer.events]
    ends = [event_time_range(event)[1] for event in answer.events]
    duration = max(ends, default=0.0) if answer.duration is None else answer.duration
    if duration > QVHIGHLIGHTS_MAX_SECONDS:
        raise ValueError(
            f"qvhighlights has a score for every {QVHIGHLIGHTS_CLIP_SECONDS:g} s and takes videos of up to "
            f"{QVHIGHLIGHTS_MAX_SECONDS:g} s, got {duration:g} s; write the answer as json"
        )
    line = {
        "qid": qid,
        "query": answer.question,
        "vid": re.sub(r"\.(?!\d+$)\w{2,5}$", "", video_name(answer)),  # but not the ".0" of "NUsG9BgSes0_210.0_360.0"
        "pred_relevant_windows": [[*event_time_range(event, answer.duration), rating] for event, rating in rated],
        "pred_saliency_scores": _clip_means(rated, duration),
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


def _clip_means(rated: Sequence[tuple[Event, float]], duration: float) -> list[float]:
    """The mean score of the events that cover the middle of each clip, 0.0 for a clip without any.

    An event covers at least the clip in which it starts. The work is proportional to events and clips, not to their
    product: sums of scores are carried from clip to clip, as exact fractions.
    """
    clip = QVHIGHLIGHTS_CLIP_SECONDS
    num_clips = max(1, math.ceil(duration / clip - 1e-6))
    changes: dict[int, tuple[Fraction, int]] = {}
    for event, rating in rated:
        if event.start > duration:
            continue
        first, last = math.ceil(event.start / clip - 0.5), math.ceil(min(event.end, duration) / clip - 0.5)
        if last <= first:
            first = min(int(event.start / clip + 1e-9), num_clips - 1)
            last = first + 1
        score = Fraction(rating)
        for place, sign in ((first, 1), (min(last, num_clips), -1)):
            total, count = changes.get(place, (Fraction(0), 0))
            changes[place] = (total + sign * score, count + sign)
    means = []
    total, count, mean = Fraction(0), 0, 0.0
    for number in range(num_clips):
        if number in changes:
            total, count = total + changes[number][0], count + changes[number][1]
            mean = float(total / count) if count else 0.0
        means.append(mean)
    return means
