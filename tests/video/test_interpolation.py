"""The filter that resizes frames: a property of the checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from timechat.backbones.timechat.facts import model_fingerprint
from timechat.model.configuration import TimeChatConfig
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline import TimeChat
from timechat.video import Frames, FrameSize, load_frames, sample_video
from timechat.video.sampling import FrameSampling

SHARED = Path(__file__).parents[3] / "shared"
RECORDED = SHARED / "reference" / "golden" / "decord_frames.npz"
CLIP = Path(__file__).parents[1] / "data" / "clock" / "packed.avi"


@pytest.mark.skipif(not RECORDED.is_file(), reason="the frames of the original's reader and their videos are not here")
@pytest.mark.parametrize("name", ["charades_3MSZA.mp4", "coffee.mp4", "yoga.mp4"])
def test_frames_are_those_of_the_originals_reader(name):
    recorded = np.load(RECORDED)
    ours = load_frames(SHARED / "videos" / name, num_frames=100_000, size=224)
    bicubic = load_frames(SHARED / "videos" / name, num_frames=100_000, size=224, interpolation="bicubic")
    for index, frame in zip(recorded[f"{name}:index"], recorded[f"{name}:frames"], strict=True):
        assert np.abs(ours.pixels[index].astype(int) - frame.astype(int)).mean() <= 0.4
        assert np.abs(bicubic.pixels[index].astype(int) - frame.astype(int)).mean() >= 0.8


def test_the_default_is_bilinear_and_bicubic_differs():
    default = load_frames(CLIP, num_frames=2, size=48).pixels
    bilinear = load_frames(CLIP, num_frames=2, size=48, interpolation="bilinear").pixels
    bicubic = load_frames(CLIP, num_frames=2, size=48, interpolation="bicubic").pixels
    assert (default == bilinear).all()
    assert (bilinear != bicubic).any()
    chosen = sample_video(CLIP, FrameSampling(2), size=FrameSize(48, 48, "bicubic"))
    assert (chosen.pixels == bicubic).all()


def test_ready_made_frames_are_resized_by_the_same_filter():
    frames = Frames.from_images(np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8), [0, 1])
    bilinear = load_frames(frames, num_frames=2, size=(32, 32)).pixels
    bicubic = load_frames(frames, num_frames=2, size=(32, 32), interpolation="bicubic").pixels
    assert (bilinear != bicubic).any()


def test_other_filters_and_empty_sizes_are_refused():
    with pytest.raises(ValueError, match="interpolation must be bilinear or bicubic, got 'nearest'"):
        load_frames(CLIP, num_frames=2, interpolation="nearest")
    with pytest.raises(ValueError, match="got 'nearest'"):
        TimeChatConfig(frame_interpolation="nearest")
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0 x 4"):
        load_frames(CLIP, num_frames=2, size=(0, 4))


def test_a_folder_without_the_filter_is_bilinear_but_not_in_a_run(tmp_path):
    values = {name: value for name, value in TimeChatConfig().to_dict().items() if name != "frame_interpolation"}
    for folder in (tmp_path / "converted", tmp_path / "run" / "model"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(values))
    for name in ("recipe.yaml", "log.jsonl", "finished.json"):
        (tmp_path / "run" / name).write_text("")
    (tmp_path / "recipe.yaml").write_text("")  # a recipe beside a converted folder makes no run
    assert TimeChatConfig.from_pretrained(tmp_path / "converted").frame_interpolation == "bilinear"
    assert TimeChatConfig.from_pretrained(tmp_path / "run" / "model").frame_interpolation == "bicubic"
    TimeChatConfig().save_pretrained(tmp_path / "run" / "model")
    assert TimeChatConfig.from_pretrained(tmp_path / "run" / "model").frame_interpolation == "bilinear"


def test_the_filter_of_the_model_resizes_and_is_in_the_cache_keys(monkeypatch):
    nano = TimeChat.from_pretrained("nano", device="cpu")
    config, frames = nano.model.config, load_frames(CLIP, num_frames=2)
    processor: TimeChatProcessor = nano.processor
    assert config.frame_interpolation == processor.config.frame_interpolation == "bicubic"
    pixels, key = processor.normalize(frames), model_fingerprint(nano.model, processor)
    for one in (config, processor.config):
        monkeypatch.setattr(one, "frame_interpolation", "bilinear")
    assert (processor.normalize(frames) != pixels).any()
    assert model_fingerprint(nano.model, processor) != key
