"""Answers to questions → accuracy with intervals, in total and for each part of a benchmark."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from timechat.evaluation.benchmarks import Benchmark
from timechat.evaluation.metrics.answers import answer_hits
from timechat.evaluation.metrics.choices import choice_metrics
from timechat.evaluation.metrics.intervals import bootstrap_mean
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.score import Scores
from timechat.evaluation.tables import group_names

Pairs = Sequence[tuple[Sample, Prediction]]


def score_questions(benchmark: Benchmark, pairs: Pairs, *, resamples: int = 2000) -> dict[str, Scores]:
    """Score answers to questions.

    Args:
        benchmark: Benchmark of the questions.
        pairs: Samples with their predictions; samples without a reference answer are ignored.
        resamples: Number of bootstrap resamples for the intervals; whole videos are resampled.

    Returns:
        Scores by kind: `questions` with answers in words, and `choices` among options; absent kinds are omitted.
    """
    known = [pair for pair in pairs if pair[0].answer is not None]
    in_words = [pair for pair in known if not pair[0].options]
    choices = [pair for pair in known if pair[0].options]
    result = {}
    if in_words:
        texts = [_text(prediction) for _, prediction in in_words]
        hits = answer_hits(texts, [sample.answer or "" for sample, _ in in_words])
        result["questions"] = _scores("questions", in_words, {"accuracy": hits}, resamples, unparsed=0)
    if choices:
        metrics = choice_metrics(
            [_text(prediction) for _, prediction in choices],
            [sample.options for sample, _ in choices],
            [sample.answer or "" for sample, _ in choices],
            published_rule=benchmark.published_rule,
        )
        are_unparsed = metrics.pop("unparsed")
        metrics["accuracy_of_guessing"] = np.array([1 / len(sample.options) for sample, _ in choices])
        result["choices"] = _scores("choices", choices, metrics, resamples, unparsed=int(are_unparsed.sum()))
    return result


def _text(prediction: Prediction) -> str | None:
    return prediction.text if prediction.is_answered else None


def _scores(
    name: str, pairs: Pairs, metrics: Mapping[str, NDArray[np.float64]], resamples: int, *, unparsed: int
) -> Scores:
    videos = [sample.video for sample, _ in pairs]
    groups = [sample.groups[:1] for sample, _ in pairs]  # the kinds of questions
    parts = {"": np.ones(len(pairs), dtype=bool)}
    parts |= {f"_{group}": np.array([group in one for one in groups]) for group in group_names(groups)}
    values: dict[str, float | None] = {}
    intervals = {}
    for part, where in parts.items():
        for metric, column in metrics.items():
            if part and metric != "accuracy":
                continue
            kept = [video for video, is_kept in zip(videos, where, strict=True) if is_kept]
            estimate = bootstrap_mean(column[where], kept, resamples=resamples)
            values[metric + part] = estimate.value
            intervals[metric + part] = (estimate.low, estimate.high)
    items = {
        sample.id: {metric: float(column[i]) for metric, column in metrics.items()}
        for i, (sample, _) in enumerate(pairs)
    }
    missing = sum(not prediction.is_answered for _, prediction in pairs)
    return Scores(name, values, intervals, items, len(pairs), missing, max(0, unparsed - missing))
