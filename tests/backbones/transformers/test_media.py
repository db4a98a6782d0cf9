"""Frames and their times as the model reads them: texts, sizes, and the order of patches."""

import ast
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.backbones.transformers.tiny import tiny_frames, tiny_loaded
from timechat.backbones.transformers.families import (
    FAMILIES,
    GEMMA3,
    GENERIC,
    LLAVA_ONEVISION,
    QWEN2,
    QWEN3_NATIVE,
    SMOLVLM,
    backbone_config,
    find_family,
    fit_size,
    write_clock,
)
from timechat.backbones.transformers.media import join_patches
from timechat.video import Frames

IRREGULAR = [0, 0.52, 3.04, 3.08, 9.96]


@pytest.mark.parametrize(
    ("backbone", "text"),
    [
        ("qwen3_vl", "<0.3 seconds>[]<3.1 seconds>[]<10.0 seconds>[]"),
        ("qwen3_vl-images", "<0.0 seconds>[]<0.5 seconds>[]<3.0 seconds>[]<3.1 seconds>[]<10.0 seconds>[]"),
        ("qwen2_5_vl", "<0.0 seconds>[]<0.5 seconds>[]<3.0 seconds>[]<3.1 seconds>[]<10.0 seconds>[]"),
        (
            "smolvlm",
            "You are provided the following series of 5 frames from a 0:00:10 [H:MM:SS] video.\n"
            "\nFrame from 00:00.0:[]\nFrame from 00:00.5:[]\nFrame from 00:03.0:[]\nFrame from 00:03.1:[]"
            "\nFrame from 00:10.0:[]\n\n",
        ),
        (
            "llava_onevision",
            "Frame at 0.0 seconds:[]Frame at 0.5 seconds:[]Frame at 3.0 seconds:[]Frame at 3.1 seconds:[]"
            "Frame at 10.0 seconds:[]\n",
        ),
        ("gemma3", "00:00.0 []00:00.5 []00:03.0 []00:03.1 []00:10.0 []"),
    ],
    indirect=["backbone"],
)
def test_irregular_times_stand_before_their_pictures(backbone, text):
    content = backbone.encode(tiny_frames(IRREGULAR))[0]
    tokenizer, written, run = backbone._loaded.tokenizer, "", []
    for number, is_picture in [*zip(content.ids.tolist(), content.is_picture.tolist(), strict=True), (None, True)]:
        if is_picture:
            written += tokenizer.decode(run) + ("[]" if not written.endswith("[]") or run else "")
            run = []
        else:
            run.append(number)
    assert written.removesuffix("[]" if run == [] and not text.endswith("[]") else "") == text
    assert int((content.ids == backbone._encoder.token_id).sum()) == len(content.features)


def test_times_are_written_in_the_words_of_each_family():
    seconds = 3725.26
    assert QWEN3_NATIVE.write_time(seconds) == "<3725.3 seconds>"
    assert QWEN2.write_time(seconds) == "<3725.3 seconds>"
    assert SMOLVLM.write_time(seconds) == "\nFrame from 62:05.3:"
    assert GEMMA3.write_time(seconds) == "62:05.3 "
    assert LLAVA_ONEVISION.write_time(seconds) == GENERIC.write_time(seconds) == "Frame at 3725.3 seconds:"


def test_a_clock_rounds_up_to_the_next_minute():
    assert [write_clock(seconds) for seconds in (59.94, 59.96, 0.04)] == ["00:59.9", "01:00.0", "00:00.0"]


def test_pictures_of_two_frames_have_their_mean_time():
    assert QWEN3_NATIVE.picture_times([0.0, 1.0, 2.0, 3.5, 4.0]) == [0.5, 2.75, 4.0]
    assert QWEN2.picture_times([0.0, 1.0]) == [0.0, 1.0]


def test_times_are_those_of_the_official_processor():
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    milliseconds = [round(time * 1000) for time in IRREGULAR]
    official = Qwen3VLProcessor._calculate_timestamps(None, milliseconds, 1000)
    assert QWEN3_NATIVE.picture_times(IRREGULAR) == pytest.approx(official)


def test_models_of_unknown_types_read_square_images():
    assert find_family("something_new") is GENERIC
    assert find_family("qwen3_vl_moe") is find_family("qwen3_5") is QWEN3_NATIVE
    assert GENERIC.note.startswith("This family of models is not in TimeChat's table")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_window_has_no_more_frames_than_are_allowed(family):
    assert round(family.fps * family.window_seconds) <= family.max_frames


def test_windows_are_shortened_to_the_context_of_the_model():
    config = tiny_loaded("qwen3_vl").model.config
    large = copy.deepcopy(config)
    large.text_config.max_position_embeddings = 262_144
    usual = backbone_config(large, QWEN3_NATIVE, "timechat@1")
    assert (usual.window_seconds, usual.num_frames, usual.rate.max_frames, usual.rate.fps) == (64.0, 128, 256, 2.0)
    short = backbone_config(config, QWEN3_NATIVE, "timechat@1")
    assert (short.window_seconds, short.num_frames, short.context) == (17.0, 34, 4096)
    config.text_config.max_position_embeddings = 1000
    assert backbone_config(config, QWEN3_NATIVE, "timechat@1").window_seconds == 4.0


# --------------------------------------------------------------------------------------------------- patches


def _official(video: torch.Tensor) -> torch.Tensor:
    """Patches of a video `(frames, 3, height, width)` by the video processor of Qwen3-VL.

    Its class needs torchvision; the function that orders the patches does not, and is taken from the source.
    """
    source = Path(transformers.__file__).parent / "models/qwen3_vl/video_processing_qwen3_vl.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "patchify")
    names: dict = {"torch": torch}
    exec(compile(ast.Module([found], []), str(source), "exec"), names)
    return names["patchify"](None, video[None], 8, 2, 2)[0][0]


@pytest.mark.parametrize("backbone", ["qwen3_vl"], indirect=True)
def test_patches_have_the_order_of_the_official_processor(backbone):
    frames = tiny_frames([0, 1, 2, 3, 4, 5], size=(32, 48))
    inputs = backbone._encoder._inputs(frames.pixels)
    processor = backbone._loaded.image_processor
    single = processor(images=list(frames.pixels), do_resize=False, return_tensors="pt")["pixel_values"]
    values = torch.from_numpy(frames.pixels.transpose(0, 3, 1, 2)).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    expected = _official((values - mean) / std)
    assert inputs["video_grid_thw"].tolist() == [[3, 4, 6]]
    assert inputs["pixel_values_videos"].shape == expected.shape == (72, 384)
    assert torch.allclose(inputs["pixel_values_videos"], expected, atol=1e-6)
    # Exact: numbers that say where each value comes from.
    numbers = torch.arange(6 * 3 * 32 * 48).float().view(6, 3, 32, 48)
    images = torch.cat([_official(frame[None].repeat(2, 1, 1, 1)) for frame in numbers])
    assert images.shape == single.shape
    assert torch.equal(join_patches(images, 6, 2), _official(numbers))


@pytest.mark.parametrize("backbone", ["qwen3_vl"], indirect=True)
def test_an_odd_number_of_frames_repeats_the_last(backbone):
    odd = tiny_frames([0, 1, 2])
    even = Frames(np.concatenate([odd.pixels, odd.pixels[-1:]]), np.array([0, 1, 2, 2.0]), odd.duration)
    one, other = backbone.encode(odd)[0], backbone.encode(even)[0]
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.features, other.features)


@pytest.mark.parametrize("backbone", ["qwen3_vl", "llava_onevision", "smolvlm"], indirect=True)
def test_many_frames_are_encoded_in_parts(backbone, monkeypatch):
    frames = tiny_frames(np.arange(11) / 2)
    whole, reports = backbone.encode(frames)[0], []
    monkeypatch.setattr("timechat.backbones.transformers.media._PICTURES_AT_ONCE", 2)
    parts = backbone.encode(frames, progress=lambda done, total: reports.append((done, total)))[0]
    assert torch.equal(parts.ids, whole.ids)
    assert torch.allclose(parts.features, whole.features, atol=1e-5)
    assert reports[-1] == (11, 11)
    assert len(reports) == (3 if backbone.family.frames_per_picture == 2 else 6)


# ----------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((720, 1280), (256, 480)),
        ((1080, 608), (480, 256)),
        ((32, 32), (32, 32)),
        ((10, 10), (32, 32)),
        ((40, 9000), (32, 4096)),
    ],
)
def test_sizes_are_multiples_within_the_budget(size, fitted):
    assert fit_size(*size, 32, 128 * 32 * 32) == fitted
    assert fit_size(*fitted, 32, 128 * 32 * 32) == fitted


@pytest.mark.parametrize("backbone", ["smolvlm", "llava_onevision", "gemma3"], indirect=True)
def test_square_families_read_squares(backbone):
    size = backbone.frame_size(720, 1280)
    assert (size.height, size.width) == (32, 32)


@pytest.mark.parametrize("backbone", ["qwen3_vl"], indirect=True)
def test_frames_of_another_size_are_resized(backbone):
    large = tiny_frames([0, 1], size=(700, 500))
    size = backbone.frame_size(700, 500)
    assert (size.height, size.width) == (208, 144)
    content = backbone.encode(large)[0]
    assert content.grid.tolist() == [[1, 26, 18]]
