"""Temporal grounding: Charades-STA, the sentences of ActivityNet Captions, and TimeLens-Bench."""

import re
from collections.abc import Iterator
from pathlib import Path

from timechat.errors import DataError, located
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles, coco_rows, read_json
from timechat.evaluation.benchmarks.captions import COCO_FILE, activitynet_rows
from timechat.evaluation.readers import true_captions
from timechat.evaluation.samples import Sample

_TIMELENS_FILE = "{split}-timelens.json"
_CHARADES_FILES = (COCO_FILE, "charades_sta_{split}.txt")


def read_charades(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read Charades-STA: the public lines `VIDEO START END##SENTENCE`, or the original's layout."""
    path = source.file(*_CHARADES_FILES)
    if path.suffix == ".txt":
        yield from _read_lines(path, source)
        return
    for place, row in coco_rows(path):
        with located(place):
            start, end = row["timestamp"]
            sample = _grounded(row["id"], row["image_id"], row["caption"], (start, end), source, row.get("duration"))
        yield sample


def _read_lines(path: Path, source: BenchmarkFiles) -> Iterator[Sample]:
    number = 0
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        with located(f"{path}:{line_number}"):
            place, hashes, sentence = line.strip().partition("##")
            if not hashes:
                raise ValueError(f"expected VIDEO START END##SENTENCE, got {line.strip()[:60]!r}")
            video, start, end = place.split()
            sample = _grounded(number, f"{video}.mp4", sentence, (float(start), float(end)), source)
        yield sample
        number += 1


def read_activitynet_grounding(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read each sentence of ActivityNet Captions as a query with its segment as the reference answer."""
    number = 0
    for place, video, row in activitynet_rows(source):
        with located(place):
            captions = [caption.strip(" .") for caption in true_captions(row)[2]]
            spans = row["segments"]
            if len(captions) != len(spans):
                raise ValueError(f"{len(captions)} captions for {len(spans)} segments")
        for caption, span in zip(captions, spans, strict=True):
            with located(place):
                start, end = sorted(span)  # some segments are reversed
                sample = _grounded(number, video, caption, (start, end), source, row.get("duration"))
            yield sample
            number += 1


def read_timelens(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read one part of TimeLens-Bench; the split is `charades`, `activitynet` or `qvhighlights`.

    The format is that of https://github.com/TencentARC/TimeLens: one object by the ids of videos, with the duration and
    two lists of equal length, the queries and their spans. Double spaces and full stops at the ends of queries are
    dropped, as in the code of the benchmark.

    Raises:
        DataError: The file does not have this format.
    """
    path = source.file(_TIMELENS_FILE)
    rows = read_json(path)
    if not isinstance(rows, dict):
        raise DataError(f"{path}: expected one object by the ids of videos, got a {type(rows).__name__}")
    number = 0
    for video_id, row in rows.items():
        with located(f"{path}: {video_id}"):
            queries, spans, duration = row["queries"], row["spans"], float(row["duration"])
            if len(queries) != len(spans):
                raise ValueError(f"{len(queries)} queries for {len(spans)} spans")
        for query, span in zip(queries, spans, strict=True):
            with located(f"{path}: {video_id}"):
                start, end = (float(value) for value in span)
                words = re.sub(r"\s+", " ", query).strip().strip(".").strip()
                sample = _grounded(number, f"{video_id}.mp4", words, (start, end), source, duration)
            yield sample
            number += 1


def _grounded(
    number: int,
    video: str,
    query: str,
    span: tuple[float, float],
    source: BenchmarkFiles,
    duration: float | None = None,
) -> Sample:
    return Sample(
        id=str(number),
        video=video,
        task="grounding",
        query=query,
        duration=duration,
        speech=source.speech(video),
        ground_truth={"id": number, "image_id": video, "caption": query, "timestamp": list(span)},
    )
