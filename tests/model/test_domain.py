"""The test whether a video is of the kind that a model was trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from timechat import Frames, TimeChat, TimeChatConfig
from timechat.model import NANO_FOLDER
from timechat.model.domain import (
    CHUNK_FRAMES,
    domain_chunks,
    domain_features,
    domain_limits,
    is_outside_by_notes,
    is_outside_domain,
    outside_domain_notes,
    read_limits,
)
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "videos"
RULE = {"description": "videos of dogs", "weights": [1.0, 0.0, 0.0, 0.0], "offset": -2.0}  # outside: mean above 2
NOTE = "this video is unlike the videos that the model was trained on (videos of dogs): the answer is a guess"


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    return TimeChat.from_pretrained("nano", device="cpu")


def test_features_are_the_mean_and_the_deviation_of_tokens():
    tokens = torch.tensor([[[0.0, 1.0], [4.0, 1.0]]])
    assert domain_features(tokens).tolist() == [2.0, 1.0, 2.0, 0.0]


@pytest.mark.parametrize(("count", "chunks"), [(1, 1), (20, 1), (29, 1), (31, 2), (120, 6)])
def test_frames_are_tested_in_chunks(count, chunks):
    parts = domain_chunks(torch.zeros(count, 1, 2))
    assert len(parts) == chunks
    assert sum(map(len, parts)) == count


@pytest.mark.parametrize(("num_outside", "expected"), [(0, False), (1, False), (2, True), (3, True)])
def test_half_of_the_chunks_decide(num_outside, expected):
    tokens = torch.zeros(3 * CHUNK_FRAMES, 1, 2)
    tokens[: num_outside * CHUNK_FRAMES] = 3.0
    assert is_outside_domain(RULE, tokens) is expected
    assert outside_domain_notes(RULE, tokens) == ((NOTE,) if expected else ())


def test_notes_tell_that_frames_are_outside_of_the_domain():
    assert is_outside_by_notes(RULE, ("2 frames are damaged", NOTE)) is True
    assert is_outside_by_notes(RULE, ("2 frames are damaged",)) is False
    assert is_outside_by_notes(None, (NOTE,)) is False


def test_a_model_without_a_domain_is_not_tested():
    assert outside_domain_notes(None, torch.zeros(1, 1, 2)) == ()
    assert domain_limits(None) == ()


def test_a_domain_with_other_keys_is_refused():
    with pytest.raises(ValueError, match="domain must have the keys description, weights, offset, got weights"):
        TimeChatConfig(domain={"weights": []})


def test_limits_are_read_without_loading_the_model(tmp_path):
    limit = "trained only on synthetic videos of coloured shapes: answers about other videos are guesses"
    assert read_limits(NANO_FOLDER) == (limit,)
    assert domain_limits(TimeChat.from_pretrained("nano", device="cpu").backbone.config.domain) == (limit,)
    assert read_limits(tmp_path) == ()


def test_a_synthetic_video_has_no_note(nano, tmp_path):
    path = tmp_path / "video.mp4"
    write_video(write_scene(11, 1, level=2, split="test"), path)
    assert nano.encode(path).notes == ()


def test_noise_has_a_note_on_every_way_to_an_answer(nano):
    rng = np.random.default_rng(0)
    frames = Frames(rng.integers(0, 255, (8, 64, 64, 3), np.uint8), np.arange(8) / 2, 4.0)
    assert any("the answer is a guess" in note for note in nano.encode(frames).notes)
    assert any("the answer is a guess" in note for note in nano.ground(frames, "a dog", by="model").notes)


@pytest.mark.parametrize("name", ["yoga.mp4", "coffee.mp4", "charades_3MSZA.mp4", "flipping_a_pancake.mkv"])
def test_real_clips_have_a_note(nano, name):
    if not REAL_CLIPS.is_dir():
        pytest.skip("the real clips are not beside this checkout")
    assert any("synthetic videos of coloured shapes" in note for note in nano.encode(REAL_CLIPS / name).notes)
