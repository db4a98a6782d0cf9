"""Moment retrieval by the rules of QVHighlights: R@1 and mAP of windows, in total and by window length.

Lei et al., "QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries", 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.evaluation.metrics.grounding import temporal_iou

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
LENGTHS: Mapping[str, tuple[float, float]] = {"full": (0, 150), "long": (30, 150), "middle": (10, 30), "short": (0, 10)}
"""Window lengths in seconds, exclusive minimum and inclusive maximum; queries without such a window are ignored."""
_MOST_WINDOWS = 10


@dataclass(frozen=True, slots=True)
class RankedWindows:
    """Predicted windows of one query.

    Attributes:
        spans: Start and end of each window, `(windows, 2)` seconds, the best first; reversed windows are sorted.
        scores: Score of each window, `(windows,)`, the sort key for mAP.
    """

    spans: NDArray[np.float64]
    scores: NDArray[np.float64]


def moment_retrieval_scores(
    predicted: Sequence[RankedWindows | None], ground_truth: Sequence[ArrayLike]
) -> dict[str, NDArray[np.float64]]:
    """Values of each query by metric; the metrics are the means over values that are not NaN.

    Args:
        predicted: Predicted windows of each query; None or no window scores 0.
        ground_truth: Reference windows of each query, `(windows, 2)` seconds, at least one.

    Returns:
        `MR-full-R1@0.5`, ..., `MR-full-mAP@0.5`, ..., `MR-full-mAP`, likewise for `long`, `middle` and `short`: each
        `(queries,)` fractions, NaN for queries without a window of that length.
    """
    if len(predicted) != len(ground_truth):
        raise ValueError(
            f"got {len(predicted)} predictions for {len(ground_truth)} queries; give one per query, or None"
        )
    rows = [
        _score_query(windows, np.asarray(reference, dtype=np.float64).reshape(-1, 2))
        for windows, reference in zip(predicted, ground_truth, strict=True)
    ]
    return {name: np.array([row[name] for row in rows]) for name in _names()}


def _names() -> list[str]:
    kinds = [*(f"R1@{t}" for t in THRESHOLDS), *(f"mAP@{t}" for t in THRESHOLDS), "mAP"]
    return [f"MR-{length}-{kind}" for length in LENGTHS for kind in kinds]


def _score_query(windows: RankedWindows | None, ground_truth: NDArray[np.float64]) -> dict[str, float]:
    lengths = ground_truth[:, 1] - ground_truth[:, 0]
    result: dict[str, float] = {}
    for name, (shortest, longest) in LENGTHS.items():
        kept = ground_truth if name == "full" else ground_truth[(lengths > shortest) & (lengths <= longest)]
        result |= {f"MR-{name}-{kind}": value for kind, value in _metrics(windows, kept).items()}
    return result


def _metrics(windows: RankedWindows | None, ground_truth: NDArray[np.float64]) -> dict[str, float]:
    if not len(ground_truth):
        recalls, precisions = [np.nan] * len(THRESHOLDS), [np.nan] * len(THRESHOLDS)
    elif windows is None or not len(windows.spans):
        recalls, precisions = [0.0] * len(THRESHOLDS), [0.0] * len(THRESHOLDS)
    else:
        spans = np.sort(windows.spans, axis=1)
        first = _iou(spans[:1], ground_truth)[0]
        best = float(temporal_iou(spans[0], ground_truth[int(first.argmax())]))
        recalls = [float(best >= t) for t in THRESHOLDS]
        kept = slice(0, _MOST_WINDOWS)
        order = np.argsort(-windows.scores[kept], kind="stable")
        iou = _iou(spans[kept][order], ground_truth)
        precisions = [_average_precision(iou, t) for t in THRESHOLDS]
    result = {f"R1@{t}": value for t, value in zip(THRESHOLDS, recalls, strict=True)}
    result |= {f"mAP@{t}": value for t, value in zip(THRESHOLDS, precisions, strict=True)}
    return result | {"mAP": float(np.mean(precisions))}


def _iou(spans: NDArray[np.float64], ground_truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union as in the official mAP, `(spans, reference windows)`; 0 if both are the same point."""
    overlap = np.minimum(spans[:, None, 1], ground_truth[None, :, 1]) - np.maximum(
        spans[:, None, 0], ground_truth[None, :, 0]
    )
    overlap = np.maximum(overlap, 0.0)
    union = (spans[:, 1] - spans[:, 0])[:, None] + (ground_truth[:, 1] - ground_truth[:, 0])[None] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0), dtype=np.float64)


def _average_precision(iou: NDArray[np.float64], threshold: float) -> float:
    """Interpolated average precision of ranked windows; each reference window is matched at most once."""
    is_found = np.zeros(iou.shape[1], dtype=bool)
    is_right = np.zeros(len(iou))
    for i, row in enumerate(iou):
        for j in np.argsort(-row, kind="stable"):
            if row[j] < threshold:
                break
            if not is_found[j]:
                is_found[j] = is_right[i] = True
                break
    num_right = np.cumsum(is_right)
    recall = np.concatenate([[0.0], num_right / iou.shape[1], [1.0]])
    precision = np.concatenate([[0.0], num_right / np.arange(1, len(iou) + 1), [0.0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(np.diff(recall)) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())
