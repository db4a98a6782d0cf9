"""Text on the screen as lines of the index."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from timechat.search import Library
from timechat.search.screen_text import RapidOcr, ScreenText, _parts
from timechat.search.video_vectors import VideoVectors

SIZE = (180, 320)


class BrightnessReader:
    """Reads the brightness of a picture as a word."""

    name = "brightness"

    def __call__(self, picture: NDArray[np.uint8]) -> list[str]:
        number = round(float(picture.mean()) / 50)
        return [f"word{number}"] if number else []


def write_pictures(path: Path, pictures: list[NDArray[np.uint8]], *, seconds: float) -> Path:
    """Write a video of 5 frames per second that shows each picture for some seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast", "crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(round(len(pictures) * seconds * 5)):
            frame = av.VideoFrame.from_ndarray(pictures[int(number / (seconds * 5))], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def gray(level: int) -> NDArray[np.uint8]:
    return np.full((*SIZE, 3), level, np.uint8)


def vectors(duration: float, cut_times: list[float]) -> VideoVectors:
    empty = np.zeros((0, 3), np.float16)
    return VideoVectors(np.zeros(0), empty, duration, (), np.array(cut_times), np.zeros(0, np.float32))


def read(path: Path, duration: float, cut_times: list[float]) -> list[tuple[float, float, str]]:
    lines, notes = ScreenText(BrightnessReader()).read(str(path), vectors(duration, cut_times), lambda: None)
    assert notes == ()
    return [(line.start, line.end, line.caption) for line in lines]


def test_each_shot_is_read_once(tmp_path):
    path = write_pictures(tmp_path / "a.mp4", [gray(50), gray(0), gray(200)], seconds=2)
    assert read(path, 6.0, [2.0, 4.0]) == [(0.0, 2.0, "word1"), (4.0, 6.0, "word4")]


def test_a_long_shot_is_read_about_every_ten_seconds(tmp_path):
    path = write_pictures(tmp_path / "a.mp4", [gray(50), gray(100)], seconds=20)
    assert read(path, 40.0, []) == [(0.0, 20.0, "word1"), (20.0, 40.0, "word2")]


def test_parts_of_a_long_shot_are_at_most_ten_seconds():
    assert list(_parts(vectors(15.0, []))) == [(0.0, 7.5), (7.5, 15.0)]
    assert list(_parts(vectors(30.0, [10.0]))) == [(0.0, 10.0), (10.0, 20.0), (20.0, 30.0)]


def test_equal_text_after_a_cut_is_one_line(tmp_path):
    path = write_pictures(tmp_path / "a.mp4", [gray(50)], seconds=6)
    assert read(path, 6.0, [2.0, 4.0]) == [(0.0, 6.0, "word1")]


def test_text_on_screen_is_read_and_found(tmp_path, encoder):
    pytest.importorskip("rapidocr_onnxruntime", reason="the extra ocr is not installed")
    title = Image.new("RGB", SIZE[::-1], "white")
    font = ImageFont.load_default(28)
    ImageDraw.Draw(title).text((20, 50), "Harbor lights", "black", font)
    ImageDraw.Draw(title).text((20, 100), "Chapter seven", "black", font)
    path = write_pictures(tmp_path / "a.mp4", [gray(0), np.asarray(title)], seconds=2)
    source = ScreenText(RapidOcr())
    with Library(":memory:", encoder=encoder) as library:
        library.index([path], sources=[source])
        first = library.search("harbor lights chapter").moments[0]
        assert (first.by, first.score, first.text) == (("text",), 1.0, "Harbor lights Chapter seven")
        assert library.index([path], sources=[source]).num_unchanged == 1


def test_a_missing_recognizer_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match='install the extra "ocr"'):
        ScreenText()
