"""Metrics of grounding without a model: a random span, the best constant span, a random event of the video."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.evaluation.metrics.grounding import per_query, temporal_iou

QueryMetrics = Mapping[str, NDArray[np.float64]]
"""Values of each query by metric: `r1_iou_0.3`, ... and `miou`, each `(queries,)`."""

_GRID = 50  # number of equal parts of the duration; constant spans start and end at their borders


def expected_metrics(choices: ArrayLike, ground_truth: ArrayLike) -> dict[str, float]:
    """Metrics of one query when the answer is drawn from several spans with equal probability.

    Args:
        choices: Spans to draw from, `(choices, 2)` seconds, at least one.
        ground_truth: Reference span, `(2,)` seconds, or several correct spans, `(spans, 2)`.

    Returns:
        Metrics `r1_iou_0.3`, ... and `miou`.
    """
    return {name: float(values.mean()) for name, values in per_query(best_iou(choices, ground_truth)).items()}


def best_iou(spans: ArrayLike, ground_truth: ArrayLike) -> NDArray[np.float64]:
    """IoU of each span with its best-matching reference span.

    Args:
        spans: Spans, `(spans, 2)` seconds.
        ground_truth: Reference spans, `(2,)` or `(reference spans, 2)` seconds.

    Returns:
        `(spans,)`.
    """
    reference = np.asarray(ground_truth, dtype=np.float64).reshape(1, -1, 2)
    given = np.asarray(spans, dtype=np.float64).reshape(-1, 1, 2)
    return np.asarray(temporal_iou(given, reference).max(axis=1), dtype=np.float64)


def random_spans(ground_truth: ArrayLike, durations: ArrayLike, relative_spans: ArrayLike) -> QueryMetrics:
    """Expected metrics of a span drawn from a distribution.

    Args:
        ground_truth: Reference span of each query, `(queries, 2)` seconds.
        durations: Duration of each query's video, `(queries,)` seconds.
        relative_spans: Spans as shares of a video's duration, `(spans, 2)`.
    """
    return _by_query(ground_truth, durations, relative_spans, lambda values: values.mean(axis=0))


def best_constant_span(ground_truth: ArrayLike, durations: ArrayLike) -> QueryMetrics:
    """Metrics of the best constant span: the same share of every video, tuned on these queries.

    Each metric has its own best span.

    Args:
        ground_truth: Reference span of each query, `(queries, 2)` seconds.
        durations: Duration of each query's video, `(queries,)` seconds.
    """
    marks = np.arange(_GRID + 1) / _GRID
    start, end = np.meshgrid(marks, marks, indexing="ij")
    candidates = np.stack([start, end], axis=-1)[start < end]  # (candidates, 2)
    totals = _by_query(ground_truth, durations, candidates, lambda values: values.sum(axis=1, keepdims=True))
    best = {name: candidates[int(total.sum(axis=1).argmax())] for name, total in totals.items()}
    spans = np.asarray(durations, dtype=np.float64)[:, None]
    return {name: per_query(temporal_iou(span * spans, ground_truth))[name] for name, span in best.items()}


def _by_query(
    ground_truth: ArrayLike,
    durations: ArrayLike,
    relative_spans: ArrayLike,
    reduce: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> QueryMetrics:
    """Score every relative span for every query, in chunks of queries.

    `reduce` takes `(spans, queries)`; its results are concatenated along the queries.
    """
    reference, seconds = np.asarray(ground_truth, dtype=np.float64), np.asarray(durations, dtype=np.float64)
    spans = np.asarray(relative_spans, dtype=np.float64)[:, None]  # (spans, 1, 2)
    pieces: dict[str, list[NDArray[np.float64]]] = {}
    for first in range(0, len(reference), 256):
        part = slice(first, first + 256)
        for name, values in per_query(temporal_iou(spans * seconds[part, None], reference[part])).items():
            pieces.setdefault(name, []).append(reduce(values))
    return {name: np.concatenate(parts, axis=-1) for name, parts in pieces.items()}
