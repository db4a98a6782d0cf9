"""Error analysis of a run: results by event length and position, border errors, calibration, and the worst answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.answers.events import Task
from timechat.evaluation.evaluate import Evaluation
from timechat.evaluation.metrics.calibration import Reliability, reliability
from timechat.evaluation.metrics.captioning import caption_iou
from timechat.evaluation.readers import true_captions
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.score import Scores

LENGTHS = (0.0, 2.0, 5.0, 10.0, 30.0, float("inf"))
"""Limits between groups of event lengths, in seconds."""
MEETS_IOU = 0.3
"""Minimum IoU (inclusive) of an answer whose borders are compared with the true borders."""
FOUND_IOU = 0.5
"""Minimum IoU (inclusive) of an answer that counts as correct."""
_PLACES = 5
_IOU_STEP = 0.1
_BORDER_EDGES = (-10.0, -5.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 5.0, 10.0)
_METRICS: Mapping[Task, tuple[str, ...]] = {
    "grounding": ("miou", "MR-full-mAP"),
    "dense_caption": ("f1",),
    "highlights": ("hit1_fair",),
}
"""Metric that ranks the worst answers of a task: the first one that the task's scorer returns."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A group of items.

    Attributes:
        label: Label below the bar.
        value: Mean of the items, or their share of all items.
        count: Number of items.
    """

    label: str
    value: float
    count: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars under a title.

    Attributes:
        title: Title above the bars.
        bars: Bars from left to right.
        note: Explanation below the bars.
    """

    title: str
    bars: tuple[Bar, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A span of a video with a text, from the reference or the answer; a point in time has `start == end`."""

    start: float
    end: float
    words: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """An answer among the worst ones.

    Attributes:
        sample: Sample of the answer.
        prediction: Prediction of the sample.
        metric: Name of the metric that ranks it.
        value: Value of the metric.
        truth: Reference marks.
    """

    sample: Sample
    prediction: Prediction
    metric: str
    value: float
    truth: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """Result of `analyse`.

    Attributes:
        charts: Charts in reading order.
        reliability: Calibration of the scores of grounding; None without scores.
        worst: Worst answers, the worst first.
    """

    charts: tuple[Chart, ...]
    reliability: Reliability | None
    worst: tuple[Case, ...]


def analyse(evaluation: Evaluation, *, num_worst: int = 24) -> Analysis:
    """Analyse the errors of a run.

    Args:
        evaluation: Result of the run.
        num_worst: Maximum number of answers in `worst`, over all tasks.
    """
    pairs = list(zip(evaluation.samples, evaluation.predictions, strict=True))
    grounded = [pair for pair in pairs if pair[0].task == "grounding" and "timestamp" in pair[0].ground_truth]
    captioned = [pair for pair in pairs if pair[0].task == "dense_caption"]
    charts = [*_grounding_charts(grounded, evaluation.scores), *_caption_charts(captioned)]
    questions = {sample.id: sample.groups for sample in evaluation.samples if sample.task == "ask"}
    by_kind = [_groups(evaluation.scores, name, questions) for name in ("questions", "choices")]
    charts += [chart for chart in by_kind if chart is not None]
    return Analysis(tuple(charts), _reliability(grounded, evaluation.scores), _worst(evaluation, num_worst))


# ------------------------------------------------------------------------------------------------- grounding


def _grounding_charts(pairs: Sequence[tuple[Sample, Prediction]], scores: Mapping[str, Scores]) -> list[Chart]:
    if not pairs or "grounding" not in scores:
        return []
    ious = np.array([_metric(scores["grounding"], sample, "miou") for sample, _ in pairs])
    spans = np.array([sample.ground_truth["timestamp"] for sample, _ in pairs], dtype=np.float64)  # (queries, 2)
    durations = np.array([_duration(sample, prediction) for sample, prediction in pairs])
    middles = spans.mean(axis=1) / np.maximum(durations, 1e-9)
    charts = [
        Chart("Grounding: how well answers fit (IoU)", _histogram(ious, np.arange(0, 1 + _IOU_STEP / 2, _IOU_STEP))),
        Chart("Grounding: mean IoU by the event's length", _means(ious, spans[:, 1] - spans[:, 0], LENGTHS, " s")),
        Chart(
            "Grounding: mean IoU by position in the video",
            _means(ious, middles.clip(0, 1), np.linspace(0, 1, _PLACES + 1)),
            "Middle of the event as a share of the video.",
        ),
    ]
    answered = [(i, prediction.events[0]) for i, (_, prediction) in enumerate(pairs) if prediction.events]
    met = [(i, event) for i, event in answered if ious[i] >= MEETS_IOU]
    for name, column in (("start", 0), ("end", 1)):
        errors = np.array([getattr(event, name) - spans[i, column] for i, event in met])
        if len(errors):
            distance, bias = np.median(np.abs(errors)), np.median(errors)
            note = (
                f"Median distance {distance:.2f} s, median {bias:+.2f} s, "
                f"of {len(errors)} answers with IoU {MEETS_IOU} or more."
            )
            edges = (-np.inf, *_BORDER_EDGES, np.inf)
            title = f"Grounding: {name} too early (-) or too late (+), seconds"
            charts.append(Chart(title, _histogram(errors, edges), note))
    return charts


def _reliability(pairs: Sequence[tuple[Sample, Prediction]], scores: Mapping[str, Scores]) -> Reliability | None:
    scored_moments = [
        (prediction.events[0].score, _metric(scores["grounding"], sample, "miou") >= FOUND_IOU)
        for sample, prediction in pairs
        if prediction.events and prediction.events[0].score is not None
    ]
    if not scored_moments:
        return None
    return reliability([score for score, _ in scored_moments], [is_right for _, is_right in scored_moments])


# -------------------------------------------------------------------------------------------- dense captions


def _caption_charts(pairs: Sequence[tuple[Sample, Prediction]]) -> list[Chart]:
    """Chart of the true events that were found, regardless of their captions."""
    lengths: list[float] = []
    are_found: list[bool] = []
    for sample, prediction in pairs:
        spans = np.array(sample.ground_truth.get("segments", []), dtype=np.float64).reshape(-1, 2)
        answered = np.array([(event.start, event.end) for event in prediction.events]).reshape(-1, 2)
        iou = caption_iou(spans, answered)
        lengths += (np.abs(spans[:, 1] - spans[:, 0])).tolist()
        are_found += (iou.max(axis=1) >= FOUND_IOU if len(answered) else np.zeros(len(spans), bool)).tolist()
    if not lengths:
        return []
    title = f"Dense captions: share of true events with an answer at IoU {FOUND_IOU} or more, by length"
    return [Chart(title, _means(np.array(are_found, dtype=np.float64), lengths, LENGTHS, " s"))]


# ------------------------------------------------------------------------------------- questions and options


def _groups(scores: Mapping[str, Scores], name: str, groups: Mapping[str, tuple[str, ...]]) -> Chart | None:
    """Charts of the accuracy of each part of a benchmark; `metrics.json` has the intervals."""
    if name not in scores:
        return None
    metrics = scores[name].metrics
    counts = Counter(group for item in scores[name].items for group in groups.get(item, ()))
    bars = [
        Bar(group.replace("_", " "), value, counts[group])
        for group in sorted(counts)
        if (value := metrics.get(f"accuracy_{group}")) is not None
    ]
    return Chart(f"{name.capitalize()}: accuracy by kind", tuple(bars)) if bars else None


# ------------------------------------------------------------------------------------------------- the worst


def _worst(evaluation: Evaluation, most: int) -> tuple[Case, ...]:
    """The worst answers of every task in turn; of equal values, the most confident answer is first."""
    by_task: dict[Task, list[Case]] = {}
    for sample, prediction in zip(evaluation.samples, evaluation.predictions, strict=True):
        case = _case(evaluation.scores, sample, prediction)
        if case is not None and case.value < 1:
            by_task.setdefault(sample.task, []).append(case)
    share = -(-most // max(1, len(by_task)))
    chosen = [case for cases in by_task.values() for case in sorted(cases, key=_badness)[:share]]
    return tuple(chosen[:most])


def _badness(case: Case) -> tuple[float, float]:
    surest = max((event.score or 0.0 for event in case.prediction.events), default=0.0)
    return case.value, -surest


def _case(scores: Mapping[str, Scores], sample: Sample, prediction: Prediction) -> Case | None:
    if sample.task == "ask":
        scored = scores.get("choices" if sample.options else "questions")
        metric = "accuracy"
    else:
        scored = scores.get(sample.task)
        given = () if scored is None else scored.metrics
        metric = next((name for name in _METRICS.get(sample.task, ()) if name in given), "")
    if scored is None or not metric:
        return None
    return Case(sample, prediction, metric, _metric(scored, sample, metric), _reference_marks(sample))


def _reference_marks(sample: Sample) -> tuple[Mark, ...]:
    ground_truth = sample.ground_truth
    if "timestamp" in ground_truth:
        start, end = map(float, ground_truth["timestamp"])
        return (Mark(start, end, str(ground_truth.get("caption", ""))),)
    if "segments" in ground_truth:
        _, spans, captions = true_captions(ground_truth)
        return tuple(Mark(min(span), max(span), words) for span, words in zip(spans, captions, strict=False))
    if "relevant_windows" in ground_truth:
        return tuple(Mark(float(start), float(end)) for start, end in ground_truth["relevant_windows"])
    return tuple(Mark(2.0 * clip, 2.0 * clip + 2.0) for clip in ground_truth.get("relevant_clip_ids", ()))


def _metric(scores: Scores, sample: Sample, metric: str) -> float:
    """Value of a metric for a sample; captions are scored per video."""
    name = sample.video.rsplit("/", 1)[-1]
    items = (
        scores.items.get(sample.id)
        or scores.items.get(str(sample.ground_truth.get("id", "")))
        or scores.items.get(name)
    )
    return float((items or {}).get(metric, 0.0))


def _duration(sample: Sample, prediction: Prediction) -> float:
    return float(prediction.duration or sample.duration or max(sample.ground_truth["timestamp"]))


# ----------------------------------------------------------------------------------------------------- bars


def _histogram(values: ArrayLike, edges: ArrayLike) -> tuple[Bar, ...]:
    """Bars of the share of values between edges; the last edge belongs to the last bar."""
    numbers, ends = np.asarray(values, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    member = _members(numbers, ends)
    counts = [int((member == i).sum()) for i in range(len(ends) - 1)]
    return tuple(
        Bar(_label(ends[i], ends[i + 1]), count / max(1, len(numbers)), count) for i, count in enumerate(counts)
    )


def _means(values: NDArray[np.float64], by: ArrayLike, edges: ArrayLike, unit: str = "") -> tuple[Bar, ...]:
    """Bars of the mean of the values whose measure lies between edges; empty bars are omitted."""
    ends = np.asarray(edges, dtype=np.float64)
    member = _members(np.asarray(by, dtype=np.float64), ends)
    return tuple(
        Bar(_label(ends[i], ends[i + 1], unit), float(values[member == i].mean()), int((member == i).sum()))
        for i in range(len(ends) - 1)
        if (member == i).any()
    )


def _members(numbers: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the interval of each number; a number that is below an edge by a rounding error counts as on it."""
    return np.clip(np.searchsorted(ends, numbers + 1e-9, side="right") - 1, 0, len(ends) - 2)


def _label(low: float, high: float, unit: str = "") -> str:
    if np.isinf(high):
        return f"{low:g}+{unit}"
    if np.isinf(low):
        return f"< {high:g}{unit}"
    return f"{low:.3g} to {high:.3g}{unit}"
