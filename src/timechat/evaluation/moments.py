"""Grounding in long films: what was told of each query, and the figures of it for each length of film."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Answer
from timechat.answers.parsing import Parsed
from timechat.data.records import Record
from timechat.evaluation.baselines import expected_figures
from timechat.evaluation.films import DrawnFilm
from timechat.evaluation.metrics.calibration import auroc, best_threshold
from timechat.evaluation.metrics.grounding import Span, per_query
from timechat.evaluation.metrics.moments import fit_moment, match_moments
from timechat.evaluation.report import Report, Table, estimate_row
from timechat.evaluation.scoring import Figures

_UNREAD = Parsed([], is_unparsed=True).notes[0]
_BEST = {"r1_iou_0.3": "R@1 IoU 0.3", "r1_iou_0.5": "R@1 IoU 0.5", "r1_iou_0.7": "R@1 IoU 0.7", "miou": "mIoU"}
_BORDERS = {"start_error": "start, seconds off", "end_error": "end, seconds off"}


@dataclass(frozen=True, slots=True)
class ToldMoments:
    """What was told of one query, as it is kept on disk.

    Attributes:
        spans: Seconds, the best first.
        scores: Of the spans; None where nobody said.
        found: Whether it was said to happen.
        score: How sure that it happens, from 0 to 1.
        step: Resolution in seconds.
        is_unread: Whether an answer, to one window at least, gave no moment and did not deny that there is one.
        seconds: Time that it took, with all that had to be encoded for it.
    """

    spans: tuple[Span, ...]
    scores: tuple[float | None, ...]
    found: bool
    score: float | None
    step: float | None
    is_unread: bool
    seconds: float

    @classmethod
    def from_answer(cls, answer: Answer, seconds: float) -> "ToldMoments":
        """Take what matters of an answer."""
        return cls(
            tuple((event.start, event.end) for event in answer.events),
            tuple(event.score for event in answer.events),
            bool(answer.events) if answer.found is None else answer.found,
            answer.score,
            answer.step,
            _UNREAD in answer.notes,
            seconds,
        )

    @classmethod
    def from_json(cls, text: str) -> "ToldMoments":
        """Read what `to_json` gives."""
        values = json.loads(text)
        spans = tuple((start, end) for start, end in values.pop("spans"))
        return cls(spans, tuple(values.pop("scores")), **values)

    def to_json(self) -> str:
        """Write it on one line."""
        return json.dumps(asdict(self))


Told = Mapping[str, Mapping[str, ToldMoments]]
"""What was told in one way of asking, by film and record."""


def minutes(film: DrawnFilm) -> int:
    """Length by which films are told apart."""
    return round(film.duration / 60)


# ------------------------------------------------------------------------------------------------- figures


def best_figures(films: Sequence[DrawnFilm], told: Told) -> tuple[Figures, Figures]:
    """Score the best moment of each query for something that happens.

    Returns:
        `r1_iou_0.3`, ..., `miou` and `unread` of each query; and `start_error` and `end_error` in seconds of those
        answers whose IoU is 0.3 or more.
    """
    hits, borders = Figures(), Figures()
    for film, record, moments in _asked(films, told):
        if not record.events:
            continue
        fit = fit_moment(moments.spans[0] if moments.spans else None, _truth(record))
        figures = {name: float(value) for name, value in per_query(fit.iou).items()}
        hits.add(film, film.kind(record), figures | {"unread": float(moments.is_unread)})
        if fit.start_error is not None and fit.end_error is not None:
            borders.add(film, film.kind(record), {"start_error": fit.start_error, "end_error": fit.end_error})
    return hits, borders


def random_event_figures(films: Sequence[DrawnFilm]) -> Figures:
    """What a random event of the film scores for the same queries, on average."""
    figures = Figures()
    for film in films:
        for record in film.records:
            if record.task == "grounding" and record.events:
                figures.add(film, film.kind(record), expected_figures(film.spans(), _truth(record)))
    return figures


def all_figures(films: Sequence[DrawnFilm], told: Told) -> tuple[Figures, Figures]:
    """Score all moments of each query at an IoU of 0.5: `precision` of each told, `recall` of each that there is."""
    precision, recall = Figures(), Figures()
    for film, record, moments in _asked(films, told):
        matched = match_moments(moments.spans, _truth(record))
        for is_right in matched.is_right:
            precision.add(film, film.kind(record), {"precision": float(is_right)})
        for is_found in matched.is_found:
            recall.add(film, film.kind(record), {"recall": float(is_found)})
    return precision, recall


def found_figures(films: Sequence[DrawnFilm], told: Told) -> tuple[Figures, Figures]:
    """Score whether it happens at all: `precision` of each query said to happen, `recall` of each that does."""
    precision, recall = Figures(), Figures()
    for film, record, moments in _asked(films, told):
        if moments.found:
            precision.add(film, film.kind(record), {"precision": float(bool(record.events))})
        if record.events:
            recall.add(film, film.kind(record), {"recall": float(moments.found)})
    return precision, recall


def happening_scores(films: Sequence[DrawnFilm], told: Told) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How sure it was that each query happens, `(queries,)`, and whether it does; queries without a score left out."""
    pairs = [(m.score, bool(record.events)) for _, record, m in _asked(films, told) if m.score is not None]
    return np.array([score for score, _ in pairs]), np.array([happens for _, happens in pairs], dtype=bool)


def moment_scores(films: Sequence[DrawnFilm], told: Told) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score of every moment that was told, `(moments,)`, and whether it is right (IoU 0.5); none without a score."""
    scores: list[float] = []
    is_right: list[bool] = []
    for _, record, moments in _asked(films, told):
        matched = match_moments(moments.spans, _truth(record))
        for score, right in zip(moments.scores, matched.is_right, strict=True):
            if score is not None:
                scores.append(score)
                is_right.append(right)
    return np.array(scores), np.array(is_right, dtype=bool)


def _asked(films: Sequence[DrawnFilm], told: Told) -> Iterator[tuple[DrawnFilm, Record, ToldMoments]]:
    for film in films:
        for record in film.records:
            if record.task == "grounding" and record.id in told.get(film.video, {}):
                yield film, record, told[film.video][record.id]


def _truth(record: Record) -> NDArray[np.float64]:
    return np.array([(event.start, event.end) for event in record.events]).reshape(-1, 2)


# -------------------------------------------------------------------------------------------------- report


def report_moments(
    films: Sequence[DrawnFilm], told: Mapping[str, Told], *, heading: str, facts: Mapping[str, Any] | None = None
) -> Report:
    """Put the figures of every length of film into tables.

    Args:
        films: Of all lengths, with their records.
        told: By the way of asking. Every way has a row for the best moment, for borders and for `found`; all moments
            are scored where several were asked for, in ways whose name starts with `"all"`.
        heading: What was evaluated.
        facts: The same for programs.

    Raises:
        ValueError: Nothing was told.
    """
    rows = [
        (f"{length}_{way}", f"{length} min, {way}", of_length, answers)
        for length in sorted({minutes(film) for film in films})
        for of_length in [[film for film in films if minutes(film) == length]]
        for way, answers in told.items()
        if any(True for _ in _asked(of_length, answers))
    ]
    if not rows:
        raise ValueError("there are no answers to score")
    best: dict[str, tuple[str, tuple[Any, ...]]] = {}
    borders: dict[str, tuple[str, tuple[Any, ...]]] = {}
    every: dict[str, tuple[str, tuple[Any, ...]]] = {}
    found: dict[str, tuple[str, tuple[Any, ...]]] = {}
    details: dict[str, dict[str, float]] = {}
    columns = _BEST | {"unread": "unread"}
    for name, head, of_length, answers in rows:
        hits, errors = best_figures(of_length, answers)
        best[name] = (head, estimate_row(hits, list(columns)))
        borders[name] = (head, estimate_row(errors, list(_BORDERS)))
        if name.split("_", 1)[1].startswith("all"):
            every[name] = (head, _joined(all_figures(of_length, answers)))
        found[name] = (head, _joined(found_figures(of_length, answers)))
        details[name] = _details(of_length, answers, errors)
    for length in sorted({minutes(film) for film in films}):
        random_event = random_event_figures([film for film in films if minutes(film) == length])
        best[f"{length}_random_event"] = (
            f"{length} min, a random event of the film (expected)",
            estimate_row(random_event, list(columns)),
        )
    pair = {"precision": "precision", "recall": "recall"}
    tables = (
        Table("best", "The best moment", columns, best, "Against any of the occurrences."),
        Table("borders", "Borders of moments with an IoU of 0.3 or more", _BORDERS, borders, _tell_medians(details)),
        Table("all", "All moments, IoU 0.5", pair, every, "n: of the larger of both counts."),
        Table("found", "Whether it happens", pair, found, _tell_thresholds(details)),
    )
    return Report(heading, {**(facts or {}), "details": details}, tuple(table for table in tables if table.rows))


def _joined(figures: tuple[Figures, Figures]) -> tuple[Any, ...]:
    return (*estimate_row(figures[0], ["precision"]), *estimate_row(figures[1], ["recall"]))


def _details(films: Sequence[DrawnFilm], told: Told, errors: Figures) -> dict[str, float]:
    """What has no interval: medians, how well scores part what happens from what does not, and seconds of work."""
    details = {f"median_{name}": float(np.median(values)) for name, values in errors.values.items()}
    scores, happens = happening_scores(films, told)
    if happens.any() and not happens.all():
        best = best_threshold(scores, happens)
        details |= {"auroc": auroc(scores, happens), "best_threshold": best.threshold}
        details |= {"best_precision": best.precision, "best_recall": best.recall}
    seconds = [moments.seconds for _, _, moments in _asked(films, told)]
    steps = [moments.step for _, _, moments in _asked(films, told) if moments.step is not None]
    return (
        details | {"seconds_a_question": float(np.mean(seconds))} | ({"step": float(np.mean(steps))} if steps else {})
    )


def _tell_medians(details: Mapping[str, Mapping[str, float]]) -> str:
    told = [
        f"{name} {one['median_start_error']:.2f} and {one['median_end_error']:.2f}"
        for name, one in details.items()
        if "median_start_error" in one
    ]
    return f"Medians of start and end, seconds: {'; '.join(told)}." if told else ""


def _tell_thresholds(details: Mapping[str, Mapping[str, float]]) -> str:
    told = [
        f"{name} {one['auroc']:.3f}, {one['best_precision']:.3f} and {one['best_recall']:.3f} from "
        f"{one['best_threshold']:.3f} on"
        for name, one in details.items()
        if "auroc" in one
    ]
    return (
        f"AUROC of the scores, and precision and recall at the threshold of the best F1: {'; '.join(told)}."
        if told
        else ""
    )
