"""Stretches of a video as files of their own: cut exactly, by encoding anew, or copied from keyframe on.

Times are seconds on the video's clock, which starts with its first picture. A file appears whole or not at all.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from timechat.answers.events import MOMENT_SECONDS, Event, format_time
from timechat.errors import VideoError
from timechat.files import atomic_write
from timechat.video.clips.copy import CopiedRange, PacketCopier, copied_range
from timechat.video.clips.encode import VideoWriter
from timechat.video.clips.soundtrack import Soundtrack
from timechat.video.clips.timeline import VideoTimeline, open_timeline
from timechat.video.loading import DEFAULT_TIMEOUT
from timechat.video.source import VideoSource, reason

Mode = Literal["exact", "copy"]

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".ts": "mpegts"}
"""What files with these endings hold; `.webm` and `.ts` only as copies."""

_AHEAD = Fraction(1, 2)  # seconds by which sound is written ahead of the pictures
_ROUNDING = 0.05  # seconds: answers tell times to a tenth


@dataclass(frozen=True)
class CutReport:
    """What a cut holds, in seconds on the clock of the video that it was cut from.

    Attributes:
        path: The file.
        mode: `exact` was encoded anew, `copy` holds the packets of the video.
        requested_start: Where it should start.
        requested_end: Where it should end.
        start: Where it starts.
        end: Where it ends: when its last picture leaves the screen.
        notes: What else is different: damaged pictures, missing sound.
    """

    path: Path
    mode: Mode
    requested_start: float
    requested_end: float
    start: float
    end: float
    notes: tuple[str, ...] = ()

    @property
    def start_shift(self) -> float:
        """Seconds that the cut holds before the wanted start."""
        return self.requested_start - self.start

    @property
    def end_shift(self) -> float:
        """Seconds that the cut holds after the wanted end; below 0 where the video ends before it."""
        return self.end - self.requested_end

    def __str__(self) -> str:
        how = "encoded anew" if self.mode == "exact" else "copied without loss"
        parts = [f"{self.path}: {self.start:.3f} to {self.end:.3f} s, {how}"]
        parts += [f"starts {self.start_shift:.3f} s early"] if abs(self.start_shift) >= 0.0005 else []
        parts += (
            [f"ends {abs(self.end_shift):.3f} s {'late' if self.end_shift > 0 else 'early'}"]
            if abs(self.end_shift) >= 0.0005
            else []
        )
        return ", ".join([*parts, *self.notes])


def extract_clip(
    source: VideoSource,
    start: float,
    end: float,
    target: str | Path,
    *,
    mode: Mode = "exact",
    timeout: float = DEFAULT_TIMEOUT,
) -> CutReport:
    """Cut one stretch of a video into a file of its own.

    Args:
        source: As `load_frames` takes it.
        start: Seconds. An exact cut begins at this moment, with the picture that is on screen then.
        end: Seconds; what is shown before. Beyond the video's end it is taken as that.
        target: The file to write; its ending (`.mp4`, `.mov`, `.mkv`; for copies also `.webm`, `.ts`) says which kind.
        mode: `exact` encodes pictures (H.264) and sound (AAC) anew. `copy` is quick and without loss, but begins
            at the keyframe before `start` and may end some pictures late: the report says by how much.
        timeout: Seconds of wall time after which it is given up.

    Raises:
        ValueError: The times or the target make no sense.
        VideoError: The video cannot be read, ends before `start`, or cannot be copied into such a file.
    """
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise ValueError(f"start must be from 0 and before end, in seconds, got start={start} and end={end}")
    target = _check_writable(Path(target), mode, source)
    with open_timeline(source, timeout) as film:
        if start >= film.duration:
            raise VideoError(f"{film.handle.name}: ends at {film.duration:.3f} s, before the {start:.3f} s to cut from")
        return _write(film, [(start, end)], target, mode)[0]


def extract_clips(
    source: VideoSource,
    events: Iterable[Event],
    folder: str | Path,
    *,
    mode: Mode = "exact",
    timeout: float = DEFAULT_TIMEOUT,
) -> list[CutReport]:
    """Cut every event into a file of its own, named by its number, time and caption.

    Args:
        source: As `load_frames` takes it.
        events: What to cut, in the order of the numbers. A moment gets `MOMENT_SECONDS` around it. Events that
            start after the video's end give no file.
        folder: Where the files go; made if it is missing. Files of the same names are replaced.
        mode: As in `extract_clip`.
        timeout: Seconds of wall time for each file.

    Returns:
        A report a file.
    """
    _check_mode(mode)
    events, folder = list(events), Path(folder)
    with open_timeline(source, timeout) as film:
        suffix = ".mp4" if mode == "exact" else _copy_suffix(film.info.format)
        folder.mkdir(exist_ok=True)
        reports = []
        for number, event in enumerate(events, start=1):
            if (stretch := _time_range(event, film.duration)) is not None:
                target = folder / _file_name(number, len(events), event, suffix)
                reports += _write(film, [stretch], target, mode)
        return reports


def concat_clips(
    source: VideoSource,
    events: Iterable[Event],
    target: str | Path,
    *,
    mode: Mode = "exact",
    timeout: float = DEFAULT_TIMEOUT,
) -> list[CutReport]:
    """Join events into one film, in time order; those that overlap are shown once.

    Args:
        source: As `load_frames` takes it.
        events: What to show. A moment gets `MOMENT_SECONDS` around it.
        target: The file to write, as in `extract_clip`.
        mode: As in `extract_clip`.
        timeout: Seconds of wall time for each stretch.

    Returns:
        A report a stretch, in the order in which they are shown.

    Raises:
        ValueError: There is nothing to show, or the target makes no sense.
        VideoError: As in `extract_clip`.
    """
    target, events = _check_writable(Path(target), mode, source), list(events)
    with open_timeline(source, timeout) as film:
        found = [stretch for event in events if (stretch := _time_range(event, film.duration)) is not None]
        if not found:
            raise ValueError(
                f"none of {len(events)} events lies within the {film.duration:.3f} s of the video: no reel"
            )
        return _write(film, merge_ranges(found), target, mode)


def merge_ranges(ranges: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Stretches in time order; those that overlap or touch become one."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _time_range(event: Event, duration: float) -> tuple[float, float] | None:
    """From when to when to cut for an event; None if it starts after the video's end."""
    if event.duration:
        return (event.start, event.end) if event.start < duration else None
    if event.start > duration + _ROUNDING:
        return None
    start = max(0.0, min(event.start - MOMENT_SECONDS / 2, duration - MOMENT_SECONDS))
    return start, min(start + MOMENT_SECONDS, duration)


# ------------------------------------------------------------------------------------------------ names and places


def _check_mode(mode: str) -> None:
    if mode not in ("exact", "copy"):
        raise ValueError(f"mode must be 'exact' or 'copy', got {mode!r}")


def check_target(target: Path, mode: str) -> None:
    """Raise a `ValueError` for a file that no cut can be written to."""
    _check_mode(mode)
    endings = [suffix for suffix in CONTAINERS if mode == "copy" or suffix not in (".webm", ".ts")]
    if target.suffix.lower() not in endings:
        raise ValueError(f"{target}: a cut ({mode}) ends in one of {', '.join(endings)}, not in {target.suffix!r}")


def _check_writable(target: Path, mode: str, source: VideoSource) -> Path:
    check_target(target, mode)
    if isinstance(source, str | os.PathLike) and target.exists() and Path(source).exists() and target.samefile(source):
        raise ValueError(f"{target} is the video itself; name another file")
    return target


def _copy_suffix(form: str) -> str:
    """The kind of file that surely holds a copy of what came out of a container."""
    names = form.split(",")
    return next((suffix for suffix in (".mp4", ".mov", ".ts") if CONTAINERS[suffix] in names), ".mkv")


def _file_name(number: int, count: int, event: Event, suffix: str) -> str:
    """Number, time and caption in letters that every file system takes, at most 100 bytes of caption."""
    caption = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", event.caption)).lower()
    words = caption.encode()[:100].decode(errors="ignore").strip("-")
    digits = max(2, len(str(count)))
    parts = [f"{number:0{digits}d}", format_time(event.start).replace(":", "-"), words]
    return "_".join(part for part in parts if part) + suffix


# --------------------------------------------------------------------------------------------------------- writing


def _write(film: VideoTimeline, stretches: Sequence[tuple[float, float]], target: Path, mode: Mode) -> list[CutReport]:
    """Write stretches (seconds, in time order) one after the other into one file."""
    write = _encode if mode == "exact" else _copy
    film.handle.deadline.renew()
    try:
        with atomic_write(target) as path, ExitStack() as files:
            sound = files.enter_context(Soundtrack(film.handle, film.zero)) if film.info.has_audio else None
            notes = film.notes
            if sound is not None and sound.stream is None:
                sound, notes = None, (*notes, "its sound cannot be decoded and is left out")
            return write(film, stretches, target, path, sound, notes)
    except av.error.FFmpegError as error:
        raise VideoError(f"{film.handle.name}: cannot be cut into {target}: {reason(error)}") from error


def _encode(
    film: VideoTimeline,
    stretches: Sequence[tuple[float, float]],
    target: Path,
    path: Path,
    sound: Soundtrack | None,
    notes: tuple[str, ...],
) -> list[CutReport]:
    reports: list[CutReport] = []
    writer: VideoWriter | None = None
    try:
        for start, end in stretches:
            film.handle.deadline.renew()
            first, stop = film.frame_range(start, end)
            pictures = film.decode(first, stop)
            head = next(pictures, None)
            if head is None:
                raise VideoError(f"{film.handle.name}: is damaged: no picture from {start:.3f} to {end:.3f} s is left")
            if writer is None:
                writer = _open_writer(film, target, path, head[1], sound)
            cut_at = round(Fraction(start) / film.time_base)
            cut_end = min(film.end, round(Fraction(end) / film.time_base))
            num_lost = (
                stop - first - _encode_range(film, writer, sound, itertools.chain([head], pictures), cut_at, cut_end)
            )
            lost = (f"{num_lost} damaged pictures are left out",) if num_lost else ()
            true_start, true_end = float(cut_at * film.time_base), float(cut_end * film.time_base)
            reports.append(CutReport(target, "exact", start, end, true_start, true_end, (*notes, *lost)))
        assert writer is not None
        writer.close()
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    return reports


def _open_writer(
    film: VideoTimeline, target: Path, path: Path, first_picture: VideoFrame, sound: Soundtrack | None
) -> VideoWriter:
    return VideoWriter(
        path,
        CONTAINERS[target.suffix.lower()],
        first_picture=first_picture,
        time_base=film.time_base,
        fps=film.info.fps,
        aspect=film.pixel_aspect(),
        soundtrack=sound,
    )


def _encode_range(
    film: VideoTimeline,
    writer: VideoWriter,
    sound: Soundtrack | None,
    pictures: Iterator[tuple[int, VideoFrame]],
    start: int,
    end: int,
) -> int:
    """Write pictures and sound from `start` to `end` (ticks of the film); returns how many pictures it wrote."""
    begin, count = writer.end, 0
    blocks: Iterator[tuple[int, NDArray[np.float32]]] = iter(())
    rate, sound_begin, written = 1, 0, 0
    if sound is not None:
        rate, sound_begin = sound.rate, round(begin * film.time_base * sound.rate)
        blocks = sound.samples(start * film.time_base, end * film.time_base)
    for number, picture in pictures:
        time = max(0, int(film.ticks[number]) - start) if count else 0
        writer.add_frame(picture, begin + time)
        count += 1
        ahead = (time * film.time_base + _AHEAD) * rate
        while written < ahead and (block := next(blocks, None)) is not None:
            writer.add_samples(sound_begin + block[0], block[1])
            written = block[0] + block[1].shape[1]
    for place, samples in blocks:
        writer.add_samples(sound_begin + place, samples)
    writer.end_segment(begin + end - start)
    return count


def _copy(
    film: VideoTimeline,
    stretches: Sequence[tuple[float, float]],
    target: Path,
    path: Path,
    sound: Soundtrack | None,
    notes: tuple[str, ...],
) -> list[CutReport]:
    if not film.index.is_trusted:
        raise VideoError(f"{film.handle.name}: cannot be copied, as it gives no usable times; take mode='exact'")
    ranges: list[tuple[CopiedRange, float, float]] = []
    for start, end in stretches:
        piece = copied_range(film.index, *film.frame_range(start, end))
        if ranges and piece.first <= ranges[-1][0].last:  # its keyframe is in the copy before: they are one
            before, start, _ = ranges.pop()
            last, end_time = max(before.last, piece.last), max(before.end, piece.end)
            piece = CopiedRange(before.first, last, before.start, end_time)
        ranges.append((piece, start, end))
    reports: list[CutReport] = []
    with PacketCopier(film.handle, film.info, film.index, path, CONTAINERS[target.suffix.lower()], sound) as copier:
        for piece, start, end in ranges:
            film.handle.deadline.renew()
            copier.copy(piece)
            true_start, true_end = (float(time - film.zero) for time in (piece.start, piece.end))
            reports.append(CutReport(target, "copy", start, end, true_start, true_end, notes))
    return reports
