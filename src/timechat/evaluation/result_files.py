"""Predictions and truth of a run in the files that the original's scorers, and ours, read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.answers.events import Task, clip_scores
from timechat.answers.tasks import build_question
from timechat.evaluation.benchmarks import Benchmark
from timechat.evaluation.benchmarks.benchmark import Scorer
from timechat.evaluation.samples import Prediction, Sample
from timechat.files import write_json_atomically, write_text_atomically

Pairs = Sequence[tuple[Sample, Prediction]]


@dataclass(frozen=True, slots=True)
class ScoredFiles:
    """Input files of a scorer for one task of a run.

    Attributes:
        task: Task of the samples.
        scorer: Scorer of the task.
        predictions: File of predictions.
        truth: File of the ground truth.
    """

    task: Task
    scorer: Scorer
    predictions: Path
    truth: Path


def write_results(
    folder: Path,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    *,
    split: str,
    num_frames: int | None,
    preset: str,
) -> list[ScoredFiles]:
    """Write all tasks of a run, each into a folder of its own.

    Files are named as the original names them: `{dataset}_{split}_f{frames}_result.json` has the raw texts, the same
    with `fmt_` before it what was read out of them.

    Args:
        folder: Is there.
        benchmark: Benchmark of the samples.
        samples: Samples of the run.
        predictions: Predictions, one for each sample, in the same order.
        split: Split of the annotations.
        num_frames: Number of frames of each video; None where the model decides.
        preset: Wording of the questions.

    Returns:
        What is to be scored, one entry a task that has a scorer for such files.
    """
    name = f"{benchmark.dataset}_{split}_f{num_frames or 'auto'}_result.json"
    written = []
    for task, scorer in benchmark.scorers.items():
        pairs = [pair for pair in zip(samples, predictions, strict=True) if pair[0].task == task]
        if not pairs or scorer not in _FORMATS:
            continue
        place = folder / task
        place.mkdir(exist_ok=True)
        form = _FORMATS[scorer]
        result = (place / f"fmt_{name}").with_suffix(".jsonl" if form.are_lines else ".json")
        ground_truth = place / form.truth_name.format(split=split)
        write_json_atomically(place / name, [_raw(sample, one, preset) for sample, one in pairs if one.is_answered])
        _write(result, form.predictions(pairs), is_lines=form.are_lines)
        rows = [sample.ground_truth for sample, _ in pairs]
        _write(ground_truth, rows if form.is_truth_lines else {"annotations": rows}, is_lines=form.is_truth_lines)
        # Texts about highlights are scored as they were written, so that the original's reading stands beside ours.
        written.append(ScoredFiles(task, scorer, place / name if scorer == "vhd" else result, ground_truth))
    return written


def _raw(sample: Sample, prediction: Prediction, preset: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "vname": Path(sample.video).name,
        "generated_cap": prediction.text,
        "prompt": build_question(sample.task, sample.query, preset=preset),
    }
    return row if sample.query is None else row | {"query": sample.query, "id": _id(sample)}


def _id(sample: Sample) -> Any:
    """The id as the annotations have it: a number, where it is one."""
    return sample.ground_truth.get("qid", sample.ground_truth.get("id", sample.id))


def _captions(pairs: Pairs) -> dict[str, Any]:
    """Events by video; a video without any answer is left out."""
    return {
        Path(sample.video).name: [
            {"timestamp": [event.start, event.end], "caption": event.caption} for event in prediction.events
        ]
        for sample, prediction in pairs
        if prediction.is_answered
    }


def _spans(pairs: Pairs) -> dict[str, Any]:
    """The first span of each query, or none."""
    return {
        str(_id(sample)): {
            "timestamp": [[event.start, event.end] for event in prediction.events[:1]],
            "query": sample.query,
            "vid": Path(sample.video).name,
        }
        for sample, prediction in pairs
        if prediction.is_answered
    }


def _clip_scores(pairs: Pairs) -> list[dict[str, Any]]:
    """Scores of clips; as in the original, a query whose answer names no highlight has no row."""
    return [
        _query(sample)
        | {"pred_saliency_scores": clip_scores(prediction.events, float(sample.ground_truth["duration"]))}
        for sample, prediction in pairs
        if prediction.events
    ]


def _windows(pairs: Pairs) -> list[dict[str, Any]]:
    """Windows of each query, the surest first."""
    return [
        _query(sample)
        | {
            "pred_relevant_windows": [
                [event.start, event.end, 1.0 if event.score is None else event.score]
                for event in sorted(prediction.events, key=lambda event: -(event.score or 0.0))
            ]
        }
        for sample, prediction in pairs
        if prediction.is_answered
    ]


def _query(sample: Sample) -> dict[str, Any]:
    return {"qid": _id(sample), "query": sample.query, "vid": sample.ground_truth["vid"]}


@dataclass(frozen=True, slots=True)
class _Format:
    """How a scorer's files are written.

    Attributes:
        predictions: Makes the content of the file of predictions.
        truth_name: Name of the file of the truth.
        is_truth_lines: Whether the truth is a JSON object a line.
        are_lines: Whether predictions are.
    """

    predictions: Callable[[Pairs], Any]
    truth_name: str
    is_truth_lines: bool = False
    are_lines: bool = False


_FORMATS: Mapping[Scorer, _Format] = {
    "dvc": _Format(_captions, "{split}.caption_coco_format.json"),
    "tvg": _Format(_spans, "{split}.caption_coco_format.json"),
    "vhd": _Format(_clip_scores, "highlight_{split}_release.jsonl", is_truth_lines=True),
    "mr": _Format(_windows, "highlight_{split}_release.jsonl", is_truth_lines=True, are_lines=True),
}


def _write(path: Path, content: Any, *, is_lines: bool) -> None:
    if is_lines:
        write_text_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content))
    else:
        write_json_atomically(path, content)
