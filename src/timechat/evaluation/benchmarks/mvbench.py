"""MVBench: twenty tasks about short videos of many sources."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.answers.prompts import BENCHMARK_SYSTEM_PROMPT
from timechat.errors import DataError, located
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles, read_json
from timechat.evaluation.benchmarks.choices import answered, lettered, text, texts
from timechat.evaluation.metrics.choices import LETTERS, choice_metrics
from timechat.evaluation.samples import Prediction, Sample
from timechat.files import write_json_atomically

logger = logging.getLogger(__name__)

RESULT_FILE = "mvbench.json"


@dataclass(frozen=True, slots=True)
class MVBenchSubset:
    """One of the twenty tasks.

    Attributes:
        title: Name in reports.
        folder: Folder of the task's videos below the folder of all videos.
        has_bounds: Whether a question is about a clip of its video, from `start` to `end`.
    """

    title: str
    folder: str
    has_bounds: bool = False

    @property
    def file(self) -> str:
        """Name of the file of questions."""
        return f"{self.title.lower().replace(' ', '_').replace('-', '_')}.json"


PARTS = (
    MVBenchSubset("Action Sequence", "star/Charades_v1_480", has_bounds=True),
    MVBenchSubset("Action Prediction", "star/Charades_v1_480", has_bounds=True),
    MVBenchSubset("Action Antonym", "ssv2_video"),
    MVBenchSubset("Fine-grained Action", "Moments_in_Time_Raw/videos"),
    MVBenchSubset("Unexpected Action", "FunQA_test/test"),
    MVBenchSubset("Object Existence", "clevrer/video_validation"),
    MVBenchSubset("Object Interaction", "star/Charades_v1_480", has_bounds=True),
    MVBenchSubset("Object Shuffle", "perception/videos"),
    MVBenchSubset("Moving Direction", "clevrer/video_validation"),
    MVBenchSubset("Action Localization", "sta/sta_video", has_bounds=True),
    MVBenchSubset("Scene Transition", "scene_qa/video"),
    MVBenchSubset("Action Count", "perception/videos"),
    MVBenchSubset("Moving Count", "clevrer/video_validation"),
    MVBenchSubset("Moving Attribute", "clevrer/video_validation"),
    MVBenchSubset("State Change", "perception/videos"),
    MVBenchSubset("Fine-grained Pose", "nturgbd"),
    MVBenchSubset("Character Order", "perception/videos"),
    MVBenchSubset("Egocentric Navigation", "vlnqa"),
    MVBenchSubset("Episodic Reasoning", "tvqa/frames_fps3_hq", has_bounds=True),  # folders of images
    MVBenchSubset("Counterfactual Inference", "clevrer/video_validation"),
)
_PARTS = {part.file: part for part in PARTS}


def read_mvbench(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read MVBench: its folder `json`, the folder above it, or one of its files.

    A file is a list of `{"video", "question", "candidates", "answer"}`, with `start` and `end` for tasks about a
    clip. Tasks without a file are skipped with a warning that names them: some of their videos are not available.
    """
    for path in _files(source.annotations):
        rows = read_json(path)
        if not isinstance(rows, list):
            raise DataError(f"{path}: expected a list of questions, got {type(rows).__name__}")
        for number, row in enumerate(rows):
            with located(f"{path}: question {number}"):
                sample = _sample(_PARTS[path.name], f"{path.stem}:{number}", row)
            yield sample


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.name not in _PARTS:
            raise DataError(f"{path}: is not one of MVBench's files, such as {PARTS[0].file}; keep their names")
        return [path]
    folder = path / "json" if (path / "json").is_dir() else path
    files = [folder / part.file for part in PARTS]
    there = [file for file in files if file.is_file()]
    if not there:
        raise DataError(f"{path}: has no file of MVBench, such as json/{PARTS[0].file}; give the annotations")
    if missing := [file.name for file in files if file not in there]:
        logger.warning("%s has no %s: these tasks of MVBench are skipped", folder, ", ".join(missing))
    return there


def _sample(part: MVBenchSubset, name: str, row: Mapping[str, Any]) -> Sample:
    options = texts(row["candidates"])
    return Sample(
        id=name,
        video=f"{part.folder}/{text(row, 'video')}".rstrip("/"),
        task="ask",
        query=mvbench_question(text(row, "question"), options),
        start=float(row["start"]) if part.has_bounds else None,
        end=float(row["end"]) if part.has_bounds else None,
        sampling="segment_centres",
        options=options,
        answer=str(row["answer"]),
        groups=(part.title,),
        ground_truth=row,
    )


def mvbench_question(question: str, options: Sequence[str]) -> str:
    """The question in the original's wording: it starts with the system prompt of the benchmarks again."""
    asked = f"Question: {question}\nOptions:\n{lettered(options)}"
    return f"{BENCHMARK_SYSTEM_PROMPT}{asked}\nOnly give the best option."


def write_mvbench(samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write `mvbench.json`: answers, correct options, and for each task `[correct, all]` by MVBench's own rule."""
    results = []
    counts: dict[str, list[int]] = {}
    for sample, prediction in answered(samples, predictions):
        answer = str(sample.answer)
        letter = LETTERS[sample.options.index(answer)]
        results.append({"pred": prediction.text, "gt": f"({letter}) {answer}"})
        metrics = choice_metrics([prediction.text], [sample.options], [answer], published_rule="mvbench")
        correct, num_asked = counts.get(sample.groups[0], (0, 0))
        counts[sample.groups[0]] = [correct + int(metrics["accuracy_as_published"][0]), num_asked + 1]
    return [write_json_atomically(folder / RESULT_FILE, {"acc_dict": counts, "res_list": results})]
