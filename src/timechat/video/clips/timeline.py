"""Timeline of a video: the time of every frame, and decoding from any frame on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from timechat.video.clock import VideoClock
from timechat.video.decoding import decode_between
from timechat.video.frames import VideoInfo
from timechat.video.index import PacketIndex, read_index, seconds
from timechat.video.sampling import TIME_SLACK, frame_at
from timechat.video.source import VideoHandle, VideoSource, open_source

_FINEST_TICK = Fraction(1, 90000)  # seconds; coarser clocks are divided, so that a cut may lie between two ticks


@dataclass(frozen=True)
class VideoTimeline:
    """A video and the time of every frame, in ticks of `time_base` since its first frame.

    Attributes:
        handle: Handle of the source.
        info: Description of the video.
        index: Packet index of the video stream.
        time_base: Duration of a tick in seconds.
        ticks: Times of the frames, `(frames,)`, rising.
        end: End of the last frame in ticks.
        clock: Clock of the video, for its audio.
        notes: Notes on the times.
    """

    handle: VideoHandle
    info: VideoInfo
    index: PacketIndex
    time_base: Fraction
    ticks: NDArray[np.int64]
    end: int
    clock: VideoClock
    notes: tuple[str, ...]

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self.end * self.time_base)

    def pixel_aspect(self) -> Fraction | None:
        """Return the aspect ratio of a stored pixel (width / height), or None if the file has none."""
        with self.handle.open() as container:
            return next(s for s in container.streams.video if s.index == self.info.stream).sample_aspect_ratio

    def frame_range(self, start: float, end: float) -> tuple[int, int]:
        """Return the range of frames on screen from `start` to `end` (seconds): first frame, and one past the last."""
        times = seconds(self.ticks, self.time_base)
        first = int(frame_at(times, start))
        return first, max(first + 1, int(np.searchsorted(times, end - TIME_SLACK)))

    def decode(self, first: int, stop: int) -> Iterator[tuple[int, VideoFrame]]:
        """Yield frame numbers and frames in display order, without damaged frames."""
        for frame in decode_between(self.handle, self.info, self.index, first, stop - 1):
            yield self.index.frame_number(frame.pts or 0), frame


@contextmanager
def open_timeline(source: VideoSource, timeout: float) -> Iterator[VideoTimeline]:
    """Open a source and read the times of all its frames."""
    with open_source(source, timeout) as handle:
        known = read_index(handle)
        index, info = known.packets, known.info
        factor = math.ceil(index.time_base / _FINEST_TICK)
        first = int(index.frame_pts[0])
        ticks, end = (index.frame_pts - first) * factor, (index.end - first) * factor
        clock = index.clock
        yield VideoTimeline(handle, info, index, index.time_base / factor, ticks, end, clock, clock.notes)
