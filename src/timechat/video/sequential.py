"""Decode parts of a video one after the other without decoding anything twice.

A file with rare keyframes, or one in which the container cannot seek, would otherwise be decoded from an earlier
keyframe for each part. The decoder here stays open between two parts, and keeps the last frames of a part, because
the next part may overlap it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timechat.video.decoding import DecodedFrames, PacketRange, PacketReader
from timechat.video.frames import VideoInfo
from timechat.video.index import PacketIndex
from timechat.video.source import VideoHandle

_LONG_RANGE = 300  # packets from a keyframe to a requested frame, above which decoding again is too expensive
_MAX_RANGES = 2  # more ranges are decoded in parallel
_KEPT_BYTES = 96 * 2**20  # frames that are kept for the next part
_KEPT_SHARE = 0.5  # of the frames of a part
_MAX_DELAY = 96  # packets after which a decoder must have returned a frame


class SequentialDecoder:
    """A decoder of one video that continues where the part before ended."""

    def __init__(
        self, handle: VideoHandle, info: VideoInfo, index: PacketIndex, workers: int, *, keeps_frames: bool
    ) -> None:
        """Make a decoder; the file is opened when it is needed.

        Args:
            handle: Handle of the source.
            info: Properties of the video.
            index: Packet index of the video.
            workers: Number of decoding threads.
            keeps_frames: Whether more parts are expected, so that the decoder stays open and keeps frames.
        """
        self._handle, self._info, self._index, self._workers = handle, info, index, workers
        self._keeps_frames = keeps_frames
        self._key_positions = frozenset(index.keys.tolist())
        self._lock = threading.Lock()
        self._reader: PacketReader | None = None
        self._key: int | None = None  # keyframe from which the decoder has continued; None after a flush
        self._has_started = self._has_error = False
        self._last_number = -1  # display index of the last frame that the decoder returned since the keyframe
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def close(self) -> None:
        """Close the file and forget the kept frames."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._key = None, None
        self._kept.clear()

    def decode(self, ranges: Sequence[PacketRange], result: DecodedFrames) -> bool:
        """Write the requested frames of packet ranges into `result`; return False if they suit parallel decoding."""
        if not self._suits(ranges) or not self._lock.acquire(blocking=False):
            return False
        try:
            self._decode(sorted(ranges, key=lambda r: r.first), result)
        except BaseException:
            self.close()
            raise
        finally:
            self._lock.release()
        return True

    def _suits(self, ranges: Sequence[PacketRange]) -> bool:
        if not self._index.can_seek:
            return True
        is_long = any(r.last - r.first > _LONG_RANGE for r in ranges)
        return self._keeps_frames and is_long and len(ranges) <= _MAX_RANGES

    def _decode(self, ranges: Sequence[PacketRange], result: DecodedFrames) -> None:
        number_of = self._index.frame_number
        numbers = [number_of(label) for r in ranges for label in r.targets]
        first, last = min(numbers), max(numbers)
        shape = result.pixels.shape[1:]
        self._kept = {n: p for n, p in self._kept.items() if n >= first and p.shape == shape}
        num_kept = min(int(_KEPT_SHARE * (last - first + 1)), _KEPT_BYTES // max(1, int(np.prod(shape))))
        keep_from = last - num_kept if self._keeps_frames else len(self._index.shown)
        for packet_range in ranges:
            todo = {number_of(label): label for label in packet_range.targets if label in result.missing}
            for number in [n for n in todo if n in self._kept]:
                result.store(todo.pop(number), self._kept[number])
            if todo:
                self._decode_range(packet_range, todo, result, keep_from)
        if not self._keeps_frames:
            self.close()

    def _decode_range(
        self, packet_range: PacketRange, todo: dict[int, int], result: DecodedFrames, keep_from: int
    ) -> None:
        """Decode until all frames of `todo` (display index → label) were returned or cannot come any more."""
        reader = self._begin(packet_range, min(todo))
        while todo:
            is_over = reader.position > packet_range.last and (
                reader.position in self._key_positions or reader.position > packet_range.last + _MAX_DELAY
            )
            try:
                packet = None if is_over else reader.next_packet()
            except (av.error.FFmpegError, OSError) as error:
                self._handle.check_answering(error)
                packet = None
            for frame in self._frames(reader, packet, todo, result, keep_from):
                number = self._index.frame_number(frame.pts or 0)
                self._last_number = max(self._last_number, number)
                if number in todo:
                    result.keep(frame, self._has_error)
                if number >= keep_from:
                    self._keep(number, todo.get(number), frame, result)
                todo.pop(number, None)
            if packet is None:
                reader.context.flush_buffers()
                self._key = None
                return
            for number in [n for n in todo if n <= self._last_number]:  # frames are returned in display order
                del todo[number]

    def _begin(self, packet_range: PacketRange, first_number: int) -> PacketReader:
        """Continue in the same group of frames, or go to the keyframe."""
        if self._reader is not None and self._key == packet_range.first and first_number > self._last_number:
            return self._reader
        if self._reader is None:
            self._reader = PacketReader(self._handle, self._info, self._index, self._workers)
        elif self._key is not None:
            self._reader.context.flush_buffers()
        self._reader.go_to(packet_range.first)
        self._key, self._last_number, self._has_error = packet_range.first, -1, False
        # Decoding cannot start from a "keyframe" that the decoder does not output (gradual refresh).
        self._has_started = packet_range.first not in self._index.shown_keys
        return self._reader

    def _frames(
        self,
        reader: PacketReader,
        packet: Packet[VideoStream] | None,
        todo: dict[int, int],
        result: DecodedFrames,
        keep_from: int,
    ) -> list[VideoFrame]:
        """Decode one packet; None returns the delayed frames."""
        if packet is not None and reader.can_skip and reader.position - 1 not in self._index.second_fields:
            number = self._index.frame_number(packet.pts or 0)
            reader.context.skip_frame = "DEFAULT" if number in todo or number >= keep_from else "NONREF"
        try:
            frames = reader.context.decode(packet)
        except av.error.FFmpegError:
            result.errors += 1
            self._has_error = True
            return []
        found = []
        for frame in frames:
            self._has_started = self._has_started or frame.pts == self._index.labels[self._key or 0]
            if self._has_started and frame.is_corrupt:
                result.errors += 1
                self._has_error = True
            elif self._has_started:
                result.decoded += 1
                found.append(frame)
        return found

    def _keep(self, number: int, label: int | None, frame: VideoFrame, result: DecodedFrames) -> None:
        """Keep the pixels of a frame for the next part."""
        if label is not None and label not in result.missing:
            self._kept[number] = result.pixels[result.rows[label]].copy()
            return
        try:
            self._kept[number] = result.convert(frame)
        except av.error.FFmpegError:  # damage may change the pixel format to one that cannot be converted
            return
