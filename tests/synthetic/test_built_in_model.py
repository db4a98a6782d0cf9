"""The built-in model answers about videos that no training has seen, better than one that finds just any event."""

import pytest

from timechat import TimeChat
from timechat.model.loading import NANO_FOLDER
from timechat.synthetic.scene import write_scene
from timechat.synthetic.validation import default_times, draw_validation_video, validate_grounding


@pytest.fixture(scope="module")
def metrics() -> dict[str, float]:
    """What validation says of the built-in model on ten videos of the easiest level."""
    timechat = TimeChat.from_pretrained("nano", device="cpu")
    config = timechat.model.config
    videos = [
        draw_validation_video(
            write_scene(77, index, level=1, split="test"),
            lambda film: default_times(film, config),
            size=config.vision_config.image_size,
        )
        for index in range(10)
    ]
    return validate_grounding(timechat.model, timechat.processor, videos)


def test_the_built_in_model_finds_the_event_that_is_asked_for(metrics):
    assert metrics["r1_iou_0.5"] > metrics["random_event"] + 0.1
    assert metrics["r1_iou_0.5"] > metrics["other_event"] + 0.1


def test_the_built_in_model_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in NANO_FOLDER.rglob("*")) < 40e6
