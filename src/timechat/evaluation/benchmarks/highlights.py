"""QVHighlights: saliency scores of clips, and the windows of each query."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from timechat.errors import located
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles, coco_rows, read_json_lines
from timechat.evaluation.benchmarks.captions import COCO_FILE
from timechat.evaluation.samples import Sample

_FILES = (COCO_FILE, "highlight_{split}_release.jsonl")


def read_qvhighlights(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read highlight queries: the public JSON Lines, or the original's layout."""
    path = source.file(*_FILES)
    rows = read_json_lines(path) if path.suffix == ".jsonl" else coco_rows(path)
    for place, row in rows:
        with located(place):
            sample = _highlighted(_public_row(row), source)
        yield sample


def read_qvhighlights_moments(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read the same queries as grounding samples."""
    for sample in read_qvhighlights(source):
        with located(f"{source.annotations}: query {sample.id}"):
            if "relevant_windows" not in sample.ground_truth:
                raise ValueError("no relevant_windows; give the public highlight_val_release.jsonl")
        yield replace(sample, task="grounding")


def _public_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a row of the original's layout to the layout of QVHighlights; other rows are unchanged."""
    if "qid" in row:
        return row
    names = {"id": "qid", "caption": "query", "image_id": "vid"}
    public = {names.get(key, key): value for key, value in row.items()}
    return public | {"vid": Path(public["vid"]).stem}


def _highlighted(row: Mapping[str, Any], source: BenchmarkFiles) -> Sample:
    video = f"{row['vid']}.mp4"
    return Sample(
        id=str(row["qid"]),
        video=video,
        task="highlights",
        query=row["query"],
        duration=row["duration"],
        speech=source.speech(video),
        ground_truth=row,
    )
