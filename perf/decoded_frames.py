"""How far decoded frames, video tokens and greedy texts are from those of the original's reader.

    python -m perf.decoded_frames FRAMES.npz VIDEOS

FRAMES.npz holds frames that the reader of the original (decord, 224 x 224) has decoded: for each video the arrays
`NAME:index` `(frames,)`, the indices of the frames in the file, and `NAME:frames` `(frames, 224, 224, 3)` uint8. VIDEOS
is the folder of these videos. The same frames are decoded here with each filter.

The frames of a video, at their times in the file, are the input of mid-size models with random weights. Their video
tokens are compared by the norm of the difference, relative to the norm of the tokens, and the greedy answers to one
question by their text. Random weights of the usual size hardly depend on the frames, so the matrices of the frame
encoder and of the video Q-Former are multiplied by a gain. The rows "recorded frames of another video" show how much
the models depend on the frames at all.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from perf.second_question import build

from timechat import Frames, TimeChat, load_frames
from timechat.pipeline import DecodingOptions
from timechat.video.frames import Interpolation

QUESTION = "What happens in the video?"
OTHER = "recorded frames of another video"
_SIZE = 224


@dataclass(frozen=True)
class RecordedVideo:
    """A video with recorded frames.

    Attributes:
        name: Name of the file.
        frames: Frames by their origin: `recorded`, each filter, and `OTHER`.
    """

    name: str
    frames: dict[str, Frames]


def read_videos(recorded: Path, folder: Path) -> list[RecordedVideo]:
    """Read the recorded frames, and decode the same ones with each filter."""
    arrays = np.load(recorded)
    videos = []
    for name in sorted(key.removesuffix(":index") for key in arrays if key.endswith(":index")):
        indices, pixels = arrays[f"{name}:index"], arrays[f"{name}:frames"]
        frames: dict[str, Frames] = {}
        for interpolation in get_args(Interpolation):
            whole = load_frames(folder / name, num_frames=10**6, size=_SIZE, interpolation=interpolation)
            frames[interpolation] = replace(whole, pixels=whole.pixels[indices], timestamps=whole.timestamps[indices])
        frames["recorded"] = replace(frames["bilinear"], pixels=pixels)
        videos.append(RecordedVideo(name, frames))
    for video, other in zip(videos, videos[1:] + videos[:1], strict=True):
        most = len(other.frames["recorded"])
        rows = [i % most for i in range(len(video.frames["recorded"]))]
        video.frames[OTHER] = replace(video.frames["recorded"], pixels=other.frames["recorded"].pixels[rows])
    return videos


def differences(ours: NDArray[np.uint8], recorded: NDArray[np.uint8]) -> list[float]:
    """Return the mean absolute difference of each frame, of 255."""
    return [float(np.abs(a.astype(int) - b.astype(int)).mean()) for a, b in zip(ours, recorded, strict=True)]


@torch.inference_mode()
def answer(timechat: TimeChat, frames: Frames, num_tokens: int) -> tuple[torch.Tensor, str]:
    """Return the video tokens and the greedy text."""
    encoded = timechat.encode(frames)
    decoding = DecodingOptions(max_new_tokens=num_tokens, is_free=True)
    return encoded.content.float(), timechat.ask(encoded, QUESTION, decoding=decoding).text


def build_sensitive(seed: int, gain: float) -> TimeChat:
    """Build a random model whose video tokens depend on the frames."""
    timechat = build(seed)
    with torch.no_grad():
        for part in (timechat.model.frame_encoder, timechat.model.video_qformer):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(gain)
    return timechat


def compare(
    videos: Sequence[RecordedVideo], seeds: Sequence[int], gain: float, num_tokens: int
) -> dict[str, tuple[list[float], list[bool]]]:
    """Return the relative errors of the video tokens and whether the texts are equal, by the origin of the frames."""
    found: dict[str, tuple[list[float], list[bool]]] = {}
    for seed in seeds:
        timechat = build_sensitive(seed, gain)
        for video in videos:
            tokens, text = answer(timechat, video.frames["recorded"], num_tokens)
            for origin, frames in video.frames.items():
                if origin != "recorded":
                    own_tokens, own_text = answer(timechat, frames, num_tokens)
                    errors, equal = found.setdefault(origin, ([], []))
                    errors.append(float((own_tokens - tokens).norm() / tokens.norm()))
                    equal.append(own_text == text)
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recorded", type=Path, metavar="FRAMES.npz")
    parser.add_argument("videos", type=Path, metavar="VIDEOS")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="number of random models for each gain")
    parser.add_argument("--gains", type=float, nargs="+", default=[1, 2, 4], metavar="G", help="factors of the weights")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="maximum number of tokens of a text")
    options = parser.parse_args()
    videos = read_videos(options.recorded, options.videos)
    print("| video | frame | bilinear | bicubic |\n| --- | ---: | ---: | ---: |")
    for video in videos:
        columns = [
            differences(video.frames[filter_].pixels, video.frames["recorded"].pixels)
            for filter_ in ("bilinear", "bicubic")
        ]
        for time, *values in zip(video.frames["recorded"].timestamps, *columns, strict=True):
            print(f"| {video.name} | {time:.2f} s | {' | '.join(f'{value:.2f}' for value in values)} |")
    print("\n| gain | frames | video tokens, relative error: mean | largest | equal texts |")
    print("| --- | --- | ---: | ---: | ---: |")
    for gain in options.gains:
        for origin, (errors, equal) in compare(videos, range(options.seeds), gain, options.tokens).items():
            print(f"| {gain:g} | {origin} | {np.mean(errors):.1e} | {max(errors):.1e} | {sum(equal)} of {len(equal)} |")


if __name__ == "__main__":
    main()
