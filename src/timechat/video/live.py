"""Live video, read once and forward only: a growing file, a pipe, a camera or a server."""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import av.container
import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from timechat.errors import VideoError
from timechat.files import without_scheme
from timechat.video.clock import RunningClock
from timechat.video.frames import FrameSize, FrameSizeRule, Orientation, Size, frame_to_pixels, orientation_of
from timechat.video.http import HTTP_OPTIONS
from timechat.video.limits import DEFAULT_PATIENCE, OPEN_OPTIONS, limit_decoders, reason
from timechat.video.sampling import TIME_SLACK, time_slack
from timechat.video.scan import choose_stream, demux, frame_rate, may_jump, read_only

_POLL_SECONDS = 0.1  # seconds between two reads at the end of a growing file
_USUAL_RATE = 25  # frames per second, of a stream that states none
_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "udp://", "rtp://", "srt://", "http://", "https://")


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame of a stream.

    Attributes:
        time: Time in seconds since the first frame.
        pixels: uint8 `(height, width, 3)`, RGB.
        search_pixels: The same frame in a second size; None if none was requested.
    """

    time: float
    pixels: NDArray[np.uint8]
    search_pixels: NDArray[np.uint8] | None = None


class LiveVideo:
    """Frames of a stream as they arrive, without storing earlier ones; a context manager.

    Attributes:
        name: Name of the stream in messages.
        end_time: End of the last frame in seconds; None until all frames have been read.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        *,
        follow: bool = False,
        idle_timeout: float = DEFAULT_PATIENCE,
    ) -> None:
        """Open a stream.

        Args:
            source: Path, pipe (`/dev/stdin`), `rtsp`, `http(s)` or other address that FFmpeg reads, or a binary file
                object that is read forward only.
            follow: Whether to wait at the end of a file for more data, for example of a running recording. The format
                must be readable from its start, such as MPEG-TS, Matroska or fragmented MP4.
            idle_timeout: Time without new data in seconds after which the stream has ended.

        Raises:
            VideoError: The stream cannot be opened or is not a video.
        """
        self.name = (
            os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "stream"))
        )
        self.end_time: float | None = None
        self._notes: list[str] = []
        self._orientation: Orientation | None = None
        self._open = ExitStack()
        try:
            opened = _open_input(source, self.name, follow, idle_timeout)
            if isinstance(opened, _FollowedFile):
                self._open.callback(opened.close)
            self._container = self._open.enter_context(_open_container(opened, self.name, idle_timeout))
            limit_decoders(self._container, self.name)
            self._stream = choose_stream(self._container, self.name)
        except BaseException:
            self._open.close()
            raise
        read_only(self._container, self._stream)
        self._time_base = self._stream.time_base or Fraction(1, 1000)
        rate, rate_notes = frame_rate(self._container.format.name, self._stream)
        self._notes += rate_notes
        self._clock = RunningClock(
            self._time_base,
            may_jump=may_jump(self._container.format.name),
            gap=round(1 / ((rate or _USUAL_RATE) * self._time_base)),
        )

    @property
    def notes(self) -> list[str]:
        """Notes on problems so far, such as an early end or a clock that was set back."""
        return [*self._notes, *self._clock.notes()]

    def __enter__(self) -> LiveVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream."""
        self._open.close()

    def frames(
        self, *, fps: float, size: Size | FrameSizeRule | None = None, search_size: Size | None = None
    ) -> Iterator[LiveFrame]:
        """Yield the frame on screen at 0, `1 / fps`, `2 / fps`, ... seconds, each when the next frame arrives.

        These are the frames that `load_frames` selects with `fps` from the same video as a file, with their own times.
        If the video has fewer frames per second, a frame is yielded more than once.

        Args:
            fps: Frames per second.
            size: Size in pixels, as in `load_frames`, or a function that gives it.
            search_size: Second size in pixels, of `search_pixels`; None for none.
        """

        def convert(time_s: float, frame: VideoFrame) -> LiveFrame:
            second = None if search_size is None else self._pixels(frame, search_size)
            return LiveFrame(time_s, self._pixels(frame, size), second)

        tick = float(self._time_base)
        number, shown, gap = 0, None, 0.0
        for time_s, frame in self._frames_with_times():
            if shown is not None:
                gap = time_s - shown[0]
                slack = TIME_SLACK + time_slack(gap, tick)
                while number / fps + slack < time_s:
                    yield convert(*shown)
                    number += 1
            shown = (time_s, frame)
        if shown is None:
            raise VideoError(self._no_frame())
        self.end_time = shown[0] + (gap or 1 / fps)
        while number / fps + TIME_SLACK < self.end_time:
            yield convert(*shown)
            number += 1

    def _frames_with_times(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield frames with their times since the first, which rise; a frame with the time of another is left out."""
        clock = self._clock
        held: tuple[int, VideoFrame] | None = None
        first: int | None = None
        last: int | None = None
        for raw, frame in itertools.chain(self._decoded(), [(None, None)]):
            placed: list[tuple[int, VideoFrame]] = []
            if held is not None:
                placed.append((clock.place(held[0], [] if raw is None else [raw]), held[1]))
                held = None
            if frame is not None and raw is not None and clock.needs_next(raw):
                held = (raw, frame)  # the next time tells a jump from one wrong time
            elif frame is not None:
                if raw is None:
                    self._note_once("frames without a time follow each other at the usual rate")
                placed.append((clock.lost() if raw is None else clock.place(raw), frame))
            for ticks, each in placed:
                first = ticks if first is None else first
                if last is None or ticks > last:
                    last = ticks
                    yield float((ticks - first) * self._time_base), each

    def _decoded(self) -> Iterator[tuple[int | None, VideoFrame]]:
        """Yield container times and frames in display order, without damaged frames; a broken stream ends."""
        has_begun = False
        # AVI has the times of decoding only: each frame in display order takes the earliest time that is left.
        waiting: list[int] | None = [] if self._container.format.name == "avi" else None
        packets = demux(self._container, self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                self._note_once(f"the stream ended early: {reason(error)}")
                packet = None
            if waiting is not None and packet is not None and packet.pts is not None and not packet.is_discard:
                heapq.heappush(waiting, packet.pts)
            try:
                frames = self._stream.codec_context.decode(packet if packet is not None and packet.size else None)
            except av.error.FFmpegError:
                frames = []
            for frame in frames:
                has_begun = has_begun or bool(frame.key_frame) or not frame.is_corrupt
                if has_begun and not frame.is_corrupt:
                    yield heapq.heappop(waiting) if waiting else frame.pts, frame
            if packet is None or not packet.size:
                return

    def _note_once(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)

    def _pixels(self, frame: VideoFrame, size: Size | FrameSizeRule | None) -> NDArray[np.uint8]:
        if self._orientation is None:
            self._orientation = orientation_of(frame)
        shown = self._orientation.displayed_size(frame)
        chosen = size(*shown) if callable(size) else FrameSize.of(shown if size is None else size)
        return frame_to_pixels(frame, chosen, self._orientation)

    def _no_frame(self) -> str:
        if "mov" in self._container.format.name:
            return (
                f"{self.name}: the index (moov) of this MP4 is at its end, so that it cannot be read as a stream; "
                "write it with -movflags +faststart, or as a fragmented MP4"
            )
        return f"{self.name}: no frame could be decoded from its {self._stream.codec_context.name} stream"


def _open_input(source: Any, name: str, follow: bool, idle_timeout: float) -> Any:
    """Return the input for FFmpeg: a path, an address or a file object."""
    if not (idle_timeout > 0 and np.isfinite(idle_timeout)):
        raise ValueError(f"idle_timeout must be seconds above 0, got {idle_timeout}")
    if not isinstance(source, str | os.PathLike):
        return source
    text = without_scheme(os.fspath(source))
    if text.lower().startswith(_STREAMS):
        return text
    if not Path(text).exists():
        raise VideoError(f"{name}: no such file; give a file, a pipe such as /dev/stdin, or an rtsp or http(s) address")
    # FFmpeg takes a name such as 12:30.ts for an address; an absolute path is none.
    return _FollowedFile(Path(text), idle_timeout) if follow and Path(text).is_file() else str(Path(text).absolute())


def _open_container(opened: Any, name: str, idle_timeout: float) -> av.container.InputContainer:
    """Open a container that is read forward only."""
    is_address = isinstance(opened, str) and opened.lower().startswith(_STREAMS)
    options = dict(OPEN_OPTIONS)
    if is_address and opened.lower().startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    if is_address and opened.lower().startswith("http"):
        options |= HTTP_OPTIONS
    try:
        container: av.container.InputContainer = av.open(
            opened,
            "r",
            metadata_errors="replace",
            options=options,
            timeout=(idle_timeout, idle_timeout) if is_address else None,
        )
        return container
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(
            f"{name}: cannot be opened as a stream: {reason(error)}; a stream must be readable from its start, as "
            "MPEG-TS, Matroska and fragmented MP4 are"
        ) from error


class _FollowedFile:
    """A growing file, read forward only: a read at its end waits for more data."""

    def __init__(self, path: Path, idle_timeout: float) -> None:
        self._file = path.open("rb")
        self._idle_timeout = idle_timeout
        self.name = str(path)

    def read(self, size: int = -1) -> bytes:
        began = time.monotonic()
        while not (data := self._file.read(size)):
            if time.monotonic() - began > self._idle_timeout:
                return b""
            time.sleep(_POLL_SECONDS)
        return data

    def close(self) -> None:
        self._file.close()
