"""Ablations: the same questions without the two ideas of the paper, and without the content of the video.

Each frame carries its time in a sentence that the image Q-Former reads, and the video Q-Former slides over windows of
frames. Here a trained model answers with the same time for every frame, with the times in random order, and with one
window over all frames. It was trained with both ideas, so this shows how it uses them, not what could be learned
without. Blank frames and frames in random order show how much its answers depend on the video.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from timechat.backbones.timechat.encoding import compress_frames, encode_frames
from timechat.evaluation.benchmarks import BENCHMARKS, Benchmark
from timechat.evaluation.config import EvaluationRecipe
from timechat.evaluation.evaluate import run_predictions, score_run
from timechat.evaluation.metrics.intervals import Estimate, bootstrap_mean
from timechat.evaluation.predict import EncodeVideo, Progress
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.score import Scores
from timechat.files import write_text_atomically
from timechat.pipeline import EncodedVideo, TimeChat
from timechat.video import Frames, sample_video

METRICS: Mapping[str, tuple[str, ...]] = {
    "grounding": ("r1_iou_0.5", "miou"),
    "dense_caption": ("f1", "soda_c"),
    "highlights": ("map_very_good", "hit1_fair"),
    "questions": ("accuracy",),
    "choices": ("accuracy",),
}
"""Metrics in the table, by task."""
TABLE_FILE = "ablations.md"


@dataclass(frozen=True, slots=True)
class Ablation:
    """A change of the input of the model.

    Attributes:
        title: Label of the row in the table.
        look: Function that encodes the video of a sample; None encodes it as the recipe says.
        has_windows: Whether the video Q-Former slides over windows.
    """

    title: str
    look: EncodeVideo | None = None
    has_windows: bool = True


def _encode_with_one_time(timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe) -> EncodedVideo:
    """Encode a video whose frames all carry the timestamp 0.0 seconds."""
    frames = _load_frames(timechat, path, sample, recipe)
    return _encode(timechat, frames, path, shown_timestamps=np.zeros(len(frames)))


def _encode_with_shuffled_times(
    timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe
) -> EncodedVideo:
    """Encode a video whose frames carry its timestamps in random order, the same order in every call."""
    frames = _load_frames(timechat, path, sample, recipe)
    return _encode(timechat, frames, path, shown_timestamps=_random(sample).permutation(frames.timestamps))


def _encode_blank_frames(timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe) -> EncodedVideo:
    """Encode black frames with the timestamps of the video."""
    frames = _load_frames(timechat, path, sample, recipe)
    return _encode(timechat, replace(frames, pixels=np.zeros_like(frames.pixels)), path)


def _encode_shuffled_frames(timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe) -> EncodedVideo:
    """Encode the frames in random order, the same order in every call, with the timestamps in their own order."""
    frames = _load_frames(timechat, path, sample, recipe)
    return _encode(timechat, replace(frames, pixels=frames.pixels[_random(sample).permutation(len(frames))]), path)


def _random(sample: Sample) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(sample.video.encode()))


def _load_frames(timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe) -> Frames:
    sampling = replace(recipe.frames.frame_sampling(), start=sample.start, end=sample.end)
    if not sampling.has_rate:
        default = timechat.model.config.default_sampling()
        sampling = replace(sampling, **default | ({"max_frames": sampling.max_frames} if sampling.max_frames else {}))
    size = timechat.model.config.frame_size
    return sample_video(path, sampling, size=size, timeout=recipe.frames.timeout)


@torch.inference_mode()
def _encode(
    timechat: TimeChat, frames: Frames, path: Path, *, shown_timestamps: NDArray[np.float64] | None = None
) -> EncodedVideo:
    tokens = encode_frames(timechat.model, timechat.processor, frames, shown_timestamps=shown_timestamps)
    video_tokens = compress_frames(timechat.model, tokens)
    return EncodedVideo(video_tokens, frames.timestamps, frames.duration, str(path), frames.notes, timechat.name)


ABLATIONS: Mapping[str, Ablation] = {
    "no-timestamps": Ablation("the same time for every frame", _encode_with_one_time),
    "shuffled-timestamps": Ablation("times in random order", _encode_with_shuffled_times),
    "no-windows": Ablation("one window over all frames", has_windows=False),
    "blank-frames": Ablation("blank frames", _encode_blank_frames),
    "shuffled-frames": Ablation("frames in random order", _encode_shuffled_frames),
}


def run_ablations(
    recipe: EvaluationRecipe,
    samples: Sequence[Sample],
    scores: Mapping[str, Scores],
    timechat: TimeChat,
    *,
    benchmarks: Mapping[str, Benchmark] = BENCHMARKS,
    progress: Progress | None = None,
) -> str:
    """Answer and score the samples again under each ablation, in a folder of its own below the run's.

    A run that was stopped is resumed.

    Args:
        recipe: Recipe of the run.
        samples: Samples of the run.
        scores: Scores of the unchanged model.
        timechat: The model.
        benchmarks: Known benchmarks by name.
        progress: Function that is called with the number of finished samples of an ablation.

    Returns:
        The table in Markdown. `ablations.md` in the run's folder holds the same text.

    Raises:
        ValueError: The recipe reads videos window by window, or the benchmark samples frames in its own way.
    """
    if recipe.frames.windows or any(sample.sampling != "uniform" for sample in samples):
        raise ValueError("ablations need each video as one window with evenly spread frames; set frames.windows=false")
    rows: dict[str, Mapping[str, Scores]] = {"the unchanged model": scores}
    for name, ablation in ABLATIONS.items():
        own = replace(recipe, run=replace(recipe.run, output=f"{recipe.run.output}/ablations/{name}"))
        predictions = _predictions(own, samples, timechat, name, progress)
        rows[ablation.title] = score_run(own, samples, predictions, benchmarks=benchmarks).scores
    note = "The model was trained with both ideas."
    table = difference_table(rows, samples, recipe.run.resamples, note=note)
    write_text_atomically(Path(recipe.run.output) / TABLE_FILE, table)
    return table


def _predictions(
    recipe: EvaluationRecipe, samples: Sequence[Sample], timechat: TimeChat, name: str, progress: Progress | None
) -> list[Prediction]:
    ablation = ABLATIONS[name]
    with _windows(timechat, is_kept=ablation.has_windows):
        predictions = run_predictions(
            recipe, samples, timechat, encode=ablation.look, look_name=name, progress=progress
        )
    assert predictions is not None  # no stop condition, and a single shard
    return predictions


@contextmanager
def _windows(timechat: TimeChat, *, is_kept: bool) -> Iterator[None]:
    """Context manager in which the video Q-Former reads all frames in one window."""
    configs = [timechat.model.config, timechat.model.video_qformer.config, timechat.processor.config]
    sizes = [config.window_size for config in configs]
    try:
        for config in configs:
            config.window_size = config.window_size if is_kept else 0
        yield
    finally:
        for config, size in zip(configs, sizes, strict=True):
            config.window_size = size


def difference_table(
    rows: Mapping[str, Mapping[str, Scores]],
    samples: Sequence[Sample],
    resamples: int,
    *,
    metrics: Mapping[str, Sequence[str]] = METRICS,
    note: str = "",
) -> str:
    """Make a table of each metric and of its difference from the first row, each with its interval.

    Args:
        rows: Scores by task, by title of the row.
        samples: Samples that all rows answer.
        resamples: Number of bootstrap resamples for the intervals.
        metrics: Metrics in the table, by task; tasks that the first row lacks are left out.
        note: Sentences at the end of the note below the table.

    Returns:
        The table in Markdown.
    """
    first_title, whole = next(iter(rows.items()))
    videos = {sample.id: sample.video for sample in samples}
    shown = [(task, metric) for task, names in metrics.items() if task in whole for metric in names]
    heads = [f"{task.replace('_', ' ')}: {metric}" for task, metric in shown]
    lines = [f"| {' | '.join(['', *heads])} |", f"| --- |{' --- |' * len(heads)}"]
    for title, scores in rows.items():
        cells = []
        for task, metric in shown:
            value = _estimate(scores[task], None, metric, videos, resamples)
            lost = "" if scores is whole else _difference(scores[task], whole[task], metric, videos, resamples)
            cells.append("-" if value is None else f"{value}{lost}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    text = (
        f"95 % bootstrap intervals over videos; in brackets the difference from {first_title}, on the same "
        f"questions. {note}"
    )
    return "\n".join([*lines, "", text.rstrip(), ""])


def _difference(scores: Scores, others: Scores, metric: str, videos: Mapping[str, str], resamples: int) -> str:
    estimate = _estimate(scores, others, metric, videos, resamples)
    return "" if estimate is None else f" ({estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}])"


def _estimate(
    scores: Scores, others: Scores | None, metric: str, videos: Mapping[str, str], resamples: int
) -> Estimate | None:
    """Mean of a metric, or of its difference from other scores, question by question."""
    values, groups = [], []
    for item, metrics in scores.items.items():
        if metric in metrics:
            less = 0.0 if others is None else others.items[item][metric]
            values.append(metrics[metric] - less)
            groups.append(videos.get(item, item))
    return bootstrap_mean(values, groups, resamples=resamples) if values else None
