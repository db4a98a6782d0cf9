"""Copy packets of a file into another file without decoding them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

from timechat.errors import VideoError
from timechat.video.clips.soundtrack import Soundtrack
from timechat.video.decoding import PacketRange, PacketReader
from timechat.video.frames import VideoInfo
from timechat.video.index import PacketIndex
from timechat.video.limits import reason
from timechat.video.source import VideoHandle

_MP4_CODECS = frozenset(
    {"h264", "hevc", "vvc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video"}
    | {"aac", "mp3", "mp2", "ac3", "eac3", "alac", "opus", "flac", "dts"}
)
"""Codecs that MP4 can hold; QuickTime's own (ProRes, DNxHD, Animation, PCM) and H.263 are copied to `.mov`."""

_NOT_IN_MOV = frozenset({"ffv1", "vp8", "vorbis", "opus", "flac", "av1"})
_TS_CODECS = frozenset({"h264", "hevc", "mpeg2video", "mpeg1video", "aac", "mp2", "mp3", "ac3", "eac3", "dts", "opus"})
"""Codecs that an MPEG-TS file names. FFmpeg writes others as private data that no player reads."""


@dataclass(frozen=True)
class CopiedRange:
    """Packets that can be decoded on their own, as positions in decode order.

    Attributes:
        first: Position of a keyframe.
        last: Position of the last packet.
        start: Start of the first frame in seconds on the video's clock.
        end: End of the last frame in seconds on the video's clock.
    """

    first: int
    last: int
    start: Fraction
    end: Fraction


def copy_suffix(info: VideoInfo) -> str:
    """Return the extension of a container that can hold a copy of the video and audio streams."""
    names = info.format.split(",")
    codecs = {stream.codec for stream in info.streams if stream.kind in ("video", "audio")}
    if "mp4" in names and codecs <= _MP4_CODECS:
        return ".mp4"
    if "mp4" in names and not codecs & _NOT_IN_MOV:
        return ".mov"
    return ".ts" if "mpegts" in names and codecs <= _TS_CODECS else ".mkv"


def copied_range(index: PacketIndex, first: int, stop: int) -> CopiedRange:
    """Return the packets to copy for the frames from `first` until before `stop` (display indices).

    They begin with a keyframe, and they contain every frame that is shown before the last one.
    """
    key = int(index.keys[index.key_slot(int(index.shown[first]))])
    last = stop - 1
    while True:
        position = int(index.shown[first : last + 1].max())
        last_shown = int(np.flatnonzero(index.shown <= position).max())
        if last_shown <= last:
            break
        last = last_shown
    end = index.end if last + 1 == len(index.shown) else int(index.frame_pts[last + 1])
    position = max(index.last_packet(int(shown)) for shown in index.shown[first : last + 1])
    zero = int(index.frame_pts[0])
    return CopiedRange(key, position, (int(index.pts[key]) - zero) * index.time_base, (end - zero) * index.time_base)


class PacketCopier:
    """Writes one file, packet range by packet range."""

    def __init__(
        self,
        handle: VideoHandle,
        info: VideoInfo,
        index: PacketIndex,
        path: Path,
        form: str,
        soundtrack: Soundtrack | None,
    ) -> None:
        self._name, self._index, self._soundtrack = handle.name, index, soundtrack
        self._reader = PacketReader(handle, info, index, 1)
        self._container = av.open(str(path.absolute()), "w", format=form)
        try:
            self._video_stream = self._container.add_stream_from_template(self._reader.stream, opaque=True)
            if form in ("mp4", "mov") and self._video_stream.codec_context.name == "hevc":
                self._video_stream.codec_context.codec_tag = "hvc1"  # Apple's players refuse `hev1`
            template = None if soundtrack is None else soundtrack.stream
            if form == "mpegts":
                _check_ts([self._reader.stream, *([] if template is None else [template])])
            self._audio_stream = None if template is None else self._container.add_stream_from_template(template)
            self._unpack = self._unpacking_filter()
            self._container.start_encoding()
        except BaseException as error:
            self._close()
            if isinstance(error, ValueError):
                raise VideoError(
                    f"{handle.name}: a {form} file cannot hold its streams: {reason(error)}; choose .mkv"
                ) from error
            raise
        self._end = 0  # in ticks of the video stream
        self._last_dts = -(2**62)

    def __enter__(self) -> PacketCopier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _unpacking_filter(self) -> BitStreamFilterContext | None:
        """Filter that splits the packets of MPEG-4 in AVI that hold two frames ("packed B-frames")."""
        if self._video_stream.codec_context.name != "mpeg4":
            return None
        return BitStreamFilterContext("mpeg4_unpack_bframes", self._reader.stream)

    def _close(self) -> None:
        self._container.close()
        self._reader.container.close()

    def copy(self, copied: CopiedRange) -> None:
        """Append a packet range."""
        index = self._index
        key_time, zero = int(index.pts[copied.first]), int(index.frame_pts[0])
        shown = index.pts[copied.first : copied.last + 1]
        shown = shown[shown >= key_time]  # frames shown before the keyframe need packets that are not copied
        # New decode times, because some containers have none: rising, and never after the time of the frame.
        in_order = np.sort(shown)
        delay = int((in_order - shown).max())
        begin = max(self._end, self._last_dts + 1 + delay)
        shift = begin - key_time
        decode_times = iter((in_order - delay + shift).tolist())
        audio = self._audio_packets(copied, begin * index.time_base)
        pending = next(audio, None)
        packet_range = PacketRange(copied.first, copied.last, frozenset())
        num_packets = 0
        for packet in self._packets_of(packet_range):
            pts = int(index.pts[copied.first + num_packets])
            num_packets += 1
            if pts < key_time:
                continue
            while pending is not None and pending[0] <= (pts - zero) * index.time_base:
                self._container.mux(pending[1])
                pending = next(audio, None)
            after = int(np.searchsorted(index.frame_pts, pts, side="right"))
            packet.time_base = index.time_base
            packet.duration = int(index.frame_pts[after] if after < len(index.frame_pts) else index.end) - pts
            packet.dts = self._last_dts = max(next(decode_times), self._last_dts + 1)
            packet.pts = max(pts + shift, packet.dts)
            packet.stream = self._video_stream
            self._container.mux(packet)
        if num_packets != copied.last - copied.first + 1:
            raise VideoError(f"{self._name}: is damaged and cannot be copied; use mode='exact'")
        if pending is not None:
            self._container.mux(pending[1])
        for _, packet in audio:
            self._container.mux(packet)
        self._end = begin + round((copied.end - copied.start) / index.time_base)

    def _packets_of(self, packet_range: PacketRange) -> Iterator[Packet[VideoStream]]:
        for packet in self._reader.packets_of(packet_range):
            if self._unpack is None:
                yield packet
            else:
                yield from self._unpack.filter(packet)
        if self._unpack is not None:
            self._unpack.flush()

    def _audio_packets(self, copied: CopiedRange, begin: Fraction) -> Iterator[tuple[Fraction, Any]]:
        """Yield audio packets with their times on the video's clock, moved to start at `begin` (seconds)."""
        if self._soundtrack is None or self._audio_stream is None:
            return
        for time, packet in self._soundtrack.packets(copied.start, copied.end):
            packet.pts = packet.dts = round((time - copied.start + begin) / packet.time_base)
            packet.stream = self._audio_stream
            yield time, packet


def _check_ts(streams: list[VideoStream | AudioStream]) -> None:
    for stream in streams:
        if (codec := stream.codec_context.codec.canonical_name) not in _TS_CODECS:
            raise ValueError(f"MPEG-TS has no {codec}")
