"""The synthetic video and the built-in model."""

from pathlib import Path

import pytest

from timechat import TimeChat
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.files.cache import DiskCache


@pytest.fixture(scope="session")
def video_path(drawn_film: Path) -> Path:
    """A synthetic video of level 1."""
    return drawn_film


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    """The built-in model on the CPU."""
    return TimeChat.from_pretrained("nano", device="cpu")


@pytest.fixture
def cached(nano, tmp_path) -> TimeChat:
    """The built-in model with an empty cache."""
    return TimeChat(TimeChatBackbone(nano.model, nano.processor, name="nano"), cache=DiskCache(tmp_path / "cache"))
