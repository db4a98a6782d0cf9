"""Frames at a low rate from a whole video, read once and in little memory, for search indexes.

The frames are not exactly those on screen at the requested times but near them, with their true times: this is several
times faster than exact frames. Between two keyframes, frames that no other frame needs are not decoded. Where a
keyframe is near enough to the only requested time, nothing else is decoded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import av.error
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from timechat.video.decoding import PacketRange, PacketReader
from timechat.video.frames import FrameSize, VideoInfo, frame_to_pixels
from timechat.video.index import PacketIndex, seconds
from timechat.video.sampling import TIME_SLACK, frame_at
from timechat.video.source import VideoHandle

_MAX_REACH = 0.5  # seconds between a requested time and the keyframe that is taken instead
_EXTRA_KEYFRAMES = 1  # from which decoding starts earlier after a resume
_NO_TARGETS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ReadPosition:
    """The place at which the reading of a video can be resumed.

    Attributes:
        num_requested: Number of requested times that are done.
        time: Time of the last frame in seconds, exactly as it was given.
    """

    num_requested: int
    time: float


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A decoded frame: its display index and its time in seconds."""

    frame: VideoFrame
    number: int
    time: float


class FrameIterator:
    """Frames near evenly spread times.

    Attributes:
        num_errors: Number of packets and frames that could not be decoded so far.
        num_requested: Number of requested times that are done.
    """

    def __init__(
        self,
        handle: VideoHandle,
        info: VideoInfo,
        index: PacketIndex,
        *,
        fps: float,
        size: FrameSize,
        threads: int,
        after: ReadPosition | None = None,
    ) -> None:
        """Prepare the reading of a video.

        Args:
            handle: Handle of the source.
            info: Properties of the video.
            index: Packet index of the video.
            fps: Frames per second of video.
            size: Size of the frames, and the filter.
            threads: Number of decoding threads.
            after: Position behind which to begin; the frames are those of a reading from the start.
        """
        self._handle, self._info, self._index, self._size, self._threads = handle, info, index, size, threads
        first = int(index.frame_pts[0])
        self._times = seconds(index.frame_pts - first, index.time_base)
        end = float(seconds(np.array(index.end - first), index.time_base))
        self._reach = min(0.5 / fps, _MAX_REACH)
        self._steps = np.arange(max(1, int(np.ceil(end * fps - TIME_SLACK)))) / fps
        self.num_errors = 0
        self.num_requested = 0 if after is None else after.num_requested
        # Display index of the frame that was yielded last.
        self._taken = -1 if after is None else int(frame_at(self._times, after.time))

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Yield time in seconds and pixels `(height, width, 3)` of each frame, in order of time.

        A frame that stays on screen for longer than the distance of the requested times is repeated, with the
        requested time.
        """
        pixels: NDArray[np.uint8] | None = None
        before: _Decoded | None = None
        for frame in self._decode():
            if pixels is None and frame.number == self._taken:  # the frame before the first one after a resume
                pixels = self._convert(frame.frame)
            while not self.is_done and self._steps[self.num_requested] <= frame.time + TIME_SLACK:
                at = self._next_step()
                if pixels is not None and int(frame_at(self._times, at)) == self._taken:
                    yield at, pixels
                    continue
                is_before = before is not None and before.number > self._taken and at - before.time < frame.time - at
                chosen = before if before is not None and is_before else frame
                if chosen.number > self._taken and (converted := self._convert(chosen.frame)) is not None:
                    pixels, self._taken = converted, chosen.number
                    yield chosen.time, pixels
            before = frame
        while not self.is_done:
            at = self._next_step()
            if before is not None and before.number > self._taken:
                if (converted := self._convert(before.frame)) is not None:
                    pixels, self._taken = converted, before.number
                    yield before.time, pixels
            elif pixels is not None and int(frame_at(self._times, at)) == self._taken:
                yield at, pixels

    @property
    def is_done(self) -> bool:
        """Whether all requested times are done."""
        return self.num_requested == len(self._steps)

    def _next_step(self) -> float:
        self.num_requested += 1
        return float(self._steps[self.num_requested - 1])

    def _convert(self, frame: VideoFrame) -> NDArray[np.uint8] | None:
        try:
            return frame_to_pixels(frame, self._size, self._info.orientation)
        except av.error.FFmpegError:  # damage may change the pixel format to one that cannot be converted
            self.num_errors += 1
            return None

    def _decode(self) -> Iterator[_Decoded]:
        """Decode what is needed; yield frames in display order, after a resume from the one that was yielded last."""
        ranges, taken = self._packet_ranges(), self._taken
        if taken >= 0:
            with closing(self._decode_ranges(self._from_keyframe_before(taken, ranges))) as frames:
                first = next((frame for frame in frames if frame.number >= taken), None)
                if first is not None and first.number == taken:
                    yield first
                    yield from frames
                    return
        yield from self._decode_ranges(ranges)  # also if decoding cannot start from that keyframe

    def _decode_ranges(self, ranges: Sequence[PacketRange]) -> Generator[_Decoded]:
        reader = PacketReader(self._handle, self._info, self._index, self._threads)
        last = -1
        try:
            for packet_range in ranges:
                for frame in reader.frames(packet_range, skip=True):
                    number = -1 if frame is None else self._index.frame_number(frame.pts or 0)
                    if frame is None:
                        self.num_errors += 1
                    elif number > last:
                        last = number
                        yield _Decoded(frame, number, float(self._times[number]))
        finally:
            reader.close()

    def _from_keyframe_before(self, frame: int, ranges: Sequence[PacketRange]) -> Sequence[PacketRange]:
        """Return the ranges from a keyframe before a frame (display index)."""
        index = self._index
        position = int(index.shown[frame])
        number = next((i for i, each in enumerate(ranges) if each.first <= position <= each.last), 0)
        key = int(index.keys[max(0, index.key_slot(position) - _EXTRA_KEYFRAMES)])
        first = ranges[number]
        return [PacketRange(max(first.first, key), first.last, first.targets), *ranges[number + 1 :]]

    def _packet_ranges(self) -> Sequence[PacketRange]:
        """Return the packets to decode: whole groups of frames, joined if they follow each other, or keyframes."""
        index = self._index
        keys = index.keys.tolist()
        starts = seconds(index.pts[index.keys] - int(index.frame_pts[0]), index.time_base)
        # A requested time belongs to the keyframe before it, or to the one after it if that is near and nearer.
        rising = np.maximum.accumulate(starts)
        middles = (rising + np.concatenate([rising[:1], rising[:-1]])) / 2
        borders = np.searchsorted(self._steps, np.maximum(rising - self._reach, middles))
        borders[0] = 0
        counts = np.diff(np.append(borders, len(self._steps)))
        ranges: list[PacketRange] = []
        is_open = False  # whether the next group continues the last range
        for number, (key, count) in enumerate(zip(keys, counts.tolist(), strict=True)):
            after = keys[number + 1] if number + 1 < len(keys) else len(index.pts)
            is_near = count == 1 and abs(float(self._steps[borders[number]]) - float(starts[number])) <= self._reach
            if not count:
                is_open = False
                continue
            last = index.last_packet(key) if is_near else after - 1
            if is_open:
                ranges[-1] = PacketRange(ranges[-1].first, last, _NO_TARGETS)
            else:
                ranges.append(PacketRange(key, last, _NO_TARGETS))
            is_open = last == after - 1
        return ranges
