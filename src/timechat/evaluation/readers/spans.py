"""Readers of grounding: the true and the predicted span of each query."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.evaluation.metrics.grounding import Span
from timechat.evaluation.readers.captions import activitynet_rows
from timechat.evaluation.readers.rows import (
    InputIssues,
    check_ground_truth,
    check_predictions,
    is_ours,
    is_record,
    last_name,
    parse_answer,
    parse_content,
    read_content,
    read_events,
    read_file_text,
    read_predicted_rows,
    read_rows,
    read_span,
)


@dataclass(frozen=True, slots=True)
class GroundTruthSpan:
    """True span of a query in seconds, and its video."""

    span: Span
    video: str


ID_KEYS = ("qid", "id")
"""Keys of a row that can hold the id of its query; where a row has both, `id` can be the video."""

_EXPECTED = (
    "'timestamp': [[start, end]] in seconds, 'start' and 'end', a plain [start, end], "
    "an answer in words as the row itself or under 'generated_cap', or rows of our predictions.jsonl"
)
_CHARADES_LINE = re.compile(r"\s*(\S{1,200})\s+(\S{1,30})\s+(\S{1,30})\s*##")


def read_span_ground_truth(path: Path, issues: InputIssues) -> dict[str, GroundTruthSpan]:
    """Read the true spans by query.

    Queries of Charades-STA's text file and of ActivityNet Captions' `val_1.json` have no id; they are numbered from 0,
    as `timechat evaluate` numbers them.

    Raises:
        DataError: The file has no span.
    """
    text = read_file_text(path)
    rows = (
        _charades_rows(text, issues)
        or _sentence_rows(content := parse_content(text, path, issues))
        or read_rows(content, path, issues)
    )
    ground_truth = {}
    for row in rows:
        query, span, video = _true_span(row)
        if query is None or span is None:
            issues.add("rows of the ground truth have no span and were skipped")
        else:
            ground_truth[query] = GroundTruthSpan(span, video)
    return check_ground_truth(
        ground_truth, path, '{"annotations": [{"id", "timestamp"}]}, or lines VIDEO START END##SENTENCE'
    )


def _charades_rows(text: str, issues: InputIssues) -> list[dict[str, Any]]:
    """Rows of Charades-STA's text file `VIDEO START END##SENTENCE`; empty for another file."""
    lines = [line for line in text.splitlines() if line.strip()]
    places = [_CHARADES_LINE.match(line) for line in lines]
    if not any(places):
        return []
    for place in places:
        if place is None:
            issues.add("lines of the ground truth are not VIDEO START END##SENTENCE and were skipped")
    return [
        {"id": number, "image_id": place[1], "timestamp": [place[2], place[3]]}
        for number, place in enumerate(places)
        if place
    ]


def _sentence_rows(content: Any) -> list[dict[str, Any]]:
    """Rows of ActivityNet Captions' own file, one for each sentence; empty for another file."""
    return [
        {"id": number, "image_id": video, "timestamp": sorted(span) if read_span(span) else span}
        for number, (video, span) in enumerate(
            (row["image_id"], span) for row in activitynet_rows(content) for span in row["segments"]
        )
    ]


def _true_span(row: Mapping[str, Any]) -> tuple[str | None, Span | None, str]:
    if is_record(row):
        events = (row.get("events") or [{}]) if row.get("task") == "grounding" else [{}]
        return str(row.get("id")), read_span([events[0].get("start"), events[0].get("end")]), last_name(row["video"])
    query = next((row[key] for key in ID_KEYS if row.get(key) is not None), None)
    return None if query is None else str(query), read_span(row.get("timestamp")), last_name(row.get("image_id"))


def read_span_predictions(path: Path, issues: InputIssues) -> dict[str, Span | None]:
    """Read the first predicted span of each query; None without a readable span.

    Raises:
        DataError: No row names a query, or no row has a span in a known format.
    """
    pairs = read_predicted_rows(read_content(path, issues), path, issues, ID_KEYS, _EXPECTED)
    pairs = [(query, row) for query, row in pairs if not _is_of_another_task(row)]
    predicted: dict[str, Span | None] = {}
    num_usable = 0
    for query, row in pairs:
        if query is None:
            issues.add("rows name no query and were skipped")
            continue
        if query in predicted:
            issues.add("queries are predicted twice; the later row counts")
        spans = _predicted_spans(row)
        predicted[query] = read_span(spans[0]) if spans else None
        if spans and predicted[query] is None:
            issues.add("queries have an unreadable first span and count as queries without a span")
        num_usable += spans is not None and (not spans or predicted[query] is not None)
    check_predictions(pairs, num_usable, path, ID_KEYS, _EXPECTED)
    return predicted


def _is_of_another_task(row: Any) -> bool:
    return isinstance(row, Mapping) and is_ours(row) and row.get("task", "grounding") != "grounding"


def _predicted_spans(row: Any) -> list[Any] | None:
    """The spans of a row; None for a row in an unknown format."""
    if isinstance(row, str):
        return [event["timestamp"] for event in parse_answer(row, "grounding")] or None
    if isinstance(row, list):
        return _as_spans(row)
    if not isinstance(row, Mapping):
        return None
    events = read_events(row, "grounding")
    if events is not None:
        return [event.get("timestamp") for event in events]
    if "timestamp" in row:
        return _as_spans(row["timestamp"])
    return [[row["start"], row["end"]]] if "start" in row and "end" in row else None


def _as_spans(value: Any) -> list[Any] | None:
    """A list of spans; a single span becomes a list of one."""
    if not isinstance(value, list):
        return None
    return [value] if len(value) == 2 and not any(isinstance(item, list) for item in value) else value
