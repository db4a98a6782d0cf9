"""Times of all frames of a file: from its packets, or by decoding where packets have no usable times."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial

import av
import av.error
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timechat.errors import VideoError
from timechat.video.clock import ClockPart, RunningClock, VideoClock, correct_times, make_clock
from timechat.video.ebml import lacks_beginning
from timechat.video.frames import VideoInfo
from timechat.video.scan import NO_PTS, PacketScan, demux, first_pass_notes, may_jump, read_only, read_packets
from timechat.video.source import VideoHandle

_MAX_LACK = 0.5  # seconds at the end of a file that need no note
_JOINT_PACKETS = 3  # packets before a joint that may be marked as damaged
_LATE_START = 0.5  # seconds; a Matroska file that begins later has perhaps lost its beginning


@dataclass(frozen=True)
class PacketIndex:
    """Times of all packets of a stream in decode order, in ticks of `time_base`.

    Attributes:
        time_base: Duration of a tick in seconds.
        pts: `(packets,)`, presentation times, corrected by the clock of the video.
        dts: `(packets,)`, decode times as the container gives them.
        keys: `(keyframes,)`, positions of keyframes in decode order.
        shown: `(frames,)`, positions of the displayed frames, in display order.
        end: End time of the last frame.
        clock: Clock of the video, for the other streams of the file.
        raw_pts: `(packets,)`, presentation times as the container gives them; `NO_PTS` for none.
        labels: `(packets,)`, numbers by which decoded frames are recognised: `raw_pts`, or the positions of the packets
            where times are not unique.
        second_fields: Positions of packets that complete the frame of the packet before.
        can_seek: Whether the container can seek by the times of its keyframes.
        is_timed: Whether the packets have usable times; if not, only decoding gives the times.
        has_decode_times: Whether the container gives times of decoding only, so that not even the order is known.
        num_damaged: Number of packets that the demuxer marks as damaged.
    """

    time_base: Fraction
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    keys: NDArray[np.int64]
    shown: NDArray[np.int64]
    end: int
    clock: VideoClock
    raw_pts: NDArray[np.int64]
    labels: NDArray[np.int64]
    second_fields: frozenset[int] = frozenset()
    can_seek: bool = True
    is_timed: bool = True
    has_decode_times: bool = False
    num_damaged: int = 0

    @cached_property
    def shown_keys(self) -> frozenset[int]:
        """Positions of displayed keyframes, without the first packet of the file."""
        return frozenset(np.intersect1d(self.keys, self.shown).tolist()) - {0}

    @cached_property
    def frame_pts(self) -> NDArray[np.int64]:
        """Presentation times of the displayed frames, `(frames,)`, in display order."""
        return self.pts[self.shown]

    @cached_property
    def frame_labels(self) -> NDArray[np.int64]:
        """Labels of the displayed frames, `(frames,)`, in display order."""
        return self.labels[self.shown]

    @property
    def has_own_labels(self) -> bool:
        """Whether packets must be labelled before they are decoded."""
        return self.labels is not self.raw_pts

    @cached_property
    def _frame_numbers(self) -> NDArray[np.int64]:
        """Display index of the frame of each packet, `(packets,)`; -1 for packets without one."""
        numbers = np.full(len(self.pts), -1, dtype=np.int64)
        numbers[self.shown] = np.arange(len(self.shown))
        return numbers

    def frame_number(self, label: int) -> int:
        """Return the display index of the frame with a label; -1 for a frame that is not displayed."""
        if self.has_own_labels:
            return int(self._frame_numbers[label]) if 0 <= label < len(self.pts) else -1
        number = int(np.searchsorted(self.frame_labels, label))
        return number if number < len(self.shown) and self.frame_labels[number] == label else -1

    def key_slot(self, position: int) -> int:
        """Return the number of the keyframe from which to decode for a correct frame at `position`."""
        slot = int(np.searchsorted(self.keys, position, side="right")) - 1
        # A frame shown before the keyframe that it follows in the file (open GOP) needs the keyframe before.
        while slot > 0 and self.pts[self.keys[slot]] > self.pts[position]:
            slot -= 1
        return max(slot, 0)

    def last_packet(self, position: int) -> int:
        """Return the position of the last packet of the frame at `position`."""
        return position + (position + 1 in self.second_fields)


@dataclass(frozen=True)
class VideoIndex:
    """Everything that is read of a file before its first frame is chosen; it can be pickled for another process.

    Attributes:
        packets: Times of all packets.
        info: Properties of the video, with its exact number of frames and duration.
        notes: Notes on damage of the file.
    """

    packets: PacketIndex
    info: VideoInfo
    notes: tuple[str, ...] = ()


def read_index(handle: VideoHandle) -> VideoIndex:
    """Read the times of all frames; decode only if the packets have no usable times."""
    scan, info, time_base = read_packets(handle, only_first_frame=False)
    index = build_index(scan, time_base, handle)
    if not index.is_timed:
        index = index_by_decoding(handle, info, index)
    notes = (*index.clock.notes, *_notes(scan, index), *_late_start(handle, scan, index))
    return VideoIndex(index, exact_info(info, index), notes)


def exact_info(info: VideoInfo, index: PacketIndex) -> VideoInfo:
    """Return the properties of a video with its exact number of frames and duration."""
    times = index.frame_pts
    return replace(info, num_frames=len(times), duration=float((index.end - int(times[0])) * index.time_base))


def build_index(scan: PacketScan, time_base: Fraction, handle: VideoHandle | None = None) -> PacketIndex:
    """Sort the packets into display order, on the clock of the video.

    Args:
        scan: Result of the first pass.
        time_base: Duration of a tick in seconds.
        handle: Source, whose audio tells a pause from a jump of the clock; None if it is not known.
    """
    raw_pts, dts, shown, durations = map(_as_numbers, (scan.pts, scan.dts, scan.shown, scan.durations))
    keys = _as_numbers(scan.keys) if scan.keys else np.zeros(1, dtype=np.int64)
    known = raw_pts if not len(raw_pts) or int(raw_pts.min()) != NO_PTS else _filled(raw_pts)
    gap = round(1 / (scan.rate * time_base)) if scan.rate else 0
    corrected = correct_times(
        known,
        None if "matroska" in scan.format else dts if known is raw_pts else _filled(dts),
        time_base,
        may_jump=may_jump(scan.format),
        gap=gap,
        has_reordered_frames=scan.has_reordered_frames,
        sound_goes_on=None if handle is None else partial(_sound_goes_on, handle, {}),
    )
    pts = corrected.pts
    # Where two recordings were joined, the packet before or after looks damaged but is not.
    joints = [start for start in corrected.starts if start]
    damaged = [p for p in scan.corrupt if not any(-_JOINT_PACKETS <= p - start <= 0 for start in joints)]
    if damaged:
        shown = shown[~np.isin(shown, damaged)]
    # Packets before the first keyframe (of a recording that was joined midway) are never shown.
    shown = shown[int(np.searchsorted(shown, keys[0])) :]
    if len(shown) > 1 and not (pts[shown[1:]] > pts[shown[:-1]]).all():
        shown = shown[np.argsort(pts[shown], kind="stable")]
    shown, num_repeated = _without_repeated(pts, shown)
    end = _end(pts, shown, durations, known, frozenset(scan.second_fields))
    is_unique = not (corrected.is_corrected or num_repeated or scan.untimed)
    labels = raw_pts if is_unique else np.arange(len(pts), dtype=np.int64)
    repeated = [f"{num_repeated} frames have the time of another frame and are left out"] if num_repeated else []
    has_decode_times = scan.format == "avi" and scan.has_reordered_frames and bool((np.diff(pts) > 0).all())
    is_timed = bool(len(shown)) and not scan.untimed and not has_decode_times
    clock = (
        make_clock(known, corrected, shown, time_base, end, repeated)
        if is_timed
        else VideoClock(Fraction(0), (ClockPart(Fraction(0), Fraction(0), Fraction(0)),))
    )
    can_seek = scan.format != "gif" and not corrected.is_corrected and bool((np.diff(raw_pts[keys]) > 0).all())
    return PacketIndex(
        time_base,
        pts,
        dts,
        keys,
        shown,
        end,
        clock,
        raw_pts,
        labels,
        frozenset(scan.second_fields),
        can_seek,
        is_timed,
        has_decode_times,
        len(damaged),
    )


def _without_repeated(pts: NDArray[np.int64], shown: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Leave out frames with the time of the frame before: they take no time. Return also how many were left out."""
    times = pts[shown]
    if not len(times) or (times[1:] > times[:-1]).all():
        return shown, 0
    is_first = np.concatenate([[True], times[1:] > times[:-1]])
    return shown[is_first], int((~is_first).sum())


def _end(
    pts: NDArray[np.int64],
    shown: NDArray[np.int64],
    durations: NDArray[np.int64],
    known: NDArray[np.int64],
    second_fields: frozenset[int],
) -> int:
    """End of the last frame in ticks: its duration, of both fields, or else the usual interval."""
    if not len(shown):
        return 0
    times, last = pts[shown], int(shown[-1])
    duration = int(durations[last])
    if last + 1 in second_fields and known[last + 1] != known[last]:
        duration += int(durations[last + 1])
    return int(times[-1]) + (duration or (int(np.median(np.diff(times))) if len(times) > 1 else 0))


def _filled(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give packets without a time the time of the packet before."""
    is_known = times != NO_PTS
    if not is_known.any():
        return np.zeros_like(times)
    source = np.maximum.accumulate(np.where(is_known, np.arange(len(times)), 0))
    source[source < int(is_known.argmax())] = int(is_known.argmax())
    return times[source]


def _sound_goes_on(handle: VideoHandle, known: dict[str, NDArray[np.float64]], start: float, end: float) -> bool | None:
    """Whether audio has times between two container times in seconds; None without audio."""
    if "times" not in known:
        known["times"] = np.array(list(_audio_times(handle)))
    times = known["times"]
    if not len(times):
        return None
    slack = (end - start) / 4
    return bool(((times > start + slack) & (times < end - slack)).any())


def _audio_times(handle: VideoHandle) -> Iterator[float]:
    with handle.open() as container:
        stream = container.streams.best("audio")
        if stream is None:
            return
        read_only(container, stream)
        try:
            for packet in demux(container, stream):  # type: ignore[type-var]
                if packet.pts is not None and packet.time_base is not None:
                    yield float(packet.pts * packet.time_base)
                handle.deadline.check()
        except (av.error.FFmpegError, OSError):
            return


def index_by_decoding(handle: VideoHandle, info: VideoInfo, index: PacketIndex) -> PacketIndex:
    """Decode all frames once, to learn their order and, where packets have no times, their times."""
    shown = np.array(list(_decoded_positions(handle, info)), dtype=np.int64)
    if not len(shown):
        raise VideoError(f"{handle.name}: is damaged: no frame can be decoded")
    raw = index.raw_pts[shown]
    notes: list[str] = []
    time_base = index.time_base
    rate = max(Fraction(info.fps or 25).limit_denominator(1001), Fraction(1, 1001))
    gap = max(1, round(1 / (rate * time_base)))
    if index.has_decode_times:  # each frame in display order takes the time of one packet
        times = np.sort(raw)
        end = int(times[-1]) + gap
    elif (raw == NO_PTS).all():
        time_base = 1 / rate
        times = np.arange(len(shown), dtype=np.int64)
        end = len(times)
        notes.append(
            f"the file gives no usable times: its frames are taken to follow each other at {float(rate):g} a second"
        )
    else:
        clock = RunningClock(time_base, may_jump=may_jump(info.format), gap=gap)
        times = _interpolated([None if t == NO_PTS else clock.place(t) for t in raw.tolist()], gap)
        notes += clock.notes()
        if (raw == NO_PTS).any():
            notes.append(f"{int((raw == NO_PTS).sum())} frames have no time in the file: they are spread evenly")
        end = int(times[-1]) + gap
    pts = np.zeros(len(index.raw_pts), dtype=np.int64)
    pts[shown] = times
    first = index.dts[shown].min() if index.has_decode_times else raw[0]
    zero = int(first) * index.time_base if first != NO_PTS else Fraction(0)
    part = ClockPart(zero, zero + (end - int(times[0])) * time_base, Fraction(0))
    labels = np.arange(len(pts), dtype=np.int64)
    return replace(
        index,
        time_base=time_base,
        pts=pts,
        shown=shown,
        end=end,
        clock=VideoClock(zero, (part,), tuple(notes)),
        labels=labels,
        can_seek=False,
        is_timed=True,
    )


def _decoded_positions(handle: VideoHandle, info: VideoInfo) -> Iterator[int]:
    """Yield the positions of the packets of all frames, in display order, without damaged frames."""
    with handle.open() as container:
        stream = next(s for s in container.streams.video if s.index == info.stream)
        read_only(container, stream)
        packets: Iterator[Packet[VideoStream]] = demux(container, stream)
        position = 0
        while True:
            handle.deadline.check()
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                handle.check_answering(error)
                packet = None
            if packet is not None and packet.size:
                packet.pts = position
                position += 1
            try:
                frames = stream.codec_context.decode(packet if packet is not None and packet.size else None)
            except av.error.FFmpegError:
                frames = []
            yield from (frame.pts for frame in frames if frame.pts is not None and not frame.is_corrupt)
            if packet is None or not packet.size:
                return


def _interpolated(times: Sequence[int | None], gap: int) -> NDArray[np.int64]:
    """Give frames without a time even times between their neighbours."""
    known = np.array([number for number, time in enumerate(times) if time is not None])
    values = np.array([time for time in times if time is not None])
    numbers = np.arange(len(times))
    found = np.rint(np.interp(numbers, known, values)).astype(np.int64)
    before, after = numbers < known[0], numbers > known[-1]
    found[before] = values[0] + (numbers[before] - known[0]) * gap
    found[after] = values[-1] + (numbers[after] - known[-1]) * gap
    return np.maximum.accumulate(found)


def _notes(scan: PacketScan, index: PacketIndex) -> list[str]:
    """Notes on data that the header announces but the file lacks, and on what is not read."""
    notes = [*first_pass_notes(scan), *scan.errors]
    declared, times = scan.declared, index.frame_pts
    duration = float((index.end - int(times[0])) * index.time_base)
    if index.num_damaged:
        notes.append(f"frames damaged in the file and ignored: {index.num_damaged}")
    if len(scan.pts) < scan.num_indexed:
        notes.append(f"the file is cut short: {len(scan.pts)} of {scan.num_indexed} frames are there")
    elif declared is not None and index.clock.is_continuous and not index.clock.notes:
        notes += _lacks(scan, index, duration)
    return notes


def _lacks(scan: PacketScan, index: PacketIndex, duration: float) -> Iterator[str]:
    """Yield notes on a beginning or an end that the header announces but the file lacks."""
    declared = scan.declared
    assert declared is not None
    zero = float(index.clock.zero)
    frames_end = zero + duration
    if declared.duration is not None and declared.duration - duration > _MAX_LACK:
        yield f"frames end at {duration:.3f} s, but the header says {declared.duration:.3f} s"
        return
    file_end = declared.file_end or 0.0
    audio_end = declared.audio_end
    if audio_end is not None and audio_end - frames_end > _MAX_LACK:
        yield f"the pictures end at {duration:.3f} s, but the sound goes on to {audio_end - zero:.3f} s"
    elif declared.duration is None and file_end - frames_end > _MAX_LACK:
        what = "; the rest may be sound alone" if declared.has_audio and audio_end is None else ""
        yield f"frames end at {duration:.3f} s, but the header says {file_end - zero:.3f} s{what}"


def _late_start(handle: VideoHandle, scan: PacketScan, index: PacketIndex) -> list[str]:
    """Return a note on a Matroska file that has lost its beginning."""
    start = scan.declared.file_start if scan.declared is not None else None
    if "matroska" not in scan.format or (start or 0.0) <= _LATE_START or handle.is_address:
        return []
    with handle.open_bytes() as file:
        if not lacks_beginning(file):
            return []
    lost = float(index.clock.zero)
    return [f"the first {lost:.3f} s of the file are lost: times count from the first frame that is there"]


def _as_numbers(values: array[int]) -> NDArray[np.int64]:
    """Return a NumPy view without a copy; an empty array has no buffer."""
    return np.frombuffer(values, dtype=np.int64) if values else np.zeros(0, dtype=np.int64)


def seconds(ticks: NDArray[np.int64], time_base: Fraction) -> NDArray[np.float64]:
    """Convert ticks to seconds, with one rounding."""
    return ticks * time_base.numerator / np.float64(time_base.denominator)
