"""Cut parts of a video into files: exactly, by re-encoding, or without loss, by copying from a keyframe on.

Times are seconds on the video's clock, which starts with its first frame. Files are written atomically.
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
from timechat.video.clips.copy import CopiedRange, PacketCopier, copied_range, copy_suffix
from timechat.video.clips.encode import VideoWriter
from timechat.video.clips.soundtrack import Soundtrack
from timechat.video.clips.timeline import VideoTimeline, open_timeline
from timechat.video.limits import reason
from timechat.video.loading import DEFAULT_TIMEOUT
from timechat.video.source import VideoSource

Mode = Literal["exact", "copy"]

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".ts": "mpegts"}
"""Container format for each file extension; `.webm` and `.ts` only for copies."""

_AUDIO_LEAD = Fraction(1, 2)  # seconds by which audio is written ahead of the frames
_ROUNDING = 0.05  # seconds; answers give times in tenths of a second


@dataclass(frozen=True)
class CutReport:
    """Report on a cut, with times in seconds on the clock of the source video.

    Attributes:
        path: Path of the file.
        mode: `exact` if it was re-encoded, `copy` if it contains packets of the source.
        requested_start: Requested start.
        requested_end: Requested end.
        start: Actual start.
        end: Actual end: the end of the last frame.
        notes: Notes on other differences: damaged frames, missing audio.
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
        """Seconds in the cut before the requested start."""
        return self.requested_start - self.start

    @property
    def end_shift(self) -> float:
        """Seconds in the cut after the requested end; negative if the video ends before it."""
        return self.end - self.requested_end

    def __str__(self) -> str:
        how = "re-encoded" if self.mode == "exact" else "copied without loss"
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
    """Cut one part of a video into a file.

    Args:
        source: Video in any form that `load_frames` takes.
        start: Start in seconds. An exact cut begins at this time, with the frame on screen then.
        end: End in seconds, exclusive. A time past the end of the video means its end.
        target: Path of the file; its extension (`.mp4`, `.mov`, `.mkv`; for copies also `.webm`, `.ts`) selects the
            container.
        mode: `exact` re-encodes frames (H.264) and audio (AAC). `copy` is fast and without loss, but begins at the
            keyframe before `start` and may end some frames late; the report gives the difference.
        timeout: Maximum wall time in seconds.

    Raises:
        ValueError: The times or the target are invalid.
        VideoError: The video cannot be read, ends before `start`, or cannot be copied into such a file.
    """
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise ValueError(f"start must be from 0 and before end, in seconds, got start={start} and end={end}")
    target = _check_writable(Path(target), mode, source)
    with open_timeline(source, timeout) as timeline:
        if start >= timeline.duration:
            raise VideoError(
                f"{timeline.handle.name}: ends at {timeline.duration:.3f} s, before the {start:.3f} s to cut from"
            )
        return _write(timeline, [(start, end)], target, mode)[0]


def extract_clips(
    source: VideoSource,
    events: Iterable[Event],
    folder: str | Path,
    *,
    mode: Mode = "exact",
    timeout: float = DEFAULT_TIMEOUT,
) -> list[CutReport]:
    """Cut every event into a separate file, named by its number, time and caption.

    Args:
        source: Video in any form that `load_frames` takes.
        events: Events to cut, in the order of the file numbers. A moment gets `MOMENT_SECONDS` around it. An event
            that starts after the end of the video gives no file.
        folder: Output folder, created if necessary. Files with the same names are replaced.
        mode: Mode of the cut, as in `extract_clip`.
        timeout: Maximum wall time for each file in seconds.

    Returns:
        One report per file.
    """
    _check_mode(mode)
    events, folder = list(events), Path(folder)
    with open_timeline(source, timeout) as timeline:
        suffix = ".mp4" if mode == "exact" else copy_suffix(timeline.info)
        folder.mkdir(exist_ok=True)
        reports = []
        for number, event in enumerate(events, start=1):
            if (time_range := _time_range(event, timeline.duration)) is not None:
                target = folder / _file_name(number, len(events), event, suffix)
                reports += _write(timeline, [time_range], target, mode)
        return reports


def concat_clips(
    source: VideoSource,
    events: Iterable[Event],
    target: str | Path,
    *,
    mode: Mode = "exact",
    timeout: float = DEFAULT_TIMEOUT,
) -> list[CutReport]:
    """Join events into one video, in time order; overlapping events are merged.

    Args:
        source: Video in any form that `load_frames` takes.
        events: Events to show. A moment gets `MOMENT_SECONDS` around it.
        target: Path of the file, as in `extract_clip`.
        mode: Mode of the cut, as in `extract_clip`.
        timeout: Maximum wall time for each part in seconds.

    Returns:
        One report per part, in the order of the video.

    Raises:
        ValueError: No event lies within the video, or the target is invalid.
        VideoError: As in `extract_clip`.
    """
    target, events = _check_writable(Path(target), mode, source), list(events)
    with open_timeline(source, timeout) as timeline:
        found = [time_range for event in events if (time_range := _time_range(event, timeline.duration)) is not None]
        if not found:
            raise ValueError(f"none of {len(events)} events lies within the {timeline.duration:.3f} s of the video")
        return _write(timeline, merge_ranges(found), target, mode)


def merge_ranges(ranges: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return time ranges in order; ranges that overlap or touch are merged."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _time_range(event: Event, duration: float) -> tuple[float, float] | None:
    """Return the time range to cut for an event; None if it starts after the end of the video."""
    if event.duration:
        return (event.start, event.end) if event.start < duration else None
    if event.start > duration + _ROUNDING:
        return None
    start = max(0.0, min(event.start - MOMENT_SECONDS / 2, duration - MOMENT_SECONDS))
    return start, min(start + MOMENT_SECONDS, duration)


# ------------------------------------------------------------------------------------------------ names and targets


def _check_mode(mode: str) -> None:
    if mode not in ("exact", "copy"):
        raise ValueError(f"mode must be 'exact' or 'copy', got {mode!r}")


def check_target(target: Path, mode: str) -> None:
    """Raise a `ValueError` for a target that cannot be a cut."""
    _check_mode(mode)
    extensions = [suffix for suffix in CONTAINERS if mode == "copy" or suffix not in (".webm", ".ts")]
    if target.suffix.lower() not in extensions:
        raise ValueError(f"{target}: a cut ({mode}) ends in one of {', '.join(extensions)}, not in {target.suffix!r}")


def _check_writable(target: Path, mode: str, source: VideoSource) -> Path:
    check_target(target, mode)
    if isinstance(source, str | os.PathLike) and target.exists() and Path(source).exists() and target.samefile(source):
        raise ValueError(f"{target} is the video itself; name another file")
    return target


def _file_name(number: int, count: int, event: Event, suffix: str) -> str:
    """Return a name of number, time and caption, safe for every file system, with at most 100 bytes of caption."""
    caption = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", event.caption)).lower()
    words = caption.encode()[:100].decode(errors="ignore").strip("-")
    digits = max(2, len(str(count)))
    parts = [f"{number:0{digits}d}", format_time(event.start).replace(":", "-"), words]
    return "_".join(part for part in parts if part) + suffix


# --------------------------------------------------------------------------------------------------------- writing


def _write(timeline: VideoTimeline, ranges: Sequence[tuple[float, float]], target: Path, mode: Mode) -> list[CutReport]:
    """Write time ranges (seconds, in time order) one after the other into one file."""
    write = _encode if mode == "exact" else _copy
    timeline.handle.deadline.renew()
    try:
        with atomic_write(target) as path, ExitStack() as files:
            soundtrack, notes = None, timeline.notes
            if timeline.info.has_audio:
                soundtrack = files.enter_context(Soundtrack(timeline.handle, timeline.clock))
            if soundtrack is not None and soundtrack.stream is None:
                soundtrack, notes = None, (*notes, "its audio cannot be decoded and is left out")
            return write(timeline, ranges, target, path, soundtrack, notes)
    except av.error.FFmpegError as error:
        raise VideoError(f"{timeline.handle.name}: cannot be cut into {target}: {reason(error)}") from error


def _encode(
    timeline: VideoTimeline,
    ranges: Sequence[tuple[float, float]],
    target: Path,
    path: Path,
    soundtrack: Soundtrack | None,
    notes: tuple[str, ...],
) -> list[CutReport]:
    reports: list[CutReport] = []
    writer: VideoWriter | None = None
    try:
        for start, end in ranges:
            timeline.handle.deadline.renew()
            first, stop = timeline.frame_range(start, end)
            frames = timeline.decode(first, stop)
            first_frame = next(frames, None)
            if first_frame is None:
                raise VideoError(
                    f"{timeline.handle.name}: is damaged: no frame from {start:.3f} to {end:.3f} s can be decoded"
                )
            if writer is None:
                writer = _open_writer(timeline, target, path, first_frame[1], soundtrack)
            cut_at = round(Fraction(start) / timeline.time_base)
            cut_end = min(timeline.end, round(Fraction(end) / timeline.time_base))
            all_frames = itertools.chain([first_frame], frames)
            num_lost = stop - first - _encode_range(timeline, writer, soundtrack, all_frames, cut_at, cut_end)
            lost = (f"{num_lost} damaged frames are left out",) if num_lost else ()
            true_start, true_end = float(cut_at * timeline.time_base), float(cut_end * timeline.time_base)
            reports.append(CutReport(target, "exact", start, end, true_start, true_end, (*notes, *lost)))
        assert writer is not None
        writer.close()
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    return reports


def _open_writer(
    timeline: VideoTimeline, target: Path, path: Path, first_frame: VideoFrame, soundtrack: Soundtrack | None
) -> VideoWriter:
    return VideoWriter(
        path,
        CONTAINERS[target.suffix.lower()],
        first_frame=first_frame,
        time_base=timeline.time_base,
        fps=timeline.info.fps,
        aspect=timeline.pixel_aspect(),
        orientation=timeline.info.orientation,
        soundtrack=soundtrack,
    )


def _encode_range(
    timeline: VideoTimeline,
    writer: VideoWriter,
    soundtrack: Soundtrack | None,
    frames: Iterator[tuple[int, VideoFrame]],
    start: int,
    end: int,
) -> int:
    """Write frames and audio from `start` to `end` (ticks of the timeline); return the number of written frames."""
    begin, count = writer.end, 0
    blocks: Iterator[tuple[int, NDArray[np.float32]]] = iter(())
    rate, audio_begin, written = 1, 0, 0
    if soundtrack is not None:
        rate, audio_begin = soundtrack.rate, round(begin * timeline.time_base * soundtrack.rate)
        blocks = soundtrack.samples(start * timeline.time_base, end * timeline.time_base)
    for number, frame in frames:
        time = max(0, int(timeline.ticks[number]) - start) if count else 0
        writer.add_frame(frame, begin + time)
        count += 1
        ahead = (time * timeline.time_base + _AUDIO_LEAD) * rate
        while written < ahead and (block := next(blocks, None)) is not None:
            writer.add_samples(audio_begin + block[0], block[1])
            written = block[0] + block[1].shape[1]
    for position, samples in blocks:
        writer.add_samples(audio_begin + position, samples)
    writer.end_segment(begin + end - start)
    return count


def _copy(
    timeline: VideoTimeline,
    ranges: Sequence[tuple[float, float]],
    target: Path,
    path: Path,
    soundtrack: Soundtrack | None,
    notes: tuple[str, ...],
) -> list[CutReport]:
    copies: list[tuple[CopiedRange, float, float]] = []
    for start, end in ranges:
        copied = copied_range(timeline.index, *timeline.frame_range(start, end))
        if copies and copied.first <= copies[-1][0].last:  # its keyframe is in the copy before: merge them
            before, start, _ = copies.pop()
            last, end_time = max(before.last, copied.last), max(before.end, copied.end)
            copied = CopiedRange(before.first, last, before.start, end_time)
        copies.append((copied, start, end))
    reports: list[CutReport] = []
    with PacketCopier(
        timeline.handle, timeline.info, timeline.index, path, CONTAINERS[target.suffix.lower()], soundtrack
    ) as copier:
        for copied, start, end in copies:
            timeline.handle.deadline.renew()
            copier.copy(copied)
            reports.append(CutReport(target, "copy", start, end, float(copied.start), float(copied.end), notes))
    return reports
