"""Predictions and ground truth of a run as input files for the original's scorers and ours."""

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
from timechat.speech import add_transcript

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
    """Write the files of each task of a run into a separate folder.

    File names are those of the original: `{dataset}_{split}_f{frames}_result.json` has the raw texts, and the same name
    with the prefix `fmt_` has the values that were read from them. With `post_check` these are the second answers, and
    `first_answer` is in the rows of the raw texts.

    Args:
        folder: Existing folder for the results.
        benchmark: Benchmark of the samples.
        samples: Samples of the run.
        predictions: Predictions, one for each sample, in the same order.
        split: Split of the annotations.
        num_frames: Number of frames of each video; None if the model decides.
        preset: Wording of the questions.

    Returns:
        Files to score, one entry for each task with a scorer for such files.
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
        # Raw texts about highlights are scored, so that the metrics include the original's reading of them.
        written.append(ScoredFiles(task, scorer, place / name if scorer == "vhd" else result, ground_truth))
    return written


def _raw(sample: Sample, prediction: Prediction, preset: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "vname": Path(sample.video).name,
        "generated_cap": prediction.text,
        "prompt": prediction.prompt or _asked(sample, preset),
    }
    if prediction.first_answer:
        row["first_answer"] = prediction.first_answer
    return row if sample.query is None else row | {"query": sample.query, "id": _id(sample)}


def _asked(sample: Sample, preset: str) -> str:
    """Return the question with the speech before it, for a prediction whose prompt is not recorded."""
    question = sample.question or build_question(sample.task, sample.query, preset=preset)
    return question if sample.speech is None else add_transcript(question, sample.speech)


def _id(sample: Sample) -> Any:
    """The id as in the annotations, which can be a number."""
    return sample.ground_truth.get("qid", sample.ground_truth.get("id", sample.id))


def _captions(pairs: Pairs) -> dict[str, Any]:
    """Events by video; videos without an answer are omitted."""
    return {
        Path(sample.video).name: [
            {"timestamp": [event.start, event.end], "caption": event.caption} for event in prediction.events
        ]
        for sample, prediction in pairs
        if prediction.is_answered
    }


def _spans(pairs: Pairs) -> dict[str, Any]:
    """The first span of each query; an empty list without a span."""
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
    """Scores of clips; as in the original, a query without a highlight in its answer has no row."""
    return [
        _query(sample)
        | {"vid": Path(sample.video).name}
        | {"pred_saliency_scores": clip_scores(prediction.events, float(sample.ground_truth["duration"]))}
        for sample, prediction in pairs
        if prediction.events
    ]


def _windows(pairs: Pairs) -> list[dict[str, Any]]:
    """Windows of each query in descending order of score."""
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
    """Format of a scorer's files.

    Attributes:
        predictions: Function that returns the content of the file of predictions.
        truth_name: Name of the file of the ground truth.
        is_truth_lines: Whether the ground truth has one JSON object per line.
        are_lines: Whether the predictions have one JSON object per line.
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
