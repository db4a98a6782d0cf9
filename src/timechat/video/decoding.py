"""Requested frames → pixels: decode only the packet ranges that contain one, each from its keyframe."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timechat.files.system import num_cores
from timechat.video.frames import UPRIGHT, FrameSize, Interpolation, Orientation, VideoInfo, frame_to_pixels
from timechat.video.index import PacketIndex
from timechat.video.scan import NO_PTS, demux, read_only
from timechat.video.source import VideoHandle

logger = logging.getLogger(__name__)

_SKIPS_UNREFERENCED_EXACTLY = {"h264", "hevc", "mpeg2video"}
_MAX_PACKETS_WITHOUT_SEEK = 64  # over a shorter distance, reading is cheaper than a seek


@dataclass(frozen=True)
class PacketRange:
    """Packets to decode together, as positions in decode order.

    Attributes:
        first: Position of a keyframe.
        last: Position of the last packet that a requested frame needs.
        targets: Labels of the frames to keep.
    """

    first: int
    last: int
    targets: frozenset[int]


def plan_packet_ranges(index: PacketIndex, positions: Iterable[int], *, extra_keyframes: int = 0) -> list[PacketRange]:
    """Group requested frames (positions) by the keyframe from which decoding must start."""
    groups: dict[int, list[int]] = {}
    for position in positions:
        groups.setdefault(max(0, index.key_slot(position) - extra_keyframes), []).append(position)
    return [
        PacketRange(
            int(index.keys[slot]),
            max(index.last_packet(member) for member in members),
            frozenset(int(index.labels[member]) for member in members),
        )
        for slot, members in sorted(groups.items())
    ]


@dataclass
class DecodedFrames:
    """Decoded frames, written in place by several threads.

    Attributes:
        pixels: uint8 `(requested frames, height, width, 3)`.
        rows: Label of a frame → row of `pixels`.
        missing: Labels without a decoded frame so far.
        orientation: How frames are turned for display.
        interpolation: Filter that resizes frames.
        suspect: Labels after an error in their packet range.
        errors: Number of decoding errors.
        decoded: Number of decoded frames.
    """

    pixels: NDArray[np.uint8]
    rows: dict[int, int]
    missing: set[int]
    orientation: Orientation = UPRIGHT
    interpolation: Interpolation = "bilinear"
    suspect: set[int] = field(default_factory=set)
    errors: int = 0
    decoded: int = 0

    def convert(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the pixels of a frame as they are stored here."""
        height, width = self.pixels.shape[1:3]
        return frame_to_pixels(frame, FrameSize(height, width, self.interpolation), self.orientation)

    def store(self, label: int, pixels: NDArray[np.uint8]) -> None:
        """Store the pixels of a missing frame."""
        self.pixels[self.rows[label]] = pixels
        self.missing.discard(label)

    def keep(self, frame: VideoFrame, has_error: bool) -> None:
        """Store a frame if it is still missing; `has_error` marks it as possibly damaged."""
        if frame.pts in self.missing:
            try:
                self.pixels[self.rows[frame.pts]] = self.convert(frame)
            except av.error.FFmpegError:  # damage may change the pixel format to one that cannot be converted
                self.errors += 1
                return
            self.missing.discard(frame.pts)
            if has_error:
                self.suspect.add(frame.pts)


class PacketReader:
    """One container and one decoder, with its current position in the packet index."""

    def __init__(self, handle: VideoHandle, info: VideoInfo, index: PacketIndex, threads: int) -> None:
        self.handle, self.index, self.deadline = handle, index, handle.deadline
        self.stream_index = info.stream
        self.container = handle.open()
        self.stream = next(s for s in self.container.streams.video if s.index == info.stream)
        read_only(self.container, self.stream)
        self.context = self.stream.codec_context
        self.context.thread_count = threads
        self.context.thread_type = "AUTO" if threads > 1 else "NONE"
        self.can_skip = self.context.name in _SKIPS_UNREFERENCED_EXACTLY
        self.key_positions = {int(index.raw_pts[k]): int(k) for k in index.keys}
        self.packets: Iterator[Packet[VideoStream]] = demux(self.container, self.stream)
        self.position = 0

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def decode(self, packet_range: PacketRange, result: DecodedFrames, *, skip: bool) -> None:
        """Write the requested frames of a packet range into `result`; frames that fail to decode stay missing."""
        has_error = False
        for frame in self.frames(packet_range, skip=skip):
            if frame is None:
                result.errors += 1
                has_error = True
            else:
                result.decoded += 1
                result.keep(frame, has_error)

    def frames(self, packet_range: PacketRange, *, skip: bool) -> Iterator[VideoFrame | None]:
        """Yield the frames of a packet range in display order; None for a damaged frame.

        Args:
            packet_range: Range of packets.
            skip: Whether other frames may be skipped if that is faster.
        """
        # Decoding cannot start from a "keyframe" that the decoder does not output (gradual refresh).
        has_started = packet_range.first not in self.index.shown_keys
        for packet in itertools.chain(self.packets_of(packet_range), [None]):
            self.deadline.check()
            if packet is not None and self.can_skip and self.position - 1 not in self.index.second_fields:
                is_needed = not skip or packet.pts in packet_range.targets
                self.context.skip_frame = "DEFAULT" if is_needed else "NONREF"
            try:
                frames = self.context.decode(packet)
            except av.error.FFmpegError:
                yield None
                continue
            for frame in frames:
                has_started = has_started or frame.pts == self.index.labels[packet_range.first]
                if has_started:
                    yield None if frame.is_corrupt else frame
        self.context.flush_buffers()

    def packets_of(self, packet_range: PacketRange) -> Iterator[Packet[VideoStream]]:
        """Yield the packets of a range, with their labels; stop early if the file no longer agrees with its index."""
        try:
            self.go_to(packet_range.first)
            while self.position <= packet_range.last and (packet := self.next_packet()) is not None:
                yield packet
        except (av.error.FFmpegError, OSError) as error:
            self.handle.check_answering(error)
            self.position = len(self.index.pts)

    def go_to(self, first: int) -> None:
        """Go to the packet at position `first`: by reading on, by a seek, or from the start of the file."""
        if (self.position < first and first - self.position > _MAX_PACKETS_WITHOUT_SEEK and self.index.can_seek) or (
            self.position > first and self.index.can_seek
        ):
            self._seek(first)
        elif self.position > first:
            self.restart()
        while self.position < first and self.next_packet() is not None:
            pass

    def restart(self) -> None:
        """Open the file again, at its start."""
        threads, kind = self.context.thread_count, self.context.thread_type
        self.container.close()
        self.container = self.handle.open()
        self.stream = next(s for s in self.container.streams.video if s.index == self.stream_index)
        read_only(self.container, self.stream)
        self.context = self.stream.codec_context
        self.context.thread_count, self.context.thread_type = threads, kind
        self.packets = demux(self.container, self.stream)
        self.position = 0

    def next_packet(self) -> Packet[VideoStream] | None:
        """Return the next packet with its label; None at the end, or if the file no longer agrees with its index."""
        index = self.index
        self.deadline.check()
        packet = next(self.packets, None)
        if packet is None or not packet.size or self.position >= len(index.pts):
            self.position = len(index.pts)
            return None
        if (NO_PTS if packet.pts is None else packet.pts) != index.raw_pts[self.position]:
            self.position = len(index.pts)
            return None
        if index.has_own_labels:
            packet.pts = int(index.labels[self.position])
        self.position += 1
        return packet

    def _seek(self, first: int) -> None:
        """Seek to the keyframe at `first` or before; some containers seek by decode time, some only approximately."""
        slot = int(np.searchsorted(self.index.keys, first))
        before = self.index.keys[max(0, slot - 1)]
        starts = [self.index.raw_pts[first], self.index.dts[first], self.index.raw_pts[before], self.index.dts[0]]
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


class OpenReaders:
    """Readers of one file that stay open between two parts: opening a long file reads its tables, often megabytes.

    A reader that met an error, or the end of the file, is closed.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[int, PacketReader]] = []
        self._lock = threading.Lock()

    def take(self, threads: int) -> PacketReader | None:
        """Return an idle reader with this number of codec threads."""
        with self._lock:
            found = next((each for each in self._idle if each[0] == threads), None)
            if found is not None:
                self._idle.remove(found)
        return found[1] if found else None

    def give(self, threads: int, reader: PacketReader) -> None:
        """Keep a reader for the next part."""
        self._idle.append((threads, reader))

    def close(self) -> None:
        """Close all idle readers."""
        while self._idle:
            self._idle.pop()[1].close()


def _decode(
    handle: VideoHandle,
    info: VideoInfo,
    index: PacketIndex,
    ranges: Sequence[PacketRange],
    result: DecodedFrames,
    *,
    workers: int,
    skip: bool = True,
    readers: OpenReaders | None = None,
) -> None:
    """Decode packet ranges in several threads, each with its own container; the codec uses the remaining cores."""
    if not ranges:
        return
    num_threads = min(workers, len(ranges))
    todo, lock = iter(ranges), threading.Lock()

    def work() -> None:
        # Codec threads report an error late, for another frame, so a second attempt runs without them.
        threads = max(1, workers // num_threads) if skip else 1
        reader = None if readers is None else readers.take(threads)
        reader = reader or PacketReader(handle, info, index, threads)
        is_sound = False
        try:
            while True:
                with lock:
                    packet_range = next(todo, None)
                if packet_range is None:
                    is_sound = reader.position < len(index.pts) and not result.errors
                    return
                reader.decode(packet_range, result, skip=skip)
        finally:
            if is_sound and readers is not None:
                readers.give(threads, reader)
            else:
                reader.close()

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
    size: FrameSize,
    workers: int,
    decode_ranges: Callable[[Sequence[PacketRange], DecodedFrames], bool] | None = None,
    readers: OpenReaders | None = None,
) -> DecodedFrames:
    """Decode frames (display indices, rising); a frame is kept only if it has the label of the requested one.

    Args:
        handle: Handle of the source.
        info: Properties of the video.
        index: Packet index of the video.
        positions: Display indices of the frames, rising.
        size: Size of the result, and the filter.
        workers: Number of decoding threads.
        decode_ranges: Function that decodes packet ranges in its own way and returns True, or returns False.
        readers: Readers of earlier calls with the same index; None opens the file in each call.
    """
    labels = index.frame_labels[positions].tolist()
    position_of = dict(zip(labels, index.shown[positions].tolist(), strict=True))
    rows = {label: row for row, label in enumerate(labels)}
    pixels = np.empty((len(labels), size.height, size.width, 3), np.uint8)
    result = DecodedFrames(pixels, rows, set(labels), info.orientation, size.interpolation)
    ranges = plan_packet_ranges(index, position_of.values())
    if decode_ranges is None or not decode_ranges(ranges, result):
        _decode(handle, info, index, ranges, result, workers=workers, readers=readers)
    if result.missing:  # decoding cannot start from a keyframe: start two keyframes earlier and skip nothing
        retried = plan_packet_ranges(index, [position_of[p] for p in result.missing], extra_keyframes=2)
        _decode(handle, info, index, retried, result, workers=workers, skip=False)
    if result.missing and not result.errors:  # the source cannot seek: read it from its start
        from_start = PacketRange(
            0, max(index.last_packet(position_of[p]) for p in result.missing), frozenset(result.missing)
        )
        _decode(handle, info, index, [from_start], result, workers=1)
    logger.debug("decoded %d frames for %d in %d packet ranges", result.decoded, len(labels), len(ranges))
    return result


def decode_between(
    handle: VideoHandle, info: VideoInfo, index: PacketIndex, first: int, last: int
) -> Iterator[VideoFrame]:
    """Yield the frames from `first` to `last` (display indices, inclusive) in display order, without damaged ones.

    The `pts` of a frame is its label in the index.
    """
    positions, labels = index.shown[first : last + 1], index.frame_labels[first : last + 1]
    slot = min(index.key_slot(int(positions[0])), index.key_slot(int(positions.min())))
    targets = frozenset(labels.tolist())
    last_packet = max(index.last_packet(position) for position in positions.tolist())
    for keys_back in (0, 2, slot):  # decoding cannot start from a keyframe: start earlier
        packet_range = PacketRange(int(index.keys[max(0, slot - keys_back)]), last_packet, targets)
        reader = PacketReader(handle, info, index, num_cores())
        try:
            frames = (
                frame for frame in reader.frames(packet_range, skip=True) if frame is not None and frame.pts in targets
            )
            head = next(frames, None)
            if head is not None and (head.pts == labels[0] or keys_back >= slot):
                yield head
                yield from frames
                return
        finally:
            reader.close()
