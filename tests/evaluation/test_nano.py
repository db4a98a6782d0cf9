"""The built-in model answers about films that no training has seen, better than one that finds just any event."""

import pytest

from timechat import TimeChat
from timechat.evaluation.validation import draw_grounding_film, film_times, grounding_validation
from timechat.model.loading import NANO_FOLDER
from timechat.synthetic.scene import write_scene


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    """What validation says of the built-in model on ten films of the easiest level."""
    timechat = TimeChat.from_pretrained("nano", device="cpu")
    config = timechat.model.config
    films = [
        draw_grounding_film(
            write_scene(77, index, level=1, split="test"),
            lambda film: film_times(film, config),
            size=config.vision_config.image_size,
        )
        for index in range(10)
    ]
    return grounding_validation(timechat.model, timechat.processor, films)


def test_the_built_in_model_finds_the_event_that_is_asked_for(figures):
    assert figures["r1_iou_0.5"] > figures["random_event"] + 0.1
    assert figures["r1_iou_0.5"] > figures["different_event"] + 0.1


def test_the_built_in_model_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in NANO_FOLDER.rglob("*")) < 40e6
