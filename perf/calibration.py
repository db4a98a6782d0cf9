"""Fit the line that makes probabilities of a model's scores, and draw how true they are on other videos.

    timechat data draw out/train10 --clips 3 --seed 21 --split train --minutes 10
    timechat data draw out/videos1 --clips 20 --seed 31 --split test --minutes 1
    timechat evaluate recipes/eval_drawn_moments.yaml --output runs/train10 --set benchmark.annotations=out/train10 ...
    timechat evaluate recipes/eval_drawn_moments.yaml --output runs/videos1 --set benchmark.annotations=out/videos1 ...
    python perf/calibration.py --fit runs/train10 --test runs/videos1 --diagram docs/reliability.png

reads finished runs of `recipes/eval_drawn_moments.yaml`, whose scores are those of grounding. Scores of dense captions
are those of runs of `recipes/eval_drawn.yaml` with `frames.windows=true`, on short or long videos, with `--captions`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timechat.answers.events import Event
from timechat.answers.merging import Calibration, Scoring
from timechat.answers.windows import WindowConfig, temporal_iou
from timechat.backbones.timechat.backbone import backbone_config
from timechat.errors import TimeChatError
from timechat.evaluation.benchmarks.captions import split_captions
from timechat.evaluation.config import EvaluationRecipe, read_recipe
from timechat.evaluation.evaluate import finished_predictions, load_timechat, read_samples
from timechat.evaluation.metrics.calibration import Reliability, calibrated, fit_calibration, logit, reliability
from timechat.evaluation.moments import moment_scores
from timechat.evaluation.samples import Prediction, Sample
from timechat.files import write_json_atomically
from timechat.model.configuration import TimeChatConfig
from timechat.pipeline.request import plan_windows
from timechat.synthetic.benchmark import SYNTHETIC_BENCHMARKS
from timechat.video import FrameSampling

Scored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Score of each moment, number of windows of its video, and whether it is right, each `(moments,)`."""


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, nargs="+", required=True, help="finished runs on the training split")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="finished runs on other videos")
    parser.add_argument("--captions", action="store_true", help="scores of dense captions instead of grounding")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--diagram", type=Path, help="a PNG or SVG file")
    return parser.parse_args()


def read_run(folder: Path) -> tuple[EvaluationRecipe, list[tuple[Sample, Prediction]]]:
    """Recipe, samples and predictions of a finished run."""
    recipe = read_recipe(folder / "recipe.yaml")
    samples = read_samples(recipe, SYNTHETIC_BENCHMARKS)
    predictions = finished_predictions(recipe, samples)
    if predictions is None:
        raise ValueError(f"{folder} is not finished; run `timechat evaluate` again")
    return recipe, list(zip(samples, predictions, strict=True))


def grounding_scores(runs: Sequence[Path], config: TimeChatConfig) -> Scored:
    pieces = []
    for run in runs:
        recipe, pairs = read_run(run)
        for sample, prediction in pairs:
            scores, is_right = moment_scores([(sample, prediction)])
            windows = WindowConfig(step=recipe.frames.step)
            num_windows = len(
                plan_windows(backbone_config(config), float(sample.duration or 0.0), windows, FrameSampling()).windows
            )
            pieces.append((scores, np.full(len(scores), num_windows), is_right))
    return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))  # type: ignore[return-value]


def caption_scores(runs: Sequence[Path], config: TimeChatConfig) -> Scored:  # noqa: ARG001
    """Scores of caption events; one is right where a true event with the same caption has an IoU of 0.5 or more."""
    found = [one for run in runs for pair in read_run(run)[1] for one in _scored_captions(*pair)]
    scores, is_right = np.array([score for score, _ in found]), np.array([right for _, right in found], dtype=bool)
    return scores, np.ones(len(scores)), is_right


def _scored_captions(sample: Sample, prediction: Prediction) -> Iterator[tuple[float, bool]]:
    if sample.task != "dense_caption":
        return
    captions = split_captions(sample.ground_truth["pure_cap"])
    true = [(Event(*span), words) for span, words in zip(sample.ground_truth["segments"], captions, strict=True)]
    for event in prediction.events:
        if event.score is not None:
            same = [one for one, words in true if words.lower() == event.caption.strip(" .").lower()]
            yield event.score, any(temporal_iou(event, one) >= 0.5 for one in same)


def evidence(scores: np.ndarray, windows: np.ndarray, line: Calibration) -> np.ndarray:
    """The model's evidence behind scores, in nats."""
    return (logit(scores) + np.log(windows) - line.offset) / line.slope


def calibrate(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Reliability]]:
    """Fit on the runs of the training split, and measure calibrated and raw scores on the others."""
    config = load_timechat(read_run(options.fit[0])[0].model).model.config
    scoring = Scoring.fitted(config.score_calibration, config.found_threshold)
    name, line, read = (
        ("captions", scoring.captions, caption_scores)
        if options.captions
        else ("grounding", scoring.grounding, grounding_scores)
    )
    scores, windows, is_right = read(options.fit, config)
    slope, offset = fit_calibration(evidence(scores, windows, line), is_right)
    # Videos of one length have one number of windows, by which the odds are divided afterwards.
    offset += float(np.log(windows).mean())
    print(f"{name}: slope {slope:.4f}, offset {offset:.4f}, from {len(scores)} moments")
    result: dict[str, Any] = {name: {"slope": slope, "offset": offset, "moments": len(scores)}}
    scores, windows, is_right = read(options.test, config)
    raw = calibrated(evidence(scores, windows, line), 1.0, 0.0)
    shown = {}
    for kind, numbers in (("raw evidence", raw), ("scores", scores)):
        shown[f"{name}, {kind}"] = one = reliability(numbers, is_right)
        print(f"{name}, {kind}: expected calibration error {one.error:.4f} on {len(scores)} moments of other videos")
        bins = [[b.score, b.right, b.count] for b in one.bins]
        result[f"{name}, {kind}"] = {"error": one.error, "bins": bins}
    return result, shown


def draw_reliability(path: Path, shown: dict[str, Reliability], title: str) -> None:
    """Draw the share right over the score, side by side, each point as large as its count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(shown), figsize=(4.2 * len(shown), 4.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, one) in zip(axes[0], shown.items(), strict=True):
        total = sum(b.count for b in one.bins)
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        axis.plot([b.score for b in one.bins], [b.right for b in one.bins], color="#2b6cb0", linewidth=1)
        axis.scatter(
            [b.score for b in one.bins],
            [b.right for b in one.bins],
            s=[20 + 400 * b.count / total for b in one.bins],
            color="#2b6cb0",
            alpha=0.7,
        )
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="score")
        axis.set_title(f"{name}\nexpected calibration error {one.error:.3f}, n = {total}", fontsize=10)
    axes[0][0].set_ylabel("share right")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main() -> None:
    """Fit, measure, print and draw."""
    options = parse_options()
    try:
        result, shown = calibrate(options)
    except (TimeChatError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.json:
        write_json_atomically(options.json, result)
    if options.diagram:
        draw_reliability(options.diagram, shown, "moments right at IoU 0.5, videos that no training has seen")


if __name__ == "__main__":
    main()
