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
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from timechat.model.configuration import TimeChatConfig
from timechat.model.tensor_files import save_tensors
from timechat.synthetic.nano.tokens import frames_per_token

WINDOW_PARTS = 8
"""Number of frames that a video token of the model with one window stands for."""
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


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("one-window", help="make the start weights of the training with one window")
    start.add_argument("source", type=Path, metavar="SOURCE", help="folder of the model after the stage `scripts`")
    start.add_argument("target", type=Path, metavar="TARGET", help="new folder")
    arguments = parser.parse_args()
    one_window(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
