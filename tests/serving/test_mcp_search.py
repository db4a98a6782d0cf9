"""The tool `search_videos`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest

from tests.pipeline.color_encoder import ColorEncoder
from tests.serving.libraries import put, vectors
from timechat.search import Library

mcp = pytest.importorskip("mcp")

from timechat.serving.mcp.protocol import build_server  # noqa: E402
from timechat.serving.mcp.worker import ToolWorker  # noqa: E402


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Any]:
    """A call of the tool by a client in this process. No model is loaded."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "red.mp4").touch()
    with Library(tmp_path / "library.db") as library:
        library.set(encoder=ColorEncoder.name, encoder_fingerprint=ColorEncoder.fingerprint)
        put(library, allowed / "red.mp4", vectors(red=(5, 10)))
        put(library, tmp_path / "outside" / "private.mp4", vectors(red=(0, 20)))
    worker = ToolWorker(pytest.fail, [allowed], library=tmp_path / "library.db", encoder=ColorEncoder())
    with (
        contextlib.closing(worker),
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(mcp.Client(build_server(worker))) as client,
    ):
        yield lambda **arguments: portal.call(partial(client.call_tool, "search_videos", arguments))


def test_search_videos_gives_moments_with_paths(search, tmp_path):
    video = str(tmp_path / "allowed" / "red.mp4")
    result = search(query="red", best=1)
    (moment,) = result.structured_content["moments"]
    assert moment == {
        "video": video,
        "start": 5.0,
        "end": 10.0,
        "score": moment["score"],
        "by": ["picture"],
        "text": None,
        "offline": False,
        "filename": "red.mp4",
    }
    assert result.structured_content["library"] == str(tmp_path / "library.db")
    assert result.content[0].text == f"{video} 0:05.0 - 0:10.0 score 0.99 picture"


def test_search_videos_shows_the_nearest_and_says_so(search):
    result = search(query="green", videos=["red.mp4"], since=None)
    assert result.structured_content["found"] is False
    assert result.content[0].text.startswith("not found; the nearest moments:\n")


def test_search_videos_searches_the_allowed_folders_only(search, tmp_path):
    videos = {moment["video"] for moment in search(query="red", best=50).structured_content["moments"]}
    assert videos == {str(tmp_path / "allowed" / "red.mp4")}
    result = search(query="red", videos=[str(tmp_path / "outside")])
    assert result.is_error
    assert result.content[0].text == "only files in the allowed folders may be searched"
