"""Packets of a file into another one, without decoding them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from timechat.errors import VideoError
from timechat.video.clips.soundtrack import Soundtrack
from timechat.video.decoding import PacketRange, PacketReader
from timechat.video.frames import VideoInfo
from timechat.video.index import PacketIndex
from timechat.video.source import VideoHandle


@dataclass(frozen=True)
class CopiedRange:
    """Packets that can be shown on their own, positions in decode order.

    Attributes:
        first: a keyframe.
        last: the last packet.
        start: seconds on the container's clock, when the first picture is shown.
        end: seconds on the container's clock, when the last picture leaves the screen.
    """

    first: int
    last: int
    start: Fraction
    end: Fraction


def copied_range(index: PacketIndex, first: int, stop: int) -> CopiedRange:
    """The packets to copy for the frames from `first` until before `stop` (display indices).

    They begin with a keyframe, and end where every picture shown before the last one is there.
    """
    key = int(index.keys[index.key_slot(int(index.shown[first]))])
    last = stop - 1
    while True:
        position = int(index.shown[first : last + 1].max())
        reaches = int(np.flatnonzero(index.shown <= position).max())
        if reaches <= last:
            break
        last = reaches
    end = index.end if last + 1 == len(index.shown) else int(index.frame_pts[last + 1])
    return CopiedRange(key, position, int(index.pts[key]) * index.time_base, end * index.time_base)


class PacketCopier:
    """Writes one file of packets, range by range."""

    def __init__(
        self,
        handle: VideoHandle,
        info: VideoInfo,
        index: PacketIndex,
        path: Path,
        form: str,
        soundtrack: Soundtrack | None,
    ) -> None:
        self._name, self._index, self._sound = handle.name, index, soundtrack
        self._reader = PacketReader(handle, info, index, 1)
        self._container = av.open(str(path.absolute()), "w", format=form)
        try:
            self._pictures = self._container.add_stream_from_template(self._reader.stream, opaque=True)
            template = None if soundtrack is None else soundtrack.stream
            self._heard = None if template is None else self._container.add_stream_from_template(template)
            self._container.start_encoding()
        except BaseException as error:
            self._close()
            if isinstance(error, ValueError):
                raise VideoError(f"{handle.name}: a {form} file cannot hold its streams: {error}") from error
            raise
        self._end = 0  # ticks of the pictures' clock
        self._last_dts = -(2**62)

    def __enter__(self) -> PacketCopier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._container.close()
        self._reader.container.close()

    def copy(self, piece: CopiedRange) -> None:
        """Append a range."""
        index = self._index
        key_time = int(index.pts[piece.first])
        shown = index.pts[piece.first : piece.last + 1]
        shown = shown[shown >= key_time]  # what is shown before the keyframe needs what is not copied
        # Decode times of our own, as some containers keep none: rising, and none after its picture's time.
        in_order = np.sort(shown)
        delay = int((in_order - shown).max())
        begin = max(self._end, self._last_dts + 1 + delay)
        shift = begin - key_time
        decode_times = iter((in_order - delay + shift).tolist())
        heard = self._audio_packets(piece, begin * index.time_base)
        waiting = next(heard, None)
        stretch = PacketRange(piece.first, piece.last, frozenset())
        num_packets = 0
        for packet in self._reader.packets_of(stretch):
            num_packets += 1
            assert packet.pts is not None
            if packet.pts < key_time:
                continue
            while waiting is not None and waiting[0] <= packet.pts * index.time_base:
                self._container.mux(waiting[1])
                waiting = next(heard, None)
            after = int(np.searchsorted(index.frame_pts, packet.pts, side="right"))
            gap = int(index.frame_pts[after] if after < len(index.frame_pts) else index.end) - packet.pts
            packet.pts += shift
            packet.dts = self._last_dts = next(decode_times)
            packet.duration = gap
            packet.stream = self._pictures
            self._container.mux(packet)
        if num_packets != piece.last - piece.first + 1:
            raise VideoError(f"{self._name}: is damaged and cannot be copied; take mode='exact'")
        if waiting is not None:
            self._container.mux(waiting[1])
        for _, packet in heard:
            self._container.mux(packet)
        self._end = begin + round((piece.end - piece.start) / index.time_base)

    def _audio_packets(self, piece: CopiedRange, begin: Fraction) -> Iterator[tuple[Fraction, Any]]:
        """Packets of the sound with their times on the container's clock, moved to begin at `begin` (seconds)."""
        if self._sound is None or self._heard is None:
            return
        zero = self._sound.zero
        for time, packet in self._sound.packets(piece.start - zero, piece.end - zero):
            packet.pts = packet.dts = round((time + zero - piece.start + begin) / packet.time_base)
            packet.stream = self._heard
            yield time + zero, packet
