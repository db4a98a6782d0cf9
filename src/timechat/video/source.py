"""Video sources of any kind, as handles that can be opened repeatedly."""

from __future__ import annotations

import io
import os
import select
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av
import av.container
import av.error

from timechat.errors import VideoError
from timechat.files import without_scheme
from timechat.files.remote import is_remote, open_remote
from timechat.files.system import open_without_waiting
from timechat.video.http import HTTP_OPTIONS, silent_server, whole_content
from timechat.video.limits import OPEN_OPTIONS, Deadline, limit_decoders, reason

VideoSource = str | os.PathLike[str] | bytes | IO[bytes]

_OPENS_OTHER_FILES = {
    *("concat", "sdp", "hls", "dash", "webm_dash_manifest", "imf", "vobsub", "mlv", "image2"),
    *("rtsp", "rtp", "sap", "lavfi", "avisynth", "vapoursynth"),
}
_NUMBERED_IMAGES = {".jpg", ".jpeg"}  # FFmpeg opens such names as one of several image files; the content has no name
_DRAWS_TEXT_OR_OPENS_OTHER_FILES = {"tty", *_OPENS_OTHER_FILES}
_FORMATS_OF_ONE_FILE = ",".join(sorted(av.formats_available - _OPENS_OTHER_FILES))


class _SharedFile:
    """A view of one file object with its own position, so that several threads can read it."""

    def __init__(self, file: IO[bytes], lock: threading.Lock, deadline: Deadline) -> None:
        self.file, self.lock, self.deadline, self.position = file, lock, deadline, 0

    def read(self, size: int = -1) -> bytes:
        self.deadline.check()  # the decoder library cannot interrupt a Python object by itself
        with self.lock:
            self.file.seek(self.position)
            data = self.file.read(size)
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self.lock:
            base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position}.get(whence)
            self.position = offset + (self.file.seek(0, os.SEEK_END) if base is None else base)
        return self.position

    def tell(self) -> int:
        return self.position


@dataclass(frozen=True)
class VideoHandle:
    """A source that can be opened repeatedly.

    Attributes:
        name: Name of the source in messages.
        open_input: Function that returns a path, an address or a new file object.
        is_address: Whether the source is an `http(s)` address.
        deadline: Time limit for reading the source.
    """

    name: str
    open_input: Callable[[], Any]
    is_address: bool
    deadline: Deadline

    def open(self) -> av.container.InputContainer:
        """Open the source as a new container; the caller closes it."""
        self.deadline.check()
        seconds = self.deadline.left()
        seconds = min(seconds, self.deadline.patience) if self.is_address else seconds
        # The format is checked before a demuxer opens other files.
        options = HTTP_OPTIONS if self.is_address else {"format_whitelist": _FORMATS_OF_ONE_FILE}
        options = OPEN_OPTIONS | options
        began = time.monotonic()
        try:
            container: av.container.InputContainer = av.open(
                self.open_input(),
                "r",
                options=options,
                metadata_errors="replace",
                timeout=(seconds, seconds),
            )
        except (av.error.FFmpegError, OSError) as error:
            self.check_answering(error)
            if self.is_address and time.monotonic() - began >= seconds:  # a demuxer may report a timeout as damage
                raise silent_server(self.deadline) from error
            hint = _hint(error, is_address=_is_address(self.name))
            raise VideoError(f"{self.name}: cannot be opened as a video: {reason(error)}{hint}") from error
        formats = set(container.format.name.split(","))
        if formats & _DRAWS_TEXT_OR_OPENS_OTHER_FILES and not (self.is_address and formats & {"hls", "dash"}):
            container.close()
            raise VideoError(
                f"{self.name}: is not a video but text ({container.format.name}); give a video file such as .mp4"
            )
        try:
            limit_decoders(container, self.name)
        except BaseException:
            container.close()
            raise
        return container

    @contextmanager
    def open_bytes(self) -> Iterator[IO[bytes]]:
        """Open the bytes of the source; not for addresses."""
        opened = self.open_input()
        if isinstance(opened, str):
            with Path(opened).open("rb") as file:
                yield file
        else:
            yield opened

    def check_answering(self, error: Exception) -> None:
        """Raise if an error of FFmpeg means that a server did not answer."""
        if self.is_address and isinstance(error, av.error.ExitError):
            raise silent_server(self.deadline) from error


@contextmanager
def open_source(
    source: VideoSource, timeout: float, check_caller: Callable[[], object] | None = None
) -> Iterator[VideoHandle]:
    """Yield a handle of a source that can be opened repeatedly and read by several threads; see `Deadline`."""
    if isinstance(source, str) and "://" in source:
        source = without_scheme(source)
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        name = f"<{len(data)} bytes>"
        if not data:
            raise VideoError(f"{name}: is empty; expected the content of a video file")
        yield VideoHandle(name, lambda: io.BytesIO(data), False, Deadline(timeout, name, check_caller))
    elif isinstance(source, str) and _is_address(source):
        deadline = Deadline(timeout, source, check_caller)
        content = whole_content(source, deadline)
        if content is None:
            yield VideoHandle(source, lambda: source, True, deadline)
        else:
            with _spooled(content, deadline) as file:
                yield _shared_handle(file, source, deadline)
    elif isinstance(source, str) and is_remote(source):
        with _opened_remote(source) as file:
            yield _shared_handle(file, source, Deadline(timeout, source, check_caller))
    elif isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        path = Path(name)
        _check_path(path, name)
        deadline = Deadline(timeout, name, check_caller)
        if path.is_fifo():
            with _spooled(read_pipe(path, deadline), deadline) as file:
                yield _shared_handle(file, name, deadline)
        elif path.suffix.lower() in _NUMBERED_IMAGES:
            with path.open("rb") as file:
                yield _shared_handle(file, name, deadline)
        else:
            yield VideoHandle(name, lambda: str(path.absolute()), False, deadline)
    elif hasattr(source, "read"):
        name = str(getattr(source, "name", None) or f"<{type(source).__name__}>")
        deadline = Deadline(timeout, name, check_caller)
        if hasattr(source, "seek") and (not hasattr(source, "seekable") or source.seekable()):
            yield _shared_handle(source, name, deadline)
        else:
            with _spooled(read_open_pipe(source, deadline), deadline) as file:
                yield _shared_handle(file, name, deadline)
    else:
        raise TypeError(
            "source must be a path, an address, bytes, a binary file object or Frames, got "
            f"{type(source).__name__}; make frames from images with Frames.from_images(images, timestamps)"
        )


@contextmanager
def _opened_remote(address: str) -> Iterator[IO[bytes]]:
    """Open a file of an object store."""
    try:
        file = open_remote(address)
    except FileNotFoundError as error:
        raise VideoError(f"{address}: no such file; check the address") from error
    except OSError as error:
        raise VideoError(f"{address}: cannot be opened: {reason(error)}; check the address and the keys") from error
    except (ModuleNotFoundError, ValueError) as error:
        raise VideoError(str(error)) from error
    with file:
        yield file


def _check_path(path: Path, name: str) -> None:
    if not path.exists():
        advice = "the path of a video file or an http(s) address"
        raise VideoError(f"{name}: no such file; give {'/dev/stdin for standard input, or ' * (name == '-')}{advice}")
    if path.is_dir():
        raise VideoError(f"{name}: is a folder; give the path of one video file")
    if not (path.is_file() or path.is_fifo()):
        raise VideoError(f"{name}: is a device, not a file; give the path of a video file")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"{name}: is empty (0 bytes); it was perhaps never completely written")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{name}: cannot be read: permission denied; check its permissions")


def _shared_handle(file: IO[bytes], name: str, deadline: Deadline) -> VideoHandle:
    if not file.seek(0, os.SEEK_END):
        raise VideoError(f"{name}: is empty; expected the content of a video file")
    lock = threading.Lock()
    return VideoHandle(name, lambda: _SharedFile(file, lock, deadline), False, deadline)


@contextmanager
def _spooled(chunks: Iterator[bytes], deadline: Deadline) -> Iterator[IO[bytes]]:
    """Copy a source that can be read only once into a temporary file (in memory while it is small)."""
    with tempfile.SpooledTemporaryFile(max_size=64 * 2**20) as file:
        for chunk in chunks:
            file.write(chunk)
            deadline.check()
        yield file


def read_pipe(path: Path, deadline: Deadline) -> Iterator[bytes]:
    """Yield the content of a named pipe; wait for a writer or for data no longer than the deadline.

    The function waits in short intervals, so that a Ctrl+C just before an interval takes effect after it.
    """
    with os.fdopen(open_without_waiting(path), "rb", buffering=0) as pipe:
        yield from read_open_pipe(pipe, deadline)


def read_open_pipe(pipe: IO[bytes], deadline: Deadline) -> Iterator[bytes]:
    """Yield the content of a pipe; wait for data no longer than the deadline."""
    read = getattr(pipe, "read1", pipe.read)
    while True:
        deadline.check()
        with suppress(OSError, ValueError, TypeError):  # without a file descriptor, only the read itself can end
            if not select.select([pipe], [], [], min(1.0, deadline.left()))[0]:
                continue
        data = read(2**20)
        if data == b"":
            return
        yield data or b""


def _is_address(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _hint(error: Exception, *, is_address: bool) -> str:
    is_invalid = isinstance(error, av.error.InvalidDataError | av.error.EOFError)
    hint = "; it is another kind of file, or cut short or damaged at its header" if is_invalid else ""
    if isinstance(error, av.error.ArgumentError):
        hint = "; it is text, such as a playlist, or damaged at its header; give a video file such as .mp4"
    advice = "; check the address, the network, and that it is the address of a video file, not of a page about it"
    return hint + advice * is_address
