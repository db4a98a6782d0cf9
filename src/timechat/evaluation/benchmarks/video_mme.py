"""Video-MME: four options about short, medium and long videos."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from timechat.errors import DataError, located
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles, read_json
from timechat.evaluation.benchmarks.choices import answered, best_option_question, text, texts
from timechat.evaluation.metrics.choices import LETTERS
from timechat.evaluation.samples import Prediction, Sample
from timechat.files import write_json_atomically

FILE = "video-mme.json"
_NUM_OPTIONS = 4
_PUBLIC_NAMES = {"duration": "duration_category", "domain": "video_category", "sub_category": "video_subcategory"}
"""Keys of a video in the authors' scorer, by key of the annotations."""


def read_video_mme(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read Video-MME in the original's layout, `{video: [question, ...]}`, or the authors' rows as a list.

    A question is `{"videoID", "question", "option", "answer", "duration"}`; the authors' rows name the options
    `options` and also have `video_id`, `question_id`, `task_type`, `domain` and `sub_category`.
    """
    path = source.file(FILE)
    for place, name, row in _rows(path):
        with located(place):
            sample = _sample(name, row, source)
        yield sample


def _rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Questions with the authors' keys, each with its location for errors and an id."""
    content = read_json(path)
    if isinstance(content, list):
        for number, row in enumerate(content):
            with located(f"{path}: question {number}"):
                name, public = text(row, "question_id"), {"video_id": text(row, "video_id"), **row}
            yield f"{path}: question {name}", name, public
        return
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected a JSON object of videos, got {type(content).__name__}")
    for video, rows in content.items():
        if not isinstance(rows, list):
            raise DataError(f"{path}: video {video}: expected a list of questions, got {type(rows).__name__}")
        for number, row in enumerate(rows, 1):
            with located(f"{path}: video {video}, question {number}"):
                public = {"video_id": video, **row, "options": row["option"]}
                del public["option"]
            yield f"{path}: video {video}, question {number}", f"{video}-{number}", public


def _sample(name: str, row: Mapping[str, Any], source: BenchmarkFiles) -> Sample:
    options = texts(row["options"], count=_NUM_OPTIONS)
    video = f"{text(row, 'videoID')}.mp4"
    letter = row["answer"]
    if letter not in tuple(LETTERS[:_NUM_OPTIONS]):
        raise ValueError(f"expected an answer from A to {LETTERS[_NUM_OPTIONS - 1]}, got {letter!r}")
    return Sample(
        id=name,
        video=video,
        task="ask",
        query=f"Question: {best_option_question(text(row, 'question'), options)}",
        speech=source.speech(video),
        options=options,
        answer=options[LETTERS.index(letter)],
        groups=(text(row, "duration"),),
        ground_truth=row,
    )


def write_video_mme(samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write `video-mme.json`, `[{"video_id", ..., "questions": [{..., "response"}]}]`, for the authors' scorer.

    The scorer also requires `task_type`, `video_category` and `video_subcategory`, which only the authors' rows have.
    """
    videos: dict[str, dict[str, Any]] = {}
    for sample, prediction in answered(samples, predictions):
        row = sample.ground_truth
        facts = {public: row[name] for name, public in _PUBLIC_NAMES.items() if name in row}
        video = videos.setdefault(row["video_id"], {"video_id": row["video_id"], **facts, "questions": []})
        question = {
            "question_id": sample.id,
            **({"task_type": row["task_type"]} if "task_type" in row else {}),
            "question": row["question"],
            "choices": list(sample.options),
            "answer": row["answer"],
            "response": prediction.text,
        }
        video["questions"].append(question)
    return [write_json_atomically(folder / FILE, list(videos.values()))]
