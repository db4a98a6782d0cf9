"""The time of every frame of a file, read without decoding."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar

import av
import av.container
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timechat.errors import VideoError
from timechat.video.frames import StreamInfo, VideoInfo
from timechat.video.source import VideoHandle, reason

AnyStream = TypeVar("AnyStream", VideoStream, AudioStream)

_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class PacketIndex:
    """Times of all packets of a stream in decode order, in ticks of `time_base`.

    Attributes:
        pts: `(packets,)` presentation times.
        dts: `(packets,)` decode times.
        keys: positions of keyframes in decode order.
        shown: `(frames,)` positions of the frames that are displayed, in display order.
        end: when the last frame leaves the screen.
        is_trusted: False if times are missing, so that only decoding can tell.
    """

    time_base: Fraction
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    keys: NDArray[np.int64]
    shown: NDArray[np.int64]
    end: int
    is_trusted: bool

    @cached_property
    def shown_keys(self) -> frozenset[int]:
        """Positions of keyframes that are displayed, but for the file's first."""
        return frozenset(np.intersect1d(self.keys, self.shown).tolist()) - {0}

    @property
    def frame_pts(self) -> NDArray[np.int64]:
        """`(frames,)`, in display order."""
        return self.pts[self.shown]

    def key_slot(self, position: int) -> int:
        """Which keyframe decoding must start from so that the frame at `position` comes out right."""
        slot = int(np.searchsorted(self.keys, position, side="right")) - 1
        # Frames shown before the keyframe they follow in the file (open groups of pictures) need the one before.
        while slot > 0 and self.pts[self.keys[slot]] > self.pts[position]:
            slot -= 1
        return max(slot, 0)


@dataclass
class PacketScan:
    """What the first reading of a file gathers; five hours have half a million packets, eight bytes a number."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    shown: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    untimed: int = 0
    corrupt: int = 0
    num_indexed: int = 0
    picture: VideoFrame | None = None
    first_error: str | None = None
    errors: list[str] = field(default_factory=list)

    def damage_notes(self, duration: float, info: VideoInfo) -> list[str]:
        """Notes on what is not in the file though its header promises it."""
        notes = list(self.errors)
        if self.corrupt:
            notes.append(f"frames damaged in the file and not considered: {self.corrupt}")
        if len(self.pts) < self.num_indexed:
            notes.append(f"the file is cut short: {len(self.pts)} of {self.num_indexed} frames are there")
        elif info.duration - duration > max(1.0, 0.05 * info.duration):
            notes.append(f"pictures end at {duration:.3f} s, though the file tells of {info.duration:.3f} s")
        return notes


def choose_stream(container: av.container.InputContainer, name: str) -> VideoStream:
    """The stream that players show: no cover art, the container's default, else the largest picture."""
    videos = [s for s in container.streams.video if not s.disposition & _NO_VIDEO]
    if not videos:
        kinds = ", ".join(sorted({_kind(stream) for stream in container.streams})) or "nothing"
        raise VideoError(f"{name}: has no video stream, only {kinds}; give a file with moving pictures")
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        raise VideoError(f"{name}: its video codec is not known to this FFmpeg; convert it to H.264 first")
    best = container.streams.best("video")
    if best in decodable:
        return best
    return max(decodable, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height))


def read_only(container: av.container.InputContainer, stream: Stream) -> None:
    """Let the demuxer skip what is in the other streams."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def demux(container: av.container.InputContainer, stream: AnyStream) -> Iterator[Packet[AnyStream]]:
    """Packets of one stream, the last one empty."""
    try:
        yield from container.demux(stream)
    except IndexError:  # PyAV 18 trips at the very end over streams that appeared while reading (damaged .ts files)
        return


def read_packets(handle: VideoHandle, *, only_first_picture: bool) -> tuple[PacketScan, VideoInfo, Fraction]:
    """Demux one stream; decode just until the first picture, which alone tells rotation and true size."""
    deadline = handle.deadline
    found = PacketScan()
    with handle.open() as container:
        stream = choose_stream(container, handle.name)
        read_only(container, stream)
        stream.codec_context.thread_count = 1
        try:
            for packet in demux(container, stream):
                if found.picture is None:
                    found.picture = _first_picture(stream, packet, found)
                elif only_first_picture:
                    break
                if packet.size:
                    _note_packet(found, packet, stream.codec_context.name)
                if not len(found.pts) & 127:
                    deadline.check()
        except (av.error.FFmpegError, OSError) as error:
            handle.check_answering(error)
            deadline.check()
            found.errors.append(f"reading stopped after {len(found.pts)} frames: {reason(error)}")
        if found.picture is None:
            raise VideoError(
                f"{handle.name}: no picture can be decoded from its {stream.codec_context.name} stream "
                f"({len(found.pts)} packets read: {found.first_error or 'no picture in them'}); "
                "the file is damaged or cut short"
            )
        found.num_indexed = len(stream.index_entries)
        info = _video_info(handle.name, container, stream, found.picture)
        return found, info, stream.time_base or Fraction(1, 1000)


def _first_picture(stream: VideoStream, packet: Packet[VideoStream], found: PacketScan) -> VideoFrame | None:
    try:
        frames = stream.codec_context.decode(packet if packet.size else None)
    except av.error.FFmpegError as error:
        found.first_error = reason(error)
        return None
    return frames[0] if frames else None


def _note_packet(found: PacketScan, packet: Packet[VideoStream], codec: str) -> None:
    position = len(found.pts)
    pts, dts = packet.pts, packet.dts
    if pts is None:
        found.untimed += 1
        pts = dts or 0
    found.pts.append(pts)
    found.dts.append(pts if dts is None else dts)
    if packet.is_keyframe:
        found.keys.append(position)
    if packet.is_corrupt:
        found.corrupt += 1
    elif not packet.is_discard and _is_displayed(packet, codec):
        found.shown.append(position)
        found.durations.append(packet.duration or 0)


def _is_displayed(packet: Packet[VideoStream], codec: str) -> bool:
    """False for VP8's hidden reference frames: alone in a packet, with a time, and never shown (RFC 6386, 9.1)."""
    return codec not in ("vp8", "libvpx") or bool(memoryview(packet)[0] & 0x10)


def build_index(found: PacketScan, time_base: Fraction) -> PacketIndex:
    """Sort what was read into display order and say whether it can be relied on."""
    pts, dts, shown, durations = map(_as_numbers, (found.pts, found.dts, found.shown, found.durations))
    keys = _as_numbers(found.keys) if found.keys else np.zeros(1, dtype=np.int64)
    # What precedes the first keyframe (a recording cut in) is never shown.
    num_early = int(np.searchsorted(shown, keys[0]))
    shown, durations = shown[num_early:], durations[num_early:]
    order = np.argsort(pts[shown], kind="stable")
    last_duration = int(durations[order[-1]]) if len(order) else 0
    shown = shown[order]
    times = pts[shown]
    gaps = np.diff(times)
    is_rising = bool((gaps > 0).all() and (np.diff(pts[keys]) > 0).all())  # else the clock was set back
    is_trusted = not found.untimed and len(times) > 0 and is_rising
    gap = int(np.median(gaps)) if len(gaps) else 0
    end = int(times[-1] + (last_duration or gap)) if len(times) else 0
    return PacketIndex(time_base, pts, dts, keys, shown, end, is_trusted)


def _as_numbers(values: array[int]) -> NDArray[np.int64]:
    """A view, without a copy; an empty array has no memory to look at."""
    return np.frombuffer(values, dtype=np.int64) if values else np.zeros(0, dtype=np.int64)


def _video_info(
    name: str, container: av.container.InputContainer, stream: VideoStream, picture: VideoFrame
) -> VideoInfo:
    turned = picture.rotation % 180 == 90
    time_base = stream.time_base or Fraction(1, 1000)
    if stream.duration:
        duration = float(stream.duration * time_base)
    else:
        duration = (container.duration or 0) / av.time_base
        if "matroska" in container.format.name:  # counts from 0, not from the first frame
            duration -= (container.start_time or 0) / av.time_base
    return VideoInfo(
        name=name,
        format=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=picture.height if turned else picture.width,
        height=picture.width if turned else picture.height,
        rotation=picture.rotation % 360,
        pixel_format=picture.format.name,
        fps=float(stream.average_rate) if stream.average_rate else None,
        num_frames=stream.frames or None,
        duration=duration,
        start_time=float((picture.pts or 0) * time_base),
        stream=stream.index,
        streams=tuple(_stream_info(each) for each in container.streams),
    )


def _kind(stream: Any) -> str:
    return "picture" if stream.type == "video" and stream.disposition & _NO_VIDEO else str(stream.type)


def _stream_info(stream: Any) -> StreamInfo:
    context = getattr(stream, "codec_context", None)
    is_video = stream.type == "video"
    rate = stream.average_rate if is_video else getattr(context, "sample_rate", None)
    return StreamInfo(
        index=stream.index,
        kind=_kind(stream),
        codec=context.codec.canonical_name if context is not None else None,
        language=stream.metadata.get("language"),
        width=context.width if is_video and context is not None else None,
        height=context.height if is_video and context is not None else None,
        rate=float(rate) if rate else None,
    )


def seconds(ticks: NDArray[np.int64], time_base: Fraction) -> NDArray[np.float64]:
    """Ticks in seconds, rounded once."""
    return ticks * time_base.numerator / np.float64(time_base.denominator)
