"""`timechat evaluate --baselines`: the metrics of a run beside baselines without a model, and by group of samples.

A model that grounds well must beat a random event of the same video, a random span, and the best constant span; its
answers must fit the requested event and no other event. Captions are compared with the events of another video,
highlights with a random clip, answers to questions with the most frequent answer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import clip_scores
from timechat.evaluation.evaluate import Evaluation
from timechat.evaluation.metrics.answers import answer_hits, majority_answer
from timechat.evaluation.metrics.baselines import best_constant_span, best_iou, expected_metrics, random_spans
from timechat.evaluation.metrics.captioning import detect
from timechat.evaluation.metrics.choices import choice_metrics
from timechat.evaluation.metrics.grounding import Span, per_query
from timechat.evaluation.metrics.highlights import CLIP_SECONDS, LEVELS, HighlightGroundTruth, highlight_scores
from timechat.evaluation.moments import moment_tables, moments_of
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.tables import MetricTable, Report, Table, group_names
from timechat.files import write_json_atomically, write_text_atomically

JSON_FILE, MARKDOWN_FILE = "baselines.json", "baselines.md"
MODEL = "model"
"""Name of the model's row in every table."""
_R1 = {"r1_iou_0.3": "R@1 IoU 0.3", "r1_iou_0.5": "R@1 IoU 0.5", "r1_iou_0.7": "R@1 IoU 0.7", "miou": "mIoU"}
_MISSED = dict.fromkeys(_R1, 0.0)
_GROUNDING = {
    MODEL: "**model**",
    "other_event": "its answers, scored on another event of the video",
    "margin_other_event": "model minus other event",
    "random_event": "a random event of the same video (expected)",
    "margin_random": "model minus random event",
    "random_span": "a random span of the training distribution (expected)",
    "constant_span": "best constant span (tuned on these questions, for each metric)",
}

Pairs = Sequence[tuple[Sample, Prediction]]
Rows = dict[str, MetricTable]
Events = Mapping[str, NDArray[np.float64]]


def write_baselines(evaluation: Evaluation) -> str:
    """Compute the tables, and write them into the folder of the run as `baselines.md` and `baselines.json`.

    Returns:
        The tables in Markdown.
    """
    report = report_baselines(evaluation)
    folder = Path(evaluation.recipe.run.output)
    write_json_atomically(folder / JSON_FILE, report.to_dict())
    write_text_atomically(folder / MARKDOWN_FILE, report.to_markdown())
    return report.to_markdown()


def report_baselines(evaluation: Evaluation) -> Report:
    """Compute the tables of a run.

    Args:
        evaluation: A run with its predictions.
    """
    resamples, benchmark = evaluation.recipe.run.resamples, evaluation.benchmark
    pairs = list(zip(evaluation.samples, evaluation.predictions, strict=True))
    by_task = {task: [pair for pair in pairs if pair[0].task == task] for task in {s.task for s, _ in pairs}}
    relative_spans = None if benchmark.reference_spans is None else benchmark.reference_spans(evaluation.samples)
    events = _video_events(pairs)
    grounded = by_task.get("grounding", [])
    spans = [pair for pair in grounded if "timestamp" in pair[0].ground_truth]
    moments = [pair for pair in grounded if moments_of(pair[0]).size]
    asked = [pair for pair in by_task.get("ask", []) if pair[0].answer is not None]
    tables = [
        *_grounding_tables(spans, events, relative_spans, resamples),
        *_moment_tables(moments, events, resamples),
        *_caption_tables(by_task.get("dense_caption", []), resamples),
        *_highlight_tables(by_task.get("highlights", []), events, resamples),
        *_question_tables([pair for pair in asked if not pair[0].options], resamples),
        *_choice_tables([pair for pair in asked if pair[0].options], resamples),
    ]
    if benchmark.more_tables is not None:
        tables += benchmark.more_tables(evaluation.samples, evaluation.predictions)
    metrics = evaluation.metrics
    facts = {name: metrics[name] for name in ("name", "benchmark", "split", "model", "weights", "preset", "samples")}
    heading = f"{benchmark.title}: {metrics['model']} ({metrics['weights'][:8]}) beside baselines"
    return Report(heading, facts, tuple(tables))


# ------------------------------------------------------------------------------------------------- grounding


def grounding_rows(
    predicted: Span | None, ground_truth: Span, others: NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    """Metrics of one query: the answer and its baselines in the same video.

    Args:
        predicted: Start and end of the answer in seconds; None if the answer has no readable span.
        ground_truth: Start and end of the requested event, in seconds.
        others: Start and end of all other events of the video, `(events, 2)` seconds.

    Returns:
        Metrics by row: `model`; `random_event`, the expected value; `margin_random`, the difference of both. If the
        video has other events: `other_event`, the answer scored on these, and `margin_other_event`.
    """
    every = np.concatenate([np.array([ground_truth]), others])
    rows = {
        MODEL: dict(_MISSED) if predicted is None else expected_metrics([predicted], ground_truth),
        "random_event": expected_metrics(every, ground_truth),
    }
    if len(others):
        rows["other_event"] = dict(_MISSED) if predicted is None else _mean_metrics(predicted, others)
        rows["margin_other_event"] = _difference(rows[MODEL], rows["other_event"])
    return rows | {"margin_random": _difference(rows[MODEL], rows["random_event"])}


def _mean_metrics(predicted: Span, events: NDArray[np.float64]) -> dict[str, float]:
    """Metrics of one answer, averaged over the reference events."""
    return {name: float(values.mean()) for name, values in per_query(best_iou(events, predicted)).items()}


def _difference(metrics: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
    return {name: value - others[name] for name, value in metrics.items()}


def _grounding_tables(
    pairs: Pairs, events: Events, relative_spans: NDArray[np.float64] | None, resamples: int
) -> list[Table]:
    if not pairs:
        return []
    rows: Rows = {name: MetricTable() for name in _GROUNDING}
    by_group = MetricTable()
    for sample, prediction in pairs:
        span, every = _span(sample), events[sample.video]
        others = np.delete(every, int((every == span).all(axis=1).argmax()), axis=0)
        found = grounding_rows(_first_span(prediction), span, others)
        unparsed = {"unparsed": float(not prediction.events)}
        found[MODEL] |= unparsed
        for name, metrics in found.items():
            rows[name].add(sample.video, sample.groups, metrics)
        beside = {name: found.get(name, {}).get("r1_iou_0.5", np.nan) for name in ("other_event", "random_event")}
        margin = {"margin_random": found["margin_random"]["r1_iou_0.5"]}
        by_group.add(sample.video, sample.groups, found[MODEL] | beside | margin)
    _add_blind_rows(rows, pairs, relative_spans)
    note = "" if relative_spans is not None else "Random spans are drawn from the true spans of this run."
    columns = _R1 | {"unparsed": "no span"}
    tables = [_table("grounding", "Grounding", columns, rows, _GROUNDING, resamples, note)]
    columns = columns | {
        "other_event": "on another event, IoU 0.5",
        "random_event": "random event, IoU 0.5",
        "margin_random": "model minus random event, IoU 0.5",
    }
    return tables + _group_table("grounding", "Grounding", columns, by_group, resamples)


def _add_blind_rows(rows: Rows, pairs: Pairs, relative_spans: NDArray[np.float64] | None) -> None:
    """Add the rows of baselines that depend only on the duration."""
    ground_truth = np.array([_span(sample) for sample, _ in pairs])
    durations = np.array([_duration(sample, prediction) for sample, prediction in pairs])
    choices = ground_truth / durations[:, None] if relative_spans is None else relative_spans
    blind = {
        "random_span": random_spans(ground_truth, durations, choices),
        "constant_span": best_constant_span(ground_truth, durations),
    }
    for name, metrics in blind.items():
        for i, (sample, _) in enumerate(pairs):
            row = {metric: float(values[i]) for metric, values in metrics.items()}
            rows[name].add(sample.video, sample.groups, row)


def _video_events(pairs: Pairs) -> dict[str, NDArray[np.float64]]:
    """True events of each video, `(events, 2)` seconds: the longest list of a sample plus new events of others.

    Two events of a video may have the same start and end. Highlights name no events.
    """
    lists: dict[str, list[list[Span]]] = {}
    for sample, _ in pairs:
        if sample.task in ("grounding", "dense_caption"):
            lists.setdefault(sample.video, []).append(_named_events(sample))
    found = {}
    for video, named in lists.items():
        events: list[Span] = [*max(named, key=len)]
        events += dict.fromkeys(span for spans in named for span in spans if span not in events)
        found[video] = np.array(events, dtype=np.float64).reshape(-1, 2)
    return found


def _named_events(sample: Sample) -> list[Span]:
    ground_truth = sample.ground_truth
    spans: Sequence[Any] = (
        ground_truth.get("video_events") or ground_truth.get("segments") or ground_truth.get("relevant_windows") or ()
    )
    if "timestamp" in ground_truth:
        spans = [ground_truth["timestamp"]]
    return [(float(start), float(end)) for start, end in spans]


def _moment_tables(pairs: Pairs, events: Events, resamples: int) -> list[Table]:
    """Table of the best moment of each query beside a random event of its video; any true moment counts as correct."""
    if not pairs:
        return []
    rows: Rows = {MODEL: moment_tables(pairs)[0], "random_event": MetricTable()}
    for sample, _ in pairs:
        metrics = expected_metrics(events[sample.video], moments_of(sample))
        rows["random_event"].add(sample.video, sample.groups, metrics)
    heads = {MODEL: "**model**", "random_event": _GROUNDING["random_event"]}
    rows, heads = _with_groups(rows, heads)
    return [_table("moments", "The best moment of each query", _R1, rows, heads, resamples)]


# --------------------------------------------------------------------------------------------- dense captions


def _caption_tables(pairs: Pairs, resamples: int) -> list[Table]:
    if not pairs:
        return []
    rows: Rows = {MODEL: MetricTable(), "other_video": MetricTable()}
    for sample, prediction in pairs:
        segments = _segments(sample)
        predicted = np.array([(event.start, event.end) for event in prediction.events]).reshape(-1, 2)
        unparsed = {"unparsed": float(not prediction.events)}
        rows[MODEL].add(sample.video, sample.groups, _detected(segments, predicted) | unparsed)
        if (other := _other_video(pairs, sample)) is not None:
            stretched = stretched_segments(*other, _duration(sample, prediction))
            rows["other_video"].add(sample.video, sample.groups, _detected(segments, stretched))
    columns = {"precision": "precision", "recall": "recall", "f1": "F1", "unparsed": "no event"}
    note = "Means over IoU above 0.3, 0.5, 0.7 and 0.9, video by video; n counts videos."
    heads = {MODEL: "**model**", "other_video": "true events of another video, stretched"}
    tables = [_table("dense_caption", "Dense captioning", columns, rows, heads, resamples, note)]
    return tables + _group_table("dense_caption", "Dense captioning", columns, rows[MODEL], resamples)


def _detected(segments: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    detection = detect(segments, predicted)
    return {name: float(getattr(detection, name)) for name in ("precision", "recall", "f1")}


def _other_video(pairs: Pairs, sample: Sample) -> tuple[Sample, Prediction] | None:
    """The next sample of the same groups; None if there is no other."""
    alike = [pair for pair in pairs if pair[0].groups == sample.groups]
    place = next(i for i, (one, _) in enumerate(alike) if one is sample)
    return None if len(alike) == 1 else alike[(place + 1) % len(alike)]


def stretched_segments(sample: Sample, prediction: Prediction, duration: float) -> NDArray[np.float64]:
    """True events of a sample as if its video had another duration, `(events, 2)` seconds."""
    return _segments(sample) * (duration / _duration(sample, prediction))


def _segments(sample: Sample) -> NDArray[np.float64]:
    return np.array(sample.ground_truth["segments"], dtype=np.float64).reshape(-1, 2)


# ------------------------------------------------------------------------------------- highlights and questions


def _highlight_tables(pairs: Pairs, events: Events, resamples: int) -> list[Table]:
    pairs = [pair for pair in pairs if pair[0].ground_truth.get("saliency_scores")]
    if not pairs:
        return []
    rows: Rows = {MODEL: MetricTable(), "random_event": MetricTable(), "random_clip": MetricTable()}
    for sample, prediction in pairs:
        ground_truth = sample.ground_truth
        rated = HighlightGroundTruth(
            float(ground_truth["duration"]), tuple(ground_truth["relevant_clip_ids"]), _ratings(ground_truth)
        )
        scores = clip_scores(prediction.events, rated.duration, CLIP_SECONDS) if prediction.events else None
        metrics = {name: float(values[0]) for name, values in highlight_scores([scores], [rated]).items()}
        unparsed = {"unparsed": float(not prediction.events)}
        rows[MODEL].add(sample.video, sample.groups, metrics | unparsed)
        labels = rated.labels()  # (clips, annotators)
        rows["random_clip"].add(sample.video, sample.groups, _expected_hits(labels))
        if sample.video in events:
            middles = (events[sample.video].mean(axis=1) / CLIP_SECONDS).astype(int).clip(max=len(labels) - 1)
            rows["random_event"].add(sample.video, sample.groups, _expected_hits(labels[middles]))
    columns = {f"hit1_{level}": f"HIT@1, {level.replace('_', ' ')}" for level in LEVELS}
    columns |= {f"map_{level}": f"mAP, {level.replace('_', ' ')}" for level in LEVELS} | {"unparsed": "no moment"}
    note = "Clips of 2 s, from the saliency of each level on: fair 2, good 3, very good 4."
    heads = {
        MODEL: "**model**",
        "random_event": "the middle of a random event of the video (expected)",
        "random_clip": "a random clip (expected)",
    }
    tables = [_table("highlights", "Highlights", columns, rows, heads, resamples, note)]
    return tables + _group_table("highlights", "Highlights", columns, rows[MODEL], resamples)


def _expected_hits(labels: NDArray[np.float64]) -> dict[str, float]:
    """Expected HIT@1 of a clip drawn from these clips, `(clips, annotators)`."""
    return {f"hit1_{level}": float((labels >= least).any(axis=1).mean()) for level, least in LEVELS.items()}


def _ratings(ground_truth: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(score) for score in scores) for scores in ground_truth["saliency_scores"])


def _question_tables(pairs: Pairs, resamples: int) -> list[Table]:
    """Table of the accuracy beside that of the most frequent answer of the same kind; the kind is the first group."""
    if not pairs:
        return []
    by_kind: dict[tuple[str, ...], list[str]] = {}
    for sample, _ in pairs:
        by_kind.setdefault(sample.groups[:1], []).append(sample.answer or "")
    majority = {kind: majority_answer(answers) for kind, answers in by_kind.items()}
    table = MetricTable()
    for sample, prediction in pairs:
        text = prediction.text if prediction.is_answered else None
        hits = answer_hits([text, majority[sample.groups[:1]]], [sample.answer or ""] * 2)
        table.add(sample.video, sample.groups, {"accuracy": float(hits[0]), "majority": float(hits[1])})
    columns = {"accuracy": "**model**", "majority": "most frequent answer of the kind"}
    rows, heads = _with_groups({"all": table}, {"all": "**all**"})
    return [_table("questions", "Questions: accuracy", columns, rows, heads, resamples)]


def _choice_tables(pairs: Pairs, resamples: int) -> list[Table]:
    if not pairs:
        return []
    texts = [prediction.text if prediction.is_answered else None for _, prediction in pairs]
    metrics = choice_metrics(
        texts, [sample.options for sample, _ in pairs], [sample.answer or "" for sample, _ in pairs]
    )
    table = MetricTable()
    for (sample, _), hit in zip(pairs, metrics["accuracy"], strict=True):
        table.add(sample.video, sample.groups, {"accuracy": float(hit), "guessing": 1 / len(sample.options)})
    columns = {"accuracy": "**model**", "guessing": "a random option (expected)"}
    rows, heads = _with_groups({"all": table}, {"all": "**all**"})
    return [_table("choices", "Choices: accuracy", columns, rows, heads, resamples)]


# ---------------------------------------------------------------------------------------------------- tables


def _table(
    name: str,
    title: str,
    columns: Mapping[str, str],
    rows: Mapping[str, MetricTable],
    heads: Mapping[str, str],
    resamples: int,
    note: str = "",
) -> Table:
    cells = {
        key: (heads[key], row.estimates(list(columns), resamples=resamples)) for key, row in rows.items() if len(row)
    }
    return Table(name, title, columns, cells, note)


def _group_table(name: str, title: str, columns: Mapping[str, str], table: MetricTable, resamples: int) -> list[Table]:
    """One row per group of samples; no row if all samples belong to one group."""
    groups = group_names(table.groups)
    if not groups:
        return []
    rows = {group: _finite(table.only(group)) for group in groups}
    heads = {group: group.replace("_", " ") for group in groups}
    return [_table(f"{name}_by_group", f"{title} by group", columns, rows, heads, resamples)]


def _finite(table: MetricTable) -> MetricTable:
    """The table without metrics that are NaN in some row."""
    values = {name: column for name, column in table.values.items() if np.isfinite(column).all()}
    return MetricTable(table.videos, table.groups, values)


def _with_groups(rows: Rows, heads: Mapping[str, str]) -> tuple[Rows, dict[str, str]]:
    """The rows, followed by the rows of each group of samples."""
    every, shown = dict(rows), dict(heads)
    for group in group_names(next(iter(rows.values())).groups):
        for name, row in rows.items():
            words = group.replace("_", " ")
            every[f"{group}_{name}" if len(rows) > 1 else group] = row.only(group)
            shown[f"{group}_{name}" if len(rows) > 1 else group] = f"{words}: {heads[name]}" if len(rows) > 1 else words
    return every, shown


def _first_span(prediction: Prediction) -> Span | None:
    return (prediction.events[0].start, prediction.events[0].end) if prediction.events else None


def _span(sample: Sample) -> Span:
    start, end = sample.ground_truth["timestamp"]
    return float(start), float(end)


def _duration(sample: Sample, prediction: Prediction) -> float:
    """Duration of the video in seconds; the end of its last true event if the duration is unknown."""
    known = sample.duration or sample.ground_truth.get("duration") or prediction.duration
    return float(known) if known else max(end for _, end in _named_events(sample))
