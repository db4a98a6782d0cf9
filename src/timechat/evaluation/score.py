"""Files of predictions and ground truth → the official metrics with intervals, and counts of missing answers.

predictions, truth ─▶ reading ─▶ metrics ─▶ Scores: metrics, intervals, a value for each query or video
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from timechat.errors import DataError
from timechat.evaluation.metrics import java
from timechat.evaluation.metrics.captioning import THRESHOLDS, detect
from timechat.evaluation.metrics.dense_captions import (
    Count,
    TokenizedVideo,
    cider_scores,
    dense_scores,
    paragraph,
    soda_c,
    soda_c_as_published,
)
from timechat.evaluation.metrics.exact_stem import ExactStemCounter, tokenize_treebank
from timechat.evaluation.metrics.grounding import answered_iou, per_query
from timechat.evaluation.metrics.highlights import highlight_scores
from timechat.evaluation.metrics.intervals import bootstrap_mean, bootstrap_total
from timechat.evaluation.metrics.meteor import combined_statistics, meteor_score
from timechat.evaluation.metrics.moment_retrieval import moment_retrieval_scores
from timechat.evaluation.metrics.summaries import top_5_average_precision
from timechat.evaluation.readers import (
    CaptionedVideo,
    GroundTruthQuery,
    InputIssues,
    PredictedQuery,
    read_caption_ground_truth,
    read_caption_predictions,
    read_label_ground_truth,
    read_label_predictions,
    read_query_ground_truth,
    read_query_predictions,
    read_span_ground_truth,
    read_span_predictions,
    video_key,
)

Value = TypeVar("Value")

ScoreTask = Literal["dvc", "tvg", "vhd", "mr", "tvsum"]
"""Dense video captioning, temporal grounding, highlight detection, moment retrieval with highlights, TVSum."""

NO_JAVA_NOTE = (
    "METEOR and the PTB tokenizer need Java, which is not installed: their metrics are null, and exact_stem and "
    "treebank metrics are approximations"
)
_PREDICTED_ONLY = "_predicted_only"
_APPROXIMATIONS = {"soda_c": "soda_c_exact_stem", "cider": "cider_treebank", "meteor": "meteor_exact_stem"}
_WORDS = tuple(_APPROXIMATIONS)
"""Metrics of caption texts, and their names if they are computed without Java."""
_KEYS_OF_PART = {
    "scores": ("ratings", "relevant_clip_ids and saliency_scores", "highlights"),
    "windows": ("windows", "relevant_windows", "moment retrieval"),
}
"""Name and keys of each part of QVHighlights' ground truth, and the task that needs it."""
_LEVELS = {"fair": "Fair", "good": "Good", "very_good": "VeryGood"}


@dataclass(frozen=True)
class Scores:
    """Metrics of predictions.

    Attributes:
        task: Task whose rules apply.
        metrics: Metrics by name, as fractions (CIDEr from 0 to 10); None for metrics that cannot be computed here.
        intervals: 95 % bootstrap intervals over videos, for metrics with an interval.
        items: Values of each query or video, for metrics that are means.
        n_queries: Number of queries of the ground truth; number of videos if captions or clips are scored.
        n_missing: Number of queries without a row among the predictions.
        n_unparsed: Number of queries with a row without a result to score.
        notes: Issues of the files.
    """

    task: str
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    items: Mapping[str, Mapping[str, float]] = field(repr=False)
    n_queries: int
    n_missing: int
    n_unparsed: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """One flat object: the metrics, the counts, the intervals as `ci`, and the notes."""
        return {
            **self.metrics,
            "n_queries": self.n_queries,
            "n_missing": self.n_missing,
            "n_unparsed": self.n_unparsed,
            "ci": {name: list(ends) for name, ends in self.intervals.items()},
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """A table of the metrics with their intervals, and the counts."""
        lines = ["| metric | value | 95 % interval |", "| --- | ---: | --- |"]
        for name, value in self.metrics.items():
            interval = "" if name not in self.intervals else "[{:.4f}, {:.4f}]".format(*self.intervals[name])
            lines.append(f"| {name} | {'-' if value is None else format(value, '.4f')} | {interval} |")
        counts = f"{self.n_queries} queries, {self.n_missing} missing, {self.n_unparsed} unparsed"
        return "\n".join([*lines, "", counts, *(f"note: {note}" for note in self.notes)])


def score_files(predictions: Path, ground_truth: Path, task: ScoreTask, *, resamples: int = 2000) -> Scores:
    """Score a file of predictions against a file of ground truth.

    Args:
        predictions: File of predictions in a format of the original or ours; see `timechat.evaluation.readers`.
        ground_truth: File of the ground truth, in the same formats.
        task: Task whose rules apply.
        resamples: Number of bootstrap resamples for the intervals.

    Raises:
        DataError: A file is missing or has no data of this task.
        ModuleNotFoundError: Captions need the extra `eval`, which is not installed.
        ValueError: There is no such task.
    """
    if task not in _SCORERS:
        raise ValueError(f"task must be one of {', '.join(_SCORERS)}, got {task!r}")
    return _SCORERS[task](predictions, ground_truth, resamples)


@dataclass
class _Table:
    """Values by metric and query, from which `scores` makes `Scores`."""

    queries: Sequence[str]
    groups: Sequence[Hashable]
    resamples: int
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, columns: Mapping[str, NDArray[np.float64]], *, where: NDArray[np.bool_] | None = None) -> None:
        """Add metrics that are means of one value per query; NaN values are ignored."""
        for name, values in columns.items():
            kept = np.isfinite(values) if where is None else np.isfinite(values) & where
            self.columns[name] = np.where(kept, values, np.nan)
            if not kept.any():
                self.metrics[name] = None
                continue
            groups = [group for group, is_kept in zip(self.groups, kept, strict=True) if is_kept]
            estimate = bootstrap_mean(values[kept], groups, resamples=self.resamples)
            self.metrics[name] = estimate.value
            self.intervals[name] = (estimate.low, estimate.high)

    def scores(self, task: str, n_missing: int, n_unparsed: int, issues: InputIssues) -> Scores:
        """Return the scores with the counts and the notes."""
        items = {
            query: {name: float(values[i]) for name, values in self.columns.items() if np.isfinite(values[i])}
            for i, query in enumerate(self.queries)
        }
        return Scores(task, self.metrics, self.intervals, items, len(self.queries), n_missing, n_unparsed, issues.notes)


def _check_ids(
    predictions: Path, predicted: Mapping[str, Any], ground_truth: Mapping[str, Any], what: str, issues: InputIssues
) -> None:
    """Count predictions that are not in the ground truth; if all are, raise a `DataError` with ids of both files."""
    num_unknown = sum(name not in ground_truth for name in predicted)
    if predicted and num_unknown == len(predicted):
        raise DataError(
            f"{predictions}: none of its {what} is in the ground truth; it has {_examples(predicted)}, "
            f"and the ground truth has {_examples(ground_truth)}; give predictions for the same {what}"
        )
    for _ in range(num_unknown):
        issues.add(f"predicted {what} are not in the ground truth and were ignored")


def _examples(names: Mapping[str, Any]) -> str:
    shown = ", ".join(repr(name if len(name) <= 80 else f"{name[:79]}…") for name in list(names)[:3])
    return f"{shown}, ..." if len(names) > 3 else shown


def _as_in_truth(predicted: Mapping[str, Value], ground_truth: Mapping[str, Any]) -> dict[str, Value]:
    """Predictions by `video_key`, under the names that the videos have in the ground truth."""
    names = {video_key(video): video for video in ground_truth}
    return {names.get(key, key): value for key, value in predicted.items()}


# -------------------------------------------------------------------------------------------- dense captions


def _score_captions(predictions: Path, truth_file: Path, resamples: int) -> Scores:
    issues = InputIssues()
    ground_truth = read_caption_ground_truth(truth_file, issues)
    predicted = _as_in_truth(read_caption_predictions(predictions, issues), ground_truth)
    _check_ids(predictions, predicted, ground_truth, "videos", issues)
    nothing = CaptionedVideo(np.zeros((0, 2)), ())
    answered = [predicted.get(video, nothing) for video in ground_truth]
    reference = list(ground_truth.values())
    table = _Table(list(ground_truth), list(ground_truth), resamples)
    _add_words(table, reference, answered, [video in predicted for video in ground_truth], issues)
    found = [detect(one.spans, other.spans) for one, other in zip(reference, answered, strict=True)]
    table.add({name: np.array([getattr(one, name) for one in found]) for name in ("precision", "recall", "f1")})
    for i, threshold in enumerate(THRESHOLDS):
        table.add({f"precision_{threshold}": np.array([one.precisions[i] for one in found])})
        table.add({f"recall_{threshold}": np.array([one.recalls[i] for one in found])})
    table.add({"predictions_per_video": np.array([float(len(one.captions)) for one in answered])})
    missing = sum(video not in predicted for video in ground_truth)
    unparsed = sum(video in predicted and not predicted[video].captions for video in ground_truth)
    return table.scores("dvc", missing, unparsed, issues)


def _add_words(
    table: _Table,
    ground_truth: Sequence[CaptionedVideo],
    predicted: Sequence[CaptionedVideo],
    are_there: Sequence[bool],
    issues: InputIssues,
) -> None:
    """Add the metrics of caption texts: the official ones if Java is installed, and the approximations."""
    has_java = java.java_is_ready()
    if not has_java:
        issues.say(NO_JAVA_NOTE)
    with java.MeteorProcess() if has_java else nullcontext() as meteor:
        if meteor is not None:
            videos = _tokenized(ground_truth, predicted, java.tokenize_ptb)
            table.add(_word_columns(videos, meteor.statistics))
            published = [soda_c_as_published(reference, answered, meteor.statistics) for reference, answered in videos]
            table.add({"soda_c_as_published": np.array(published)})
        else:
            table.metrics |= dict.fromkeys((*_WORDS, "soda_c_as_published"))
        _add_paragraphs(table, ground_truth, predicted, are_there, None if meteor is None else meteor.statistics)
    nearly = _word_columns(_tokenized(ground_truth, predicted, tokenize_treebank), ExactStemCounter().statistics)
    table.add({_APPROXIMATIONS[name]: values for name, values in nearly.items()})


def _tokenized(
    ground_truth: Sequence[CaptionedVideo],
    predicted: Sequence[CaptionedVideo],
    tokenize: Callable[[Sequence[str]], list[str]],
) -> list[tuple[TokenizedVideo, TokenizedVideo]]:
    """True and predicted captions of each video, tokenised in one call."""
    tokens = iter(tokenize([caption for video in (*ground_truth, *predicted) for caption in video.captions]))
    reference, answered = (
        [TokenizedVideo(video.spans, tuple(next(tokens) for _ in video.captions)) for video in videos]
        for videos in (ground_truth, predicted)
    )
    return list(zip(reference, answered, strict=True))


def _word_columns(
    videos: Sequence[tuple[TokenizedVideo, TokenizedVideo]], count: Count
) -> dict[str, NDArray[np.float64]]:
    """Values of each video for the metrics of `_WORDS`."""
    dense = [dense_scores(reference, answered, count) for reference, answered in videos]
    return {
        "soda_c": np.array([soda_c(reference, answered, count) for reference, answered in videos]),
        "cider": np.array([cider for cider, _ in dense]),
        "meteor": np.array([meteor for _, meteor in dense]),
    }


def _add_paragraphs(
    table: _Table,
    ground_truth: Sequence[CaptionedVideo],
    predicted: Sequence[CaptionedVideo],
    are_there: Sequence[bool],
    count: Count | None,
) -> None:
    """Add the metrics of all captions of a video as one text.

    The published variant has no text for a video without predictions and so compares later texts with other videos.
    """
    references = [paragraph(video.captions) for video in ground_truth]
    texts = [paragraph(video.captions) for video in predicted]
    pairs = list(zip(texts, references, strict=True))
    shifted = list(
        zip([text for text, is_there in zip(texts, are_there, strict=True) if is_there], references, strict=False)
    )
    table.add({"para_cider": cider_scores(pairs)})
    table.metrics["para_meteor"] = None
    if count is not None:
        rows = _without_whole_chunks(count(pairs))
        table.metrics["para_meteor"] = float(meteor_score(rows.sum(axis=0)))
        table.intervals["para_meteor"] = bootstrap_total(rows, meteor_score, resamples=table.resamples)
    table.metrics["para_cider_as_published"] = float(cider_scores(shifted).mean()) if shifted else 0.0
    table.metrics["para_meteor_as_published"] = None
    if count is not None:
        table.metrics["para_meteor_as_published"] = (
            float(meteor_score(combined_statistics(count(shifted)))) if shifted else 0.0
        )


def _without_whole_chunks(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistics of pairs in additive form."""
    return np.array([combined_statistics(row) for row in statistics]).reshape(statistics.shape)


# ------------------------------------------------------------------------------------------------- grounding


def _score_spans(predictions: Path, truth_file: Path, resamples: int) -> Scores:
    issues = InputIssues()
    ground_truth = read_span_ground_truth(truth_file, issues)
    predicted = read_span_predictions(predictions, issues)
    _check_ids(predictions, predicted, ground_truth, "queries", issues)
    ious = answered_iou(
        [predicted.get(query) for query in ground_truth], np.array([one.span for one in ground_truth.values()])
    )
    are_there = np.array([query in predicted for query in ground_truth])
    table = _Table(list(ground_truth), [one.video for one in ground_truth.values()], resamples)
    columns = per_query(ious)
    table.add(columns)
    table.add({name + _PREDICTED_ONLY: values for name, values in columns.items()}, where=are_there)
    unparsed = sum(query in predicted and predicted[query] is None for query in ground_truth)
    return table.scores("tvg", int((~are_there).sum()), unparsed, issues)


# ------------------------------------------------------------------------------------------------- highlights


def _score_highlights(predictions: Path, truth_file: Path, resamples: int) -> Scores:
    issues = InputIssues()
    ground_truth, predicted = _read_queries(predictions, truth_file, "scores", issues)
    rated = {query: one for query, one in ground_truth.items() if one.highlights is not None}
    table = _Table(list(rated), [one.video for one in rated.values()], resamples)
    answered = [predicted.get(query, PredictedQuery()).scores for query in rated]
    columns = highlight_scores(answered, [one.highlights for one in rated.values() if one.highlights is not None])
    table.add(columns)
    is_scored = np.array([scores is not None for scores in answered])
    table.add({name + _PREDICTED_ONLY: values for name, values in columns.items()}, where=is_scored)
    published = [predicted.get(query, PredictedQuery()).scores_as_published for query in rated]
    if any(scores is not None for scores in published):
        columns = highlight_scores(published, [one.highlights for one in rated.values() if one.highlights is not None])
        table.add({f"{name}_as_published": values for name, values in columns.items()}, where=is_scored)
    missing = sum(query not in predicted for query in rated)
    unparsed = sum(query in predicted and predicted[query].scores is None for query in rated)
    return table.scores("vhd", missing, unparsed, issues)


def _score_moments(predictions: Path, truth_file: Path, resamples: int) -> Scores:
    issues = InputIssues()
    ground_truth, predicted = _read_queries(predictions, truth_file, "windows", issues)
    asked = {query: one for query, one in ground_truth.items() if len(one.windows)}
    table = _Table(list(asked), [one.video for one in asked.values()], resamples)
    answers = [predicted.get(query, PredictedQuery()) for query in asked]
    table.add(moment_retrieval_scores([one.windows for one in answers], [one.windows for one in asked.values()]))
    if any(one.scores is not None for one in answers) and all(one.highlights is not None for one in asked.values()):
        columns = highlight_scores(
            [one.scores for one in answers], [one.highlights for one in asked.values() if one.highlights is not None]
        )
        for level, official in _LEVELS.items():
            table.add({f"HL-min-{official}-mAP": columns[f"map_{level}"]})
            table.add({f"HL-min-{official}-Hit1": columns[f"hit1_{level}"]})
    missing = sum(query not in predicted for query in asked)
    unparsed = sum(
        query in predicted and (one.windows is None or not len(one.windows.spans))
        for query, one in zip(asked, answers, strict=True)
    )
    return table.scores("mr", missing, unparsed, issues)


def _read_queries(
    predictions: Path, truth_file: Path, part: Literal["scores", "windows"], issues: InputIssues
) -> tuple[dict[str, GroundTruthQuery], dict[str, PredictedQuery]]:
    ground_truth = read_query_ground_truth(truth_file, issues)
    what, keys, task = _KEYS_OF_PART[part]
    num_left_out = sum(
        one.highlights is None if part == "scores" else not len(one.windows) for one in ground_truth.values()
    )
    if num_left_out == len(ground_truth):
        raise DataError(f"{truth_file}: has no {keys}; give the ground truth of {task}")
    for _ in range(num_left_out):
        issues.add(f"queries of the ground truth have no {what} ({keys}) and were left out")
    predicted = read_query_predictions(predictions, ground_truth, issues, part=part)
    _check_ids(predictions, predicted, ground_truth, "queries", issues)
    return ground_truth, predicted


# ----------------------------------------------------------------------------------------------------- TVSum


def _score_summaries(predictions: Path, truth_file: Path, resamples: int) -> Scores:
    issues = InputIssues()
    ground_truth = read_label_ground_truth(truth_file, issues)
    predicted = _as_in_truth(read_label_predictions(predictions, issues), ground_truth)
    _check_ids(predictions, predicted, ground_truth, "videos", issues)
    table = _Table(list(ground_truth), list(ground_truth), resamples)
    values = [top_5_average_precision(predicted.get(video) or (), labels) for video, labels in ground_truth.items()]
    table.add({"top5_map": np.array(values)})
    unparsed = sum(video in predicted and not predicted[video] for video in ground_truth)
    return table.scores("tvsum", sum(video not in predicted for video in ground_truth), unparsed, issues)


_SCORERS: Mapping[ScoreTask, Callable[[Path, Path, int], Scores]] = {
    "dvc": _score_captions,
    "tvg": _score_spans,
    "vhd": _score_highlights,
    "mr": _score_moments,
    "tvsum": _score_summaries,
}
