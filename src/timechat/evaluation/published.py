"""Published metrics to stand beside ours, each with its source."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_ALSO = {"activitynet_grounding": "activitynet_captions", "qvhighlights_moments": "qvhighlights"}
"""Benchmarks whose published metrics stand under another name."""


@dataclass(frozen=True, slots=True)
class PublishedMetrics:
    """What a paper says that a model scores.

    Attributes:
        benchmark: By its name in `BENCHMARKS`.
        setting: `"zero-shot"` or `"fine-tuned"`.
        model: As the paper calls it.
        metrics: By our names, in our units.
        source: `title`, `url` and `where`.
        confirmed: Whether the metric was found again in a text that could be read; others stand as they are remembered.
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
    """All that are known."""
    content = json.loads(files("timechat.evaluation").joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(PublishedMetrics(**entry) for entry in content["figures"])


def published_beside(benchmark: str, setting: str | None, names: Sequence[str]) -> list[PublishedMetrics]:
    """Those of a benchmark that share a metric with ours.

    Args:
        benchmark: By its name in `BENCHMARKS`.
        setting: Setting of the published metrics; None takes both.
        names: Names of our metrics.
    """
    name = _ALSO.get(benchmark, benchmark)
    return [
        one
        for one in published_metrics()
        if one.benchmark == name and setting in (None, one.setting) and set(one.metrics) & set(names)
    ]


def comparison_table(ours: Mapping[str, float | None], model: str, published: Sequence[PublishedMetrics]) -> str:
    """Our metrics above the published ones, in Markdown; metrics that could not be confirmed are marked."""
    names = [name for name in ours if any(name in one.metrics for one in published)]
    lines = [f"| {' | '.join(['', *names, 'source'])} |", f"| --- |{' ---: |' * len(names)} --- |"]
    lines.append(f"| **{model}** (this run) | {' | '.join(_cell(ours[name]) for name in names)} | |")
    for one in published:
        mark = "" if one.confirmed else " †"
        cells = " | ".join(_cell(one.metrics.get(name)) for name in names)
        source = f"[{one.source.get('where') or one.source.get('title', 'source')}]({one.source.get('url', '')})"
        lines.append(f"| {one.model}, {one.setting}{mark} | {cells} | {source} |")
    if any(not one.confirmed for one in published):
        lines += ["", "† not read again in its source"]
    return "\n".join(lines)


def to_rows(published: Sequence[PublishedMetrics]) -> list[dict[str, Any]]:
    """Ready for JSON."""
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
