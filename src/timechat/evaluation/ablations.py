"""What the two ideas of the paper are worth to a model: the same questions without them.

Frames are told their times by a sentence that the image Q-Former reads, and the video Q-Former slides over windows of
frames. Here a trained model answers with the same time told to every frame, with the times mixed up, and with one
window over all frames. It was trained with both ideas, so this tells what it makes of them, not what could be learned
without.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from timechat.evaluation.config import EvaluationRecipe
from timechat.evaluation.evaluate import run_predictions, score_run
from timechat.evaluation.metrics.intervals import Estimate, bootstrap_mean
from timechat.evaluation.predict import EncodeVideo, Progress
from timechat.evaluation.samples import Prediction, Sample
from timechat.evaluation.score import Scores
from timechat.files import write_text_atomically
from timechat.pipeline import EncodedVideo, TimeChat
from timechat.pipeline.session import compress_frames, encode_frames
from timechat.video import sample_video

FIGURES: Mapping[str, tuple[str, ...]] = {
    "grounding": ("r1_iou_0.5", "miou"),
    "dense_caption": ("f1", "soda_c"),
    "highlights": ("map_very_good", "hit1_fair"),
    "questions": ("accuracy",),
    "choices": ("accuracy",),
}
"""Of each task, what the table shows."""
TABLE_FILE = "ablations.md"


@dataclass(frozen=True, slots=True)
class Ablation:
    """A way to do without an idea.

    Attributes:
        title: In the table.
        look: How videos are looked at; None as ever.
        has_windows: Whether the video Q-Former slides over windows.
    """

    title: str
    look: EncodeVideo | None = None
    has_windows: bool = True


def _look_told_one_time(timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe) -> EncodedVideo:
    """Every frame is told that it was sampled at 0.0 seconds."""
    return _look_told(timechat, path, sample, recipe, is_shuffled=False)


def _look_told_shuffled_times(timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe) -> EncodedVideo:
    """Every frame is told the time of some frame of its video; the same ones whenever the video is looked at."""
    return _look_told(timechat, path, sample, recipe, is_shuffled=True)


@torch.inference_mode()
def _look_told(
    timechat: TimeChat, path: Path, sample: Sample, recipe: EvaluationRecipe, *, is_shuffled: bool
) -> EncodedVideo:
    sampling = replace(recipe.frames.frame_sampling(), start=sample.start, end=sample.end)
    if not sampling.has_rate:
        default = timechat.model.config.default_sampling()
        sampling = replace(sampling, **default | ({"max_frames": sampling.max_frames} if sampling.max_frames else {}))
    size = timechat.model.config.vision_config.image_size
    frames = sample_video(path, sampling, size=size, timeout=recipe.frames.timeout)
    told = np.zeros(len(frames))
    if is_shuffled:
        told = np.random.default_rng(zlib.crc32(sample.video.encode())).permutation(frames.timestamps)
    tokens = encode_frames(timechat.model, timechat.processor, frames, shown_timestamps=told)
    video_tokens = compress_frames(timechat.model, tokens)
    return EncodedVideo(video_tokens, frames.timestamps, frames.duration, str(path), frames.notes, timechat.name)


ABLATIONS: Mapping[str, Ablation] = {
    "no-timestamps": Ablation("the same time told to every frame", _look_told_one_time),
    "shuffled-timestamps": Ablation("times told in random order", _look_told_shuffled_times),
    "no-windows": Ablation("one window over all frames", has_windows=False),
}


def run_ablations(
    recipe: EvaluationRecipe,
    samples: Sequence[Sample],
    scores: Mapping[str, Scores],
    timechat: TimeChat,
    *,
    progress: Progress | None = None,
) -> str:
    """Answer and score the samples again without each idea, each in a folder of its own below the run's.

    A run that was stopped goes on where it was.

    Args:
        recipe: Of the run.
        samples: That it asks.
        scores: Of the model as it is.
        timechat: Who answers.
        progress: Told how many samples of an ablation are done.

    Returns:
        The table in Markdown, as it stands in `ablations.md` of the run's folder too.

    Raises:
        ValueError: The recipe looks at videos window by window, or with a sampling of a benchmark's own.
    """
    if recipe.frames.windows or any(sample.sampling != "uniform" for sample in samples):
        raise ValueError("ablations look at each video at one evenly spread look; set frames.windows=false")
    rows: dict[str, Mapping[str, Scores]] = {"the model as it is": scores}
    for name, ablation in ABLATIONS.items():
        own = replace(recipe, run=replace(recipe.run, output=f"{recipe.run.output}/ablations/{name}"))
        predictions = _predictions(own, samples, timechat, name, progress)
        rows[ablation.title] = score_run(own, samples, predictions).scores
    table = _table(rows, samples, recipe.run.resamples)
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
    assert predictions is not None  # nobody stops it, and there is one share
    return predictions


@contextmanager
def _windows(timechat: TimeChat, *, is_kept: bool) -> Iterator[None]:
    """Let the video Q-Former look at all frames in one window for a while."""
    configs = [timechat.model.config, timechat.model.video_qformer.config, timechat.processor.config]
    sizes = [config.window_size for config in configs]
    try:
        for config in configs:
            config.window_size = config.window_size if is_kept else 0
        yield
    finally:
        for config, size in zip(configs, sizes, strict=True):
            config.window_size = size


def _table(rows: Mapping[str, Mapping[str, Scores]], samples: Sequence[Sample], resamples: int) -> str:
    """Each figure with its interval, and what is lost beside the model as it is with the interval of that."""
    videos = {sample.id: sample.video for sample in samples}
    whole = next(iter(rows.values()))
    shown = [(task, figure) for task, figures in FIGURES.items() if task in whole for figure in figures]
    heads = [f"{task.replace('_', ' ')}: {figure}" for task, figure in shown]
    lines = [f"| {' | '.join(['', *heads])} |", f"| --- |{' --- |' * len(heads)}"]
    for title, scores in rows.items():
        cells = []
        for task, figure in shown:
            value = _estimate(scores[task], None, figure, videos, resamples)
            lost = "" if scores is whole else _difference(scores[task], whole[task], figure, videos, resamples)
            cells.append("-" if value is None else f"{value}{lost}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    note = (
        "95 % bootstrap intervals over videos; in brackets the difference from the model as it is, on the same "
        "questions. The model was trained with both ideas."
    )
    return "\n".join([*lines, "", note, ""])


def _difference(scores: Scores, others: Scores, figure: str, videos: Mapping[str, str], resamples: int) -> str:
    estimate = _estimate(scores, others, figure, videos, resamples)
    return "" if estimate is None else f" ({estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}])"


def _estimate(
    scores: Scores, others: Scores | None, figure: str, videos: Mapping[str, str], resamples: int
) -> Estimate | None:
    """Mean of a figure, or of what it has more than that of other scores, question by question."""
    values, groups = [], []
    for item, figures in scores.items.items():
        if figure in figures:
            less = 0.0 if others is None else others.items[item][figure]
            values.append(figures[figure] - less)
            groups.append(videos.get(item, item))
    return bootstrap_mean(values, groups, resamples=resamples) if values else None
