"""EgoSchema: five long options about three minutes of an egocentric video."""

import csv
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from timechat.errors import DataError, located
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles, read_json
from timechat.evaluation.benchmarks.choices import answered, best_option_question, text
from timechat.evaluation.metrics.choices import read_choice
from timechat.evaluation.samples import Prediction, Sample
from timechat.files import atomic_write

QUESTIONS_FILE = "questions.json"
ANSWERS_FILE = "subset_answers.json"
RESULT_FILE = "output.csv"
_NUM_OPTIONS = 5


def read_egoschema(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read EgoSchema's `questions.json`, with the answers of `subset_answers.json` in the same folder.

    `split="subset"` reads the 500 questions with public answers. Any other split reads all questions, most of them
    without an answer.
    """
    path = source.file(QUESTIONS_FILE)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of questions, got {type(rows).__name__}")
    answers = _read_answers(path.with_name(ANSWERS_FILE), is_needed=source.split == "subset")
    for number, row in enumerate(rows):
        with located(f"{path}: question {number}"):
            sample = _sample(row, answers)
        if source.split != "subset" or sample.answer is not None:
            yield sample


def _read_answers(path: Path, *, is_needed: bool) -> Mapping[str, Any]:
    if not path.is_file() and not is_needed:
        return {}
    if not path.is_file():
        raise DataError(f"{path}: no such file; it holds the public answers of EgoSchema's subset")
    answers = read_json(path)
    if not isinstance(answers, Mapping):
        raise DataError(f"{path}: expected a JSON object of answers, got {type(answers).__name__}")
    for name, answer in answers.items():
        if isinstance(answer, bool) or answer not in range(_NUM_OPTIONS):
            raise DataError(f"{path}: {name}: expected an option from 0 to {_NUM_OPTIONS - 1}, got {answer!r}")
    return answers


def _sample(row: Mapping[str, Any], answers: Mapping[str, int]) -> Sample:
    options = tuple(text(row, f"option {i}") for i in range(_NUM_OPTIONS))
    name = text(row, "q_uid")
    return Sample(
        id=name,
        video=f"{name}.mp4",
        task="ask",
        query=best_option_question(text(row, "question"), options),
        options=options,
        answer=options[answers[name]] if name in answers else None,
        ground_truth=row,
    )


def write_egoschema(samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write `output.csv` with the columns `q_uid,answer`, the format of the leaderboard.

    The leaderboard requires an answer to every question. As in the original, a random option replaces an unreadable
    answer; the option is the same in every call for the same question.
    """
    path = folder / RESULT_FILE
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["q_uid", "answer"])
        for sample, prediction in answered(samples, predictions):
            choice = read_choice(prediction.text, sample.options)
            guess = zlib.crc32(sample.id.encode()) % _NUM_OPTIONS
            writer.writerow([sample.id, guess if choice is None else choice])
    return [path]
