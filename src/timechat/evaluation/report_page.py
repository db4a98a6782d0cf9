"""Report of a run as one HTML page: metrics, error analysis, calibration, and the worst answers with a player each."""

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from timechat.answers.events import format_time
from timechat.evaluation.error_analysis import Analysis, Bar, Case, Chart, Mark, analyse
from timechat.evaluation.evaluate import STATUS_WORDS, Evaluation
from timechat.evaluation.metrics.calibration import Reliability
from timechat.evaluation.predict import find_video
from timechat.evaluation.score import Scores
from timechat.files import address_from, write_text_atomically

REPORT_FILE = "report.html"
_WIDTH, _HEIGHT, _FOOT, _HEAD = 460, 220, 40, 18  # size of a chart, in SVG units
_LETTER = 6.0  # approximate width of a letter of a label
_MOST_CHARACTERS = 1500  # maximum length of an answer's text


def write_report_page(evaluation: Evaluation, *, num_worst: int = 24) -> Path:
    """Write the page of a run into its folder; the page needs no other files except the videos that it links to.

    Args:
        evaluation: Evaluation of the run.
        num_worst: Maximum number of answers in the list of the worst answers.

    Returns:
        Path of the page.
    """
    path = Path(evaluation.recipe.run.output) / REPORT_FILE
    write_text_atomically(path, report_page(evaluation, analyse(evaluation, num_worst=num_worst), path.parent))
    return path


def report_page(evaluation: Evaluation, analysis: Analysis, folder: Path) -> str:
    """Render the page as HTML text.

    Args:
        evaluation: Evaluation of the run.
        analysis: Analysis of the run.
        folder: Folder of the page; links to videos are relative to it.
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
    # A single pass, so that text inside a value is never replaced as a placeholder.
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
    """Bar chart, scaled to 1 or to a higher maximum, with the same values as an accessible table."""
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
    """SVG attribute that fits a long label into the width of its bar."""
    is_long = len(label.replace(" to ", "…")) * _LETTER > room - 4
    return f' textLength="{room - 3:.0f}" lengthAdjust="spacingAndGlyphs"' if is_long else ""


def _short(label: str) -> str:
    return escape(label.replace(" to ", "…"))


def _bar_table(bars: Sequence[Bar]) -> str:
    rows = "".join(f"<tr><td>{escape(bar.label)}</td><td>{bar.value:.3f}</td><td>{bar.count}</td></tr>" for bar in bars)
    head = "<tr><th></th><th>value</th><th>n</th></tr>"
    return f"<details><summary>as a table</summary><table>{head}{rows}</table></details>"


def _reliability_chart(calibration: Reliability) -> str:
    """Chart of scores against the share of correct moments; the diagonal is perfect calibration."""
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
    axes = "Horizontal axis: score. Vertical axis: share with IoU 0.5 or more."
    note = f"<p class=soft>{axes} Expected calibration error {calibration.error:.3f}.</p>"
    return _figure("Calibration of the grounding scores", "".join(drawn), note + _bar_table(bars))


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
        lines.append(f"<p><b>correct:</b> {escape(sample.answer)}</p>")
    if sample.options:
        lines.append(f"<p class=soft>options: {escape(' | '.join(sample.options))}</p>")
    lines.append(f"<pre>{escape(prediction.text[:_MOST_CHARACTERS]) or '(nothing)'}</pre>")
    lines += [f"<p class=soft>note: {escape(note)}</p>" for note in prediction.notes]
    return f"<article class=card>{''.join(lines)}</article>"


def _player(video: str, evaluation: Evaluation, folder: Path) -> str:
    """HTML of the video player, with a relative link; a note if the file is missing."""
    path = find_video(Path(evaluation.recipe.benchmark.videos), video)
    if path is None or not path.is_file():
        return "<p class=soft>The video file is missing.</p>"
    address = address_from(path.resolve(), folder.resolve())
    return f'<video controls preload=none src="{escape(address)}"></video>'


def _lane(name: str, marks: Sequence[Mark], scale: float) -> str:
    """Marks on a timeline of the video; each mark plays the video from its start."""
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
