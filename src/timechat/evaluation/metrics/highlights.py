"""Highlight detection by the rules of QVHighlights: mAP and HIT@1 of scores given to clips of two seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLIP_SECONDS = 2.0
LEVELS: Mapping[str, float] = {"fair": 2, "good": 3, "very_good": 4}
"""Minimum saliency (0 to 4) of a highlight clip, by level; papers report `very_good`."""


@dataclass(frozen=True, slots=True)
class HighlightGroundTruth:
    """Ratings of one query's video by annotators.

    Attributes:
        duration: Duration of the video in seconds.
        clips: Indices of the clips that belong to the query; clip `i` begins at `2 * i` seconds.
        saliency: Score from 0 to 4 of each of these clips by every annotator.
    """

    duration: float
    clips: tuple[int, ...]
    saliency: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(self.clips) != len(self.saliency):
            raise ValueError(
                f"got {len(self.clips)} clips and {len(self.saliency)} saliency rows; give one row per clip"
            )
        if len({len(row) for row in self.saliency}) > 1:
            raise ValueError("every clip must be scored by the same number of annotators")

    def labels(self) -> NDArray[np.float64]:
        """Saliency of every clip of the video, `(clips, annotators)`; 0 for clips that do not belong to the query."""
        annotators = len(self.saliency[0]) if self.saliency else 1
        labels = np.zeros((int(self.duration / CLIP_SECONDS), annotators))
        for clip, row in zip(self.clips, self.saliency, strict=True):
            if 0 <= clip < len(labels):
                labels[clip] = row
        return labels


def hit_at_1(scores: ArrayLike, is_highlight: ArrayLike) -> float:
    """HIT@1: 1 if at least one annotator rates the highest scored clip as a highlight, else 0.

    Args:
        scores: Score of each clip, `(clips,)`, of any length; the first of equals counts, a clip past the end misses.
        is_highlight: Whether each annotator rates each clip as a highlight, `(clips, annotators)`.
    """
    predicted, labels = np.asarray(scores, dtype=np.float64), np.asarray(is_highlight, dtype=bool)
    best = int(predicted.argmax()) if predicted.size else 0
    return float(best < len(labels) and labels[best].any())


def average_precision(scores: ArrayLike, is_highlight: ArrayLike) -> float:
    """Interpolated average precision by the rule of QVHighlights, which differs from scikit-learn's.

    It is the unweighted mean, over the scores that add a highlight, of the best precision at this or a higher recall.
    Equal scores form one step. The value is 0 without highlights, and 1 if all clips are highlights.

    Args:
        scores: Score of each clip, `(clips,)`.
        is_highlight: Whether each clip is a highlight, `(clips,)`.
    """
    predicted, labels = np.asarray(scores, dtype=np.float64), np.asarray(is_highlight, dtype=bool)
    if predicted.shape != labels.shape or predicted.ndim != 1:
        raise ValueError(
            f"scores and labels must have the same shape (clips,), got {predicted.shape} and {labels.shape}"
        )
    if labels.all() or not labels.any():
        return float(labels.size > 0 and labels[0])
    order = np.argsort(-predicted, kind="stable")
    ends = np.append(np.diff(predicted[order]) != 0, True)  # the last of each run of equal scores
    found = np.cumsum(labels[order])[ends]
    precision = found / (np.flatnonzero(ends) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[np.diff(found, prepend=0) > 0].mean())


def highlight_scores(
    predicted: Sequence[Sequence[float] | None],
    ground_truth: Sequence[HighlightGroundTruth],
    levels: Mapping[str, float] = LEVELS,
) -> dict[str, NDArray[np.float64]]:
    """Values of each query by metric; the metrics are the means.

    Args:
        predicted: Score of each clip for each query; short lists are padded with zeros, long lists are cut. None for
            a query without prediction, which scores 0.
        ground_truth: Ground truth of each query.
        levels: Minimum saliency of a highlight clip, by name of the level.

    Returns:
        `map_fair`, `hit1_fair`, `map_good`, ... each `(queries,)`, fractions.
    """
    if len(predicted) != len(ground_truth):
        raise ValueError(
            f"got {len(predicted)} predictions for {len(ground_truth)} queries; give one per query, or None"
        )
    rows = [_score_query(scores, one, levels) for scores, one in zip(predicted, ground_truth, strict=True)]
    names = [f"{metric}_{level}" for level in levels for metric in ("map", "hit1")]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def _score_query(
    scores: Sequence[float] | None, ground_truth: HighlightGroundTruth, levels: Mapping[str, float]
) -> dict[str, float]:
    labels = ground_truth.labels()  # (clips, annotators)
    given = np.asarray(() if scores is None else scores, dtype=np.float64)
    fitted = np.zeros(len(labels))
    fitted[: len(given)] = given[: len(labels)]
    result = {}
    for name, threshold in levels.items():
        positive = labels >= threshold
        precisions = [average_precision(fitted, column) for column in positive.T]
        result[f"map_{name}"] = 0.0 if scores is None else float(np.mean(precisions))
        result[f"hit1_{name}"] = 0.0 if scores is None else hit_at_1(given, positive)
    return result
