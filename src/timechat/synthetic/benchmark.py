"""Synthetic videos as benchmarks: all tasks about short ones (`drawn`), and all moments of long ones (`drawn_moments`).

Both read a folder of `timechat data draw`. The caller passes `SYNTHETIC_BENCHMARKS` to `timechat.evaluation.evaluate`.
"""

import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.data.records import Record
from timechat.evaluation.baselines import stretched_segments
from timechat.evaluation.benchmarks import Benchmark, BenchmarkFiles
from timechat.evaluation.benchmarks.captions import joined_captions, split_captions
from timechat.evaluation.metrics.answers import normalize_answer
from timechat.evaluation.metrics.captioning import Attributes, match_events
from timechat.evaluation.metrics.highlights import CLIP_SECONDS
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.tables import MetricTable, Table, group_names
from timechat.synthetic.captions import correct_readings, read_caption
from timechat.synthetic.folder import StoredVideo, read_videos
from timechat.synthetic.scene import Level, write_scene
from timechat.synthetic.wording import with_speech

TASKS = ("grounding", "dense_caption", "highlights", "qa")
CHOICE = "choice"
"""Group of the questions with options."""
_MOST_OPTIONS = 4
_TRAINING_SEED, _TRAINING_VIDEOS = 0, 300
_SPEECH = with_speech("", []).partition(":")[0]


def read_drawn(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read a folder of synthetic videos with all its records; every question also appears with options.

    Queries for something that never happens are skipped because they have no reference span.
    """
    videos = read_videos(source.annotations, tasks=TASKS)
    answers = _answers_by_kind(videos)
    for video in videos:
        for record in video.records:
            if record.task == "qa":
                yield from _questions(video, record, answers[_kind(record)])
            elif record.task != "grounding" or record.events:
                yield _sample(video, record, source)


def read_drawn_moments(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read the queries of a folder of synthetic videos of any length, also those for absent events."""
    for video in read_videos(source.annotations, tasks=["grounding"]):
        events = [list(event.span) for event in video.events]
        for record in video.records:
            windows = [[event.start, event.end] for event in record.events]
            yield Sample(
                id=record.id,
                video=video.video,
                task="grounding",
                query=record.query,
                question=record.turns[0][0] if source.own_wording else None,
                duration=video.duration,
                ground_truth={"relevant_windows": windows, "video_events": events},
                groups=(f"{round(video.duration / 60)}_min", video.kind(record)),
            )


def tells_speech(question: str) -> bool:
    """Whether a question quotes the speech of the video, which can be enough to answer it."""
    return question.startswith(_SPEECH)


def _sample(video: StoredVideo, record: Record, source: BenchmarkFiles) -> Sample:
    groups: tuple[str, ...] = (video.part,)
    question = record.turns[0][0] if source.own_wording else None
    if record.task == "grounding":
        groups = (video.kind(record), video.part)
        if question is not None:
            groups += ("with_speech" if tells_speech(question) else "without_speech",)
    return Sample(
        id=record.id,
        video=video.video,
        task=record.task,  # type: ignore[arg-type]
        query=record.query,
        question=question,
        duration=video.duration,
        ground_truth=_GROUND_TRUTH[record.task](video, record),
        groups=groups,
    )


def _span_row(video: StoredVideo, record: Record) -> dict[str, Any]:
    event = record.events[0]
    span = [event.start, event.end]
    return {"id": record.id, "image_id": video.video, "caption": record.query, "timestamp": span}


def _caption_row(video: StoredVideo, record: Record) -> dict[str, Any]:
    return {
        "image_id": video.video,
        "id": record.id,
        "duration": video.duration,
        "segments": [[event.start, event.end] for event in record.events],
        "pure_cap": joined_captions([event.caption for event in record.events]),
    }


def _highlight_row(video: StoredVideo, record: Record) -> dict[str, Any]:
    moments: Sequence[Mapping[str, float]] = record.extra.get("moments", ())
    return {
        "qid": record.id,
        "query": record.query,
        "vid": video.video,
        "duration": video.duration,
        "relevant_clip_ids": [int(moment["start"] // CLIP_SECONDS) for moment in moments],
        "saliency_scores": [[moment["score"]] for moment in moments],
    }


_GROUND_TRUTH = {"grounding": _span_row, "dense_caption": _caption_row, "highlights": _highlight_row}


# ------------------------------------------------------------------------------------------------- questions


def _questions(video: StoredVideo, record: Record, others: Sequence[str]) -> Iterator[Sample]:
    question, answer = record.turns[0]
    common: dict[str, Any] = {
        "video": video.video,
        "task": "ask",
        "query": question,
        "duration": video.duration,
        "answer": answer,
    }
    yield Sample(id=record.id, groups=(_kind(record), video.part), **common)
    options = _options(record.id, answer, others)
    if len(options) > 1:
        groups = (CHOICE, video.part)
        yield Sample(id=f"{record.id}:{CHOICE}", groups=groups, options=options, rank_options=True, **common)


def _options(record_id: str, answer: str, others: Sequence[str]) -> tuple[str, ...]:
    """The answer among up to three answers to other questions of its kind, in an order drawn for the record."""
    rng = random.Random(zlib.crc32(record_id.encode()))
    wrong = [other for other in others if normalize_answer(other) != normalize_answer(answer)]
    options = [answer, *rng.sample(wrong, min(_MOST_OPTIONS - 1, len(wrong)))]
    rng.shuffle(options)
    return tuple(options)


def _answers_by_kind(videos: Sequence[StoredVideo]) -> dict[str, list[str]]:
    found: dict[str, dict[str, str]] = {}
    for video in videos:
        for record in video.records:
            if record.task == "qa":
                answer = record.turns[0][1]
                found.setdefault(_kind(record), {}).setdefault(normalize_answer(answer), answer)
    return {kind: list(answers.values()) for kind, answers in found.items()}


def _kind(record: Record) -> str:
    return str(record.extra.get("kind", "question"))


# ------------------------------------------------------------------------------------------------- baselines


def training_spans(level: Level, *, videos: int = _TRAINING_VIDEOS) -> NDArray[np.float64]:
    """Spans of events of training videos as shares of the duration, `(events, 2)`."""
    scenes = (write_scene(_TRAINING_SEED, index, level=level, split="train") for index in range(videos))
    return np.array([(h.start / scene.duration, h.end / scene.duration) for scene in scenes for h in scene.actions])


def _reference_spans(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Training spans of the levels of the samples' videos, whose names begin with split and level."""
    levels = sorted({int(sample.video.rsplit("/", 1)[-1].split("-")[1]) for sample in samples})
    return np.concatenate([training_spans(level) for level in levels])  # type: ignore[arg-type]


def matched_captions(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[Table]:
    """Table of the share of matched captions with correct object, color and action, beside another video's captions."""
    pairs = [pair for pair in zip(samples, predictions, strict=True) if pair[0].task == "dense_caption"]
    rows = {"model": MetricTable(), "other_video": MetricTable()}
    for i, (sample, prediction) in enumerate(pairs):
        spans = np.array([(event.start, event.end) for event in prediction.events]).reshape(-1, 2)
        _match(rows["model"], sample, spans, [(read_caption(event.caption),) for event in prediction.events])
        alike = [j for j, (other, _) in enumerate(pairs) if other.groups == sample.groups]
        other, answered = pairs[alike[(alike.index(i) + 1) % len(alike)]]
        if other is not sample:
            stretched = stretched_segments(other, answered, float(sample.ground_truth["duration"]))
            _match(rows["other_video"], sample, stretched, _references(other))
    heads = {"model": "**model**", "other_video": "true events of another video, stretched"}
    for group in group_names(rows["model"].groups):
        rows[group], heads[group] = rows["model"].only(group), group.replace("_", " ")
    columns = {"object": "object", "color": "color", "action": "action", "all": "all three"}
    cells = {name: (heads[name], row.estimates(list(columns))) for name, row in rows.items() if len(row)}
    note = "Of events that a caption overlaps with IoU 0.5 or more, each paired once; n counts pairs."
    return (
        [Table("matched_captions", "Matched captions: share of correct attributes", columns, cells, note)]
        if cells
        else []
    )


Readings = Sequence[tuple[Attributes, ...]]
"""Attributes of each caption, in one or more forms."""


def _match(table: MetricTable, sample: Sample, spans: NDArray[np.float64], said: Readings) -> None:
    references = _references(sample)
    for i, j in match_events(np.array(sample.ground_truth["segments"]), spans):
        agreements = [reference.agrees(reading) for reference in references[i] for reading in said[j]]
        table.add(sample.video, sample.groups, max(agreements, key=lambda same: sum(same.values())))


def _references(sample: Sample) -> Readings:
    return [correct_readings(caption) for caption in split_captions(sample.ground_truth["pure_cap"])]


SYNTHETIC_BENCHMARKS: Mapping[str, Benchmark] = {
    "drawn": Benchmark(
        "Synthetic videos",
        "drawn",
        read_drawn,
        {"grounding": "tvg", "dense_caption": "dvc", "highlights": "vhd", "ask": "answers"},
        reference_spans=_reference_spans,
        more_tables=matched_captions,
    ),
    "drawn_moments": Benchmark(
        "Synthetic videos, all moments", "drawn_moments", read_drawn_moments, {"grounding": "moments"}
    ),
}
