"""Frames wanted → pixels: only the stretches of a file that hold one are decoded, each from its keyframe."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timechat.video.frames import VideoInfo, frame_to_pixels
from timechat.video.index import PacketIndex, demux, read_only
from timechat.video.source import VideoHandle

logger = logging.getLogger(__name__)

_SKIPS_UNREFERENCED_EXACTLY = {"h264", "hevc", "mpeg2video"}
_MAX_PACKETS_WITHOUT_SEEK = 64  # packets: nearer than this, reading on is cheaper than a seek


@dataclass(frozen=True)
class PacketRange:
    """Packets to decode in one go, positions in decode order.

    Attributes:
        first: a keyframe.
        last: the last packet that a wanted frame needs.
        target_pts: presentation times of the frames to keep.
    """

    first: int
    last: int
    target_pts: frozenset[int]


def plan_packet_ranges(index: PacketIndex, positions: Iterable[int], *, extra_keyframes: int = 0) -> list[PacketRange]:
    """Group wanted frames (positions) by the keyframe from which decoding must start."""
    groups: dict[int, list[int]] = {}
    for position in positions:
        groups.setdefault(max(0, index.key_slot(position) - extra_keyframes), []).append(position)
    return [
        PacketRange(int(index.keys[slot]), max(members), frozenset(int(index.pts[m]) for m in members))
        for slot, members in sorted(groups.items())
    ]


@dataclass
class DecodedFrames:
    """Decoded pictures, written in place by several threads.

    Attributes:
        pixels: uint8 `(wanted frames, height, width, 3)`.
        rows: presentation time → row of `pixels`.
        missing: presentation times not delivered yet.
        suspect: presentation times that came after an error in their stretch.
    """

    pixels: NDArray[np.uint8]
    rows: dict[int, int]
    missing: set[int]
    suspect: set[int] = field(default_factory=set)
    errors: int = 0
    decoded: int = 0

    def keep(self, frame: VideoFrame, has_error: bool) -> None:
        """Take a frame if it is still wanted; `has_error` marks it as one that may show damage."""
        if frame.pts in self.missing:
            try:
                self.pixels[self.rows[frame.pts]] = frame_to_pixels(frame, *self.pixels.shape[1:3])
            except av.error.FFmpegError:  # damage may change the pixel format to one that cannot be converted
                self.errors += 1
                return
            self.missing.discard(frame.pts)
            if has_error:
                self.suspect.add(frame.pts)


class PacketReader:
    """One container and one decoder; knows at which packet of the index it stands."""

    def __init__(self, handle: VideoHandle, info: VideoInfo, index: PacketIndex, threads: int) -> None:
        self.opener, self.index, self.deadline = handle, index, handle.deadline
        self.container = handle.open()
        self.stream = next(s for s in self.container.streams.video if s.index == info.stream)
        read_only(self.container, self.stream)
        self.context = self.stream.codec_context
        self.context.thread_count = threads
        self.context.thread_type = "AUTO" if threads > 1 else "NONE"
        self.can_skip = self.context.name in _SKIPS_UNREFERENCED_EXACTLY
        self.key_positions = {int(index.pts[k]): int(k) for k in index.keys}
        self.packets: Iterator[Packet[VideoStream]] = demux(self.container, self.stream)
        self.position = 0

    def decode(self, packet_range: PacketRange, result: DecodedFrames, *, skip: bool) -> None:
        """Write the wanted frames of a stretch into `result`; those that do not come out stay missing there."""
        has_error = False
        for frame in self.frames(packet_range, skip=skip):
            if frame is None:
                result.errors += 1
                has_error = True
            else:
                result.decoded += 1
                result.keep(frame, has_error)

    def frames(self, packet_range: PacketRange, *, skip: bool) -> Iterator[VideoFrame | None]:
        """Frames of a stretch in display order; None for what is damaged.

        Args:
            packet_range: From where to where.
            skip: Whether frames that are not wanted may be left out where that is quicker.
        """
        # A "keyframe" that the decoder does not show (gradual refresh) is no place to start from: nothing counts.
        has_started = packet_range.first not in self.index.shown_keys
        for packet in itertools.chain(self.packets_of(packet_range), [None]):
            self.deadline.check()
            if packet is not None and self.can_skip:
                is_wanted = not skip or packet.pts in packet_range.target_pts
                self.context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            try:
                frames = self.context.decode(packet)
            except av.error.FFmpegError:
                yield None
                continue
            for frame in frames:
                has_started = has_started or frame.pts == self.index.pts[packet_range.first]
                if has_started:
                    yield None if frame.is_corrupt else frame
        self.context.flush_buffers()

    def packets_of(self, packet_range: PacketRange) -> Iterator[Packet[VideoStream]]:
        """Packets of a stretch. Ends early where the file no longer agrees with its index."""
        try:
            if not self.position <= packet_range.first <= self.position + _MAX_PACKETS_WITHOUT_SEEK:
                self._seek(packet_range.first)
            while self.position <= packet_range.last:
                packet = next(self.packets, None)
                if packet is None or (packet.size and packet.pts != self.index.pts[self.position]):
                    self.position = len(self.index.pts)
                    return
                if packet.size:
                    self.position += 1
                    if self.position > packet_range.first:
                        yield packet
                self.deadline.check()
        except (av.error.FFmpegError, OSError) as error:
            self.opener.check_answering(error)
            self.position = len(self.index.pts)

    def _seek(self, first: int) -> None:
        """Stand at or before the keyframe at `first`; some containers seek by decode time, some coarsely."""
        slot = int(np.searchsorted(self.index.keys, first))
        before = self.index.keys[max(0, slot - 1)]
        starts = [self.index.pts[first], self.index.dts[first], self.index.pts[before], self.index.dts[0]]
        for start in starts:
            self.container.seek(int(start), stream=self.stream)
            self.packets = demux(self.container, self.stream)
            for packet in self.packets:
                self.deadline.check()
                position = self.key_positions.get(packet.pts) if packet.pts is not None else None
                if position is not None and position <= first:
                    self.packets = itertools.chain([packet], self.packets)
                    self.position = position
                    return
                if position is not None:
                    break
        self.position = len(self.index.pts)


def _decode(
    handle: VideoHandle,
    info: VideoInfo,
    index: PacketIndex,
    ranges: Sequence[PacketRange],
    result: DecodedFrames,
    *,
    workers: int,
    skip: bool = True,
) -> None:
    """Decode stretches, shared out to threads with a container each; cores left over go to the codec."""
    if not ranges:
        return
    num_threads = min(workers, len(ranges))
    todo, lock = iter(ranges), threading.Lock()

    def work() -> None:
        # Codec threads report an error late, for another frame: what failed is tried again without them.
        reader = PacketReader(handle, info, index, max(1, workers // num_threads) if skip else 1)
        with reader.container:
            while True:
                with lock:
                    stretch = next(todo, None)
                if stretch is None:
                    return
                reader.decode(stretch, result, skip=skip)

    with ThreadPoolExecutor(num_threads, thread_name_prefix="timechat-decode") as pool:
        futures = [pool.submit(work) for _ in range(num_threads)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            handle.deadline.is_cancelled = True
            raise


def decode_frames(
    handle: VideoHandle,
    info: VideoInfo,
    index: PacketIndex,
    positions: NDArray[np.int64],
    size: tuple[int, int],
    workers: int,
) -> DecodedFrames:
    """Decode frames (display indices, rising); each is kept only if it bears the time that was asked for."""
    pts = index.frame_pts[positions].tolist()
    position_of = dict(zip(pts, index.shown[positions].tolist(), strict=True))
    result = DecodedFrames(np.empty((len(pts), *size, 3), np.uint8), {p: i for i, p in enumerate(pts)}, set(pts))
    stretches = plan_packet_ranges(index, position_of.values())
    _decode(handle, info, index, stretches, result, workers=workers)
    if result.missing:  # a keyframe that cannot be started from: start two earlier and skip nothing
        again = plan_packet_ranges(index, [position_of[p] for p in result.missing], extra_keyframes=2)
        _decode(handle, info, index, again, result, workers=workers, skip=False)
    if result.missing and not result.errors:  # a source that cannot seek: read it from its start
        straight = PacketRange(0, max(position_of[p] for p in result.missing), frozenset(result.missing))
        _decode(handle, info, index, [straight], result, workers=1)
    logger.debug("decoded %d frames for %d in %d stretches", result.decoded, len(pts), len(stretches))
    return result


def decode_between(
    handle: VideoHandle, info: VideoInfo, index: PacketIndex, first: int, last: int
) -> Iterator[VideoFrame]:
    """The frames from `first` to `last` (display indices, both included) in display order, without damaged ones."""
    positions, times = index.shown[first : last + 1], index.frame_pts[first : last + 1]
    slot = min(index.key_slot(int(positions[0])), index.key_slot(int(positions.min())))
    wanted = frozenset(times.tolist())
    for keys_back in (0, 2, slot):  # a keyframe that cannot be started from: start earlier
        stretch = PacketRange(int(index.keys[max(0, slot - keys_back)]), int(positions.max()), wanted)
        reader = PacketReader(handle, info, index, num_cores())
        with reader.container:
            frames = (frame for frame in reader.frames(stretch, skip=True) if frame is not None and frame.pts in wanted)
            head = next(frames, None)
            if head is not None and (head.pts == times[0] or keys_back >= slot):
                yield head
                yield from frames
                return


def num_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_all(handle: VideoHandle, info: VideoInfo) -> Iterator[VideoFrame]:
    """All frames in display order; damaged ones are left out."""
    with handle.open() as container:
        stream = next(s for s in container.streams.video if s.index == info.stream)
        packets: Iterator[Packet[VideoStream]] = demux(container, stream)
        while True:
            handle.deadline.check()
            try:
                packet = next(packets, None)
                frames = stream.codec_context.decode(packet if packet is not None and packet.size else None)
            except (av.error.FFmpegError, OSError) as error:
                handle.check_answering(error)
                if packet is None:
                    return
                continue
            yield from (frame for frame in frames if not frame.is_corrupt)
            if packet is None or not packet.size:
                return
