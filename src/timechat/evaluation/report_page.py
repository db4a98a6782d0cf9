"""A run as one HTML page: its metrics, where it fails, how sure it was, and the worst answers with a player each."""

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from timechat.answers.events import format_time
from timechat.evaluation.error_analysis import Analysis, Bar, Case, Chart, Mark, analyse
from timechat.evaluation.evaluate import STATUS_WORDS, Evaluation
from timechat.evaluation.metrics.calibration import Reliability
from timechat.evaluation.predict import find_video
from timechat.evaluation.score import Scores
from timechat.files import write_text_atomically

REPORT_FILE = "report.html"
_WIDTH, _HEIGHT, _FOOT, _HEAD = 460, 220, 40, 18  # of a chart, in its own units
_LETTER = 6.0  # width of a label's letter, nearly
_MOST_CHARACTERS = 1500  # of an answer's text


def write_report_page(evaluation: Evaluation, *, num_worst: int = 24) -> Path:
    """Write the page of a run into its folder; it needs no other file but the videos, to which it refers.

    Args:
        evaluation: The run.
        num_worst: Maximum number of answers that are shown one by one.

    Returns:
        Where it is.
    """
    path = Path(evaluation.recipe.run.output) / REPORT_FILE
    write_text_atomically(path, report_page(evaluation, analyse(evaluation, num_worst=num_worst), path.parent))
    return path


def report_page(evaluation: Evaluation, analysis: Analysis, folder: Path) -> str:
    """The page as text.

    Args:
        evaluation: The run.
        analysis: Analysis of the run.
        folder: In which the page will lie; videos are referred to from there.
    """
    template = files("timechat.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script is not None
    metrics = evaluation.metrics
    charts = [_bar_chart(chart) for chart in analysis.charts]
    if analysis.reliability is not None:
        charts.append(_reliability_chart(analysis.reliability))
    values = {
        "script_hash": base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode(),
        "title": escape(f"{evaluation.benchmark.title}: {metrics['model']}"),
        "facts": escape(
            f"{metrics['samples']} samples · preset {metrics['preset']} ({metrics['preset_sha256'][:8]}) · "
            f"weights {metrics['weights'][:8]}"
        ),
        "statuses": "".join(
            f"<tr><td>{escape(STATUS_WORDS[status])}</td><td>{count}</td></tr>"
            for status, count in metrics["statuses"].items()
        ),
        "scores": "".join(_score_table(name, scores) for name, scores in evaluation.scores.items()),
        "charts": "".join(charts) or "<p>Nothing to draw.</p>",
        "cases": "".join(_case(case, evaluation, folder) for case in analysis.worst) or "<p>None.</p>",
    }
    # One pass, so that nothing in a value is taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _score_table(name: str, scores: Scores) -> str:
    rows = []
    for metric, value in scores.metrics.items():
        interval = "[{:.3f}, {:.3f}]".format(*scores.intervals[metric]) if metric in scores.intervals else ""
        shown = "-" if value is None else f"{value:.4f}"
        rows.append(f"<tr><th scope=row>{escape(metric)}</th><td>{shown}</td><td>{interval}</td></tr>")
    notes = "".join(f"<p class=soft>{escape(note)}</p>" for note in scores.notes)
    return (
        f"<details class=card open><summary>{escape(name.replace('_', ' '))}</summary>"
        f"<p class=soft>{scores.n_queries} queries, {scores.n_missing} missing, {scores.n_unparsed} unparsed</p>"
        f"<table><tr><th>metric</th><th>value</th><th>95 % interval</th></tr>{''.join(rows)}</table>{notes}</details>"
    )


# --------------------------------------------------------------------------------------------------- charts


def _bar_chart(chart: Chart) -> str:
    """Bars, the highest of which fills the height if it is not a share of 1; the same as a table for who cannot see."""
    highest = max((bar.value for bar in chart.bars), default=0.0) or 1.0
    step = (_WIDTH - 20) / max(1, len(chart.bars))
    drawn = []
    for i, bar in enumerate(chart.bars):
        height = bar.value / highest * (_HEIGHT - _FOOT - _HEAD)
        x, y = 10 + i * step, _HEIGHT - _FOOT - height
        middle = x + step / 2
        box = f'x="{x + step * 0.12:.1f}" y="{y:.1f}" width="{step * 0.76:.1f}" height="{height:.1f}"'
        squeezed = _squeezed(bar.label, step)
        drawn.append(
            f'<rect class=bar {box} rx="2"/>'
            f'<text x="{middle:.1f}" y="{y - 4:.1f}">{bar.value:.2f}</text>'
            f'<text class=label x="{middle:.1f}" y="{_HEIGHT - 24}"{squeezed}>{_short(bar.label)}</text>'
            f'<text class=label x="{middle:.1f}" y="{_HEIGHT - 8}">n {bar.count}</text>'
        )
    note = f"<p class=soft>{escape(chart.note)}</p>" if chart.note else ""
    return _figure(chart.title, "".join(drawn), note + _bar_table(chart.bars))


def _squeezed(label: str, room: float) -> str:
    """An attribute that makes a long label as wide as its bar has room."""
    is_long = len(label.replace(" to ", "…")) * _LETTER > room - 4
    return f' textLength="{room - 3:.0f}" lengthAdjust="spacingAndGlyphs"' if is_long else ""


def _short(label: str) -> str:
    return escape(label.replace(" to ", "…"))


def _bar_table(bars: Sequence[Bar]) -> str:
    rows = "".join(f"<tr><td>{escape(bar.label)}</td><td>{bar.value:.3f}</td><td>{bar.count}</td></tr>" for bar in bars)
    head = "<tr><th></th><th>value</th><th>n</th></tr>"
    return f"<details><summary>as a table</summary><table>{head}{rows}</table></details>"


def _reliability_chart(calibration: Reliability) -> str:
    """Scores against the share that is right; on the line they promise what they keep."""
    size = _HEIGHT - _FOOT - _HEAD

    def place(score: float, share: float) -> tuple[float, float]:
        return 40 + score * (_WIDTH - 60), _HEIGHT - _FOOT - share * size

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    drawn = [f'<line class=diagonal x1="{x0:.0f}" y1="{y0:.0f}" x2="{x1:.0f}" y2="{y1:.0f}"/>']
    points = [place(one.score, one.right) for one in calibration.bins]
    drawn.append(f'<polyline class=curve points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    drawn += [
        f'<circle class=bar cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        f'<text class=label x="{x:.1f}" y="{y - 8:.1f}">n {one.count}</text>'
        for (x, y), one in zip(points, calibration.bins, strict=True)
    ]
    for value in (0.0, 0.5, 1.0):
        x, y = place(value, value)
        drawn.append(f'<text class=label x="{x:.0f}" y="{_HEIGHT - 24}">{value:g}</text>')
        drawn.append(f'<text class=label x="22" y="{y + 4:.0f}">{value:g}</text>')
    bars = [Bar(f"scores around {one.score:.2f}", one.right, one.count) for one in calibration.bins]
    axes = "Across: the score; up: the share with IoU 0.5 or more."
    note = f"<p class=soft>{axes} Expected calibration error {calibration.error:.3f}.</p>"
    return _figure("Calibration: what scores of grounding promise and keep", "".join(drawn), note + _bar_table(bars))


def _figure(title: str, drawn: str, below: str) -> str:
    return (
        f"<figure class=card><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{escape(title)}">'
        f'<line class=base x1="8" y1="{_HEIGHT - _FOOT}" x2="{_WIDTH - 8}" y2="{_HEIGHT - _FOOT}"/>{drawn}</svg>{below}'
        "</figure>"
    )


# ------------------------------------------------------------------------------------------- the worst answers


def _case(case: Case, evaluation: Evaluation, folder: Path) -> str:
    sample, prediction = case.sample, case.prediction
    answered = [Mark(event.start, event.end, event.caption) for event in prediction.events]
    ends = [mark.end for mark in (*case.truth, *answered)]
    scale = float(prediction.duration or sample.duration or max(ends, default=0.0) or 1.0)
    lines = [
        f"<h3>{escape(sample.query or sample.task.replace('_', ' '))}</h3>",
        f"<p class=soft>{escape(sample.id)} · {escape(sample.video)} · {escape(case.metric)} {case.value:.3f} · "
        f"{escape(STATUS_WORDS[prediction.status])}</p>",
        _player(sample.video, evaluation, folder),
    ]
    if case.truth or answered:
        lines += [_lane("true", case.truth, scale), _lane("answered", answered, scale)]
    if sample.answer is not None:
        lines.append(f"<p><b>right:</b> {escape(sample.answer)}</p>")
    if sample.options:
        lines.append(f"<p class=soft>options: {escape(' | '.join(sample.options))}</p>")
    lines.append(f"<pre>{escape(prediction.text[:_MOST_CHARACTERS]) or '(nothing)'}</pre>")
    lines += [f"<p class=soft>note: {escape(note)}</p>" for note in prediction.notes]
    return f"<article class=card>{''.join(lines)}</article>"


def _player(video: str, evaluation: Evaluation, folder: Path) -> str:
    """The video, referred to from the page; nothing where there is no such file."""
    path = find_video(Path(evaluation.recipe.benchmark.videos), video)
    if path is None or not path.is_file():
        return "<p class=soft>The video is not here.</p>"
    address = quote(os.path.relpath(path.resolve(), folder.resolve()))
    return f'<video controls preload=none src="{escape(address)}"></video>'


def _lane(name: str, marks: Sequence[Mark], scale: float) -> str:
    """Marks on a line as long as the video; each plays the video from its start."""
    buttons = []
    for mark in marks:
        left = min(max(mark.start / scale, 0.0), 1.0) * 100
        width = min(max((mark.end - mark.start) / scale, 0.0) * 100, 100 - left)
        label = f"{format_time(max(0.0, mark.start))} to {format_time(max(0.0, mark.end))} {mark.words}".strip()
        buttons.append(
            f'<button class={name} data-time="{max(0.0, mark.start):.3f}" style="left:{left:.2f}%;width:{width:.2f}%" '
            f'title="{escape(label)}" aria-label="play {escape(label)}"></button>'
        )
    return f"<div class=row><span>{name}</span><div class=lane>{''.join(buttons)}</div></div>"
