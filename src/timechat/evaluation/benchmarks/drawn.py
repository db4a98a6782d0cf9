"""Drawn films, as `timechat data draw` makes them: grounding, dense captions, highlights, questions with options."""

import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from timechat.data.records import Record
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles
from timechat.evaluation.benchmarks.captions import joined_captions
from timechat.evaluation.films import DrawnFilm, read_films
from timechat.evaluation.metrics.answers import normalize_answer
from timechat.evaluation.metrics.highlights import CLIP_SECONDS
from timechat.evaluation.samples import Sample

TASKS = ("grounding", "dense_caption", "highlights", "qa")
CHOICE = "choice"
"""Group of the questions with options."""
_MOST_OPTIONS = 4


def read_drawn(source: BenchmarkFiles) -> Iterator[Sample]:
    """Films with everything that is asked about them; every question once more with options.

    Queries for what never happens are left out: they have no span to be compared with.
    """
    films = read_films(source.annotations, tasks=TASKS)
    answers = _answers_by_kind(films)
    for film in films:
        for record in film.records:
            if record.task == "qa":
                yield from _questions(film, record, answers[_kind(record)])
            elif record.task != "grounding" or record.events:
                yield _sample(film, record)


def _sample(film: DrawnFilm, record: Record) -> Sample:
    return Sample(
        id=record.id,
        video=film.video,
        task=record.task,  # type: ignore[arg-type]
        query=record.query,
        duration=film.duration,
        ground_truth=_TRUTH[record.task](film, record),
        group=film.part,
    )


def _grounding_truth(film: DrawnFilm, record: Record) -> dict[str, Any]:
    event = record.events[0]
    span = [event.start, event.end]
    return {"id": record.id, "image_id": film.video, "caption": record.query, "timestamp": span}


def _caption_truth(film: DrawnFilm, record: Record) -> dict[str, Any]:
    return {
        "image_id": film.video,
        "id": record.id,
        "duration": film.duration,
        "segments": [[event.start, event.end] for event in record.events],
        "pure_cap": joined_captions([event.caption for event in record.events]),
    }


def _highlight_truth(film: DrawnFilm, record: Record) -> dict[str, Any]:
    moments: Sequence[Mapping[str, float]] = record.extra.get("moments", ())
    return {
        "qid": record.id,
        "query": record.query,
        "vid": film.video,
        "duration": film.duration,
        "relevant_clip_ids": [int(moment["start"] // CLIP_SECONDS) for moment in moments],
        "saliency_scores": [[moment["score"]] for moment in moments],
    }


_TRUTH = {"grounding": _grounding_truth, "dense_caption": _caption_truth, "highlights": _highlight_truth}


def _questions(film: DrawnFilm, record: Record, others: Sequence[str]) -> Iterator[Sample]:
    question, answer = record.turns[0]
    common = {"video": film.video, "task": "ask", "words": question, "duration": film.duration, "answer": answer}
    yield Sample(id=record.id, group=_kind(record), **common)  # type: ignore[arg-type]
    options = _options(record.id, answer, others)
    if len(options) > 1:
        yield Sample(id=f"{record.id}:{CHOICE}", group=CHOICE, options=options, rank_options=True, **common)  # type: ignore[arg-type]


def _options(record_id: str, answer: str, others: Sequence[str]) -> tuple[str, ...]:
    """The answer among up to three that other questions of its kind have, in an order drawn for the record."""
    rng = random.Random(zlib.crc32(record_id.encode()))
    wrong = [other for other in others if normalize_answer(other) != normalize_answer(answer)]
    options = [answer, *rng.sample(wrong, min(_MOST_OPTIONS - 1, len(wrong)))]
    rng.shuffle(options)
    return tuple(options)


def _answers_by_kind(films: Sequence[DrawnFilm]) -> dict[str, list[str]]:
    found: dict[str, dict[str, str]] = {}
    for film in films:
        for record in film.records:
            if record.task == "qa":
                answer = record.turns[0][1]
                found.setdefault(_kind(record), {}).setdefault(normalize_answer(answer), answer)
    return {kind: list(answers.values()) for kind, answers in found.items()}


def _kind(record: Record) -> str:
    return str(record.extra.get("kind", "question"))
