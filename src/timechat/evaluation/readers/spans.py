"""Readers of grounding: the true and the predicted span of each query."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.evaluation.metrics.grounding import Span
from timechat.evaluation.readers.rows import (
    InputIssues,
    check_ground_truth,
    is_ours,
    is_record,
    last_name,
    read_content,
    read_events,
    read_rows,
    read_span,
)


@dataclass(frozen=True, slots=True)
class GroundTruthSpan:
    """True span of a query in seconds, and its video."""

    span: Span
    video: str


def read_span_ground_truth(path: Path, issues: InputIssues) -> dict[str, GroundTruthSpan]:
    """Read the true spans by query.

    Raises:
        DataError: The file has no span.
    """
    ground_truth = {}
    for row in read_rows(read_content(path, issues), path, issues):
        query, span, video = _true_span(row)
        if query is None or span is None:
            issues.add("rows of the ground truth have no span and were skipped")
        else:
            ground_truth[query] = GroundTruthSpan(span, video)
    return check_ground_truth(ground_truth, path, '{"annotations": [{"id", "timestamp"}]}')


def _true_span(row: Mapping[str, Any]) -> tuple[str | None, Span | None, str]:
    if is_record(row):
        events = (row.get("events") or [{}]) if row.get("task") == "grounding" else [{}]
        return str(row.get("id")), read_span([events[0].get("start"), events[0].get("end")]), last_name(row["video"])
    query = row.get("id", row.get("qid"))
    return None if query is None else str(query), read_span(row.get("timestamp")), last_name(row.get("image_id"))


def read_span_predictions(path: Path, issues: InputIssues) -> dict[str, Span | None]:
    """Read the first predicted span of each query; None without a readable span."""
    content = read_content(path, issues)
    if isinstance(content, Mapping) and not is_ours(content) and "generated_cap" not in content:
        items = [(query, _first_timestamp(row)) for query, row in content.items()]
    else:
        items = [
            (row.get("id", row.get("qid")), [event.get("timestamp") for event in read_events(row, "grounding") or []])
            if is_ours(row) or "generated_cap" in row
            else (row.get("id", row.get("qid")), _first_timestamp(row))
            for row in read_rows(content, path, issues)
            if not is_ours(row) or row.get("task", "grounding") == "grounding"
        ]
    predicted: dict[str, Span | None] = {}
    for query, spans in items:
        if str(query) in predicted:
            issues.add("queries are predicted twice; the later row counts")
        predicted[str(query)] = read_span(spans[0]) if spans else None
        if spans and predicted[str(query)] is None:
            issues.add("queries have an unreadable first span and count as queries without a span")
    return predicted


def _first_timestamp(row: Any) -> list[Any]:
    """The list of spans of a row; a single span becomes a list of one."""
    value = row.get("timestamp") if isinstance(row, Mapping) else row
    if not isinstance(value, list):
        return []
    return [value] if len(value) == 2 and not any(isinstance(item, list) for item in value) else value
