"""Grounding with any number of moments: the best one, its borders, all moments, and whether the query happens.

The ground truth of a sample lists every moment of its query as `relevant_windows`, empty if it never happens.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from timechat.evaluation.metrics.calibration import auroc, best_threshold
from timechat.evaluation.metrics.grounding import Span, per_query
from timechat.evaluation.metrics.moments import fit_moment, match_moments
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.score import Scores
from timechat.evaluation.tables import MetricTable, group_names

MIN_IOU = 0.5
"""Minimum IoU (inclusive) of a correct predicted moment."""

Pairs = Sequence[tuple[Sample, Prediction]]


def score_moments(samples: Sequence[Sample], predictions: Sequence[Prediction], *, resamples: int = 2000) -> Scores:
    """Score grounding of queries that happen once, several times, or never.

    Args:
        samples: Samples of a run; other tasks are ignored.
        predictions: Predictions, one for each sample.
        resamples: Number of bootstrap resamples for the intervals.

    Returns:
        Over queries that happen: `r1_iou_0.3`, ..., `miou` of the first event against any moment, and `start_error`
        and `end_error` in seconds if that IoU is at least 0.3, with their medians. Over moments at an IoU of 0.5:
        `precision` of predicted ones, `recall` of true ones. Over all queries: `found_precision`, `found_recall`, the
        `auroc` of the score, and `best_threshold` with `best_precision` and `best_recall` at the best F1. The same for
        each group of queries, with the group name after the metric name.
    """
    pairs = [pair for pair in zip(samples, predictions, strict=True) if pair[0].task == "grounding"]
    metrics: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for group in ("", *group_names([sample.groups[:1] for sample, _ in pairs])):
        suffix = f"_{group}" if group else ""
        kept = [pair for pair in pairs if not group or group in pair[0].groups[:1]]
        for table in moment_tables(kept):
            for name, cell in zip(table.values, table.estimates(list(table.values), resamples=resamples), strict=True):
                if cell is not None:
                    metrics[name + suffix] = cell.value
                    intervals[name + suffix] = (cell.low, cell.high)
        metrics |= {name + suffix: value for name, value in _totals(kept).items()}
    items = {sample.id: _best_metrics(sample, prediction) for sample, prediction in pairs if moments_of(sample).size}
    missing = sum(not prediction.is_answered for _, prediction in pairs)
    unparsed = sum(prediction.status == "unparsed" and prediction.found is not False for _, prediction in pairs)
    return Scores("moments", metrics, intervals, items, len(pairs), missing, unparsed)


def moments_of(sample: Sample) -> NDArray[np.float64]:
    """True moments of a query, `(moments, 2)` seconds."""
    return np.array(sample.ground_truth.get("relevant_windows", ()), dtype=np.float64).reshape(-1, 2)


def moment_tables(pairs: Pairs) -> tuple[MetricTable, ...]:
    """Tables of the values of the metrics, one for each kind of row: queries, borders, moments, and occurrence."""
    best, borders, precision, recall, found_precision, found_recall = (MetricTable() for _ in range(6))
    for sample, prediction in pairs:
        ground_truth, spans = moments_of(sample), _spans(prediction)
        if len(ground_truth):
            best.add(sample.video, sample.groups, _best_metrics(sample, prediction))
            fit = fit_moment(spans[0] if spans else None, ground_truth)
            if fit.start_error is not None and fit.end_error is not None:
                borders.add(sample.video, sample.groups, {"start_error": fit.start_error, "end_error": fit.end_error})
            found_recall.add(sample.video, sample.groups, {"found_recall": float(_is_found(prediction))})
        if _is_found(prediction):
            found_precision.add(sample.video, sample.groups, {"found_precision": float(len(ground_truth) > 0)})
        matched = match_moments(spans, ground_truth, min_iou=MIN_IOU)
        for is_right in matched.is_right:
            precision.add(sample.video, sample.groups, {"precision": float(is_right)})
        for is_matched in matched.is_found:
            recall.add(sample.video, sample.groups, {"recall": float(is_matched)})
    return best, borders, precision, recall, found_precision, found_recall


def moment_scores(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score and correctness of every predicted moment, `(moments,)` each; moments without a score are omitted."""
    scored = list(_scored_moments(pairs))
    return np.array([score for score, _ in scored]), np.array([is_right for _, is_right in scored], dtype=bool)


def _scored_moments(pairs: Pairs) -> Iterator[tuple[float, bool]]:
    for sample, prediction in pairs:
        matched = match_moments(_spans(prediction), moments_of(sample), min_iou=MIN_IOU)
        for event, is_right in zip(prediction.events, matched.is_right, strict=True):
            if event.score is not None:
                yield event.score, is_right


def _best_metrics(sample: Sample, prediction: Prediction) -> dict[str, float]:
    spans = _spans(prediction)
    fit = fit_moment(spans[0] if spans else None, moments_of(sample))
    return {name: float(value) for name, value in per_query(fit.iou).items()}


def _totals(pairs: Pairs) -> dict[str, float]:
    """Metrics without an interval: medians of the border errors, and separation of the queries that happen by score."""
    borders = moment_tables(pairs)[1]
    totals = {f"median_{name}": float(np.median(values)) for name, values in borders.values.items()}
    scored = [(p.score, len(moments_of(s)) > 0) for s, p in pairs if p.score is not None]
    scores, happens = np.array([score for score, _ in scored]), np.array([one for _, one in scored], dtype=bool)
    if happens.any() and not happens.all():
        best = best_threshold(scores, happens)
        totals |= {"auroc": auroc(scores, happens), "best_threshold": best.threshold}
        totals |= {"best_precision": best.precision, "best_recall": best.recall}
    return totals


def _spans(prediction: Prediction) -> list[Span]:
    return [(event.start, event.end) for event in prediction.events]


def _is_found(prediction: Prediction) -> bool:
    return bool(prediction.events) if prediction.found is None else prediction.found
