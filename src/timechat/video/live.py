"""A video that is still being made, read once and forward only: a growing file, a pipe, a camera or a server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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
from timechat.video.frames import Size, frame_to_pixels, height_width
from timechat.video.index import choose_stream, demux, read_only
from timechat.video.sampling import TIME_SLACK, time_slack
from timechat.video.source import DEFAULT_PATIENCE, reason

_POLL_SECONDS = 0.1  # seconds, for what a growing file has got meanwhile
_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "udp://", "rtp://", "srt://", "http://", "https://")


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame of a stream.

    Attributes:
        time: Seconds since the first frame was shown.
        pixels: uint8 `(height, width, 3)`, RGB.
    """

    time: float
    pixels: NDArray[np.uint8]


class LiveVideo:
    """Frames of a stream as they come; a context manager. Nothing that has passed is kept.

    Attributes:
        name: How messages call it.
        notes: What went wrong on the way, such as an end that came early.
        end_time: Seconds; when the last frame leaves the screen. Known when all frames have been read.
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
            source: A path, a pipe (`/dev/stdin`), an `rtsp`, `http(s)` or other address that FFmpeg reads, or a binary
                file object that is read forward only.
            follow: Whether a file's end is waited at for more, as for a recording that goes on. The format must be one
                that can be read from its start, such as MPEG-TS, Matroska or fragmented MP4.
            idle_timeout: Seconds without anything new after which the stream has ended.

        Raises:
            VideoError: It cannot be opened, or is no video.
        """
        self.name = (
            os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "stream"))
        )
        self.notes: list[str] = []
        self.end_time: float | None = None
        self._open = ExitStack()
        try:
            handle = _handle(source, self.name, follow, idle_timeout)
            if isinstance(handle, _FollowedFile):
                self._open.callback(handle.close)
            self._container = self._open.enter_context(_container(handle, self.name, idle_timeout))
            self._stream = choose_stream(self._container, self.name)
        except BaseException:
            self._open.close()
            raise
        read_only(self._container, self._stream)

    def __enter__(self) -> LiveVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the stream."""
        self._open.close()

    def frames(self, *, fps: float, size: Size | None = None) -> Iterator[LiveFrame]:
        """Yield the frame on screen at 0, `1 / fps`, `2 / fps`, ... seconds, each as soon as the next one is there.

        They are the frames that `load_frames` takes with `fps` from the same video as a file, with their own times.
        Only where the video has fewer frames than that, a frame is given more than once.

        Args:
            fps: Frames a second.
            size: Pixels, as in `load_frames`.
        """
        tick = float(self._stream.time_base or 0)
        number, shown, gap = 0, None, 0.0
        for moment, frame in self._timed():
            if shown is not None:
                gap = moment - shown[0]
                slack = TIME_SLACK + time_slack(gap, tick)
                while number / fps + slack < moment:
                    yield LiveFrame(shown[0], _pixels(shown[1], size))
                    number += 1
            shown = (moment, frame)
        if shown is None:
            raise VideoError(f"{self.name}: no picture came out of its {self._stream.codec_context.name} stream")
        self.end_time = shown[0] + (gap or 1 / fps)
        while number / fps + TIME_SLACK < self.end_time:
            yield LiveFrame(shown[0], _pixels(shown[1], size))
            number += 1

    def _timed(self) -> Iterator[tuple[float, VideoFrame]]:
        """All frames with seconds since the first; a clock that is set back or lost goes on as if it were not."""
        zero: float | None = None
        last, gap = 0.0, 0.04
        for frame in self._decoded():
            moment = None if frame.pts is None else float(frame.pts * (self._stream.time_base or 0))
            if zero is None:
                zero = moment or 0.0
            elif moment is None or moment - zero <= last:
                zero = (moment or 0.0) - (last + gap)
                self._note_once("the stream's clock is set back or lost: times are counted on from there")
            else:
                gap = moment - zero - last
            last = (moment or 0.0) - zero
            yield last, frame

    def _decoded(self) -> Iterator[VideoFrame]:
        """All frames in display order; damaged ones are left out, and a stream that breaks off has ended."""
        has_begun = False
        packets = demux(self._container, self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                self._note_once(f"the stream broke off: {reason(error)}")
                packet = None
            try:
                frames = self._stream.codec_context.decode(packet if packet is not None and packet.size else None)
            except av.error.FFmpegError:
                frames = []
            for frame in frames:
                has_begun = has_begun or bool(frame.key_frame) or not frame.is_corrupt
                if has_begun and not frame.is_corrupt:
                    yield frame
            if packet is None or not packet.size:
                return

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _pixels(frame: VideoFrame, size: Size | None) -> NDArray[np.uint8]:
    turned = round(frame.rotation / 90) % 2
    own = (frame.width, frame.height) if turned else (frame.height, frame.width)
    return frame_to_pixels(frame, *(own if size is None else height_width(size)))


def _handle(source: Any, name: str, follow: bool, idle_timeout: float) -> Any:
    """What FFmpeg is to read: a path, an address or a file object."""
    if not (idle_timeout > 0 and np.isfinite(idle_timeout)):
        raise ValueError(f"idle_timeout must be seconds above 0, got {idle_timeout}")
    if not isinstance(source, str | os.PathLike):
        return source
    text = without_scheme(os.fspath(source))
    if text.lower().startswith(_STREAMS):
        return text
    if not Path(text).exists():
        raise VideoError(f"{name}: no such file; give a file, a pipe such as /dev/stdin, or an rtsp or http(s) address")
    return _FollowedFile(Path(text), idle_timeout) if follow and Path(text).is_file() else text


def _container(handle: Any, name: str, idle_timeout: float) -> av.container.InputContainer:
    """A container that is read forward only."""
    is_address = isinstance(handle, str) and handle.lower().startswith(_STREAMS)
    options = {"rtsp_transport": "tcp"} if is_address and handle.lower().startswith("rtsp") else {}
    try:
        container: av.container.InputContainer = av.open(
            handle,
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
    """A file whose end is waited at for more; reads forward only."""

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
