"""The script that compares decoded frames with recorded ones."""

import shutil
from pathlib import Path

import numpy as np
from perf.decoded_frames import OTHER, differences, read_videos

from timechat.video import load_frames

CLIP = Path(__file__).parents[1] / "data" / "clock" / "packed.avi"


def test_recorded_frames_are_compared_with_both_filters(tmp_path):
    arrays = {}
    for name, indices in (("a.avi", [0, 2]), ("b.avi", [1])):
        shutil.copyfile(CLIP, tmp_path / name)
        whole = load_frames(CLIP, num_frames=1000, size=224)
        arrays |= {f"{name}:index": np.array(indices), f"{name}:frames": whole.pixels[indices]}
    np.savez(tmp_path / "frames.npz", **arrays)
    first, second = read_videos(tmp_path / "frames.npz", tmp_path)
    assert (first.name, second.name) == ("a.avi", "b.avi")
    assert first.frames["recorded"].timestamps.tolist() == whole.timestamps[[0, 2]].tolist()
    recorded = first.frames["recorded"].pixels
    assert differences(first.frames["bilinear"].pixels, recorded) == [0.0, 0.0]
    assert min(differences(first.frames["bicubic"].pixels, recorded)) > 0
    assert (first.frames[OTHER].pixels == arrays["b.avi:frames"][[0, 0]]).all()
    assert differences(np.full((1, 2, 2, 3), 4, np.uint8), np.full((1, 2, 2, 3), 9, np.uint8)) == [5.0]
