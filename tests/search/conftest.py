"""An encoder that knows three colors, and videos of colors."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from timechat.answers.events import Event
from timechat.search import Library
from timechat.search.encoder import FloatArray, FrameTextEncoder
from timechat.search.video_vectors import VideoVectors

COLORS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
SIZE = (48, 64)

MakeVideo = Callable[..., Path]


class ColorEncoder(FrameTextEncoder):
    """Vectors are mean colors. A sentence is the sum of the colors that it names.

    Attributes:
        num_frames: Number of frames encoded so far.
    """

    name = "colors"
    licence = "none"
    dimension = sentence_dimension = 3
    image_size = (8, 8)
    cut_distance = 0.3

    def __init__(self, version: str = "1") -> None:
        self.fingerprint = f"colors {version}"
        self.num_frames = 0

    def encode_frames(self, pixels: NDArray[np.uint8]) -> FloatArray:
        self.num_frames += len(pixels)
        vectors: FloatArray = pixels.mean((1, 2)).astype(np.float32) / 255
        return vectors

    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        named = [[np.eye(3)[i] for i, color in enumerate(COLORS) if color in text.split()] for text in sentences]
        return np.array([np.sum(colors or [np.zeros(3)], axis=0) for colors in named], np.float32)

    def evidence(self, frame_vectors: FloatArray, sentence: FloatArray) -> FloatArray:
        result: FloatArray = 10 * (self.pictures(frame_vectors) @ sentence) - 6
        return result


class Lines:
    """Source of lines that says the same about each video."""

    kind = "speech"

    def __init__(self, texts: Sequence[str], version: int = 1) -> None:
        self._texts, self._version = texts, version
        self.num_reads = 0

    def choose(self, paths: Sequence[str]) -> str:
        return paths[0]

    def facts(self, path: str) -> dict[str, Any]:
        return {"version": self._version}

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        return facts == self.facts(path)

    def read(self, path: str, frames: VideoVectors, check: Any) -> tuple[list[Event], tuple[str, ...]]:
        self.num_reads += 1
        return [Event(n, n + 1, text) for n, text in enumerate(self._texts)], ()


@pytest.fixture
def encoder() -> ColorEncoder:
    return ColorEncoder()


@pytest.fixture
def library(tmp_path: Path, encoder: ColorEncoder) -> Library:
    with Library(tmp_path / "library.db", encoder=encoder) as library:
        yield library


def write_video(path: Path, colors: Sequence[str], *, seconds: float = 3.0, seed: int = 0) -> Path:
    """Write a video of 10 frames per second that shows each color for some seconds; `seed` makes its bytes unique."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=10, options={"preset": "ultrafast", "g": "250", "sc_threshold": "40"}
        )
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(round(len(colors) * seconds * 10)):
            picture = np.full((*SIZE, 3), COLORS[colors[int(number / (seconds * 10))]], np.uint8)
            picture[:4, :4] = seed * 40
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Folder with `red.mp4`, and `many/green_blue.mp4`, which is green for 3 s and then blue for 3 s."""
    write_video(tmp_path / "videos" / "red.mp4", ["red"])
    write_video(tmp_path / "videos" / "many" / "green_blue.mp4", ["green", "blue"])
    return tmp_path / "videos"
