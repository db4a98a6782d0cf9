"""What a benchmark is."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from timechat.answers.events import Event, Task
from timechat.data.transcripts import find_transcript
from timechat.errors import DataError, located
from timechat.evaluation.metrics.choices import PublishedRule
from timechat.evaluation.samples import Prediction, Sample

Scorer = Literal["dvc", "tvg", "vhd", "mr", "answers", "choices"]
"""How a task's answers are scored: by a task of `timechat score`, as answers to questions, or as choices among
options. `choices` scores the samples that have options and a right answer; others are asked, but not scored."""


@dataclass(frozen=True, slots=True)
class BenchmarkFiles:
    """Where a benchmark's files are.

    Attributes:
        annotations: Its file of annotations, or the folder of its files.
        videos: Folder of its videos.
        split: Which part, where a folder holds several.
        transcripts: Folder of what is said in each video, None where it is not told.
    """

    annotations: Path
    videos: Path
    split: str = "val"
    transcripts: Path | None = None

    def speech(self, video: str) -> tuple[Event, ...] | None:
        """What is said in a video, where it is told."""
        return None if self.transcripts is None else find_transcript(self.transcripts, video)

    def file(self, *names: str) -> Path:
        """The file of annotations: the path itself, or the first of these names that its folder has.

        Raises:
            DataError: There is none.
        """
        if self.annotations.is_file():
            return self.annotations
        for name in names:
            path = self.annotations / name.format(split=self.split)
            if path.is_file():
                return path
        wanted = " or ".join(name.format(split=self.split) for name in names)
        raise DataError(f"{self.annotations}: no such file, nor a folder with {wanted}; give the annotations")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of samples, and how what is answered to them is scored.

    Attributes:
        title: For people.
        dataset: In the names of result files, as the original names them.
        read: Gives its samples, in an order that never changes.
        scorers: For each of its tasks.
        published_rule: How choices were read out of answers for its published figures.
        write_results: Writes what was answered, in the files that the benchmark's own scorer reads, into a folder.
    """

    title: str
    dataset: str
    read: Callable[[BenchmarkFiles], Iterator[Sample]]
    scorers: Mapping[Task, Scorer]
    published_rule: PublishedRule | None = None
    write_results: Callable[[Sequence[Sample], Sequence[Prediction], Path], list[Path]] | None = None


def read_json(path: Path) -> Any:
    """Read a JSON file; what is wrong with it is a `DataError` that names it."""
    with located(str(path)):
        return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Read a file of a JSON value a line: the place of each, for errors, and the value."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                with located(f"{path}:{number}"):
                    value = json.loads(line)
                yield f"{path}:{number}", value


def coco_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of `{"annotations": [...]}`, as the original lays benchmarks out, each with its place for errors."""
    content = read_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("annotations"), list):
        raise DataError(f'{path}: expected {{"annotations": [...]}}')
    for number, row in enumerate(content["annotations"]):
        yield f"{path}: annotation {number}", row
