"""Highlights of whole videos: TVSum and SumMe.

The original reads prepared files with times and scores from 0 to 1. How they were made from the published annotations
is not recorded. Here a video is divided into units of two seconds, the length in which TVSum was annotated. A unit has
the mean of the scores of all people. The best 15 % of the units, the usual length of a summary, are the highlights.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timechat.data.builders.annotation import (
    Annotation,
    Dropped,
    ReadContext,
    Span,
    as_list,
    as_number,
    coco_items,
    is_one_object,
    paired,
    read_lines,
)
from timechat.data.builders.answers import write_summary
from timechat.data.builders.matlab import read_matlab
from timechat.errors import DataError, located

_UNIT_SECONDS = 2
_SHARE = 0.15  # of the units of a video
_LOWEST, _HIGHEST = 1.0, 5.0  # of a score in an answer, and in the annotations of TVSum


def read_tvsum(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read `ydata-tvsum50-anno.tsv`, or the original's coco format.

    A line of the published file has the video, its category and the scores (1 to 5) that one person gave its frames.
    """
    if path.suffix == ".mat":
        raise DataError(f"{path}: give ydata-tvsum50-anno.tsv of TVSum, which holds the same scores")
    if path.suffix == ".json" or is_one_object(path, "annotations"):
        yield from _prepared(path)
        return
    totals: dict[str, tuple[int, NDArray[np.float64]]] = {}
    for location, line in read_lines(path):
        with located(location):
            parts = line.split("\t")
            if len(parts) != 3:
                raise ValueError(f"expected video, category and scores between tabs, got {line[:80]!r}")
            scores = np.array([float(score) for score in parts[2].split(",")])
            if not np.isfinite(scores).all():
                raise ValueError(f"a score must be a number from 1 to 5, got {line[:80]!r}")
            count, total = totals.get(parts[0], (0, np.zeros_like(scores)))
            if len(total) != len(scores):
                raise ValueError(f"{parts[0]} has {len(scores)} scores here and {len(total)} in an earlier line")
        totals[parts[0]] = (count + 1, total + scores)
    for video, (count, total) in totals.items():
        yield _annotation(video, total / count)


def read_summe(path: Path, context: ReadContext) -> Iterator[Annotation | Dropped]:  # noqa: ARG001 - one split
    """Read `GT/VIDEO.mat`, one file or a folder of them, or the original's coco format.

    `gt_score` of a file holds the share of people who selected a frame, from 0 to 1.
    """
    if path.is_file() and path.suffix == ".json":
        yield from _prepared(path)
        return
    files = sorted(path.glob("*.mat")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no .mat file; give the folder GT of SumMe")
    for file in files:
        arrays = read_matlab(file)
        if "gt_score" not in arrays:
            raise DataError(f"{file}: holds no array gt_score; give a file of the folder GT of SumMe")
        shares = arrays["gt_score"].astype(np.float64).reshape(-1)
        if not shares.size or not np.isfinite(shares).all():
            raise DataError(f"{file}: gt_score holds no score, or one that is not a number")
        yield _annotation(file.stem, shares * (_HIGHEST - _LOWEST) + _LOWEST)


def _prepared(path: Path) -> Iterator[Annotation]:
    for location, item in coco_items(path):
        with located(location):
            times = [as_number(time) for time in as_list(item["timestamps"])]
            scores = [as_number(score) * (_HIGHEST - _LOWEST) + _LOWEST for score in as_list(item["scores"])]
            pairs = paired(times, scores, "timestamps", "scores")
            spans = tuple(Span(time, time, saliency=score) for time, score in pairs)
            yield Annotation(
                video=item["image_id"],
                task="highlights_without_query",
                spans=spans,
                write=write_summary,
                has_moments=True,
            )


def _annotation(video: str, scores: NDArray[np.float64]) -> Annotation:
    """Return the annotation of a video from the scores of its frames, `(frames,)`, from 1 to 5."""
    return Annotation(
        video=video,
        task="highlights_without_query",
        spans_of=partial(best_units, scores),
        write=write_summary,
        has_moments=True,
    )


def best_units(scores: NDArray[np.float64], duration: float) -> tuple[Span, ...]:
    """Return the best units of a video in the order of time, by their start.

    Args:
        scores: Scores `(frames,)` of frames that are evenly spread over the video.
        duration: Length of the video in seconds.
    """
    num_units = max(1, math.ceil(duration / _UNIT_SECONDS - 1e-6))
    unit_of = np.minimum((np.arange(len(scores)) + 0.5) * duration / len(scores) // _UNIT_SECONDS, num_units - 1)
    members = [scores[unit_of == unit] for unit in range(num_units)]
    means: Sequence[float] = [float(each.mean()) if len(each) else 0.0 for each in members]
    num_best = max(1, round(num_units * _SHARE))
    best = sorted(sorted(range(num_units), key=lambda unit: (-means[unit], unit))[:num_best])
    return tuple(Span(unit * _UNIT_SECONDS, unit * _UNIT_SECONDS, saliency=means[unit]) for unit in best)
