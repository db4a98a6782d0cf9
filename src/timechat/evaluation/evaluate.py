"""A recipe → predictions → result files → figures: all of `timechat evaluate`.

recipe ─▶ samples ─▶ predict ─▶ RunFolder ─▶ result_writing ─▶ score ─▶ metrics.json, table.md
"""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from timechat.answers.tasks import find_preset
from timechat.distributed import launched_processes, local_rank
from timechat.errors import DataError
from timechat.evaluation.benchmarks import BENCHMARKS, BenchmarkFiles
from timechat.evaluation.config import EvaluatedModelSettings, EvaluationRecipe
from timechat.evaluation.predict import EncodeVideo, Progress, is_open, predict
from timechat.evaluation.published import comparison_table, metrics_beside, to_rows
from timechat.evaluation.question_scores import score_questions
from timechat.evaluation.result_files import write_results
from timechat.evaluation.run_folder import RunFolder
from timechat.evaluation.samples import Prediction, Sample, count_statuses
from timechat.evaluation.score import Scores, score_files
from timechat.model.fingerprint import weights_fingerprint
from timechat.pipeline import TimeChat

_LIBRARIES = ("timechat", "torch", "transformers", "peft", "tokenizers", "numpy", "av")
STATUS_WORDS = {
    "ok": "answered",
    "unparsed": "answered without an event that could be read",
    "missing_video": "without a video: no such file",
    "unreadable_video": "with a video that cannot be read",
    "too_long": "with a prompt that is too long for the model",
}


@dataclass(frozen=True)
class Evaluation:
    """A run that is done.

    Attributes:
        recipe: What was run.
        samples: What was asked.
        predictions: One for each sample.
        scores: By task, `questions` or `choices`.
        metrics: All figures, as `metrics.json` has them.
        table: The same for people.
    """

    recipe: EvaluationRecipe
    samples: Sequence[Sample]
    predictions: Sequence[Prediction]
    scores: dict[str, Scores]
    metrics: dict[str, Any]
    table: str


def read_samples(recipe: EvaluationRecipe) -> list[Sample]:
    """What a recipe asks, up to its limit.

    Raises:
        DataError: The annotations are missing or malformed, or ask nothing.
    """
    settings = recipe.benchmark
    transcripts = None if settings.transcripts is None else Path(settings.transcripts)
    source = BenchmarkFiles(Path(settings.annotations), Path(settings.videos), settings.split, transcripts)
    if not source.videos.is_dir():
        raise DataError(f"{source.videos}: no such folder; give the folder of the videos as benchmark.videos")
    samples = list(islice(BENCHMARKS[settings.name].read(source), recipe.run.limit))
    if not samples:
        raise DataError(f"{settings.annotations}: asks nothing; give the annotations of {settings.name}")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(
                f"{settings.annotations}: {sample.id!r} is there twice; every sample needs an id of its own"
            )
        seen.add(sample.id)
    return samples


def load_timechat(settings: EvaluatedModelSettings) -> TimeChat:
    """Load the model of a recipe, with its adapter's strength and its vocabulary of times.

    Raises:
        ValueError: The strength of an adapter is given, but the model has none.
    """
    if launched_processes() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(local_rank())  # each process its own
    timechat = TimeChat.from_pretrained(settings.checkpoint, device=settings.device, dtype=settings.dtype)
    if settings.lora_alpha is not None:
        timechat.model.set_lora_alpha(settings.lora_alpha)
    if settings.timestamp_tokenizer is not None:
        timechat.processor.config.timestamp_tokenizer = settings.timestamp_tokenizer
    return timechat


def run_facts() -> dict[str, Any]:
    """What a reader should know of the machine and its libraries."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return {"python": platform.python_version(), "versions": versions, "machine": platform.machine()}


def plain_settings(recipe: EvaluationRecipe) -> dict[str, Any]:
    """What the answers depend on as far as the recipe tells, ready for JSON; what only limits the run is left out."""
    settings = recipe.benchmark
    preset = json.dumps(find_preset(recipe.preset).to_dict(), sort_keys=True)
    return {
        "benchmark": f"{settings.name}, {settings.split}",
        "transcripts": settings.transcripts is not None,
        "model": asdict(recipe.model),
        "frames": {key: value for key, value in asdict(recipe.frames).items() if key != "timeout"},
        "preset": recipe.preset,
        "preset_sha256": hashlib.sha256(preset.encode()).hexdigest(),
        "decoding": asdict(recipe.decoding),
        "batch_size": recipe.run.batch_size,
    }


def finished_predictions(recipe: EvaluationRecipe, samples: Sequence[Sample]) -> list[Prediction] | None:
    """The predictions of a run that is done, without loading its model; None where there is work to do.

    Raises:
        DataError: They were made with other settings.
    """
    folder = RunFolder(Path(recipe.run.output))
    found = folder.predictions() if folder.has_begun else {}
    if any(is_open(sample, found, Path(recipe.benchmark.videos)) for sample in samples):
        return None
    folder.check(plain_settings(recipe))
    return folder.finish(samples)


def run_predictions(
    recipe: EvaluationRecipe,
    samples: Sequence[Sample],
    timechat: TimeChat,
    *,
    fresh: bool = False,
    shard: tuple[int, int] = (0, 1),
    encode: EncodeVideo | None = None,
    look_name: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> list[Prediction] | None:
    """Answer what has no answer yet.

    Args:
        recipe: Of the run.
        samples: That it asks.
        timechat: Who answers.
        fresh: Whether earlier predictions are thrown away.
        shard: Share of the work: number, from 0, and how many there are.
        encode: How videos are looked at, where not as the recipe says.
        look_name: What that is called.
        should_stop: Asked now and then.
        progress: Told how many samples are done.

    Returns:
        One prediction a sample; None where the run was stopped, or other shares are not done.

    Raises:
        DataError: The folder holds predictions that were made with other settings.
    """
    folder = RunFolder(Path(recipe.run.output))
    if fresh:
        folder.clear()
    settings = plain_settings(recipe) | {
        "look": look_name,
        "weights": weights_fingerprint(timechat.model),
        "device": timechat.model.device.type,
        "dtype": str(timechat.model.dtype),
    }
    folder.begin(recipe, run_facts(), settings)
    is_done = predict(
        timechat, samples, recipe, folder, shard=shard, encode=encode, should_stop=should_stop, progress=progress
    )
    return folder.finish(samples) if is_done else None


def score_run(
    recipe: EvaluationRecipe, samples: Sequence[Sample], predictions: Sequence[Prediction], *, compares: bool = False
) -> Evaluation:
    """Write the result files of a run, score them, and keep the figures.

    Args:
        recipe: Of the run.
        samples: That it asks.
        predictions: One for each.
        compares: Whether published figures stand beside ours.
    """
    folder = RunFolder(Path(recipe.run.output))
    benchmark = BENCHMARKS[recipe.benchmark.name]
    written = write_results(
        folder.results(),
        benchmark,
        samples,
        predictions,
        split=recipe.benchmark.split,
        num_frames=recipe.frames.num_frames,
        preset=recipe.preset,
    )
    scores: dict[str, Scores] = {
        one.task: score_files(one.predictions, one.truth, one.scorer, resamples=recipe.run.resamples)  # type: ignore[arg-type]
        for one in written
    }
    asked = [pair for pair in zip(samples, predictions, strict=True) if pair[0].task == "ask"]
    scores |= score_questions(benchmark, asked, resamples=recipe.run.resamples)
    if benchmark.write_results is not None:
        benchmark.write_results(samples, predictions, folder.results())
    metrics = _metrics(recipe, predictions, scores, folder)
    published = []
    if compares:
        names = [name for one in scores.values() for name in one.metrics]
        published = metrics_beside(recipe.benchmark.name, recipe.benchmark.setting, names)
        metrics["published"] = to_rows(published)
    table = _table(recipe, metrics, scores)
    if compares:
        ours = {name: value for one in scores.values() for name, value in one.metrics.items()}
        beside = comparison_table(ours, recipe.model.checkpoint, published) if published else "No published figures."
        table += f"\n## Published figures\n\n{beside}\n"
    folder.write_metrics(metrics, table)
    return Evaluation(recipe, samples, predictions, scores, metrics, table)


def _metrics(
    recipe: EvaluationRecipe, predictions: Sequence[Prediction], scores: dict[str, Scores], folder: RunFolder
) -> dict[str, Any]:
    run = folder.read("run.json")
    seconds = {
        stage: round(sum(one.seconds.get(stage, 0.0) for one in predictions), 2) for stage in ("encode", "answer")
    }
    return {
        "name": recipe.name,
        "benchmark": recipe.benchmark.name,
        "split": recipe.benchmark.split,
        "model": recipe.model.checkpoint,
        "weights": run["settings"]["weights"],
        "preset": recipe.preset,
        "preset_sha256": run["settings"]["preset_sha256"],
        "samples": len(predictions),
        "statuses": count_statuses(predictions),
        "seconds": seconds,
        "scores": {name: one.to_dict() for name, one in scores.items()},
    }


def _table(recipe: EvaluationRecipe, metrics: dict[str, Any], scores: dict[str, Scores]) -> str:
    benchmark = BENCHMARKS[recipe.benchmark.name]
    how = "drawn by chance" if recipe.decoding.do_sample else "greedy"
    lines = [
        f"# {benchmark.title}: {recipe.model.checkpoint}",
        "",
        f"{metrics['samples']} samples, {how}, preset {recipe.preset} ({metrics['preset_sha256'][:8]}), weights "
        f"{metrics['weights'][:8]}. Fractions from 0 to 1, CIDEr from 0 to 10; 95 % bootstrap intervals over videos.",
        "",
        "| samples | |",
        "| --- | ---: |",
        *(f"| {STATUS_WORDS[status]} | {count} |" for status, count in metrics["statuses"].items()),
    ]
    for name, one in scores.items():
        lines += ["", f"## {name.replace('_', ' ')}", "", one.to_markdown()]
    return "\n".join(lines) + "\n"
