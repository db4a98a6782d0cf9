r"""Ablations of the two ideas of the TimeChat paper by training: nano without times, and with one window for a video.

Three trainings with the same videos, questions and number of steps (`recipes/nano_ablation.yaml`), all from the weights
after the stage `scripts` of `recipes/nano.yaml`. With both ideas:

    timechat train recipes/nano_ablation.yaml --set run.output=out/ablation/both

Without timestamps, the sentence of every frame states 0 seconds:

    timechat train recipes/nano_ablation.yaml --set run.output=out/ablation/no-timestamps \
        --set data.films.timestamps=false

With one window, a video of up to 64 seconds has 16 video tokens, however long it is, and each stands for 8 frames:

    python perf/nano_ablation.py one-window out/nano/2-scripts/model out/ablation/start
    timechat train recipes/nano_ablation.yaml --set run.output=out/ablation/one-window \
        --set model.checkpoint=out/ablation/start

Compare the three on new videos; a comparison that was stopped is resumed:

    timechat data draw out/films --clips 60 --seed 1001 --split test
    python perf/nano_ablation.py compare out/ablation/both/2-films/model out/ablation/no-timestamps/2-films/model \
        out/ablation/one-window/2-films/model --videos out/films
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from timechat.evaluation.ablations import ABLATIONS, difference_table
from timechat.evaluation.config import EvaluationRecipe, read_recipe
from timechat.evaluation.evaluate import load_timechat, read_samples, run_predictions, score_run
from timechat.evaluation.samples import Sample
from timechat.evaluation.score import Scores
from timechat.model.configuration import TimeChatConfig
from timechat.model.tensor_files import save_tensors
from timechat.synthetic.benchmark import SYNTHETIC_BENCHMARKS
from timechat.synthetic.nano.tokens import frames_per_token

WINDOW_PARTS = 8
"""Number of frames that a video token of the model with one window stands for."""
METRICS = {
    "grounding": ("r1_iou_0.5", "miou"),
    "dense_caption": ("f1",),
    "highlights": ("hit1_fair",),
    "questions": ("accuracy",),
}
"""Metrics in the table, by task."""
_RECIPE = Path(__file__).parents[1] / "recipes" / "eval_drawn.yaml"
_TABLE = "comparison.md"
_WEIGHTS = "model.safetensors"
_POSITIONS = "video_qformer.frame_positions.weight"


def one_window(source: Path, target: Path) -> None:
    """Turn nano's weights into the start of the training with one window: each video token stands for 8 frames.

    All weights are kept. The 8 frames of a token get the position of the single frame that it attends to in `source`,
    so that it attends to all of them from the start.

    Args:
        source: Folder of the model after the stage `scripts`.
        target: New folder.

    Raises:
        FileExistsError: `target` exists.
        ValueError: A video token of `source` does not stand for one frame.
    """
    config = TimeChatConfig.from_pretrained(source)
    if frames_per_token(config) != 1 or config.max_frame_positions != config.window_size:
        raise ValueError(f"{source} must have one video token and one position for each frame of a window")
    shutil.copytree(source, target)
    size = WINDOW_PARTS * config.window_size
    config.window_size = config.stride = config.max_frame_positions = size
    config.save_pretrained(target)
    weights = load_file(source / _WEIGHTS)
    weights[_POSITIONS] = weights[_POSITIONS][torch.arange(size) // WINDOW_PARTS]
    (target / _WEIGHTS).unlink()
    save_tensors(weights, target / _WEIGHTS)


def compare(
    both: Path, no_timestamps: Path, one_window: Path, videos: Path, output: Path, settings: Sequence[str] = ()
) -> str:
    """Answer and score the questions about drawn videos with the three trained models.

    The model without timestamps gets the same time for every frame, as in its training.

    Args:
        both: Folder of the model that was trained with both ideas.
        no_timestamps: Folder of the model that was trained without timestamps.
        one_window: Folder of the model that was trained with one window.
        videos: Folder of `timechat data draw`.
        output: Folder of the runs, which gets the table as `comparison.md`.
        settings: Changes of `recipes/eval_drawn.yaml` as `section.key=value`.

    Returns:
        The table in Markdown, with differences from the model with both ideas.
    """
    places = [f"benchmark.annotations={videos}", f"benchmark.videos={videos}"]
    recipe = read_recipe(_RECIPE, [*places, *settings])
    samples = read_samples(recipe, SYNTHETIC_BENCHMARKS)
    rows = {
        "both ideas": _score(recipe, samples, both, output / "both"),
        "no timestamps": _score(recipe, samples, no_timestamps, output / "no-timestamps", look_name="no-timestamps"),
        "one window": _score(recipe, samples, one_window, output / "one-window"),
    }
    note = "Each model was trained as its row says."
    table = difference_table(rows, samples, recipe.run.resamples, metrics=METRICS, note=note)
    (output / _TABLE).write_text(table, encoding="utf-8")
    return table


def _score(
    recipe: EvaluationRecipe, samples: Sequence[Sample], model: Path, output: Path, look_name: str | None = None
) -> dict[str, Scores]:
    """Answer and score the samples with one model; a name of `ABLATIONS` changes how it encodes videos."""
    recipe = replace(
        recipe,
        model=replace(recipe.model, checkpoint=str(model)),
        run=replace(recipe.run, output=str(output)),
    )
    predictions = run_predictions(
        recipe,
        samples,
        load_timechat(recipe.model),
        encode=None if look_name is None else ABLATIONS[look_name].look,
        look_name=look_name,
    )
    assert predictions is not None  # no stop condition, and a single shard
    return score_run(recipe, samples, predictions, benchmarks=SYNTHETIC_BENCHMARKS).scores


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("one-window", help="make the start weights of the training with one window")
    start.add_argument("source", type=Path, metavar="SOURCE", help="folder of the model after the stage `scripts`")
    start.add_argument("target", type=Path, metavar="TARGET", help="new folder")
    of_three = commands.add_parser("compare", help="compare the three trained models on drawn videos")
    for name in ("both", "no_timestamps", "one_window"):
        of_three.add_argument(name, type=Path, metavar=name.upper(), help="folder of this model")
    of_three.add_argument("--videos", type=Path, required=True, help="folder of `timechat data draw`")
    of_three.add_argument("--output", type=Path, default=Path("out/ablation/comparison"), help="folder of the runs")
    of_three.add_argument("--set", action="append", default=[], help="SECTION.KEY=VALUE for recipes/eval_drawn.yaml")
    given = parser.parse_args()
    if given.command == "one-window":
        one_window(given.source, given.target)
    else:
        models = given.both, given.no_timestamps, given.one_window
        print(compare(*models, given.videos, given.output, given.set))


if __name__ == "__main__":
    main()
