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
    check_predictions,
    is_ours,
    is_record,
    last_name,
    parse_answer,
    read_content,
    read_events,
    read_predicted_rows,
    read_rows,
    read_span,
    read_text,
    video_key,
)

_SHORTEST_CAPTION = (
    5  # number of letters; in the layout of ActivityNet Captions only longer pieces between full stops count
)


@dataclass(frozen=True)
class CaptionedVideo:
    """Captions of a video: spans `(captions, 2)` in seconds, and one text per span."""

    spans: NDArray[np.float64]
    captions: tuple[str, ...]


VIDEO_KEYS = ("vname", "video", "image_id")
"""Keys of a row that can hold its video."""

_EXPECTED = (
    "a list of {'timestamp': [start, end], 'caption'} per video, {'timestamps', 'sentences'}, "
    "an answer in words as the row itself or under 'generated_cap', or rows of our predictions.jsonl"
)


def read_caption_ground_truth(path: Path, issues: InputIssues) -> dict[str, CaptionedVideo]:
    """Read the true captions by video: the original's layout, our records, or a file of the benchmarks.

    Raises:
        DataError: The file has no captions.
    """
    ground_truth: dict[str, CaptionedVideo] = {}
    names: dict[str, str] = {}
    content = read_content(path, issues)
    for row in activitynet_rows(content) or _youcook2_rows(content) or read_rows(content, path, issues):
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
        earlier = names.setdefault(video_key(video), video)
        if ground_truth.pop(earlier, None) is not None:
            issues.add("videos of the ground truth have two rows; the later row counts")
            names[video_key(video)] = video
        ground_truth[video] = _captioned(pairs)
    return check_ground_truth(
        ground_truth,
        path,
        '{"annotations": [{"image_id", "segments", "pure_cap"}]}, {video: {"timestamps", "sentences"}}, '
        'or {"database": {video: {"annotations": [{"segment", "sentence"}]}}}',
    )


def activitynet_rows(content: Any) -> list[dict[str, Any]]:
    """Rows of ActivityNet Captions' own files, `{video: {"timestamps", "sentences"}}`; empty for another file."""
    if not isinstance(content, Mapping):
        return []
    return [
        {"image_id": video, "segments": row["timestamps"], "sentences": row["sentences"]}
        for video, row in content.items()
        if isinstance(row, Mapping)
        and isinstance(row.get("timestamps"), list)
        and isinstance(row.get("sentences"), list)
    ]


def _youcook2_rows(content: Any) -> list[dict[str, Any]]:
    """Rows of YouCook2's own file, `{"database": {video: {"annotations"}}}`; empty for another file."""
    database = content.get("database") if isinstance(content, Mapping) else None
    if not isinstance(database, Mapping):
        return []
    rows = []
    for video, row in database.items():
        events = row.get("annotations") if isinstance(row, Mapping) else None
        known = [event for event in events if isinstance(event, Mapping)] if isinstance(events, list) else []
        segments, sentences = [one.get("segment") for one in known], [one.get("sentence") for one in known]
        rows.append({"image_id": video, "segments": segments, "sentences": sentences})
    return rows


def plain_caption(sentence: str) -> str:
    """A sentence on one line without full stops inside, at which the official scorers would split it."""
    return " ".join(sentence.split()).rstrip(". ").replace(". ", " ")


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
    if isinstance(row.get("sentences"), list):
        captions = [f"{plain_caption(read_text(sentence))}." for sentence in row["sentences"]]
    elif isinstance(row.get("pure_cap"), str):
        captions = [piece if piece.endswith(".") else f"{piece}." for piece in row["pure_cap"].split(". ")]
    else:
        pieces = read_text(row.get("caption")).split(".")
        captions = [piece.strip() for piece in pieces if len(piece) > _SHORTEST_CAPTION]
    return last_name(row["image_id"]), spans, captions


def read_caption_predictions(path: Path, issues: InputIssues) -> dict[str, CaptionedVideo]:
    """Read predicted captions with readable times by video; of two rows about a video the later one counts.

    Returns:
        Captions by the `video_key` of the video.

    Raises:
        DataError: No row names a video, or no row has captions in a known format.
    """
    pairs = read_predicted_rows(read_content(path, issues), path, issues, VIDEO_KEYS, _EXPECTED)
    pairs = [(video, row) for video, row in pairs if not _is_of_another_task(row)]
    predicted: dict[str, CaptionedVideo] = {}
    num_usable = 0
    for video, row in pairs:
        if video is None:
            issues.add("rows name no video and were skipped")
            continue
        events = _predicted_events(row)
        if events is None:
            issues.add("videos have no list of captions and count as videos without captions")
        read = []
        for event in events or []:
            span = _caption_span(event) if isinstance(event, Mapping) else None
            if span is None:
                issues.add("captions have no readable times and were skipped")
            else:
                read.append((span, read_text(event.get("caption", event.get("sentence")))))
        if video_key(video) in predicted:
            issues.add("videos are predicted twice; the later row counts")
        predicted[video_key(video)] = _captioned(read)
        num_usable += events is not None and (not events or bool(read))
    check_predictions(pairs, num_usable, path, VIDEO_KEYS, _EXPECTED)
    return predicted


def _is_of_another_task(row: Any) -> bool:
    return isinstance(row, Mapping) and is_ours(row) and row.get("task", "dense_caption") != "dense_caption"


def _predicted_events(row: Any) -> list[Any] | None:
    """The events of a row; None for a row in an unknown format."""
    if isinstance(row, str):
        return list(parse_answer(row, "dense_caption")) or None
    if not isinstance(row, Mapping):
        return row if isinstance(row, list) else None
    spans, sentences = row.get("timestamps"), row.get("sentences")
    if isinstance(spans, list) and isinstance(sentences, list) and len(spans) == len(sentences):
        return [{"timestamp": span, "caption": text} for span, text in zip(spans, sentences, strict=True)]
    return read_events(row, "dense_caption")


def _caption_span(event: Mapping[str, Any]) -> Span | None:
    value = event.get("timestamp", event.get("segment"))
    return read_span([event.get("start"), event.get("end")] if value is None else value)


def _captioned(pairs: Sequence[tuple[Span, str]]) -> CaptionedVideo:
    spans = np.array([span for span, _ in pairs], dtype=np.float64).reshape(-1, 2)
    return CaptionedVideo(spans, tuple(text for _, text in pairs))
