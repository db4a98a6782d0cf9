"""A synthetic video and the built-in model."""

from pathlib import Path

import pytest

from timechat import TimeChat
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.files.cache import DiskCache
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video


@pytest.fixture(scope="module")
def video_path(tmp_path_factory) -> Path:
    """A synthetic video of level 1."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_video(write_scene(7, 0, level=1, split="test"), path)
    return path


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    """The built-in model on the CPU."""
    return TimeChat.from_pretrained("nano", device="cpu")


@pytest.fixture
def cached(nano, tmp_path) -> TimeChat:
    """The built-in model with an empty cache."""
    return TimeChat(TimeChatBackbone(nano.model, nano.processor, name="nano"), cache=DiskCache(tmp_path / "cache"))
