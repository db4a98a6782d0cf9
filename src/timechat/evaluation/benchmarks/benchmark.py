"""Definition of a benchmark: its files, its reader and its scorers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Event, Task
from timechat.data.transcripts import find_transcript
from timechat.errors import DataError, located
from timechat.evaluation.metrics.choices import PublishedRule
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.tables import Table

Scorer = Literal["dvc", "tvg", "vhd", "mr", "moments", "answers", "choices"]
"""Scorer of a task's answers: a task of `timechat score`, all moments of a query (`moments`, see
`timechat.evaluation.moments`), answers to questions, or choices among options. `choices` scores the samples that
have options and a reference answer; the model answers the other samples too, but they are not scored."""


@dataclass(frozen=True, slots=True)
class BenchmarkFiles:
    """The files of a benchmark.

    Attributes:
        annotations: File of annotations, or a folder with several such files.
        videos: Folder of the videos.
        split: Split of the annotations, if a folder holds several splits.
        transcripts: Folder of transcripts; None adds no speech to the questions.
        own_wording: Whether samples use the annotations' own wording (`Sample.question`), if there is one.
    """

    annotations: Path
    videos: Path
    split: str = "val"
    transcripts: Path | None = None
    own_wording: bool = False

    def speech(self, video: str) -> tuple[Event, ...] | None:
        """Transcript of a video; None if there is none."""
        return None if self.transcripts is None else find_transcript(self.transcripts, video)

    def file(self, *names: str) -> Path:
        """The file of annotations: the path itself, or the first of these names that exists in the folder.

        Raises:
            DataError: No such file exists.
        """
        if self.annotations.is_file():
            return self.annotations
        for name in names:
            path = self.annotations / name.format(split=self.split)
            if path.is_file():
                return path
        expected = " or ".join(name.format(split=self.split) for name in names)
        raise DataError(f"{self.annotations}: no such file, nor a folder with {expected}; give the annotations")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of samples, and the scoring of their answers.

    Attributes:
        title: Name in tables and reports.
        dataset: Name in result files, as in the original project.
        read: Function that yields the samples, always in the same order.
        scorers: Scorer of each task.
        published_rule: Rule of the published metrics for reading choices from answers.
        write_results: Function that writes the predictions into a folder, in the format of the benchmark's own scorer.
        reference_spans: Function from samples to spans of the training split, `(spans, 2)` as shares of the duration,
            for the random-span baseline; None takes the spans of the samples themselves.
        more_tables: Function from samples and predictions to further tables of `--baselines`.
    """

    title: str
    dataset: str
    read: Callable[[BenchmarkFiles], Iterator[Sample]]
    scorers: Mapping[Task, Scorer]
    published_rule: PublishedRule | None = None
    write_results: Callable[[Sequence[Sample], Sequence[Prediction], Path], list[Path]] | None = None
    reference_spans: Callable[[Sequence[Sample]], NDArray[np.float64]] | None = None
    more_tables: Callable[[Sequence[Sample], Sequence[Prediction]], Sequence[Table]] | None = None


def find_benchmark(name: str, benchmarks: Mapping[str, Benchmark]) -> Benchmark:
    """Return the benchmark of this name.

    Raises:
        ValueError: No benchmark has this name.
    """
    if name not in benchmarks:
        raise ValueError(f"benchmark.name must be one of {', '.join(benchmarks)}, got {name!r}")
    return benchmarks[name]


def read_json(path: Path) -> Any:
    """Read a JSON file; any problem raises a `DataError` with the file's name."""
    with located(str(path)):
        return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Read a JSON Lines file: the value of each line, with its location for error messages."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                with located(f"{path}:{number}"):
                    value = json.loads(line)
                yield f"{path}:{number}", value


def coco_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of `{"annotations": [...]}`, the original's layout, each with its location for error messages."""
    content = read_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("annotations"), list):
        raise DataError(f'{path}: expected {{"annotations": [...]}}')
    for number, row in enumerate(content["annotations"]):
        yield f"{path}: annotation {number}", row
