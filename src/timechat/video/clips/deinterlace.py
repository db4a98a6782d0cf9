"""Interlaced frames → progressive frames: both fields of a frame become one picture of its time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av.filter
from av.video.frame import VideoFrame

_FILTER = ("estdif", "mode=frame:deint=interlaced")
"""Filter of FFmpeg that changes only the frames that are marked as interlaced, and keeps their number."""


class Deinterlacer:
    """Removes the fields of interlaced frames; other frames pass through it unchanged.

    The filter reads one field of each frame and interpolates the rows of the other one. It keeps one frame back, so a
    frame is returned after the next one was given.
    """

    def __init__(self, time_base: Fraction) -> None:
        """Make a deinterlacer.

        Args:
            time_base: Duration of a tick of the frame times in seconds.
        """
        self._time_base = time_base
        self._graph: av.filter.Graph | None = None
        self._layout: tuple[int, int, str] | None = None

    def add(self, frame: VideoFrame, time: int) -> Iterator[tuple[VideoFrame, int]]:
        """Yield the frames that are complete, with their times in ticks, after one more frame."""
        layout = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and layout != self._layout:
            yield from self.flush()
        if self._graph is None:
            if not frame.interlaced_frame:
                yield frame, time
                return
            self._graph, self._layout = self._open(frame), layout
        frame.pts, frame.time_base = time, self._time_base
        self._graph.push(frame)
        yield from self._complete(self._graph)

    def flush(self) -> Iterator[tuple[VideoFrame, int]]:
        """Yield the remaining frames; the next frame begins anew."""
        if self._graph is not None:
            graph, self._graph = self._graph, None
            graph.push(None)
            yield from self._complete(graph)

    def _open(self, frame: VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=self._time_base
        )
        deinterlace, sink = graph.add(*_FILTER), graph.add("buffersink")
        source.link_to(deinterlace)
        deinterlace.link_to(sink)
        graph.configure()
        return graph

    def _complete(self, graph: av.filter.Graph) -> Iterator[tuple[VideoFrame, int]]:
        while True:
            try:
                frame = graph.pull()
            except (BlockingIOError, EOFError):
                return
            assert isinstance(frame, VideoFrame)
            assert frame.pts is not None
            assert frame.time_base is not None
            yield frame, round(frame.pts * frame.time_base / self._time_base)
