"""Frames are decoded in a second thread while others are encoded."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.search.conftest import ColorEncoder, write_video
from timechat.search import video_vectors
from timechat.search.video_vectors import encode_video
from timechat.video import VideoReader


@pytest.fixture
def decoding_threads() -> Callable[[], list[str]]:
    """Return the names of decoding threads that the test has started; servers of other tests have their own."""
    before = set(threading.enumerate())

    def names() -> list[str]:
        started = [thread for thread in threading.enumerate() if thread not in before]
        return [thread.name for thread in started if thread.name.startswith("timechat-decode")]

    return names


def test_the_decoding_ends_before_the_reader_is_closed(tmp_path, monkeypatch, decoding_threads):
    alive_at_exit = []

    class Watched(VideoReader):
        def __exit__(self, *args: object) -> None:
            alive_at_exit.extend(decoding_threads())
            super().__exit__(*args)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(video_vectors, "VideoReader", Watched)
    with pytest.raises(KeyboardInterrupt):
        encode_video(write_video(tmp_path / "a.mp4", ["red"], seconds=40), ColorEncoder(), progress=stop)
    assert alive_at_exit == []


def test_closing_waits_for_the_part_that_is_decoded(decoding_threads):
    go_on, finished = threading.Event(), []

    def parts() -> Iterator[int]:
        yield 1
        go_on.wait(5)
        finished.append(2)
        yield 2

    ahead = video_vectors._read_ahead(parts())
    assert next(ahead) == 1
    threading.Timer(0.02, go_on.set).start()
    ahead.close()
    assert (finished, decoding_threads()) == ([2], [])
