"""Files of predictions and of truth → values, whatever is wrong with single rows; each is counted and told.

Predictions are read in the formats of the original's scripts and of their upstreams, as the original's unread result
files, and as our `predictions.jsonl`; truth in the benchmarks' own formats and as our records. The content tells which
it is, and whether it is compressed, not the name.
"""

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from timechat.errors import DataError
from timechat.evaluation.metrics.grounding import Span
from timechat.evaluation.metrics.highlights import CLIP_SECONDS, HighlightTruth
from timechat.evaluation.metrics.moment_retrieval import RankedWindows
from timechat.events import Event, Task, clip_scores
from timechat.parsing import parse_events

Value = TypeVar("Value")

_SHORTEST_CAPTION = 5  # letters; shorter pieces between full stops are none in the layout of ActivityNet Captions


@dataclass
class Findings:
    """What was wrong with a file, counted."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        """Count one more."""
        self.counts[what] += 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Plain sentences."""
        return tuple(f"{count} {what}" for what, count in self.counts.items())


@dataclass(frozen=True)
class CaptionedVideo:
    """Captions of a video at their times: `(captions, 2)` seconds, and as many texts."""

    spans: NDArray[np.float64]
    captions: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------ files


def read_content(path: Path, findings: Findings) -> Any:
    """Read a file of JSON, or of a JSON value a line as a list; lines that are no JSON are counted and passed over.

    Raises:
        DataError: There is no such file, or it is neither.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a file of predictions and a file of truth")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no text in UTF-8: {error}") from error
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    rows = []
    for line in filter(str.strip, text.split("\n")):
        try:
            rows.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError):
            findings.add("lines are no JSON and were passed over")
    if not rows and text.strip():
        raise DataError(f"{path}: is neither JSON nor a JSON value a line")
    return rows


def _rows(content: Any, path: Path, findings: Findings) -> list[Mapping[str, Any]]:
    """Rows of `{"annotations": [...]}`, of a list, or a single row."""
    if isinstance(content, Mapping):
        content = content.get("annotations", [content])
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of rows, got {type(content).__name__}")
    rows = [row for row in content if isinstance(row, Mapping)]
    for _ in range(len(content) - len(rows)):
        findings.add("rows are no JSON objects and were passed over")
    return rows


def _is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is of our predictions."""
    return "events" in row and "id" in row


def _is_record(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of our records."""
    return "messages" in row and "video" in row


def _number(value: Any) -> float | None:
    """A finite number, also where it is written as a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _span(value: Any) -> Span | None:
    """Two finite numbers, in the order in which they stand; None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    start, end = map(_number, value)
    return None if start is None or end is None else (start, end)


def _name(value: Any) -> str:
    return str(value).rsplit("/", 1)[-1]


# -------------------------------------------------------------------------------------------- dense captions


def read_caption_truth(path: Path, findings: Findings) -> dict[str, CaptionedVideo]:
    """True captions by video.

    Raises:
        DataError: There is none.
    """
    truth = {}
    for row in _rows(read_content(path, findings), path, findings):
        video, spans, captions = _true_captions(row)
        if video is None or not isinstance(spans, list):
            findings.add("rows of the truth have no captions and were passed over")
            continue
        read = [_span(span) for span in spans]
        if len(spans) != len(captions) or None in read:
            findings.add("videos of the truth have captions and spans that do not go together; what does was taken")
        pairs = [(span, text) for span, text in zip(read, captions, strict=False) if span is not None]
        if not pairs:
            findings.add("videos of the truth have no event and were left out")
            continue
        truth[video] = _captioned(pairs)
    return _some(truth, path, '{"annotations": [{"image_id", "segments", "pure_cap"}]}')


def _true_captions(row: Mapping[str, Any]) -> tuple[str | None, Any, list[str]]:
    if _is_record(row):
        if row.get("task") != "dense_caption":
            return None, [], []
        events = row.get("events") or []
        starts_and_ends = [[event.get("start"), event.get("end")] for event in events]
        return _name(row["video"]), starts_and_ends, [_text(event.get("caption")) for event in events]
    spans = row.get("segments")
    if "image_id" not in row or not isinstance(spans, list):
        return None, [], []
    if isinstance(row.get("pure_cap"), str):
        captions = [piece if piece.endswith(".") else f"{piece}." for piece in row["pure_cap"].split(". ")]
    else:
        pieces = _text(row.get("caption")).split(".")
        captions = [piece.strip() for piece in pieces if len(piece) > _SHORTEST_CAPTION]
    return _name(row["image_id"]), spans, captions


def read_caption_predictions(path: Path, findings: Findings) -> dict[str, CaptionedVideo]:
    """Predicted captions by video, those whose times can be read; of two rows about a video the later counts."""
    content = read_content(path, findings)
    if isinstance(content, Mapping) and isinstance(content.get("results"), Mapping):
        content = content["results"]
    items: list[tuple[Any, Any]]
    if isinstance(content, Mapping) and not _is_ours(content) and "generated_cap" not in content:
        items = list(content.items())
    else:
        items = [
            (row.get("vname", row.get("video")), _events(row, "dense_caption"))
            for row in _rows(content, path, findings)
            if not _is_ours(row) or row.get("task", "dense_caption") == "dense_caption"
        ]
    predicted: dict[str, CaptionedVideo] = {}
    for video, rows in items:
        if not isinstance(rows, list):
            findings.add("videos have no list of captions; they count as without any")
        pairs = []
        for row in rows if isinstance(rows, list) else []:
            span = _span(row.get("timestamp")) if isinstance(row, Mapping) else None
            if span is None:
                findings.add("captions have no times that can be read and were passed over")
            else:
                pairs.append((span, _text(row.get("caption", row.get("sentence")))))
        if _name(video) in predicted:
            findings.add("videos are predicted twice; the later row counts")
        predicted[_name(video)] = _captioned(pairs)
    return predicted


def _captioned(pairs: Sequence[tuple[Span, str]]) -> CaptionedVideo:
    spans = np.array([span for span, _ in pairs], dtype=np.float64).reshape(-1, 2)
    return CaptionedVideo(spans, tuple(text for _, text in pairs))


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _events(row: Mapping[str, Any], task: Task) -> list[dict[str, Any]] | None:
    """Events of a row of ours, or of one of the original's unread results, as its formatted ones have them."""
    if _is_ours(row):
        events = row["events"]
        if not isinstance(events, list):
            return None
        return [
            {
                "timestamp": [event.get("start"), event.get("end")],
                "caption": event.get("caption"),
                "score": event.get("score"),
            }
            if isinstance(event, Mapping)
            else {}
            for event in events
        ]
    if not isinstance(row.get("generated_cap"), str):
        return None
    duration = _number(row.get("duration"))
    read = parse_events(row["generated_cap"], task=task, duration=duration if duration and duration > 0 else None)
    return [{"timestamp": [e.start, e.end], "caption": e.caption, "score": e.score} for e in read.events]


# ------------------------------------------------------------------------------------------------- grounding


@dataclass(frozen=True, slots=True)
class TrueSpan:
    """What a query asks for: seconds, and in which video."""

    span: Span
    video: str


def read_span_truth(path: Path, findings: Findings) -> dict[str, TrueSpan]:
    """True spans by query.

    Raises:
        DataError: There is none.
    """
    truth = {}
    for row in _rows(read_content(path, findings), path, findings):
        query, span, video = _true_span(row)
        if query is None or span is None:
            findings.add("rows of the truth have no span and were passed over")
        else:
            truth[query] = TrueSpan(span, video)
    return _some(truth, path, '{"annotations": [{"id", "timestamp"}]}')


def _true_span(row: Mapping[str, Any]) -> tuple[str | None, Span | None, str]:
    if _is_record(row):
        events = (row.get("events") or [{}]) if row.get("task") == "grounding" else [{}]
        return str(row.get("id")), _span([events[0].get("start"), events[0].get("end")]), _name(row["video"])
    query = row.get("id", row.get("qid"))
    return None if query is None else str(query), _span(row.get("timestamp")), _name(row.get("image_id"))


def read_span_predictions(path: Path, findings: Findings) -> dict[str, Span | None]:
    """The first span that is predicted for each query, None where there is none that can be read."""
    content = read_content(path, findings)
    if isinstance(content, Mapping) and not _is_ours(content) and "generated_cap" not in content:
        items = [(query, _first_timestamp(row)) for query, row in content.items()]
    else:
        items = [
            (row.get("id", row.get("qid")), [event.get("timestamp") for event in _events(row, "grounding") or []])
            if _is_ours(row) or "generated_cap" in row
            else (row.get("id", row.get("qid")), _first_timestamp(row))
            for row in _rows(content, path, findings)
            if not _is_ours(row) or row.get("task", "grounding") == "grounding"
        ]
    predicted: dict[str, Span | None] = {}
    for query, spans in items:
        if str(query) in predicted:
            findings.add("queries are predicted twice; the later row counts")
        predicted[str(query)] = _span(spans[0]) if spans else None
        if spans and predicted[str(query)] is None:
            findings.add("queries have a first span that cannot be read; they count as without any")
    return predicted


def _first_timestamp(row: Any) -> list[Any]:
    """The list of spans of a row; a single bare span is a list of one."""
    value = row.get("timestamp") if isinstance(row, Mapping) else row
    if not isinstance(value, list):
        return []
    return [value] if len(value) == 2 and not any(isinstance(item, list) for item in value) else value


# -------------------------------------------------------------------------------- highlights, moment retrieval


@dataclass(frozen=True, slots=True)
class TrueQuery:
    """A query of QVHighlights.

    Attributes:
        video: In which it is looked for.
        highlights: Rated clips, None where the file has none.
        windows: `(windows, 2)` seconds; none where the file has none.
    """

    video: str
    highlights: HighlightTruth | None
    windows: NDArray[np.float64]


def read_query_truth(path: Path, findings: Findings) -> dict[str, TrueQuery]:
    """True highlights and windows by query.

    Raises:
        DataError: There is none.
    """
    truth = {}
    for row in _rows(read_content(path, findings), path, findings):
        query = row.get("id") if _is_record(row) else row.get("qid")
        if query is None or (_is_record(row) and row.get("task") != "highlights"):
            findings.add("rows of the truth are no queries and were passed over")
            continue
        windows = [_span(window) for window in row.get("relevant_windows") or []]
        spans = np.array([window for window in windows if window is not None]).reshape(-1, 2)
        truth[str(query)] = TrueQuery(
            _name(row.get("vid", row.get("video"))), _true_highlights(row, findings), np.sort(spans, axis=1)
        )
    return _some(truth, path, '{"qid", "vid", "duration", "relevant_clip_ids", "saliency_scores"} a line')


def _true_highlights(row: Mapping[str, Any], findings: Findings) -> HighlightTruth | None:
    clips: Any
    saliency: Any
    if _is_record(row):
        moments = row.get("moments") or []
        clips = [int(moment["start"] // CLIP_SECONDS) for moment in moments]
        saliency = [[moment["score"]] for moment in moments]
    else:
        clips, saliency = row.get("relevant_clip_ids"), row.get("saliency_scores")
    duration = _number(row.get("duration"))
    if clips is None or saliency is None or duration is None:
        return None
    try:
        rated = tuple(tuple(float(score) for score in scores) for scores in saliency)
        return HighlightTruth(duration, tuple(int(clip) for clip in clips), rated)
    except (TypeError, ValueError):
        findings.add("queries of the truth have ratings that cannot be read")
        return None


@dataclass(frozen=True, slots=True)
class PredictedQuery:
    """What was answered to a query of QVHighlights; None for what the row does not have.

    Attributes:
        scores: Of clips.
        scores_as_published: The same as the original reads them out of a text, one clip early; where a text was read.
        windows: In which the query happens.
    """

    scores: tuple[float, ...] | None = None
    scores_as_published: tuple[float, ...] | None = None
    windows: RankedWindows | None = None


def read_query_predictions(path: Path, truth: Mapping[str, TrueQuery], findings: Findings) -> dict[str, PredictedQuery]:
    """Scores of clips and windows by query; of two rows about a query the later counts."""
    predicted: dict[str, PredictedQuery] = {}
    for row in _rows(read_content(path, findings), path, findings):
        query = row.get("qid", row.get("id"))
        if _is_ours(row) and row.get("task", "highlights") not in ("highlights", "grounding"):
            continue  # of another task of the same run
        if query is None:
            findings.add("rows name no query and were passed over")
            continue
        if str(query) in predicted:
            findings.add("queries are predicted twice; the later row counts")
        predicted[str(query)] = _predicted_query(row, truth.get(str(query)), findings)
    return predicted


def _predicted_query(row: Mapping[str, Any], truth: TrueQuery | None, findings: Findings) -> PredictedQuery:
    if not _is_ours(row) and "generated_cap" not in row:
        return PredictedQuery(
            _clip_scores(row.get("pred_saliency_scores"), findings),
            windows=_ranked_windows(row.get("pred_relevant_windows"), findings),
        )
    events = _events(row, "grounding" if row.get("task") == "grounding" else "highlights") or []
    windows = [[*event.get("timestamp", []), event.get("score")] for event in events]
    if row.get("task") == "grounding":
        return PredictedQuery(windows=_ranked_windows(windows, findings))
    moments = [(_span(window[:2]), _number(window[2]) or 0.0) for window in windows]
    highlights = [Event(max(0.0, span[0]), max(0.0, span[0]), score=score) for span, score in moments if span]
    if not highlights or truth is None or truth.highlights is None:
        return PredictedQuery()
    read, as_published = (
        tuple(clip_scores(highlights, truth.highlights.duration, CLIP_SECONDS, as_published=is_published))
        for is_published in (False, True)
    )
    return PredictedQuery(read, as_published)


def _clip_scores(values: Any, findings: Findings) -> tuple[float, ...] | None:
    if not isinstance(values, list):
        return None
    read = [_number(value) for value in values]
    if None in read:
        findings.add("queries have scores that cannot be read; such a score counts as 0")
    return tuple(0.0 if value is None else value for value in read)


def _ranked_windows(values: Any, findings: Findings) -> RankedWindows | None:
    if not isinstance(values, list):
        return None
    kept = []
    for window in values:
        span = _span(window[:2]) if isinstance(window, list) else None
        if span is None:
            findings.add("windows cannot be read and were passed over")
            continue
        score = _number(window[2]) if len(window) > 2 else None
        kept.append((*span, 0.0 if score is None else score))
    table = np.array(kept, dtype=np.float64).reshape(-1, 3)
    return RankedWindows(table[:, :2], table[:, 2])


# ----------------------------------------------------------------------------------------------------- TVSum


def read_label_truth(path: Path, findings: Findings) -> dict[str, NDArray[np.float64]]:
    """Ratings of clips, `(clips, annotators)`, by video.

    Raises:
        DataError: There is none.
    """
    truth = {}
    for row in _rows(read_content(path, findings), path, findings):
        try:
            labels = np.array(row["label"], dtype=np.float64)
        except (KeyError, TypeError, ValueError):
            labels = np.zeros(0)
        if labels.ndim != 2 or not labels.size or not np.isfinite(labels).all():
            findings.add("rows of the truth have no labels and were passed over")
        else:
            truth[_name(row.get("vid"))] = labels
    return _some(truth, path, '{"vid", "label"} a line')


def read_label_predictions(path: Path, findings: Findings) -> dict[str, tuple[float, ...] | None]:
    """Scores of clips by video, None where they cannot be read."""
    content = read_content(path, findings)
    if isinstance(content, list):
        items: Iterator[tuple[Any, Any]] = (
            (row.get("vid"), row.get("pred_saliency_scores", row.get("scores")))
            for row in _rows(content, path, findings)
        )
    elif isinstance(content, Mapping):
        items = iter(content.items())
    else:
        raise DataError(f"{path}: expected {{video: [score, ...]}}, got {type(content).__name__}")
    return {_name(video): _clip_scores(scores, findings) for video, scores in items}


def _some(truth: dict[str, Value], path: Path, expected: str) -> dict[str, Value]:
    if not truth:
        raise DataError(f"{path}: has no truth that can be read; expected {expected}")
    return truth
