"""Published metrics for comparison, each with its source."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_ALSO = {"activitynet_grounding": "activitynet_captions", "qvhighlights_moments": "qvhighlights"}
"""Names of benchmarks that share the published metrics of another benchmark."""


@dataclass(frozen=True, slots=True)
class PublishedMetrics:
    """Metrics of a model as reported in a paper.

    Attributes:
        benchmark: Name of the benchmark in `BENCHMARKS`.
        setting: Setting of the model, `"zero-shot"` or `"fine-tuned"`.
        model: Name of the model in the paper.
        metrics: Values by our metric names, in our units.
        source: Source of the metrics: `title`, `url` and `where`.
        confirmed: Whether the values were checked in an available text of the source; other values are unverified.
        note: Explanation for readers.
    """

    benchmark: str
    setting: str
    model: str
    metrics: Mapping[str, float]
    source: Mapping[str, str]
    confirmed: bool
    note: str = ""


@cache
def published_metrics() -> tuple[PublishedMetrics, ...]:
    """All known published metrics."""
    content = json.loads(files("timechat.evaluation").joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(PublishedMetrics(**entry) for entry in content["figures"])


def published_beside(benchmark: str, setting: str | None, names: Sequence[str]) -> list[PublishedMetrics]:
    """Published metrics of a benchmark that share a metric with our metrics.

    Args:
        benchmark: Name of the benchmark in `BENCHMARKS`.
        setting: Setting of the published metrics; None returns both.
        names: Names of our metrics.
    """
    name = _ALSO.get(benchmark, benchmark)
    return [
        one
        for one in published_metrics()
        if one.benchmark == name and setting in (None, one.setting) and set(one.metrics) & set(names)
    ]


def comparison_table(ours: Mapping[str, float | None], model: str, published: Sequence[PublishedMetrics]) -> str:
    """Table of our metrics above the published ones, in Markdown; unconfirmed metrics are marked."""
    names = [name for name in ours if any(name in one.metrics for one in published)]
    lines = [f"| {' | '.join(['', *names, 'source'])} |", f"| --- |{' ---: |' * len(names)} --- |"]
    lines.append(f"| **{model}** (this run) | {' | '.join(_cell(ours[name]) for name in names)} | |")
    for one in published:
        mark = "" if one.confirmed else " †"
        cells = " | ".join(_cell(one.metrics.get(name)) for name in names)
        source = f"[{one.source.get('where') or one.source.get('title', 'source')}]({one.source.get('url', '')})"
        lines.append(f"| {one.model}, {one.setting}{mark} | {cells} | {source} |")
    if any(not one.confirmed for one in published):
        lines += ["", "† not confirmed in its source"]
    return "\n".join(lines)


def to_rows(published: Sequence[PublishedMetrics]) -> list[dict[str, Any]]:
    """The published metrics as a JSON object."""
    return [
        {
            "model": one.model,
            "setting": one.setting,
            "metrics": dict(one.metrics),
            "source": dict(one.source),
            "confirmed": one.confirmed,
            "note": one.note,
        }
        for one in published
    ]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
