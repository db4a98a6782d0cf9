"""Libraries with known moments, made without reading a video."""

from pathlib import Path

import numpy as np

from tests.pipeline.color_encoder import ColorEncoder
from timechat.answers.events import Event
from timechat.search import Library
from timechat.search.records import KnownFile, KnownVideo
from timechat.search.video_vectors import VideoVectors

SECONDS = 20


def vectors(**spans: tuple[int, int]) -> VideoVectors:
    """A video of black frames, one per second, with parts in a color."""
    content = np.zeros((SECONDS, 3), np.float16)
    for at, color in enumerate(("red", "green", "blue")):
        first, last = spans.get(color, (0, 0))
        content[first:last, at] = 1
    cuts = sorted({border for span in spans.values() for border in span} - {0, SECONDS})
    times = np.arange(SECONDS, dtype=np.float64)
    return VideoVectors(times, content, SECONDS, tuple(cuts), times[cuts], np.zeros(0, np.float32))


def put(library: Library, path: Path, content: VideoVectors, *, speech: str | None = None) -> None:
    """Store a video in a library without reading its file."""
    known = KnownVideo(0, str(path), content.duration, (64, 64), 1e9, 0.0)
    video = library.add_file(KnownFile(str(path), None, None, 2e9), known)
    library.save_frames(video, content, {"encoder": ColorEncoder.fingerprint})
    if speech is not None:
        line = np.zeros((1, 384), np.float32)
        library.save_lines(video, "speech", [Event(4.0, 6.0, speech)], line, {})
