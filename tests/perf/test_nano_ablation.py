"""The start weights of the training with one window, and the comparison of trained models (`perf/nano_ablation.py`)."""

import json

import pytest
import torch
from perf.nano_ablation import compare, one_window

from perf import nano_ablation
from timechat.evaluation.evaluate import read_samples
from timechat.model.loading import find_folder, load_model
from timechat.synthetic.write import SyntheticSet, render_videos

SHORT = ["run.resamples=20", "decoding.max_new_tokens=24", "model.dtype=float32"]


def test_one_window_keeps_the_weights_and_gives_positions_to_parts(tmp_path):
    source = find_folder("nano")
    one_window(source, tmp_path / "start")
    (before, _), (after, processor) = (load_model(str(folder), device="cpu") for folder in (source, tmp_path / "start"))
    config = after.config
    assert (config.window_size, config.stride, config.max_frame_positions) == (128, 128, 128)
    assert processor.config.num_video_tokens(120) == config.num_video_query_tokens == 16
    assert config.frame_interpolation == before.config.frame_interpolation
    weights, name = after.state_dict(), "video_qformer.frame_positions.weight"
    for frame in (0, 7, 8, 127):
        assert torch.equal(weights[name][frame], before.state_dict()[name][frame // 8])
    assert all(torch.equal(weights[key], value) for key, value in before.state_dict().items() if key != name)
    with pytest.raises(ValueError, match="one video token and one position for each frame"):
        one_window(tmp_path / "start", tmp_path / "again")


def test_models_are_compared_on_the_same_questions_and_one_without_timestamps(tmp_path, monkeypatch):
    def read_some(*args):
        grounding = [sample for sample in read_samples(*args) if sample.task == "grounding"]
        return grounding[:3]  # captions are left out: scoring them starts a slow program

    monkeypatch.setattr(nano_ablation, "read_samples", read_some)
    drawn = SyntheticSet(1, seed=5, level=1, split="test", part="standard")
    render_videos(drawn, tmp_path / "films", workers=1)
    nano = find_folder("nano")
    table = compare(nano, nano, nano, tmp_path / "films", tmp_path / "runs", SHORT)
    assert table == (tmp_path / "runs" / "comparison.md").read_text()
    assert "in brackets the difference from both ideas" in table
    heads, _, _, _, same = (line.split("|")[1:-1] for line in table.splitlines()[:5])
    assert heads[1].strip() == "grounding: r1_iou_0.5"
    assert same[0].strip() == "one window"
    assert all("(+0.000 [+0.000, +0.000])" in cell for cell in same[1:])  # the same model
    looks = {
        folder.name: json.loads((folder / "run.json").read_text())["settings"]["look"]
        for folder in (tmp_path / "runs").iterdir()
        if folder.is_dir()
    }
    assert looks == {"both": None, "no-timestamps": "no-timestamps", "one-window": None}
