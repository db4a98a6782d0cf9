"""Anything a video can come from, made into something that can be opened again and again."""

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
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import av
import av.container
import av.error

from timechat.errors import VideoError
from timechat.files import without_scheme

DEFAULT_PATIENCE = 30.0
"""Seconds of silence after which a server is given up."""

VideoSource = str | os.PathLike[str] | bytes | IO[bytes]

_OPENS_OTHER_FILES = {
    *("concat", "sdp", "hls", "dash", "webm_dash_manifest", "imf", "vobsub"),
    *("rtsp", "rtp", "sap", "lavfi", "avisynth", "vapoursynth"),
}
_DRAWS_TEXT_OR_OPENS_OTHER_FILES = {"tty", *_OPENS_OTHER_FILES}
_FORMATS_OF_ONE_FILE = ",".join(sorted(av.formats_available - _OPENS_OTHER_FILES))


class Deadline:
    """The moment when a file is given up; also how a failed worker stops the others.

    Attributes:
        check_caller: Called while a file is read; raises where nobody wants the result any more.
    """

    def __init__(self, seconds: float, name: str, check_caller: Callable[[], object] | None = None) -> None:
        self.seconds, self.name, self.check_caller = seconds, name, check_caller
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self.ends = time.monotonic() + self.seconds
        self.is_cancelled = False

    def left(self) -> float:
        """Seconds that remain."""
        return max(0.0, self.ends - time.monotonic())

    def renew(self) -> None:
        """Give as much time again, for another piece of work on the same file."""
        self.ends = time.monotonic() + self.seconds

    def check(self) -> None:
        """Raise if the time is up, or nobody waits."""
        if self.check_caller is not None:
            self.check_caller()
        if self.is_cancelled or not self.left():
            raise VideoError(
                f"{self.name}: not read within {self.seconds:g} s; it is damaged, endless or very large. "
                "Allow more with timeout=SECONDS, or sample less of it"
            )


class _SharedFile:
    """A view of one file object with a position of its own, so that several threads can read it."""

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
    """A source that can be opened again and again.

    Attributes:
        name: how messages call it.
        handle: gives a path, an address or a fresh file object.
        is_address: True for `http(s)`.
    """

    name: str
    handle: Callable[[], Any]
    is_address: bool
    deadline: Deadline

    def open(self) -> av.container.InputContainer:
        """A container of its own; the caller closes it."""
        self.deadline.check()
        seconds = self.deadline.left()
        seconds = min(seconds, DEFAULT_PATIENCE) if self.is_address else seconds
        options = {} if self.is_address else {"format_whitelist": _FORMATS_OF_ONE_FILE}  # before it opens them
        began = time.monotonic()
        try:
            container: av.container.InputContainer = av.open(
                self.handle(), "r", options=options, metadata_errors="replace", timeout=(seconds, seconds)
            )
        except (av.error.FFmpegError, OSError) as error:
            self.check_answering(error)
            if self.is_address and time.monotonic() - began >= seconds:  # a demuxer may call its waiting in vain damage
                raise _silent_server(self.deadline) from error
            hint = _hint(error, is_address=_is_address(self.name))
            raise VideoError(f"{self.name}: cannot be opened as a video: {reason(error)}{hint}") from error
        formats = set(container.format.name.split(","))
        if formats & _DRAWS_TEXT_OR_OPENS_OTHER_FILES and not (self.is_address and formats & {"hls", "dash"}):
            container.close()
            raise VideoError(
                f"{self.name}: is no video but text ({container.format.name}); give a video file such as .mp4"
            )
        return container

    def check_answering(self, error: Exception) -> None:
        """Raise if an error of FFmpeg means that it waited in vain for a server."""
        if self.is_address and isinstance(error, av.error.ExitError):
            raise _silent_server(self.deadline) from error


@contextmanager
def open_source(
    source: VideoSource, timeout: float, check_caller: Callable[[], object] | None = None
) -> Iterator[VideoHandle]:
    """Make any kind of source one that can be opened repeatedly and read from several threads; see `Deadline`."""
    if isinstance(source, str):
        source = without_scheme(source)
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        name = f"<{len(data)} bytes>"
        if not data:
            raise VideoError(f"{name}: is empty; expected the content of a video file")
        yield VideoHandle(name, lambda: io.BytesIO(data), False, Deadline(timeout, name, check_caller))
    elif isinstance(source, str) and _is_address(source):
        deadline = Deadline(timeout, source, check_caller)
        answer = _whole_answer(source, deadline)
        if answer is None:
            yield VideoHandle(source, lambda: source, True, deadline)
        else:
            with _spooled(_from_server(answer, deadline), deadline) as file:
                yield _shared_handle(file, source, deadline)
    elif isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        path = Path(name)
        _check_path(path, name)
        deadline = Deadline(timeout, name, check_caller)
        if path.is_fifo():
            with _spooled(read_pipe(path, deadline), deadline) as file:
                yield _shared_handle(file, name, deadline)
        else:
            yield VideoHandle(name, lambda: str(path.absolute()), False, deadline)
    elif hasattr(source, "read"):
        name = str(getattr(source, "name", None) or f"<{type(source).__name__}>")
        deadline = Deadline(timeout, name, check_caller)
        if hasattr(source, "seek") and (not hasattr(source, "seekable") or source.seekable()):
            yield _shared_handle(source, name, deadline)
        else:
            with _spooled(_from_pipe(source, deadline), deadline) as file:
                yield _shared_handle(file, name, deadline)
    else:
        raise TypeError(
            "source must be a path, an http(s) address, bytes, a binary file object or Frames, got "
            f"{type(source).__name__}; make frames of pictures with Frames.from_images(images, timestamps)"
        )


def _check_path(path: Path, name: str) -> None:
    if not path.exists():
        advice = "the path of a video file or an http(s) address"
        raise VideoError(f"{name}: no such file; give {'/dev/stdin for standard input, or ' * (name == '-')}{advice}")
    if path.is_dir():
        raise VideoError(f"{name}: is a folder; give the path of one video file")
    if not (path.is_file() or path.is_fifo()):
        raise VideoError(f"{name}: is a device, not a file; give the path of a video file")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"{name}: is empty (0 bytes); it was perhaps never fully written")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{name}: may not be read; check its permissions")


def _shared_handle(file: IO[bytes], name: str, deadline: Deadline) -> VideoHandle:
    if not file.seek(0, os.SEEK_END):
        raise VideoError(f"{name}: is empty; expected the content of a video file")
    lock = threading.Lock()
    return VideoHandle(name, lambda: _SharedFile(file, lock, deadline), False, deadline)


@contextmanager
def _spooled(chunks: Iterator[bytes], deadline: Deadline) -> Iterator[IO[bytes]]:
    """Copy what can be read only once into a temporary file (in memory while it is small)."""
    with tempfile.SpooledTemporaryFile(max_size=64 * 2**20) as file:
        for chunk in chunks:
            file.write(chunk)
            deadline.check()
        yield file


def read_pipe(path: Path, deadline: Deadline) -> Iterator[bytes]:
    """What comes out of a named pipe, without waiting for it, or for somebody who writes, longer than the deadline.

    It is waited for in short pieces: a Ctrl+C that comes in the moment before a wait is heard after it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        yield from _from_pipe(pipe, deadline)


def _from_pipe(pipe: IO[bytes], deadline: Deadline) -> Iterator[bytes]:
    """What comes out of a pipe, without waiting for it longer than the deadline."""
    read = getattr(pipe, "read1", pipe.read)
    while True:
        deadline.check()
        with suppress(OSError, ValueError, TypeError):  # no file descriptor: reading itself must end
            if not select.select([pipe], [], [], min(1.0, deadline.left()))[0]:
                continue
        data = read(2**20)
        if data == b"":
            return
        yield data or b""


def _is_address(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _whole_answer(address: str, deadline: Deadline) -> HTTPResponse | None:
    """The answer of a server that sends a file only as a whole, which FFmpeg could not seek in.

    None where FFmpeg is to ask by itself: the server sends parts, or it sends a playlist, or this request failed.
    """
    request = Request(address, headers={"Range": "bytes=0-0"})
    try:
        answer: HTTPResponse = urlopen(request, timeout=min(deadline.left(), DEFAULT_PATIENCE))
        if answer.status == 200 and not _is_playlist(answer.peek(512)):
            return answer
        answer.close()
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            raise _silent_server(deadline) from error
        if isinstance(error, HTTPError):
            error.close()
    return None


def _is_playlist(head: bytes) -> bool:
    return head.startswith(b"#EXTM3U") or b"<MPD" in head


def _from_server(answer: HTTPResponse, deadline: Deadline) -> Iterator[bytes]:
    """The content that a server sends; its silence or its breaking off is an error."""
    with answer:
        try:
            while data := answer.read1(2**20):
                yield data
        except TimeoutError as error:
            raise _silent_server(deadline) from error
        except (OSError, HTTPException) as error:
            raise VideoError(f"{deadline.name}: the server broke off: {reason(error)}; try again") from error
        if answer.length:
            raise VideoError(f"{deadline.name}: the server broke off with {answer.length} bytes to come; try again")


def _silent_server(deadline: Deadline) -> VideoError:
    return VideoError(
        f"{deadline.name}: the server did not answer, or stopped answering, within "
        f"{min(deadline.seconds, DEFAULT_PATIENCE):g} s; check the address and the network, or try again"
    )


def _hint(error: Exception, *, is_address: bool) -> str:
    is_nonsense = isinstance(error, av.error.InvalidDataError | av.error.EOFError)
    hint = "; it is another kind of file, or cut short or damaged at its header" if is_nonsense else ""
    if isinstance(error, av.error.ArgumentError):
        hint = "; it is text, such as a playlist, or damaged at its header; give a video file such as .mp4"
    advice = "; check the address, the network, and that it leads straight to a video file, not to a page about it"
    return hint + advice * is_address


def reason(error: Exception) -> str:
    """One line of an exception, without the number and the path that FFmpeg adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
