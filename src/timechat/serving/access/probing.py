"""Reads the properties of a video in a separate process.

Crafted files attack decoders. Therefore a child process (`python -m timechat.serving.access.probing PATH`) reads the
header and the first frame, with little memory, little time and an empty environment. Before FFmpeg reads a byte, the
child gives up the right to open files, so it cannot open the files that a playlist names.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import pkgutil
import stat
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timechat.errors import AccessError, VideoError
from timechat.files.system import (
    end_group,
    forbid_opening_files,
    limit_this_process,
    module_command,
    open_without_waiting,
    read_pipe_until,
    start_group,
)
from timechat.serving.access.limits import Limits

MAX_MEMORY = 2 * 2**30
"""Maximum address space of the child, in bytes."""

_MAX_ANSWER = 64 * 1024


@dataclass(frozen=True)
class Probed:
    """Properties of a video.

    Attributes:
        duration: Duration in seconds, from the header.
        width: Width in pixels, as displayed.
        height: Height in pixels, as displayed.
        fps: Average frames per second; None if the container does not give it.
        has_audio: Whether there is an audio track.
        format: Name of the container format.
        codec: Name of the video codec.
        player_offset: Seconds by which the clock of players is ahead of the clock of the frames.
        audio_codec: Name of the codec of the first audio track; None without audio.
        start_timecode: Timecode of the first frame; None if the file states none.
        created: Date that the container states, in the format of ISO 8601; None if it states none.
    """

    duration: float
    width: int
    height: int
    fps: float | None
    has_audio: bool
    format: str
    codec: str
    player_offset: float = 0.0
    audio_codec: str | None = None
    start_timecode: str | None = None
    created: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the properties as JSON."""
        return asdict(self)


def probe_safely(path: Path, limits: Limits) -> Probed:
    """Return the properties of a video file that is not trusted.

    Args:
        path: Path of a regular file.
        limits: Limits; `probe_timeout` of the child, `max_duration` and `max_pixels` of the video.

    Raises:
        VideoError: The file is not a video, is damaged, or needs too much time or memory. The message does not contain
            the path.
        AccessError: The video is longer or larger than allowed (`too_large`).
    """
    answer = run_bounded([*_command(), str(Path(path).absolute()), f"{limits.probe_timeout:g}"], limits.probe_timeout)
    probed, max_pixels = _read_answer(answer, limits)
    if probed.duration > limits.max_duration:
        raise AccessError(
            f"the video lasts {probed.duration:.0f} s, longer than the {limits.max_duration:.0f} s that are allowed",
            "too_large",
        )
    if max_pixels > limits.max_pixels:
        raise AccessError(
            f"the video has frames of {probed.width}x{probed.height} and states up to {max_pixels} pixels, more than "
            f"the {limits.max_pixels} that are allowed",
            "too_large",
        )
    return probed


def _command() -> list[str]:
    return module_command("timechat.serving.access.probing")


def run_bounded(command: list[str], timeout: float) -> bytes | None:
    """Run a program that may hang or crash; kill all its processes at the end.

    Args:
        command: Program and arguments; it gets no input and an almost empty environment.
        timeout: Maximum time in seconds.

    Returns:
        Its standard output, whatever its exit status; None if the output is too long or too late.
    """
    process = start_group(command)
    assert process.stdout is not None
    try:
        return read_pipe_until(process.stdout, time.monotonic() + timeout, _MAX_ANSWER)
    finally:
        end_group(process)
        process.stdout.close()


def _read_answer(answer: bytes | None, limits: Limits) -> tuple[Probed, int]:
    """Read the output of the child, which is not trusted: the properties and the pixels of the largest frame."""
    if answer is None:
        raise VideoError(
            f"the video cannot be read: probing took over {limits.probe_timeout:g} s; it is damaged or very large"
        )
    try:
        fields = json.loads(answer)
        if "error" in fields:
            raise VideoError(f"the video cannot be read: {_printable(fields['error'])}")
        probed = Probed(
            duration=float(fields["duration"]),
            width=int(fields["width"]),
            height=int(fields["height"]),
            fps=None if fields["fps"] is None else float(fields["fps"]),
            has_audio=bool(fields["has_audio"]),
            format=_printable(fields["format"]),
            codec=_printable(fields["codec"]),
            player_offset=float(fields["player_offset"]),
            audio_codec=None if fields["audio_codec"] is None else _printable(fields["audio_codec"]),
            start_timecode=None if fields["start_timecode"] is None else _printable(fields["start_timecode"]),
            created=None if fields["created"] is None else _printable(fields["created"]),
        )
        max_pixels = max(int(fields["max_pixels"]), probed.width * probed.height)
    except (ValueError, KeyError, TypeError):
        raise VideoError("the video cannot be read: the decoder crashed; the file is damaged or malicious") from None
    is_valid = math.isfinite(probed.duration) and probed.duration >= 0 and min(probed.width, probed.height) > 0
    if not is_valid or not math.isfinite(probed.fps or 0):
        raise VideoError("the video cannot be read: its header has an impossible duration, size or frame rate")
    return probed, max_pixels


def _printable(text: object) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text))[:500]


# ── in the child ────────────────────────────────────────────────────────────────────────────────────────────────


def main(arguments: list[str]) -> None:
    """Print the properties of a file as one line of JSON; the arguments are its path and the time in seconds."""
    timeout = float(arguments[1]) if len(arguments) > 1 else Limits().probe_timeout
    limit_this_process(MAX_MEMORY, timeout)
    try:
        print(json.dumps(_probe(arguments[0], timeout)), flush=True)
    except MemoryError:
        print(json.dumps({"error": "it needs more memory than allowed"}), flush=True)


def _probe(path: str, timeout: float) -> dict[str, Any]:
    from timechat.video import probe_video  # here: the limits apply to its import too, and the parent does not need it

    _preload_codecs()

    try:
        descriptor = open_without_waiting(path)
    except OSError as error:
        return {"error": f"it cannot be opened: {error.strerror}"}
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return {"error": "it is not a regular file"}
    name = "the video"
    with _NamedFile(descriptor, name) as file:
        forbid_opening_files()
        try:
            info = probe_video(file, timeout=timeout)
        except VideoError as error:
            return {"error": str(error).removeprefix(f"{name}: ")}
    probed = Probed(
        info.duration,
        info.width,
        info.height,
        info.fps,
        info.has_audio,
        format=info.format,
        codec=info.codec,
        player_offset=info.player_offset,
        audio_codec=next((stream.codec for stream in info.streams if stream.kind == "audio"), None),
        start_timecode=info.start_timecode,
        created=None if info.created is None else info.created.isoformat(),
    )
    # A stream may state larger frames than its first frame: decoders accept what it states.
    return probed.to_dict() | {"max_pixels": info.max_pixels}


def _preload_codecs() -> None:
    """Import what PyAV otherwise imports with the first stream of a kind, when nothing can be opened any more."""
    import av

    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


class _NamedFile(io.FileIO):
    """A file whose name in messages is not its path."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "rb")
        self.name = name


if __name__ == "__main__":
    main(sys.argv[1:])
