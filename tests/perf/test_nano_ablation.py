"""The start weights of the training with one window, from `perf/nano_ablation.py`."""

import pytest
import torch
from perf.nano_ablation import one_window

from timechat.model.loading import find_folder, load_model


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
