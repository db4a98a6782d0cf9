"""Temporal grounding: IoU of a predicted span with the reference span."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

THRESHOLDS = (0.3, 0.5, 0.7)
Span = tuple[float, float]
"""Start and end in seconds."""


def temporal_iou(spans: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Temporal IoU as in the original grounding script: overlap divided by the hull of both spans.

    Hull and union differ only for disjoint spans, where the IoU is 0 in both cases. A span whose end is before its
    start scores 0. Two points at the same time are equal and score 1.

    Args:
        spans: Spans, `(..., 2)` seconds.
        others: Spans to compare with, `(..., 2)` seconds; broadcast against `spans`.

    Returns:
        `(...)`, from 0 to 1.
    """
    a, b = _check_spans(spans), _check_spans(others)
    overlap = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    is_moment = (hull == 0) & (overlap == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = np.where(hull > 0, np.maximum(overlap, 0.0) / hull, 0.0)
    return np.where(is_moment, 1.0, iou)


def answered_iou(predicted: Sequence[Span | None], ground_truth: ArrayLike) -> NDArray[np.float64]:
    """IoU of each query's answer; a query without an answer (None) counts as 0.

    Args:
        predicted: Span of each query; None without a readable span.
        ground_truth: Reference span of each query, `(queries, 2)` seconds.

    Returns:
        `(queries,)`.
    """
    spans = _check_spans(ground_truth)
    if spans.shape != (len(predicted), 2):
        raise ValueError(
            f"got {len(predicted)} predictions for ground truth of shape {spans.shape}; give one per query"
        )
    if not len(predicted):
        return np.zeros(0)
    filled = np.array([(np.nan, np.nan) if span is None else span for span in predicted], dtype=np.float64)
    return np.where(np.isnan(filled[:, 0]), 0.0, temporal_iou(np.nan_to_num(filled), spans))


def per_query(ious: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, NDArray[np.float64]]:
    """Values of each query by metric: 1 or 0 for recall at 1, and the IoU for the mean.

    Args:
        ious: IoU of each query, `(...)`; 0 for missing answers.
        thresholds: Minimum IoU (inclusive) of a correct answer.

    Returns:
        `r1_iou_0.3`, ... and `miou`, each with the shape of `ious`.
    """
    values = np.asarray(ious, dtype=np.float64)
    return {f"r1_iou_{t}": (values >= t).astype(np.float64) for t in thresholds} | {"miou": values}


def grounding_scores(ious: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """Recall at 1 and mean IoU over all queries, as fractions.

    Raises:
        ValueError: There is no query.
    """
    if np.size(ious) == 0:
        raise ValueError("grounding needs at least one query, got none")
    return {name: float(values.mean()) for name, values in per_query(ious, thresholds).items()}


def _check_spans(spans: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(spans, dtype=np.float64)
    if array.shape == (0,):  # an empty list
        return array.reshape(0, 2)
    if array.ndim == 0 or array.shape[-1] != 2:
        raise ValueError(f"spans must be (..., 2), start and end in seconds, got shape {array.shape}")
    return array
