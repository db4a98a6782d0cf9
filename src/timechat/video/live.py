"""Live video, read once and forward only: a growing file, a pipe, a camera or a server."""

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

_POLL_SECONDS = 0.1  # seconds between two reads at the end of a growing file
_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "udp://", "rtp://", "srt://", "http://", "https://")


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame of a stream.

    Attributes:
        time: Time in seconds since the first frame.
        pixels: uint8 `(height, width, 3)`, RGB.
    """

    time: float
    pixels: NDArray[np.uint8]


class LiveVideo:
    """Frames of a stream as they arrive, without storing earlier ones; a context manager.

    Attributes:
        name: Name of the stream in messages.
        notes: Notes on problems, such as an early end.
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
        self.notes: list[str] = []
        self.end_time: float | None = None
        self._open = ExitStack()
        try:
            opened = _open_input(source, self.name, follow, idle_timeout)
            if isinstance(opened, _FollowedFile):
                self._open.callback(opened.close)
            self._container = self._open.enter_context(_open_container(opened, self.name, idle_timeout))
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
        """Close the stream."""
        self._open.close()

    def frames(self, *, fps: float, size: Size | None = None) -> Iterator[LiveFrame]:
        """Yield the frame on screen at 0, `1 / fps`, `2 / fps`, ... seconds, each when the next frame arrives.

        These are the frames that `load_frames` selects with `fps` from the same video as a file, with their own times.
        If the video has fewer frames per second, a frame is yielded more than once.

        Args:
            fps: Frames per second.
            size: Size in pixels, as in `load_frames`.
        """
        tick = float(self._stream.time_base or 0)
        number, shown, gap = 0, None, 0.0
        for time_s, frame in self._frames_with_times():
            if shown is not None:
                gap = time_s - shown[0]
                slack = TIME_SLACK + time_slack(gap, tick)
                while number / fps + slack < time_s:
                    yield LiveFrame(shown[0], _pixels(shown[1], size))
                    number += 1
            shown = (time_s, frame)
        if shown is None:
            raise VideoError(
                f"{self.name}: no frame could be decoded from its {self._stream.codec_context.name} stream"
            )
        self.end_time = shown[0] + (gap or 1 / fps)
        while number / fps + TIME_SLACK < self.end_time:
            yield LiveFrame(shown[0], _pixels(shown[1], size))
            number += 1

    def _frames_with_times(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield all frames with their times since the first; the times keep rising if the clock is set back or lost."""
        zero: float | None = None
        last, gap = 0.0, 0.04
        for frame in self._decoded():
            time_s = None if frame.pts is None else float(frame.pts * (self._stream.time_base or 0))
            if zero is None:
                zero = time_s or 0.0
            elif time_s is None or time_s - zero <= last:
                zero = (time_s or 0.0) - (last + gap)
                self._note_once("the stream's clock is set back or lost: times continue from there")
            else:
                gap = time_s - zero - last
            last = (time_s or 0.0) - zero
            yield last, frame

    def _decoded(self) -> Iterator[VideoFrame]:
        """Yield all frames in display order, without damaged ones; a broken stream ends."""
        has_begun = False
        packets = demux(self._container, self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                self._note_once(f"the stream ended early: {reason(error)}")
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
    is_transposed = round(frame.rotation / 90) % 2
    displayed = (frame.width, frame.height) if is_transposed else (frame.height, frame.width)
    return frame_to_pixels(frame, *(displayed if size is None else height_width(size)))


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
    return _FollowedFile(Path(text), idle_timeout) if follow and Path(text).is_file() else str(Path(text).absolute())


def _open_container(opened: Any, name: str, idle_timeout: float) -> av.container.InputContainer:
    """Open a container that is read forward only."""
    is_address = isinstance(opened, str) and opened.lower().startswith(_STREAMS)
    options = {"rtsp_transport": "tcp"} if is_address and opened.lower().startswith("rtsp") else {}
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
