"""Libraries with known moments, made without reading a video."""

from pathlib import Path

import numpy as np

from timechat.answers.events import Event
from timechat.search import Library
from timechat.search.records import KnownFile
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
    video = library.add_video(str(path), duration=content.duration, size=(64, 64), created=1e9)
    library.save_file(KnownFile(str(path), video, None, 2e9))
    library.save_frames(video, content, {})
    if speech is not None:
        line = np.zeros((1, 384), np.float32)
        library.save_lines(video, "speech", [Event(4.0, 6.0, speech)], line, {})
