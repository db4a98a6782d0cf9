"""Readers of captions with their times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    read_text,
)

_SHORTEST_CAPTION = (
    5  # number of letters; in the layout of ActivityNet Captions only longer pieces between full stops count
)


@dataclass(frozen=True)
class CaptionedVideo:
    """Captions of a video: spans `(captions, 2)` in seconds, and one text per span."""

    spans: NDArray[np.float64]
    captions: tuple[str, ...]


def read_caption_ground_truth(path: Path, issues: InputIssues) -> dict[str, CaptionedVideo]:
    """Read the true captions by video.

    Raises:
        DataError: The file has no captions.
    """
    ground_truth = {}
    for row in read_rows(read_content(path, issues), path, issues):
        video, spans, captions = true_captions(row)
        if video is None or not isinstance(spans, list):
            issues.add("rows of the ground truth have no captions and were skipped")
            continue
        read = [read_span(span) for span in spans]
        if len(spans) != len(captions) or None in read:
            issues.add("videos of the ground truth have different numbers of captions and spans; only pairs were used")
        pairs = [(span, text) for span, text in zip(read, captions, strict=False) if span is not None]
        if not pairs:
            issues.add("videos of the ground truth have no event and were skipped")
            continue
        ground_truth[video] = _captioned(pairs)
    return check_ground_truth(ground_truth, path, '{"annotations": [{"image_id", "segments", "pure_cap"}]}')


def true_captions(row: Mapping[str, Any]) -> tuple[str | None, Any, list[str]]:
    """Split a row of the ground truth as the original's script does: video, unchanged spans, and captions.

    For a row without captions the video is None and the other values are empty.
    """
    if is_record(row):
        if row.get("task") != "dense_caption":
            return None, [], []
        events = row.get("events") or []
        starts_and_ends = [[event.get("start"), event.get("end")] for event in events]
        return last_name(row["video"]), starts_and_ends, [read_text(event.get("caption")) for event in events]
    spans = row.get("segments")
    if "image_id" not in row or not isinstance(spans, list):
        return None, [], []
    if isinstance(row.get("pure_cap"), str):
        captions = [piece if piece.endswith(".") else f"{piece}." for piece in row["pure_cap"].split(". ")]
    else:
        pieces = read_text(row.get("caption")).split(".")
        captions = [piece.strip() for piece in pieces if len(piece) > _SHORTEST_CAPTION]
    return last_name(row["image_id"]), spans, captions


def read_caption_predictions(path: Path, issues: InputIssues) -> dict[str, CaptionedVideo]:
    """Read predicted captions with readable times by video; of two rows about a video the later one counts."""
    content = read_content(path, issues)
    if isinstance(content, Mapping) and isinstance(content.get("results"), Mapping):
        content = content["results"]
    items: list[tuple[Any, Any]]
    if isinstance(content, Mapping) and not is_ours(content) and "generated_cap" not in content:
        items = list(content.items())
    else:
        items = [
            (row.get("vname", row.get("video")), read_events(row, "dense_caption"))
            for row in read_rows(content, path, issues)
            if not is_ours(row) or row.get("task", "dense_caption") == "dense_caption"
        ]
    predicted: dict[str, CaptionedVideo] = {}
    for video, rows in items:
        if not isinstance(rows, list):
            issues.add("videos have no list of captions and count as videos without captions")
        pairs = []
        for row in rows if isinstance(rows, list) else []:
            span = read_span(row.get("timestamp")) if isinstance(row, Mapping) else None
            if span is None:
                issues.add("captions have no readable times and were skipped")
            else:
                pairs.append((span, read_text(row.get("caption", row.get("sentence")))))
        if last_name(video) in predicted:
            issues.add("videos are predicted twice; the later row counts")
        predicted[last_name(video)] = _captioned(pairs)
    return predicted


def _captioned(pairs: Sequence[tuple[Span, str]]) -> CaptionedVideo:
    spans = np.array([span for span, _ in pairs], dtype=np.float64).reshape(-1, 2)
    return CaptionedVideo(spans, tuple(text for _, text in pairs))
