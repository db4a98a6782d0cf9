"""The video of these tests."""

from pathlib import Path

import pytest

from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video


@pytest.fixture(scope="session")
def video_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_video(write_scene(11, 0, level=1), path)
    return path
