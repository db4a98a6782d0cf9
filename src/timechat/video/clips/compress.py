"""Small copies of videos with a constant frame rate, whose frames are exact in time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av.error
import av.filter
import numpy as np
from av.video.frame import VideoFrame

from timechat.errors import VideoError
from timechat.files import atomic_write
from timechat.video.clips.deinterlace import Deinterlacer
from timechat.video.clips.encode import VideoWriter
from timechat.video.clips.timeline import VideoTimeline, open_timeline
from timechat.video.index import seconds
from timechat.video.limits import reason
from timechat.video.loading import DEFAULT_TIMEOUT
from timechat.video.sampling import frame_at
from timechat.video.source import VideoSource

_TICKS = 1000  # per frame: the end of the last frame is exact to a thousandth of a frame


def compress_video(
    source: VideoSource,
    target: str | Path,
    *,
    fps: int = 6,
    short_side: int = 224,
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Write a copy with a constant frame rate, a small size, the same length and no audio.

    Frame number `i` of the copy is the frame that the source shows at `i / fps` seconds, so times in the copy are times
    in the source. The shape of the picture is kept. A video is never enlarged.

    Args:
        source: Video in any form that `load_frames` takes.
        target: Path of the file, an MP4 file whatever its name; it appears when it is complete.
        fps: Frames per second.
        short_side: Length of the shorter side in pixels, as displayed.
        timeout: Maximum wall time in seconds.

    Raises:
        VideoError: The video cannot be read.
    """
    target = Path(target)
    with open_timeline(source, timeout) as timeline:
        timeline.handle.deadline.renew()
        try:
            with atomic_write(target) as path:
                _write(timeline, path, fps, short_side)
        except av.error.FFmpegError as error:
            raise VideoError(f"{timeline.handle.name}: cannot be compressed: {reason(error)}") from error


def _write(timeline: VideoTimeline, path: Path, fps: int, short_side: int) -> None:
    writer: VideoWriter | None = None
    try:
        for number, frame in _constant_rate(timeline, fps):
            if writer is None:
                writer = _open_writer(timeline, path, frame, fps, short_side)
            writer.add_frame(frame, number * _TICKS)
        if writer is None:
            raise VideoError(f"{timeline.handle.name}: is damaged: no frame can be decoded")
        writer.end_segment(round(timeline.end * timeline.time_base * fps * _TICKS))
        writer.close()
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise


def _open_writer(timeline: VideoTimeline, path: Path, frame: VideoFrame, fps: int, short_side: int) -> VideoWriter:
    height, width = timeline.info.orientation.displayed_size(frame)
    factor = min(1.0, short_side / min(height, width))
    return VideoWriter(
        path,
        "mp4",
        first_frame=frame,
        time_base=Fraction(1, fps * _TICKS),
        fps=fps,
        aspect=timeline.pixel_aspect(),
        orientation=timeline.info.orientation,
        soundtrack=None,
        size=(round(height * factor), round(width * factor)),
    )


def _constant_rate(timeline: VideoTimeline, fps: int) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the frame on screen at `number / fps` seconds for each number; a damaged frame is the one before it."""
    num_frames = max(1, math.ceil(float(timeline.end * timeline.time_base * fps) - 1e-6))
    on_screen = frame_at(seconds(timeline.ticks, timeline.time_base), np.arange(num_frames) / fps).tolist()
    position = 0
    last: VideoFrame | None = None
    for number, frame in itertools.chain(_progressive(timeline), [(len(timeline.ticks), None)]):
        used = 0
        while position < num_frames and last is not None and on_screen[position] < number:
            yield position, _duplicate(last) if used else last
            position, used = position + 1, used + 1
        last = frame


def _progressive(timeline: VideoTimeline) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the numbers and the frames of a video, both fields of an interlaced frame as one picture."""
    deinterlacer = Deinterlacer(Fraction(1))  # a tick is a frame
    for number, frame in timeline.decode(0, len(timeline.ticks)):
        yield from ((its_number, progressive) for progressive, its_number in deinterlacer.add(frame, number))
    yield from ((its_number, progressive) for progressive, its_number in deinterlacer.flush())


def _duplicate(frame: VideoFrame) -> VideoFrame:
    """Return another frame of the same picture, because the writer gives every frame its own time."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    source.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    duplicate = graph.pull()
    assert isinstance(duplicate, VideoFrame)
    return duplicate
