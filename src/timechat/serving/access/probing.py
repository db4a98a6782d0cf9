"""Find out what a file from outside contains, in a separate process.

Decoders are the part of a media program that a crafted file attacks. A child process reads the header and the first
frame (`python -m timechat.serving.access.probing PATH`). It has little memory, little time and an empty environment.
Before FFmpeg reads a byte, the child gives up the right to open files. So it cannot open what a playlist refers to.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import pkgutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any

from timechat.errors import AccessError, VideoError
from timechat.serving.access.limits import Limits

MAX_MEMORY = 2 * 2**30
"""Bytes of address space that the child may take."""

_MAX_ANSWER = 64 * 1024
_INHERITED_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True)
class Probed:
    """What a video is.

    Attributes:
        duration: seconds, as the header tells.
        width: pixels, as displayed.
        height: pixels, as displayed.
        fps: average frames per second, None where the container does not say.
        has_audio: whether there is a sound track.
        format: the container's name.
        codec: of the pictures.
    """

    duration: float
    width: int
    height: int
    fps: float | None
    has_audio: bool
    format: str
    codec: str

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


def probe_safely(path: Path, limits: Limits) -> Probed:
    """Find out what video a file is, without trusting it.

    Args:
        path: A regular file.
        limits: `probe_timeout` of the child; `max_duration` and `max_pixels` of the video.

    Raises:
        VideoError: It is no video, is damaged, or takes too much time or memory. The message does not name the path.
        AccessError: It is longer or larger than is allowed (`too_large`).
    """
    answer = run_bounded([*_command(), str(Path(path).absolute()), f"{limits.probe_timeout:g}"], limits.probe_timeout)
    probed = _read_answer(answer, limits)
    if probed.duration > limits.max_duration:
        raise AccessError(
            f"the video lasts {probed.duration:.0f} s, longer than the {limits.max_duration:.0f} s that are allowed",
            "too_large",
        )
    if probed.width * probed.height > limits.max_pixels:
        raise AccessError(
            f"the video has pictures of {probed.width}x{probed.height}, more than the {limits.max_pixels} pixels "
            "that are allowed",
            "too_large",
        )
    return probed


def _command() -> list[str]:
    # -P: what lies in the working directory is not imported; -B: nothing is written
    return [sys.executable, "-P", "-B", "-m", "timechat.serving.access.probing"]


def _environment() -> dict[str, str]:
    """As little as Python needs to find the same packages."""
    paths = [str(Path(path).absolute()) for path in sys.path if path]
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUTF8": "1",
        "MALLOC_ARENA_MAX": "2",  # else every thread of a decoder reserves 64 MB of the address space
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def run_bounded(command: list[str], timeout: float) -> bytes | None:
    """Run a program that may hang or crash, and end all that it has started.

    Args:
        command: The program and its arguments; it gets no input and an environment with little in it.
        timeout: Seconds after which it is ended.

    Returns:
        What it wrote, however it ended; None if it wrote too much or too late.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with process.stdout:
            return _read_all(process.stdout, time.monotonic() + timeout)
    finally:
        # The group is ended before its leader is waited for: until then its number belongs to nobody else.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read_all(pipe: IO[bytes], ends: float) -> bytes | None:
    """What comes out of a pipe until its other end is closed."""
    written = b""
    with DefaultSelector() as selector:
        selector.register(pipe, EVENT_READ)
        while len(written) <= _MAX_ANSWER:
            if not selector.select(max(0.0, ends - time.monotonic())):
                return None
            chunk = os.read(pipe.fileno(), _MAX_ANSWER)
            if not chunk:
                return written
            written += chunk
    return None


def _read_answer(answer: bytes | None, limits: Limits) -> Probed:
    """What the child tells; it is not trusted to have written what it should."""
    if answer is None:
        raise VideoError(
            f"the video cannot be read: not understood within {limits.probe_timeout:g} s; it is damaged or very large"
        )
    try:
        told = json.loads(answer)
        if "error" in told:
            raise VideoError(f"the video cannot be read: {_printable(told['error'])}")
        probed = Probed(
            duration=float(told["duration"]),
            width=int(told["width"]),
            height=int(told["height"]),
            fps=None if told["fps"] is None else float(told["fps"]),
            has_audio=bool(told["has_audio"]),
            format=_printable(told["format"]),
            codec=_printable(told["codec"]),
        )
    except (ValueError, KeyError, TypeError):
        raise VideoError(
            "the video cannot be read: the decoder broke down over it; it is damaged, or made to do harm"
        ) from None
    is_sound = math.isfinite(probed.duration) and probed.duration >= 0 and min(probed.width, probed.height) > 0
    if not is_sound or not math.isfinite(probed.fps or 0):
        raise VideoError("the video cannot be read: its header tells of no length, size or rate that can be")
    return probed


def _printable(text: object) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text))[:500]


# ── In the child ────────────────────────────────────────────────────────────────────────────────────────────────


def main(arguments: list[str]) -> None:
    """Write one line of JSON about the file whose path is the first argument; the second is the time in seconds."""
    timeout = float(arguments[1]) if len(arguments) > 1 else Limits().probe_timeout
    _limit_resources(timeout)
    try:
        print(json.dumps(_probe(arguments[0], timeout)), flush=True)
    except MemoryError:
        print(json.dumps({"error": "it needs more memory than is allowed"}), flush=True)


def _probe(path: str, timeout: float) -> dict[str, Any]:
    from timechat.video import probe_video  # here: the limits hold for loading it too, and the parent needs none of it

    _preload_codecs()

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return {"error": f"it cannot be opened: {error.strerror}"}
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return {"error": "it is no file"}
    name = "the video"
    with _NamedFile(descriptor, name) as file:
        _forbid_opening_files()
        try:
            info = probe_video(file, timeout=timeout)
        except VideoError as error:
            return {"error": str(error).removeprefix(f"{name}: ")}
    probed = Probed(
        info.duration, info.width, info.height, info.fps, info.has_audio, format=info.format, codec=info.codec
    )
    return probed.to_dict()


def _preload_codecs() -> None:
    """Load what PyAV otherwise loads when it meets a stream of that kind: by then nothing can be opened."""
    import av

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


class _NamedFile(io.FileIO):
    """A file that messages do not call by its path."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "rb")
        self.name = name


def _limit_resources(timeout: float) -> None:
    """Take from this process what it does not need; a system without such limits goes without."""
    with suppress(ImportError):
        import resource

        seconds = math.ceil(timeout) + 1
        _lower(resource.RLIMIT_CPU, seconds)
        _lower(resource.RLIMIT_FSIZE, 0)
        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_AS, MAX_MEMORY)
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(timeout) + 5)  # ends this process also where its parent is no more


def _forbid_opening_files() -> None:
    """No file, no socket, no pipe from here on: what is open stays so, and the kernel refuses the rest."""
    with suppress(ImportError):
        import resource

        _lower(resource.RLIMIT_NOFILE, 0)


def _lower(kind: int, most: int) -> None:
    """Set a limit for good; macOS does not know some, or not so low."""
    import resource

    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main(sys.argv[1:])
