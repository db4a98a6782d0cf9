"""TempCompass: four kinds of questions about the same short videos."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from timechat.errors import DataError, located
from timechat.evaluation.benchmarks.benchmark import BenchmarkFiles, read_json
from timechat.evaluation.benchmarks.choices import answered, text
from timechat.evaluation.samples import Prediction, Sample
from timechat.files import write_json_atomically

TASKS = ("multi-choice", "yes_no", "caption_matching", "captioning")
_OPTIONS: dict[str, tuple[str, ...]] = {"yes_no": ("yes", "no"), "captioning": ()}
"""Options of tasks whose questions do not list them."""


def read_tempcompass(source: BenchmarkFiles) -> Iterator[Sample]:
    """Read TempCompass' folder `questions` with one file per task, `{video: {dimension: [{"question", "answer"}]}}`.

    `captioning` asks for a sentence. Only a language model can judge it, so its samples have no reference answer here:
    the model answers them and the answers are written, but not scored.
    """
    for path in _files(source.annotations):
        content = read_json(path)
        if not isinstance(content, Mapping):
            raise DataError(f"{path}: expected a JSON object of videos, got {type(content).__name__}")
        for video, dimensions in content.items():
            yield from _samples(path, video, dimensions)


def _files(path: Path) -> list[Path]:
    """File of each task; the path itself can be one of these files."""
    if path.is_file() and path.stem in TASKS:
        return [path]
    files = [path / f"{task}.json" for task in TASKS]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; give TempCompass' folder of questions, or one such file")
    return files


def _samples(path: Path, video: str, dimensions: Any) -> Iterator[Sample]:
    with located(f"{path}: {video}"):
        if not isinstance(dimensions, Mapping):
            raise ValueError(f"expected a JSON object of dimensions, got {type(dimensions).__name__}")
        rows = [(dimension, i, row) for dimension, rows in dimensions.items() for i, row in enumerate(rows)]
    for dimension, i, row in rows:
        with located(f"{path}: {video}, {dimension} {i}"):
            sample = _sample(path.stem, video, dimension, i, row)
        yield sample


def _sample(task: str, video: str, dimension: str, number: int, row: Mapping[str, Any]) -> Sample:
    question = text(row, "question")
    options = _options(task, question)
    return Sample(
        id=f"{task}:{video}:{dimension}:{number}",
        video=f"{video}.mp4",
        task="ask",
        query=f"Question: {question}{_suffix(task, options)}",
        options=options,
        answer=_answer(text(row, "answer"), options) if options else None,
        groups=(task,),
        ground_truth={"task": task, "video": video, "dimension": dimension, **row},
    )


def _options(task: str, question: str) -> tuple[str, ...]:
    """Options of a question: its lines after the first, if there are any."""
    if task in _OPTIONS:
        return _OPTIONS[task]
    options = tuple(line for line in question.split("\n")[1:] if line.strip())
    if len(options) < 2:
        raise ValueError(f"expected a question with one option per line, got {question!r}")
    return options


def _answer(answer: str, options: tuple[str, ...]) -> str:
    """The correct option, in the spelling of the options."""
    if answer in options:
        return answer
    plain = answer.strip().lower()
    same = [option for option in options if option.strip().lower() == plain]
    if len(same) != 1:
        raise ValueError(f"the answer {answer!r} is none of {list(options)}")
    return same[0]


def _suffix(task: str, options: Sequence[str]) -> str:
    labels = " or ".join(option.split(":")[0] for option in options)
    return {
        "multi-choice": "\nPlease directly give the best option:",
        "yes_no": "\nPlease answer yes or no:",
        "caption_matching": f"\nPlease directly give the best option ({labels}):",
        "captioning": "",
    }[task]


def write_tempcompass(samples: Sequence[Sample], predictions: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write one file per task in the format of the authors' scripts: each question with its `prediction`."""
    tasks: dict[str, dict[str, dict[str, list[dict[str, str]]]]] = {}
    for sample, prediction in answered(samples, predictions):
        row = sample.ground_truth
        of_video = tasks.setdefault(row["task"], {}).setdefault(row["video"], {})
        of_video.setdefault(row["dimension"], []).append(
            {"question": row["question"], "answer": row["answer"], "prediction": prediction.text}
        )
    return [write_json_atomically(folder / f"{task}.json", content) for task, content in tasks.items()]
