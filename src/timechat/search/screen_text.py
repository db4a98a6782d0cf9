"""Text on the screen, read after each cut and at intervals within long shots (extra `ocr`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Event
from timechat.errors import missing_extra
from timechat.search.records import Kind
from timechat.search.video_vectors import VideoVectors
from timechat.video import FrameSampling, VideoReader

VERSION = 2
"""Increased when the same video gives other lines."""

MIN_CONFIDENCE = 0.7
"""Confidence from which a line of the recognizer is kept."""

_AFTER_CUT = 0.5  # seconds; titles are often faded in
_INTERVAL = 10.0  # maximum seconds between readings within a shot
_MAX_HEIGHT = 1080  # pixels of a frame that is read
_FRAMES_PER_PART = 4


class TextReader(Protocol):
    """Reads the lines of text in a picture."""

    name: str

    def __call__(self, picture: NDArray[np.uint8]) -> list[str]:
        """Return the lines of `(height, width, 3)` RGB, from top to bottom."""


class RapidOcr:
    """The recognizer of the package rapidocr-onnxruntime, which contains its models.

    Raises:
        ModuleNotFoundError: The package is missing.
    """

    def __init__(self) -> None:
        try:
            from rapidocr_onnxruntime import RapidOCR
        except ModuleNotFoundError as error:
            raise missing_extra("text on the screen needs rapidocr-onnxruntime", "ocr") from error
        self.name = f"rapidocr-onnxruntime {version('rapidocr-onnxruntime')}"
        self._engine: Any = RapidOCR()

    def __call__(self, picture: NDArray[np.uint8]) -> list[str]:
        """Return the lines with enough confidence, from top to bottom."""
        found, _ = self._engine(np.ascontiguousarray(picture[..., ::-1]))  # BGR
        return [text for _, text, confidence in found or () if float(confidence) >= MIN_CONFIDENCE and text.strip()]


class ScreenText:
    """Source of the lines of on-screen text for the index."""

    kind: Kind = "text"

    def __init__(self, reader: TextReader | None = None) -> None:
        """Make a source; `reader` is `RapidOcr` by default."""
        self._reader = reader or RapidOcr()

    def choose(self, paths: Sequence[str]) -> str:
        """Return the first path: all have the same frames."""
        return paths[0]

    def facts(self, path: str) -> dict[str, Any]:  # noqa: ARG002 - the interface of all sources
        """Return the recognizer and the version of the reading."""
        return {"reader": self._reader.name, "version": VERSION}

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        """Return whether the same recognizer has read the video."""
        return facts == self.facts(path)

    def read(self, path: str, frames: VideoVectors, check: Callable[[], object]) -> tuple[list[Event], tuple[str, ...]]:
        """Read one frame of each shot, and one for every 10 s of a long shot; equal text after another is one line."""
        lines: list[Event] = []
        for (start, end), picture in _pictures(path, frames):
            check()
            text = "\n".join(self._reader(picture))
            if lines and text and lines[-1].caption == text and lines[-1].end == start:
                lines[-1] = Event(lines[-1].start, end, text)
            elif text:
                lines.append(Event(start, end, text))
        return lines, ()


def _pictures(path: str, frames: VideoVectors) -> Iterator[tuple[tuple[float, float], NDArray[np.uint8]]]:
    """Yield parts of the video, start and end in seconds, each with a frame that stands for it."""
    parts = list(_parts(frames))
    with VideoReader(path, workers=1) as reader:
        info = reader.info
        scale = min(1.0, _MAX_HEIGHT / info.height)
        size = (round(info.height * scale), round(info.width * scale))
        for first in range(0, len(parts), _FRAMES_PER_PART):
            some = parts[first : first + _FRAMES_PER_PART]
            times = [min(start + _AFTER_CUT, (start + end) / 2) for start, end in some]
            yield from zip(some, _load(reader, times, size), strict=True)


def _load(reader: VideoReader, times: list[float], size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Return the frame on screen at each time; if frames are damaged, one near it."""
    loaded = reader.load(FrameSampling(timestamps=times), size=size)
    rows = np.clip(np.searchsorted(loaded.timestamps, np.array(times) + 1e-6, "right") - 1, 0, None)
    return [loaded.pixels[row] for row in rows]


def _parts(frames: VideoVectors) -> Iterator[tuple[float, float]]:
    """Yield start and end in seconds of all shots, divided into parts of at most 10 s."""
    borders = [0.0, *frames.cut_times.tolist(), frames.duration]
    for start, end in pairwise(borders):
        if end > start:
            number = math.ceil((end - start) / _INTERVAL)
            yield from pairwise(np.linspace(start, end, number + 1).tolist())
