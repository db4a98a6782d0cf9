"""Times of all frames of a file, read without decoding."""

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
        time_base: Duration of a tick in seconds.
        pts: `(packets,)`, presentation times.
        dts: `(packets,)`, decode times.
        keys: `(keyframes,)`, positions of keyframes in decode order.
        shown: `(frames,)`, positions of the displayed frames, in display order.
        end: End time of the last frame.
        is_trusted: Whether the times are complete and rising; if not, only decoding gives the times.
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
        """Positions of displayed keyframes, without the first packet of the file."""
        return frozenset(np.intersect1d(self.keys, self.shown).tolist()) - {0}

    @property
    def frame_pts(self) -> NDArray[np.int64]:
        """Presentation times of the displayed frames, `(frames,)`, in display order."""
        return self.pts[self.shown]

    def key_slot(self, position: int) -> int:
        """Return the number of the keyframe from which to decode for a correct frame at `position`."""
        slot = int(np.searchsorted(self.keys, position, side="right")) - 1
        # A frame shown before the keyframe that it follows in the file (open GOP) needs the keyframe before.
        while slot > 0 and self.pts[self.keys[slot]] > self.pts[position]:
            slot -= 1
        return max(slot, 0)


@dataclass
class PacketScan:
    """Result of the first pass over a file. Five hours have half a million packets, at eight bytes per number."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    shown: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    untimed: int = 0
    corrupt: int = 0
    num_indexed: int = 0
    first_frame: VideoFrame | None = None
    first_error: str | None = None
    errors: list[str] = field(default_factory=list)

    def damage_notes(self, duration: float, info: VideoInfo) -> list[str]:
        """Return notes on data that the header announces but the file lacks."""
        notes = list(self.errors)
        if self.corrupt:
            notes.append(f"frames damaged in the file and ignored: {self.corrupt}")
        if len(self.pts) < self.num_indexed:
            notes.append(f"the file is cut short: {len(self.pts)} of {self.num_indexed} frames are there")
        elif info.duration - duration > max(1.0, 0.05 * info.duration):
            notes.append(f"frames end at {duration:.3f} s, but the header says {info.duration:.3f} s")
        return notes


def choose_stream(container: av.container.InputContainer, name: str) -> VideoStream:
    """Return the stream that players show: no cover art; the container's default, else the largest frame."""
    videos = [s for s in container.streams.video if not s.disposition & _NO_VIDEO]
    if not videos:
        kinds = ", ".join(sorted({_kind(stream) for stream in container.streams})) or "nothing"
        raise VideoError(f"{name}: has no video stream, only {kinds}; give a video file")
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        raise VideoError(f"{name}: this FFmpeg does not know its video codec; convert it to H.264 first")
    best = container.streams.best("video")
    if best in decodable:
        return best
    return max(decodable, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height))


def read_only(container: av.container.InputContainer, stream: Stream) -> None:
    """Let the demuxer skip the packets of all other streams."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def demux(container: av.container.InputContainer, stream: AnyStream) -> Iterator[Packet[AnyStream]]:
    """Yield the packets of one stream; the last one is empty."""
    try:
        yield from container.demux(stream)
    except IndexError:  # PyAV 18 fails at the end of damaged .ts files whose streams appeared during reading
        return


def read_packets(handle: VideoHandle, *, only_first_frame: bool) -> tuple[PacketScan, VideoInfo, Fraction]:
    """Demux one stream; decode only up to the first frame, which gives the rotation and the true size."""
    deadline = handle.deadline
    scan = PacketScan()
    with handle.open() as container:
        stream = choose_stream(container, handle.name)
        read_only(container, stream)
        stream.codec_context.thread_count = 1
        try:
            for packet in demux(container, stream):
                if scan.first_frame is None:
                    scan.first_frame = _decode_first_frame(stream, packet, scan)
                elif only_first_frame:
                    break
                if packet.size:
                    _record_packet(scan, packet, stream.codec_context.name)
                if not len(scan.pts) & 127:
                    deadline.check()
        except (av.error.FFmpegError, OSError) as error:
            handle.check_answering(error)
            deadline.check()
            scan.errors.append(f"reading stopped after {len(scan.pts)} frames: {reason(error)}")
        if scan.first_frame is None:
            raise VideoError(
                f"{handle.name}: no frame can be decoded from its {stream.codec_context.name} stream "
                f"({len(scan.pts)} packets read: {scan.first_error or 'no frame in them'}); "
                "the file is damaged or cut short"
            )
        scan.num_indexed = len(stream.index_entries)
        info = _video_info(handle.name, container, stream, scan.first_frame)
        return scan, info, stream.time_base or Fraction(1, 1000)


def _decode_first_frame(stream: VideoStream, packet: Packet[VideoStream], scan: PacketScan) -> VideoFrame | None:
    try:
        frames = stream.codec_context.decode(packet if packet.size else None)
    except av.error.FFmpegError as error:
        scan.first_error = reason(error)
        return None
    return frames[0] if frames else None


def _record_packet(scan: PacketScan, packet: Packet[VideoStream], codec: str) -> None:
    position = len(scan.pts)
    pts, dts = packet.pts, packet.dts
    if pts is None:
        scan.untimed += 1
        pts = dts or 0
    scan.pts.append(pts)
    scan.dts.append(pts if dts is None else dts)
    if packet.is_keyframe:
        scan.keys.append(position)
    if packet.is_corrupt:
        scan.corrupt += 1
    elif not packet.is_discard and _is_displayed(packet, codec):
        scan.shown.append(position)
        scan.durations.append(packet.duration or 0)


def _is_displayed(packet: Packet[VideoStream], codec: str) -> bool:
    """Return False for hidden reference frames of VP8: a packet with a time that is never shown (RFC 6386, 9.1)."""
    return codec not in ("vp8", "libvpx") or bool(memoryview(packet)[0] & 0x10)


def build_index(scan: PacketScan, time_base: Fraction) -> PacketIndex:
    """Sort the packets into display order and check whether their times can be trusted."""
    pts, dts, shown, durations = map(_as_numbers, (scan.pts, scan.dts, scan.shown, scan.durations))
    keys = _as_numbers(scan.keys) if scan.keys else np.zeros(1, dtype=np.int64)
    # Packets before the first keyframe (of a recording that was joined midway) are never shown.
    num_before_key = int(np.searchsorted(shown, keys[0]))
    shown, durations = shown[num_before_key:], durations[num_before_key:]
    order = np.argsort(pts[shown], kind="stable")
    last_duration = int(durations[order[-1]]) if len(order) else 0
    shown = shown[order]
    times = pts[shown]
    gaps = np.diff(times)
    is_rising = bool((gaps > 0).all() and (np.diff(pts[keys]) > 0).all())  # otherwise the clock was set back
    is_trusted = not scan.untimed and len(times) > 0 and is_rising
    gap = int(np.median(gaps)) if len(gaps) else 0
    end = int(times[-1] + (last_duration or gap)) if len(times) else 0
    return PacketIndex(time_base, pts, dts, keys, shown, end, is_trusted)


def _as_numbers(values: array[int]) -> NDArray[np.int64]:
    """Return a NumPy view without a copy; an empty array has no buffer."""
    return np.frombuffer(values, dtype=np.int64) if values else np.zeros(0, dtype=np.int64)


def _video_info(name: str, container: av.container.InputContainer, stream: VideoStream, frame: VideoFrame) -> VideoInfo:
    is_transposed = frame.rotation % 180 == 90
    time_base = stream.time_base or Fraction(1, 1000)
    if stream.duration:
        duration = float(stream.duration * time_base)
    else:
        duration = (container.duration or 0) / av.time_base
        if "matroska" in container.format.name:  # Matroska counts from 0, not from the first frame
            duration -= (container.start_time or 0) / av.time_base
    return VideoInfo(
        name=name,
        format=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=frame.height if is_transposed else frame.width,
        height=frame.width if is_transposed else frame.height,
        rotation=frame.rotation % 360,
        pixel_format=frame.format.name,
        fps=float(stream.average_rate) if stream.average_rate else None,
        num_frames=stream.frames or None,
        duration=duration,
        start_time=float((frame.pts or 0) * time_base),
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
    """Convert ticks to seconds, with one rounding."""
    return ticks * time_base.numerator / np.float64(time_base.denominator)
