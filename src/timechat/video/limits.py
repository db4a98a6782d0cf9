"""Limits of reading a file: its time, and the size of its pictures, which small files can exceed many times."""

from __future__ import annotations

import time
from collections.abc import Callable

from av.codec.context import CodecContext
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext

from timechat.errors import VideoError, VideoTimeoutError

DEFAULT_PATIENCE = 30.0
"""Maximum silence of a server, in seconds."""

MAX_STREAMS = 128
"""Maximum number of streams of a container; a file with more is not opened, or its other streams are not read."""

MAX_PIXELS = 1 << 26
"""Maximum width times height that a stream may state: 8192 x 8192."""

GROWN_PIXELS = 4096 * 4096
"""Maximum width times height of a frame that is larger than its stream states."""

MAX_SCANS = 50
"""Maximum number of scans of a JPEG picture: each costs as much time as a whole picture. Usual are 1 to 12."""

OPEN_OPTIONS = {"max_streams": str(MAX_STREAMS), "max_pixels": str(MAX_PIXELS)}
"""Options of FFmpeg for opening a container: they hold for the frames that it decodes to find out the properties."""

_JPEG_CODECS = {"mjpeg", "mjpegb", "ljpeg", "jpegls", "amv", "sp5x", "thp"}
_START_OF_SCAN = b"\xff\xda"


class Deadline:
    """Time limit for reading a file; also stops the other workers when one has failed.

    Attributes:
        check_caller: Callback during reading; raises if the caller has cancelled the request.
    """

    def __init__(self, seconds: float, name: str, check_caller: Callable[[], object] | None = None) -> None:
        self.seconds, self.name, self.check_caller = seconds, name, check_caller
        self.restart()

    def restart(self) -> None:
        """Start the time limit again and clear the cancellation."""
        self.ends = time.monotonic() + self.seconds
        self.is_cancelled = False

    def left(self) -> float:
        """Return the remaining time in seconds."""
        return max(0.0, self.ends - time.monotonic())

    @property
    def patience(self) -> float:
        """Maximum silence of a server in seconds, for the whole request."""
        return min(self.seconds, DEFAULT_PATIENCE)

    def renew(self) -> None:
        """Start the time limit again, for the next piece of work on the same file."""
        self.ends = time.monotonic() + self.seconds

    def check(self) -> None:
        """Raise if the time is up or the request is cancelled."""
        if self.check_caller is not None:
            self.check_caller()
        if self.is_cancelled or not self.left():
            raise VideoTimeoutError(
                f"{self.name}: not read within {self.seconds:g} s; it is damaged, endless or very large. "
                "Allow more with timeout=SECONDS, or sample less of it"
            )


def reason(error: Exception) -> str:
    """Return one line of an exception, without the number and the path that FFmpeg adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def limit_decoders(container: InputContainer, name: str) -> None:
    """Let the decoders of a container refuse large pictures before they take memory for them.

    Raises:
        VideoError: A stream states larger pictures.
    """
    for stream in container.streams.video:
        context: CodecContext | None = getattr(stream, "codec_context", None)
        if not isinstance(context, VideoCodecContext):
            continue
        num_pixels = context.width * context.height
        if num_pixels > MAX_PIXELS:
            raise VideoError(
                f"{name}: has frames of {context.width}x{context.height}; frames of at most {MAX_PIXELS} pixels are "
                "read"
            )
        context.options = {**context.options, "max_pixels": str(max(num_pixels, GROWN_PIXELS))}


def stated_pixels(container: InputContainer) -> int:
    """Return the largest width times height that a stream states; call it before anything is decoded."""
    contexts = [getattr(stream, "codec_context", None) for stream in container.streams.video]
    return max((context.width * context.height for context in contexts if context is not None), default=0)


def is_jpeg(context: CodecContext) -> bool:
    """Whether the packets of a decoder are JPEG pictures."""
    return context.name in _JPEG_CODECS


def num_scans(content: bytes) -> int:
    """Return the number of scans of a JPEG picture; the byte pair does not occur in the data of a scan."""
    return content.count(_START_OF_SCAN)
