"""Validation during training on synthetic videos."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.model.random_nano import build_random_nano
from timechat import TimeChat
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.synthetic.records import synthetic_records
from timechat.synthetic.scene import write_scene
from timechat.synthetic.speech import make_speech
from timechat.synthetic.validation import draw_validation_video, sampled_times, validate_grounding


@pytest.fixture(scope="module")
def timechat() -> TimeChat:
    """A small model with weights that are large enough to tell prompts apart."""
    model, processor = build_random_nano()
    timechat = TimeChat(TimeChatBackbone(model, processor, name="random"))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in timechat.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    return timechat


def test_questions_that_quote_speech_are_left_out():
    scene = next(
        scene for i in range(60) if (speech := make_speech(scene := write_scene(9, i))) and speech.is_narration
    )
    video = draw_validation_video(scene, lambda scene: sampled_times(scene, 2), size=56)
    quoting = [
        r.question for r in synthetic_records(scene) if "Transcribed speech" in r.question and r.task == "grounding"
    ]
    assert quoting
    assert not set(quoting) & {question.text for question in video.questions}


def test_every_event_is_asked_for_and_the_mode_is_restored(timechat: TimeChat):
    scenes = [write_scene(9, i, split="test") for i in range(2)]
    videos = [draw_validation_video(scene, lambda scene: sampled_times(scene, 6), size=56) for scene in scenes]
    assert [len(video.questions) for video in videos] == [len(scene.actions) for scene in scenes]
    timechat.model.train()
    metrics = validate_grounding(timechat.model, timechat.processor, videos)
    assert timechat.model.training
    timechat.model.eval()
    assert set(metrics) == {
        "r1_iou_0.3", "r1_iou_0.5", "r1_iou_0.7", "miou",
        "other_event", "random_event", "margin_other_event", "unparsed",
    }  # fmt: skip
    assert 0 < metrics["random_event"] < 1
    assert metrics["margin_other_event"] == pytest.approx(metrics["r1_iou_0.5"] - metrics["other_event"])


def test_right_and_unparsed_answers_are_counted(timechat: TimeChat, monkeypatch: pytest.MonkeyPatch):
    scene = write_scene(9, 0, split="test")
    video = draw_validation_video(scene, lambda scene: sampled_times(scene, 2), size=56)
    texts = [f"{h.start} - {h.end} seconds" for h in scene.actions]
    texts[0] = "no idea"
    written = [SimpleNamespace(text=text) for text in texts]
    monkeypatch.setattr("timechat.synthetic.validation.answer_batch", lambda *_: written)
    metrics = validate_grounding(timechat.model, timechat.processor, [video])
    right = 1 - 1 / len(texts)
    assert metrics["r1_iou_0.7"] == metrics["miou"] == pytest.approx(right)
    assert metrics["unparsed"] == pytest.approx(1 / len(texts))
    assert metrics["margin_other_event"] > 0.5


def test_validation_without_questions_is_refused(timechat: TimeChat):
    with pytest.raises(ValueError, match="at least one question"):
        validate_grounding(timechat.model, timechat.processor, [])


def test_sampled_times_fall_on_frames():
    scene = write_scene(9, 0, split="test")
    times = sampled_times(scene, 10)
    assert len(times) == 10
    np.testing.assert_allclose(times * scene.fps, np.round(times * scene.fps))
