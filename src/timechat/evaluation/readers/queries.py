"""Readers of QVHighlights queries: rated clips, and windows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Event, clip_scores
from timechat.evaluation.metrics.highlights import CLIP_SECONDS, HighlightGroundTruth
from timechat.evaluation.metrics.moment_retrieval import RankedWindows
from timechat.evaluation.readers.rows import (
    InputIssues,
    check_ground_truth,
    check_predictions,
    is_ours,
    is_record,
    last_name,
    read_content,
    read_events,
    read_number,
    read_predicted_rows,
    read_rows,
    read_scores,
    read_span,
)

ID_KEYS = ("qid", "id")
"""Keys of a row that can hold the id of its query."""

_EXPECTED = {
    "scores": "'pred_saliency_scores': [score, ...], an answer in words under 'generated_cap', "
    "or highlights of our predictions.jsonl",
    "windows": "'pred_relevant_windows': [[start, end, score], ...], or groundings of our predictions.jsonl",
}


@dataclass(frozen=True, slots=True)
class GroundTruthQuery:
    """A query of QVHighlights.

    Attributes:
        video: Video of the query.
        highlights: Rated clips; None if the file has none.
        windows: True windows, `(windows, 2)` seconds; empty if the file has none.
    """

    video: str
    highlights: HighlightGroundTruth | None
    windows: NDArray[np.float64]


def read_query_ground_truth(path: Path, issues: InputIssues) -> dict[str, GroundTruthQuery]:
    """Read the true highlights and windows by query.

    Raises:
        DataError: The file has no query.
    """
    ground_truth = {}
    for row in read_rows(read_content(path, issues), path, issues):
        query = row.get("id") if is_record(row) else row.get("qid")
        if query is None or (is_record(row) and row.get("task") != "highlights"):
            issues.add("rows of the ground truth are not queries and were skipped")
            continue
        windows = [read_span(window) for window in row.get("relevant_windows") or []]
        spans = np.array([window for window in windows if window is not None]).reshape(-1, 2)
        ground_truth[str(query)] = GroundTruthQuery(
            last_name(row.get("vid", row.get("video"))), _true_highlights(row, issues), np.sort(spans, axis=1)
        )
    return check_ground_truth(
        ground_truth, path, '{"qid", "vid", "duration", "relevant_clip_ids", "saliency_scores"} per line'
    )


def _true_highlights(row: Mapping[str, Any], issues: InputIssues) -> HighlightGroundTruth | None:
    clips: Any
    saliency: Any
    if is_record(row):
        moments = row.get("moments") or []
        clips = [int(moment["start"] // CLIP_SECONDS) for moment in moments]
        saliency = [[moment["score"]] for moment in moments]
    else:
        clips, saliency = row.get("relevant_clip_ids"), row.get("saliency_scores")
    duration = read_number(row.get("duration"))
    if clips is None or saliency is None or duration is None:
        return None
    try:
        rated = tuple(tuple(float(score) for score in scores) for scores in saliency)
        return HighlightGroundTruth(duration, tuple(int(clip) for clip in clips), rated)
    except (TypeError, ValueError):
        issues.add("queries of the ground truth have unreadable ratings")
        return None


@dataclass(frozen=True, slots=True)
class PredictedQuery:
    """Prediction for a query of QVHighlights; None for missing parts of the row.

    Attributes:
        scores: Scores of clips.
        scores_as_published: Scores as the original reads them from a text, shifted one clip early; None without a text.
        windows: Windows in which the query happens.
    """

    scores: tuple[float, ...] | None = None
    scores_as_published: tuple[float, ...] | None = None
    windows: RankedWindows | None = None


def read_query_predictions(
    path: Path,
    ground_truth: Mapping[str, GroundTruthQuery],
    issues: InputIssues,
    *,
    part: Literal["scores", "windows"],
) -> dict[str, PredictedQuery]:
    """Read scores of clips and windows by query; of two rows about a query the later one counts.

    Args:
        path: File of predictions.
        ground_truth: Queries of the ground truth.
        issues: Place for the problems that are found.
        part: Part of a row that is going to be scored.

    Raises:
        DataError: No row names a query, or no row has this part in a known format.
    """
    pairs = read_predicted_rows(read_content(path, issues), path, issues, ID_KEYS, _EXPECTED[part])
    pairs = [(query, row) for query, row in pairs if not _is_of_another_task(row)]
    predicted: dict[str, PredictedQuery] = {}
    num_usable = 0
    for query, row in pairs:
        if query is None:
            issues.add("rows name no query and were skipped")
            continue
        if query in predicted:
            issues.add("queries are predicted twice; the later row counts")
        read = _predicted_query(
            {"generated_cap": row} if isinstance(row, str) else row, ground_truth.get(query), issues
        )
        predicted[query] = read
        num_usable += getattr(read, part) is not None or _is_read_answer(row, part)
    check_predictions(pairs, num_usable, path, ID_KEYS, _EXPECTED[part])
    return predicted


def _is_of_another_task(row: Any) -> bool:
    return (
        isinstance(row, Mapping) and is_ours(row) and row.get("task", "highlights") not in ("highlights", "grounding")
    )


def _is_read_answer(row: Any, part: str) -> bool:
    """Whether a row is a parsed answer of the right task, which can be without an event."""
    if not isinstance(row, Mapping) or read_events(row, "highlights") is None:
        return False
    return (row.get("task") == "grounding") == (part == "windows")


def _predicted_query(row: Any, ground_truth: GroundTruthQuery | None, issues: InputIssues) -> PredictedQuery:
    if not isinstance(row, Mapping):
        return PredictedQuery()
    if not is_ours(row) and "generated_cap" not in row:
        return PredictedQuery(
            read_scores(row.get("pred_saliency_scores"), issues),
            windows=_ranked_windows(row.get("pred_relevant_windows"), issues),
        )
    events = read_events(row, "grounding" if row.get("task") == "grounding" else "highlights") or []
    if row.get("task") == "grounding":
        windows = [[*event.get("timestamp", []), event.get("score")] for event in events]
        return PredictedQuery(windows=_ranked_windows(windows, issues))
    moments = [(read_span(event.get("timestamp")), read_number(event.get("score")) or 0.0) for event in events]
    highlights = [Event(max(0.0, span[0]), max(0.0, span[0]), saliency=score) for span, score in moments if span]
    if not highlights or ground_truth is None or ground_truth.highlights is None:
        return PredictedQuery()
    read, as_published = (
        tuple(clip_scores(highlights, ground_truth.highlights.duration, CLIP_SECONDS, as_published=is_published))
        for is_published in (False, True)
    )
    return PredictedQuery(read, as_published)


def _ranked_windows(values: Any, issues: InputIssues) -> RankedWindows | None:
    if not isinstance(values, list):
        return None
    if len(values) in (2, 3) and not any(isinstance(item, list) for item in values):
        values = [values]  # a single window
    kept = []
    for window in values:
        span = read_span(window[:2]) if isinstance(window, list) else None
        if span is None:
            issues.add("windows are unreadable and were skipped")
            continue
        score = read_number(window[2]) if len(window) > 2 else None
        kept.append((*span, 0.0 if score is None else score))
    if values and not kept:
        return None
    table = np.array(kept, dtype=np.float64).reshape(-1, 3)
    return RankedWindows(table[:, :2], table[:, 2])
