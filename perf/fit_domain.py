"""Fit the test whether a video is of the kind that a model was trained on, and measure its errors.

    timechat data draw inside1 --clips 30 --seed 901 --level 1 --split train    and for levels 2 and 3
    timechat data draw check1 --clips 40 --seed 951 --level 1 --split test      and for levels 2 and 3
    python perf/fit_domain.py --inside inside? --check check? --outside CLIPS ... [--write]

Videos are divided into windows of 10 s. The rule is fitted on the windows of `--inside` and of `--outside`; both kinds
have the same total weight. False alarms are counted on the windows of `--check`, which no fit has seen. Misses are
counted with one clip of `--outside` left out of the fit at a time. `--write` puts the rule that is fitted on all of
them into the configuration of the built-in model.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from timechat import TimeChat, VideoError
from timechat.backbones.timechat.encoding import encode_frames
from timechat.files import atomic_write, is_video_name, walk_files
from timechat.model import NANO_FOLDER
from timechat.model.domain import domain_features
from timechat.video import FrameSampling, VideoReader

WINDOW_SECONDS = 10.0
MIN_SECONDS = 5.0  # a shorter rest of a longer video is no window
DESCRIPTION = "synthetic videos of coloured shapes"
RIDGE = 0.1  # penalty of the squared weights of standardized features

Features = NDArray[np.float32]


def window_features(timechat: TimeChat, path: Path) -> Features:
    """Return the features of each window of a video, `(windows, features)`."""
    size, rows = timechat.model.config.vision_config.image_size, []
    with VideoReader(path) as reader:
        start = 0.0
        while start == 0.0 or reader.duration - start >= MIN_SECONDS:
            sampling = FrameSampling(fps=timechat.model.config.fps, start=start, end=start + WINDOW_SECONDS)
            frames = reader.load(sampling, size=size)
            rows.append(domain_features(encode_frames(timechat.model, timechat.processor, frames)[0]).numpy())
            start += WINDOW_SECONDS
    return np.array(rows)


def read_windows(timechat: TimeChat, paths: Sequence[Path]) -> dict[str, Features]:
    """Return the features of every video in files and folders; a video that cannot be read is skipped with a line."""
    found = {}
    files = [file for path in paths for file in ([path] if path.is_file() else walk_files(path))]
    for file in filter(is_video_name, files):
        try:
            found[str(file)] = window_features(timechat, file)
        except VideoError as error:
            print(f"skipped: {error}")
    return found


def fit(inside: Features, outside: Features) -> tuple[Features, float]:
    """Return weights and offset of the ridge regression to -1 (inside) and 1 (outside)."""
    mean, scale = inside.mean(0), inside.std(0) + 1e-3
    x = np.concatenate([inside, outside])
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))]).astype(np.float64)
    y = np.repeat([-1.0, 1.0], [len(inside), len(outside)])
    share = np.repeat([1 / len(inside), 1 / len(outside)], [len(inside), len(outside)])
    weighted = x * share[:, None]
    solution = np.linalg.solve(weighted.T @ x + RIDGE * np.eye(x.shape[1]), weighted.T @ y)
    weights = solution[:-1] / scale
    return weights.astype(np.float32), float(solution[-1] - weights @ mean)


def main() -> None:
    """Fit, measure, and write the rule if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("inside", "check", "outside"):
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    parser.add_argument("--write", action="store_true", help="write the rule into the built-in model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    timechat = TimeChat.from_pretrained("nano", device="cpu")
    inside = np.concatenate(list(read_windows(timechat, options.inside).values()))
    check = np.concatenate(list(read_windows(timechat, options.check).values()))
    outside = read_windows(timechat, options.outside)
    margins = []
    for left_out, rows in outside.items():
        weights, offset = fit(inside, np.concatenate([other for name, other in outside.items() if name != left_out]))
        margins += [(float(value), left_out) for value in rows @ weights + offset]
    weights, offset = fit(inside, np.concatenate(list(outside.values())))
    alarms = check @ weights + offset
    misses = sum(value <= 0 for value, _ in margins)
    print(f"false alarms: {int((alarms > 0).sum())} of {len(alarms)} windows, largest value {alarms.max():.2f}")
    print(f"misses: {misses} of {len(margins)} windows of {len(outside)} clips, each left out of the fit")
    for value, name in sorted(margins)[:5]:
        print(f"  smallest values: {value:.2f} {Path(name).name}")
    if options.write:
        path = NANO_FOLDER / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        rule = {"weights": [float(f"{weight:.5g}") for weight in weights], "offset": round(offset, 5)}
        config["domain"] = {"description": DESCRIPTION, **rule}
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
