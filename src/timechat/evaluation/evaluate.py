"""A recipe → predictions → result files → metrics: the steps of `timechat evaluate`.

recipe ─▶ samples ─▶ predict ─▶ RunFolder ─▶ result_writing ─▶ score ─▶ metrics.json, table.md
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from timechat.answers.prompts import POST_CHECKS
from timechat.answers.tasks import GREEDY, find_preset
from timechat.backbones.endpoint.options import EndpointSettings
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.errors import DataError
from timechat.evaluation.benchmarks import BENCHMARKS, Benchmark, BenchmarkFiles, find_benchmark
from timechat.evaluation.config import (
    EvaluatedModelSettings,
    EvaluationRecipe,
    EvaluationRunSettings,
    MomentSettings,
)
from timechat.evaluation.moments import score_moments
from timechat.evaluation.predict import EncodeVideo, Progress, is_open, predict
from timechat.evaluation.published import comparison_table, published_beside, to_rows
from timechat.evaluation.question_scores import score_questions
from timechat.evaluation.result_files import write_results
from timechat.evaluation.run_folder import RunFolder
from timechat.evaluation.samples import Prediction, Sample, count_statuses
from timechat.evaluation.score import Scores, score_files
from timechat.files.cache import cache_key
from timechat.files.system import launched_processes, local_rank
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
    """The result of a run.

    Attributes:
        recipe: Recipe of the run.
        benchmark: Benchmark of the samples.
        samples: Samples of the run.
        predictions: Predictions, one for each sample.
        scores: Scores by task, `questions` or `choices`.
        metrics: All metrics, with the content of `metrics.json`.
        table: The same metrics in Markdown.
    """

    recipe: EvaluationRecipe
    benchmark: Benchmark
    samples: Sequence[Sample]
    predictions: Sequence[Prediction]
    scores: dict[str, Scores]
    metrics: dict[str, Any]
    table: str


def read_samples(recipe: EvaluationRecipe, benchmarks: Mapping[str, Benchmark] = BENCHMARKS) -> list[Sample]:
    """Read the samples of a recipe: a random subset if the recipe asks for one, up to the recipe's limit.

    Args:
        recipe: Recipe of the run.
        benchmarks: Known benchmarks by name.

    Raises:
        ValueError: The benchmark is unknown.
        DataError: The annotations are missing or malformed, hold no sample, or have no wording of their own although
            the recipe requires it.
    """
    settings = recipe.benchmark
    benchmark = find_benchmark(settings.name, benchmarks)
    own_wording = settings.wording == "annotations"
    transcripts = None if settings.transcripts is None else Path(settings.transcripts)
    source = BenchmarkFiles(Path(settings.annotations), Path(settings.videos), settings.split, transcripts, own_wording)
    if not source.videos.is_dir():
        raise DataError(f"{source.videos}: no such folder; give the folder of the videos as benchmark.videos")
    chosen = random_subset(_thinned(benchmark.read(source), recipe.run.per_video), recipe.run)
    samples = list(islice(chosen, recipe.run.limit))
    if not samples:
        raise DataError(f"{settings.annotations}: holds no question; give the annotations of {settings.name}")
    if own_wording and not any(sample.question for sample in samples):
        raise DataError(f"{settings.annotations}: has no wording of its own; set benchmark.wording=preset")
    if recipe.post_check and not any(sample.task in POST_CHECKS for sample in samples):
        raise ValueError(
            f"post_check asks again about {', '.join(POST_CHECKS)}, and {settings.name} has no such sample; set "
            "post_check=false"
        )
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{settings.annotations}: {sample.id!r} appears twice; every sample needs its own id")
        seen.add(sample.id)
    return samples


def _thinned(samples: Iterable[Sample], per_video: int | None) -> Iterable[Sample]:
    """Keep a maximum number of samples about each video, evenly spaced."""
    if per_video is None:
        return samples
    by_video: dict[str, list[Sample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video, []).append(sample)
    kept: list[Sample] = []
    for about in by_video.values():
        count = min(per_video, len(about))
        kept += [about[i * len(about) // count] for i in range(count)]
    return kept


def random_subset(samples: Iterable[Sample], settings: EvaluationRunSettings) -> Iterable[Sample]:
    """Keep `sample_num` random samples, in their order; the choice depends only on the seed and the identifiers."""
    if settings.sample_num is None:
        return samples
    samples = list(samples)

    def key(sample: Sample) -> bytes:
        return hashlib.sha256(f"{settings.sample_seed} {sample.id}".encode()).digest()

    kept = {sample.id for sample in sorted(samples, key=key)[: settings.sample_num]}
    return [sample for sample in samples if sample.id in kept]


def load_timechat(settings: EvaluatedModelSettings) -> TimeChat:
    """Load the model of a recipe and set the adapter strength and the timestamp tokenizer.

    Raises:
        ValueError: The recipe sets the strength of an adapter, but the model has none, or another engine has merged
            it; or a timestamp tokenizer for which it has no embeddings.
    """
    if launched_processes() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(local_rank())  # one per process
    if settings.engine is not None and settings.lora_alpha is not None:
        raise ValueError(
            f"lora_alpha {settings.lora_alpha} cannot be set with engine {settings.engine}, which has merged the "
            "adapter; leave one of them out"
        )
    timechat = TimeChat.from_pretrained(
        settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        picture_side=settings.picture_side,
        endpoint=EndpointSettings(settings.api_key_env),
        engine=settings.engine,
        engine_options=settings.engine_options,
    )
    if settings.lora_alpha is not None:
        timechat.model.set_lora_alpha(settings.lora_alpha)
    if settings.timestamp_tokenizer is not None:
        timechat.processor.set_timestamp_tokenizer(settings.timestamp_tokenizer)
    return timechat


def run_facts() -> dict[str, Any]:
    """Versions of Python and of libraries, and the machine type."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return {"python": platform.python_version(), "versions": versions, "machine": platform.machine()}


def plain_settings(recipe: EvaluationRecipe) -> dict[str, Any]:
    """Settings of the recipe that the answers depend on, for JSON; limits of the run are not included."""
    settings = recipe.benchmark
    preset = json.dumps(find_preset(recipe.preset).to_dict(), sort_keys=True)
    frames = {key: value for key, value in asdict(recipe.frames).items() if key != "timeout"}
    # Settings that are new since 0.1 are written only if they differ from 0.1's behaviour, so that its folders match.
    later: dict[str, Any] = {}
    for name in ("step", "refine"):
        if frames[name] is None:
            del frames[name]
    model, decoding = asdict(recipe.model), asdict(recipe.decoding)
    del model["api_key_env"]
    if model["picture_side"] is None:
        del model["picture_side"]
    for name in ("quantize", "engine", "engine_options"):
        if model[name] is None:
            del model[name]
    if "int8" in (recipe.model.dtype, recipe.model.quantize):
        later["int8"] = "one scale per channel and token"  # up to 0.2.0, one per tensor
    for name in ("num_beams", "length_penalty", "repetition_penalty", "min_new_tokens"):
        if decoding[name] == getattr(GREEDY, name):
            del decoding[name]
    if settings.wording != "preset":
        later["wording"] = settings.wording
    if recipe.frames.windows and recipe.moments != MomentSettings():
        later["moments"] = asdict(recipe.moments)
    if recipe.post_check:
        later["post_check_sha256"] = hashlib.sha256(json.dumps(POST_CHECKS, sort_keys=True).encode()).hexdigest()
    return {
        "benchmark": f"{settings.name}, {settings.split}",
        "transcripts": settings.transcripts is not None,
        "model": model,
        "frames": frames,
        "preset": recipe.preset,
        "preset_sha256": hashlib.sha256(preset.encode()).hexdigest(),
        "decoding": decoding,
        "batch_size": recipe.run.batch_size,
        **later,
    }


def finished_predictions(recipe: EvaluationRecipe, samples: Sequence[Sample]) -> list[Prediction] | None:
    """Return the predictions of a finished run without loading the model; None if some are missing.

    Raises:
        DataError: The predictions were made with other settings.
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
    """Answer all samples that have no prediction yet.

    Args:
        recipe: Recipe of the run.
        samples: Samples of the run.
        timechat: The model.
        fresh: Whether earlier predictions are deleted.
        shard: Index of this share, from 0, and number of shares.
        encode: Function that encodes a video; None encodes it with the recipe's frame options.
        look_name: Name of that function in `run.json`.
        should_stop: Function that returns whether to stop; it is called after every chunk.
        progress: Function that is called with the number of finished samples.

    Returns:
        One prediction per sample; None if the run was stopped or other shares are not finished.

    Raises:
        DataError: The folder holds predictions that were made with other settings.
    """
    folder = RunFolder(Path(recipe.run.output))
    if fresh:
        folder.clear()
    settings = plain_settings(recipe) | {"look": look_name, **_model_facts(timechat)}
    folder.begin(recipe, run_facts(), settings)
    is_done = predict(
        timechat, samples, recipe, folder, shard=shard, encode=encode, should_stop=should_stop, progress=progress
    )
    return folder.finish(samples) if is_done else None


def _model_facts(timechat: TimeChat) -> dict[str, Any]:
    """Identity of the weights, device and number format; of a server or another engine, everything that is known."""
    backbone = timechat.backbone
    if not isinstance(backbone, TimeChatBackbone) or backbone.executor.language_model_facts is not None:
        return {"weights": cache_key(**backbone.facts("answer"))}
    model = backbone.model
    return {"weights": weights_fingerprint(model), "device": model.device.type, "dtype": str(model.dtype)}


def score_run(
    recipe: EvaluationRecipe,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    *,
    benchmarks: Mapping[str, Benchmark] = BENCHMARKS,
    compares: bool = False,
) -> Evaluation:
    """Write the result files of a run, score them, and save the metrics.

    Args:
        recipe: Recipe of the run.
        samples: Samples of the run.
        predictions: Predictions, one for each sample.
        benchmarks: Known benchmarks by name.
        compares: Whether the table also shows published metrics.
    """
    folder = RunFolder(Path(recipe.run.output))
    benchmark = find_benchmark(recipe.benchmark.name, benchmarks)
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
    if benchmark.scorers.get("grounding") == "moments":
        scores["grounding"] = score_moments(samples, predictions, resamples=recipe.run.resamples)
    asked = [pair for pair in zip(samples, predictions, strict=True) if pair[0].task == "ask"]
    scores |= score_questions(benchmark, asked, resamples=recipe.run.resamples)
    if benchmark.write_results is not None:
        benchmark.write_results(samples, predictions, folder.results())
    metrics = _metrics(recipe, predictions, scores, folder)
    published = []
    if compares:
        names = [name for one in scores.values() for name in one.metrics]
        published = published_beside(recipe.benchmark.name, recipe.benchmark.setting, names)
        metrics["published"] = to_rows(published)
    table = _table(recipe, benchmark, metrics, scores)
    if compares:
        ours = {name: value for one in scores.values() for name, value in one.metrics.items()}
        beside = comparison_table(ours, recipe.model.checkpoint, published) if published else "No published metrics."
        table += f"\n## Published metrics\n\n{beside}\n"
    folder.write_metrics(metrics, table)
    return Evaluation(recipe, benchmark, samples, predictions, scores, metrics, table)


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
        **_how_samples_were_asked(recipe),
        "statuses": count_statuses(predictions),
        "seconds": seconds,
        "scores": {name: one.to_dict() for name, one in scores.items()},
    }


def _how_samples_were_asked(recipe: EvaluationRecipe) -> dict[str, Any]:
    subset = {} if recipe.run.sample_num is None else {"sample_seed": recipe.run.sample_seed}
    return subset | ({"post_check": True} if recipe.post_check else {})


def _table(recipe: EvaluationRecipe, benchmark: Benchmark, metrics: dict[str, Any], scores: dict[str, Scores]) -> str:
    how = "drawn by chance" if recipe.decoding.do_sample else "greedy"
    if (num_beams := recipe.decoding.num_beams) > 1:
        how = f"beam search with {num_beams} beams"
    if recipe.post_check:
        how += ", with a second turn (post_check)"
    count = f"{metrics['samples']} samples"
    if recipe.run.sample_num is not None:
        count += f" (random subset, seed {recipe.run.sample_seed})"
    lines = [
        f"# {benchmark.title}: {recipe.model.checkpoint}",
        "",
        f"{count}, {how}, preset {recipe.preset} ({metrics['preset_sha256'][:8]}), weights "
        f"{metrics['weights'][:8]}. Fractions from 0 to 1, CIDEr from 0 to 10; 95 % bootstrap intervals over videos.",
        "",
        "| samples | |",
        "| --- | ---: |",
        *(f"| {STATUS_WORDS[status]} | {count} |" for status, count in metrics["statuses"].items()),
    ]
    for name, one in scores.items():
        lines += ["", f"## {name.replace('_', ' ')}", "", one.to_markdown()]
    return "\n".join(lines) + "\n"
