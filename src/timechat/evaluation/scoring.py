"""Score answers about drawn films: figures a question, beside what needs no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timechat.answers.events import clip_scores
from timechat.data.records import Record
from timechat.evaluation.asking import read_events
from timechat.evaluation.baselines import best_constant_span, best_iou, expected_figures, random_spans
from timechat.evaluation.films import DrawnFilm
from timechat.evaluation.metrics.answers import answer_hits, majority_answer
from timechat.evaluation.metrics.captioning import Attributes, detect, match_events
from timechat.evaluation.metrics.grounding import Span, per_query
from timechat.evaluation.metrics.highlights import CLIP_SECONDS, HighlightGroundTruth, highlight_scores
from timechat.evaluation.wordings import read_caption
from timechat.synthetic.wording import with_speech

HIGHLIGHT_LEVELS = {"relevant": 1.0, "good": 3.0}
"""Saliency from which a clip of a drawn film is a highlight: every clip that belongs to the query is rated 1 to 4."""
_GROUNDING_ROWS = ("asked", "asked_without_speech", "different_event", "gap", "random_event", "lead")
_SPEECH = with_speech("", []).partition(":")[0]
_MISSED = {"r1_iou_0.3": 0.0, "r1_iou_0.5": 0.0, "r1_iou_0.7": 0.0, "miou": 0.0}


@dataclass
class Figures:
    """Values by figure, one for each question, and where each question comes from.

    Attributes:
        films: The film of each value.
        parts: The part of the set that it belongs to.
        kinds: What kind of event or question it is about.
        values: By the name of the figure, as many as there are films in `films`.
    """

    films: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, film: DrawnFilm, kind: str, values: Mapping[str, float]) -> None:
        """Add one question's values; every call names the same figures."""
        self.films.append(film.video)
        self.parts.append(film.part)
        self.kinds.append(kind)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def __len__(self) -> int:
        return len(self.films)

    def only(self, *, part: str | None = None, kind: str | None = None) -> "Figures":
        """The questions of one part, of one kind, or of both."""
        kept = [i for i in range(len(self)) if part in (None, self.parts[i]) and kind in (None, self.kinds[i])]
        return Figures(
            [self.films[i] for i in kept],
            [self.parts[i] for i in kept],
            [self.kinds[i] for i in kept],
            {name: [values[i] for i in kept] for name, values in self.values.items()},
        )


# ------------------------------------------------------------------------------------------------- grounding


@dataclass(frozen=True, slots=True)
class GroundedQuery:
    """A query, what was answered, and what else happens in the film.

    Attributes:
        predicted: Seconds, None where no span could be read.
        truth: Seconds, of the event that was asked for.
        others: `(events, 2)` seconds, of every other event of the film; at least one.
    """

    predicted: Span | None
    truth: Span
    others: NDArray[np.float64]

    def figures(self) -> dict[str, dict[str, float]]:
        """R@1 and mIoU as `asked`, of the same answer on a `different_event`, and of a `random_event`."""
        if not len(self.others):
            raise ValueError("a film with a single event cannot tell a right answer from a different event")
        every = np.concatenate([np.array([self.truth]), self.others])
        random_event = expected_figures(every, self.truth)
        if self.predicted is None:
            return {"asked": dict(_MISSED), "different_event": dict(_MISSED), "random_event": random_event}
        return {
            "asked": expected_figures([self.predicted], self.truth),
            "different_event": _mean_figures(self.predicted, self.others),
            "random_event": random_event,
        }


def _mean_figures(predicted: Span, events: NDArray[np.float64]) -> dict[str, float]:
    """Figures of one answer, on average over the events that it is compared with."""
    return {name: float(values.mean()) for name, values in per_query(best_iou(events, predicted)).items()}


def grounding_figures(
    films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]], relative_spans: ArrayLike | None = None
) -> tuple[dict[str, Figures], Figures]:
    """Score grounding.

    Args:
        films: With their records.
        answers: By film, then by record.
        relative_spans: `(spans, 2)` of the training distribution as shares of the duration; None leaves out the
            baselines that need none of the answers.

    Returns:
        By row the figures of queries for something that happens: `asked`, with `unread` (answers without a span);
        `asked_without_speech`, those of them whose question tells nothing of what is said in the film;
        `different_event` and `random_event`; `gap` and `lead`, what `asked` has more than these two; `random_span`
        and `constant_span`. And whether queries for something that does not happen were answered without a span
        (`refused`).
    """
    rows: dict[str, Figures] = {name: Figures() for name in _GROUNDING_ROWS}
    absent = Figures()
    queries: list[tuple[DrawnFilm, str, Span]] = []
    for film, record, text in _answered(films, answers, "grounding"):
        found = read_events(text, record, film)
        if not record.events:
            absent.add(film, "absent", {"refused": float(not found)})
            continue
        truth = (record.events[0].start, record.events[0].end)
        predicted = (found[0].start, found[0].end) if found else None
        figures = GroundedQuery(predicted, truth, film.spans(apart_from=record.events)).figures()
        figures["gap"] = _difference(figures["asked"], figures["different_event"])
        figures["lead"] = _difference(figures["asked"], figures["random_event"])
        figures["asked"]["unread"] = float(not found)
        if not tells_speech(record.turns[0][0]):
            figures["asked_without_speech"] = figures["asked"]
        kind = film.kind(record)
        for name, values in figures.items():
            rows[name].add(film, kind, values)
        queries.append((film, kind, truth))
    if relative_spans is not None and queries:
        rows |= _blind_rows(queries, relative_spans)
    return rows, absent


def tells_speech(question: str) -> bool:
    """Whether a question tells what is said in the film, which may be enough to answer it."""
    return question.startswith(_SPEECH)


def _difference(figures: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
    return {name: value - others[name] for name, value in figures.items()}


def _blind_rows(queries: Sequence[tuple[DrawnFilm, str, Span]], relative_spans: ArrayLike) -> dict[str, Figures]:
    """Figures of answers that look at nothing but the film's duration."""
    truth = np.array([span for _, _, span in queries])
    durations = np.array([film.duration for film, _, _ in queries])
    rows = {
        "random_span": random_spans(truth, durations, relative_spans),
        "constant_span": best_constant_span(truth, durations),
    }
    result = {}
    for name, figures in rows.items():
        result[name] = Figures()
        for i, (film, kind, _) in enumerate(queries):
            result[name].add(film, kind, {figure: float(values[i]) for figure, values in figures.items()})
    return result


# --------------------------------------------------------------------------------------------------- captions


def caption_figures(
    films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Score dense captioning.

    Returns:
        By row (`model`, and `other_film`: the true events of another film of the same part, stretched to this one's
        duration) the figures of each film: `precision`, `recall`, `f1`, `unread`. And likewise those of each event
        that a prediction was matched with: whether `object`, `color`, `action` and `all` of them are right.
    """
    found = {name: Figures() for name in ("model", "other_film")}
    words = {name: Figures() for name in ("model", "other_film")}
    for film, record, text in _answered(films, answers, "dense_caption"):
        events = read_events(text, record, film)
        spans = [(event.start, event.end) for event in events]
        said = [(read_caption(event.caption),) for event in events]
        _score_captions(film, spans, said, found["model"], words["model"])
        other = _other_film(films, film)
        if other is not None:
            stretched = other.spans() * (film.duration / other.duration)
            readings = [event.readings for event in other.events]
            _score_captions(film, stretched.tolist(), readings, found["other_film"], words["other_film"])
    return found, words


def _score_captions(
    film: DrawnFilm,
    spans: Sequence[Sequence[float]],
    said: Sequence[Sequence[Attributes]],
    found: Figures,
    words: Figures,
) -> None:
    detection = detect(film.spans(), spans)
    figures = {name: float(getattr(detection, name)) for name in ("precision", "recall", "f1")}
    found.add(film, "film", figures | {"unread": float(not spans)})
    for i, j in match_events(film.spans(), np.array(spans).reshape(-1, 2)):
        event = film.events[i]
        agreements = [right.agrees(reading) for right in event.readings for reading in said[j]]
        words.add(film, event.kind, max(agreements, key=lambda same: sum(same.values())))


def _other_film(films: Sequence[DrawnFilm], film: DrawnFilm) -> DrawnFilm | None:
    """The next film of the same part, None where there is no other."""
    alike = [other for other in films if other.part == film.part]
    other = alike[(alike.index(film) + 1) % len(alike)]
    return None if other is film else other


# ------------------------------------------------------------------------------------- highlights and questions


def highlight_figures(films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]]) -> dict[str, Figures]:
    """Score highlight detection.

    Returns:
        By row (`model`, and the middle of a `random_event` of the film, and a `random_clip`, both expected) the
        figures of each query: `hit1_relevant`, `hit1_good` and, for the model, `map_relevant`, `map_good`, `unread`.
    """
    rows = {name: Figures() for name in ("model", "random_event", "random_clip")}
    for film, record, text in _answered(films, answers, "highlights"):
        truth = highlight_truth(record, film)
        events = read_events(text, record, film)
        scores = clip_scores(events, film.duration, CLIP_SECONDS) if events else None
        figures = {name: float(v[0]) for name, v in highlight_scores([scores], [truth], HIGHLIGHT_LEVELS).items()}
        rows["model"].add(film, "query", figures | {"unread": float(not events)})
        labels = truth.labels().max(axis=1)  # (clips,)
        middles = (film.spans().mean(axis=1) / CLIP_SECONDS).astype(int).clip(max=len(labels) - 1)
        for name, saliency in (("random_event", labels[middles]), ("random_clip", labels)):
            hits = {f"hit1_{level}": float((saliency >= least).mean()) for level, least in HIGHLIGHT_LEVELS.items()}
            rows[name].add(film, "query", hits)
    return rows


def highlight_truth(record: Record, film: DrawnFilm) -> HighlightGroundTruth:
    """The rated clips of a highlight query of a drawn film."""
    moments = record.extra.get("moments")
    if not moments:
        raise ValueError(f"the highlight record {record.id!r} has no 'moments'; draw the folder again")
    return HighlightGroundTruth(
        film.duration,
        tuple(int(moment["start"] // CLIP_SECONDS) for moment in moments),
        tuple((float(moment["score"]),) for moment in moments),
    )


def question_figures(films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]]) -> Figures:
    """Score short answers: `accuracy`, and that of always giving the most frequent answer to a kind of question."""
    asked = list(_answered(films, answers, "qa"))
    by_kind: dict[str, list[str]] = {}
    for _, record, _ in asked:
        by_kind.setdefault(_question_kind(record), []).append(record.turns[0][1])
    majority = {kind: majority_answer(right) for kind, right in by_kind.items()}
    figures = Figures()
    for film, record, text in asked:
        kind, right = _question_kind(record), record.turns[0][1]
        hits = answer_hits([text, majority[kind]], [right, right])
        figures.add(film, kind, {"accuracy": float(hits[0]), "majority": float(hits[1])})
    return figures


def _question_kind(record: Record) -> str:
    return str(record.extra.get("kind", "question"))


def _answered(
    films: Sequence[DrawnFilm], answers: Mapping[str, Mapping[str, str]], task: str
) -> list[tuple[DrawnFilm, Record, str]]:
    """Every record of a task that was answered."""
    return [
        (film, record, answers[film.video][record.id])
        for film in films
        for record in film.records
        if record.task == task and record.id in answers.get(film.video, {})
    ]
