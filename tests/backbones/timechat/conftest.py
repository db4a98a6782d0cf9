"""The video of these tests, the built-in model, and its exported language model."""

from pathlib import Path
from typing import Any

import pytest

from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.vllm.folder import export_language_model
from timechat.model import NANO_FOLDER
from timechat.model.loading import load_model
from timechat.pipeline import TimeChat
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video


@pytest.fixture(scope="session")
def video_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_video(write_scene(11, 0, level=1), path)
    return path


@pytest.fixture(scope="package")
def own() -> tuple[Any, Any]:
    return load_model("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="package")
def exported(own, tmp_path_factory) -> Path:
    return export_language_model(NANO_FOLDER, *own, tmp_path_factory.mktemp("models")).path


@pytest.fixture(scope="package")
def encoded(own, video_path):
    return TimeChat(TimeChatBackbone(*own, name="nano")).encode(video_path)
