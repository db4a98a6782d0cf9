"""First pass over a file: the times of all packets of the video stream, without decoding, and its properties."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, TypeVar

import av
import av.container
import av.error
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.subtitles.stream import SubtitleStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from timechat.answers.timecode import TIMECODE
from timechat.errors import VideoError
from timechat.video.frames import StreamInfo, VideoInfo, orientation_of
from timechat.video.h264_fields import FieldParser
from timechat.video.hdr import HDR_TRANSFERS
from timechat.video.limits import MAX_SCANS, is_jpeg, num_scans, reason, stated_pixels
from timechat.video.source import VideoHandle

AnyStream = TypeVar("AnyStream", VideoStream, AudioStream, SubtitleStream)

NO_PTS = -(2**63)
"""Presentation time of a packet that has none."""

_JUMPING_FORMATS = {"mpegts", "mpeg", "flv", "live_flv", "hls", "rtsp", "rtp", "sdp"}

_RAW_STREAMS = frozenset(
    {"h264", "hevc", "vvc", "evc", "mjpeg", "m4v", "mpegvideo", "h261", "h263", "vc1", "cavs", "avs2", "avs3", "dirac"}
    | {"dnxhd", "obu", "ingenient"}
)  # formats that state no times; the codec may state a rate
_SHORTEST_GIF_FRAME, _USUAL_GIF_FRAME = Fraction(2, 100), Fraction(10, 100)  # seconds
_ASSUMED_RATE = Fraction(25)
_LOWEST_RATE = Fraction(1, 1000)  # frames per second that a codec states; a lower one is damage
_HIGHEST_RATE = 1000  # frames per second; a higher rate is a tick of the container's clock
_ZERO_DATES = [
    datetime(year, 1, 1, tzinfo=UTC) for year in (1904, 1970)
]  # of MP4 and of Unix: a clock that was not set
_ZERO_SLACK = timedelta(days=1)
_MATROSKA_ZERO = datetime(2001, 1, 1, tzinfo=UTC)
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass
class PacketScan:
    """Result of the first pass over a file. Five hours have half a million packets, at eight bytes per number.

    Attributes:
        pts: Presentation times in ticks, in decode order; `NO_PTS` for none.
        dts: Decode times in ticks.
        durations: Durations in ticks.
        keys: Positions of keyframes.
        shown: Positions of displayed frames, in decode order.
        second_fields: Positions of second fields, which are no frames of their own.
        corrupt: Positions of packets that the demuxer marks as damaged.
        untimed: Number of frames without a presentation time.
        num_indexed: Number of packets that the index of the container lists.
        format: Names of the container format, separated by commas.
        has_reordered_frames: Whether frames are decoded in another order than they are shown.
        rate: Nominal frames per second; None if unknown.
        first_frame: First decoded frame.
        first_error: First decoding error before the first frame.
        fields: Parser of fields; None for streams without.
        errors: Sentences about reading errors and assumptions.
        declared: What the header states about the end of the video.
        max_pixels: Largest width times height that a stream states.
    """

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    shown: array[int] = field(default_factory=lambda: array("q"))
    second_fields: array[int] = field(default_factory=lambda: array("q"))
    corrupt: array[int] = field(default_factory=lambda: array("q"))
    untimed: int = 0
    num_indexed: int = 0
    format: str = ""
    has_reordered_frames: bool = False
    rate: Fraction | None = None
    first_frame: VideoFrame | None = None
    first_error: str | None = None
    fields: FieldParser | None = None
    errors: list[str] = field(default_factory=list)
    declared: DeclaredEnd | None = None
    max_pixels: int = 0


@dataclass(frozen=True)
class DeclaredEnd:
    """What the header of a file states about its length, in seconds.

    Attributes:
        duration: Duration of the video stream; None if it is not stated.
        file_end: Container time of the end of the file; None if it is not stated.
        audio_end: Container time of the end of the audio; None if it is not stated.
        has_audio: Whether the file has an audio stream.
        file_start: Container time of the first packet of any stream; None if it is not known.
    """

    duration: float | None
    file_end: float | None
    audio_end: float | None
    has_audio: bool
    file_start: float | None = None


def may_jump(format_names: str) -> bool:
    """Return whether the clock of a container format may have discontinuities."""
    return not _JUMPING_FORMATS.isdisjoint(format_names.split(","))


def choose_stream(container: av.container.InputContainer, name: str) -> VideoStream:
    """Return the stream that players show: no cover art; the container's default, else the largest frame.

    A track with less than half of the frame rate of another default track, such as a phone's stills, is no choice.
    """
    videos = [s for s in container.streams.video if not s.disposition & _NO_VIDEO]
    if not videos:
        kinds = ", ".join(sorted({_kind(stream) for stream in container.streams})) or "nothing"
        raise VideoError(f"{name}: has no video stream, only {kinds}; give a video file")
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        raise VideoError(f"{name}: this FFmpeg does not know its video codec; convert it to H.264 first")
    decodable = [s for s in decodable if s.disposition & Disposition.default] or decodable
    fastest = max(float(s.average_rate or 0) for s in decodable)
    decodable = [s for s in decodable if float(s.average_rate or fastest) >= fastest / 2]
    best = container.streams.best("video")
    if best in decodable:
        return best
    return max(decodable, key=lambda s: s.width * s.height)


def has_decoder(stream: Stream) -> bool:
    """Whether the decoder library can decode a stream; a damaged header may name a codec that does not exist."""
    return getattr(stream, "codec_context", None) is not None


def read_only(container: av.container.InputContainer, stream: Stream) -> None:
    """Let the demuxer skip the packets of all other streams."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def demux(
    container: av.container.InputContainer,
    stream: AnyStream,
    on_new_streams: Callable[[], object] | None = None,
) -> Iterator[Packet[AnyStream]]:
    """Yield the packets of one stream; the last one is empty. Every decoder gets its packets here.

    Args:
        container: Open container.
        stream: Stream of the container.
        on_new_streams: Function that is called at the end if more streams appeared within the file.
    """
    packets = container.demux(stream)
    if container.format.name == "gif":
        packets = _with_browser_delays(packets)
    elif stream.codec_context is not None and is_jpeg(stream.codec_context):
        packets = _with_few_scans(packets)
    try:
        yield from packets
    except IndexError:  # PyAV 18 fails at the end of .ts files whose streams appeared during reading
        if on_new_streams is not None:
            on_new_streams()


def _with_few_scans(packets: Iterator[Packet[AnyStream]]) -> Iterator[Packet[AnyStream]]:
    """Yield packets of JPEG pictures; raise before a picture that would take the decoder minutes."""
    for packet in packets:
        if packet.size and (scans := num_scans(bytes(packet))) > MAX_SCANS:
            raise VideoError(f"a JPEG frame of the video has {scans} scans; frames of at most {MAX_SCANS} are decoded")
        yield packet


def _with_browser_delays(packets: Iterator[Packet[AnyStream]]) -> Iterator[Packet[AnyStream]]:
    """Show GIF frames of less than 20 ms for 100 ms, as browsers do; yield packets with the times that follow."""
    shift = 0
    for packet in packets:
        if packet.pts is not None and packet.time_base is not None:
            packet.pts += shift
            packet.dts = packet.pts
            if packet.duration and packet.duration * packet.time_base < _SHORTEST_GIF_FRAME:
                shown_for = round(_USUAL_GIF_FRAME / packet.time_base)
                shift += shown_for - packet.duration
                packet.duration = shown_for
        yield packet


def read_packets(handle: VideoHandle, *, only_first_frame: bool) -> tuple[PacketScan, VideoInfo, Fraction]:
    """Demux one stream; decode only up to the first frame, which gives the rotation and the true size."""
    deadline = handle.deadline
    scan = PacketScan()
    with handle.open() as container:
        scan.max_pixels = stated_pixels(container)
        stream = choose_stream(container, handle.name)
        read_only(container, stream)
        context = stream.codec_context
        context.thread_count = 1
        if context.name == "h264":
            parser = FieldParser(context.extradata)
            scan.fields = parser if parser.may_have_fields else None
        is_encrypted = False
        codec = context.name
        try:
            for packet in demux(container, stream, lambda: scan.errors.append(_NEW_STREAMS)):
                if scan.first_frame is None:
                    is_encrypted = is_encrypted or packet.has_sidedata("encryption_info")
                    scan.first_frame = _decode_first_frame(stream, packet, scan)
                elif only_first_frame:
                    break
                if packet.size:
                    _record_packet(scan, packet, codec)
                if not len(scan.pts) & 127:
                    deadline.check()
        except (av.error.FFmpegError, OSError) as error:
            handle.check_answering(error)
            deadline.check()
            scan.errors.append(f"reading stopped after {len(scan.pts)} frames: {reason(error)}")
        if scan.first_frame is None:
            raise VideoError(_no_frame(handle.name, stream, scan, is_encrypted))
        scan.num_indexed = len(stream.index_entries)
        scan.format = container.format.name
        scan.has_reordered_frames = context.has_b_frames
        scan.rate = _frame_rate(scan, stream)
        time_base = stream.time_base or Fraction(1, 1000)
        scan.declared = _declared_end(scan, container, stream, time_base)
        info = _video_info(handle.name, container, stream, scan)
        return scan, info, time_base


_NEW_STREAMS = (
    "more streams begin within the file, as at a change of programme or after damage: they are not read, and frames "
    "may be missing"
)


def _no_frame(name: str, stream: VideoStream, scan: PacketScan, is_encrypted: bool) -> str:
    codec = stream.codec_context.name
    if is_encrypted:
        return f"{name}: is encrypted (DRM, Common Encryption) and cannot be shown without its key; give a plain copy"
    if codec == "webp":
        return f"{name}: is an animated WebP, which this FFmpeg does not support; convert it to GIF or MP4"
    return (
        f"{name}: no frame can be decoded from its {codec} stream "
        f"({len(scan.pts)} packets read: {scan.first_error or 'no frame in them'}); "
        "the file is damaged or cut short"
    )


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
    is_second = scan.fields is not None and scan.fields.is_second_field(memoryview(packet))
    if pts is None:
        scan.untimed += not is_second
        pts = NO_PTS
    scan.pts.append(pts)
    scan.dts.append(pts if dts is None else dts)
    scan.durations.append(packet.duration or 0)
    if packet.is_keyframe and not is_second:
        scan.keys.append(position)
    if packet.is_corrupt:
        scan.corrupt.append(position)
    if is_second:
        scan.second_fields.append(position)
    elif not packet.is_discard and _is_displayed(packet, codec):
        scan.shown.append(position)


def _is_displayed(packet: Packet[VideoStream], codec: str) -> bool:
    """Return False for hidden reference frames of VP8: a packet with a time that is never shown (RFC 6386, 9.1)."""
    return codec not in ("vp8", "libvpx") or bool(memoryview(packet)[0] & 0x10)


def frame_rate(format_names: str, stream: VideoStream) -> tuple[Fraction | None, list[str]]:
    """Return the nominal frames per second, None if unknown, and notes.

    In formats without times the codec states the rate, if anything does; elsewhere the container.
    """
    rate = stream.average_rate
    if format_names not in _RAW_STREAMS:
        return (stream.guessed_rate if not rate or rate > _HIGHEST_RATE else rate), []
    stated = stream.codec_context.framerate
    if stated and stated >= _LOWEST_RATE:
        return stream.guessed_rate or stated, []
    rate = rate or _ASSUMED_RATE
    return rate, [f"the file does not state its frame rate: {float(rate):g} frames per second are assumed"]


def _frame_rate(scan: PacketScan, stream: VideoStream) -> Fraction | None:
    rate, notes = frame_rate(scan.format, stream)
    scan.errors += notes
    if scan.second_fields and rate:  # the container may count fields
        first, second = scan.pts[scan.second_fields[0] - 1], scan.pts[scan.second_fields[0]]
        if NO_PTS not in (first, second) and first != second:
            return rate / 2
    return rate


def _declared_end(
    scan: PacketScan, container: av.container.InputContainer, stream: VideoStream, time_base: Fraction
) -> DeclaredEnd:
    start = (container.start_time or 0) / av.time_base
    whole = container.duration / av.time_base if container.duration else None
    is_matroska = "matroska" in scan.format
    file_end = None if whole is None else whole if is_matroska else start + whole  # Matroska counts from 0
    ends = [end for s in container.streams.audio if (end := _stated_end(s)) is not None]
    duration = float(stream.duration * time_base) if stream.duration else None
    return DeclaredEnd(duration, file_end, max(ends, default=None), bool(container.streams.audio), start)


def _stated_end(stream: AudioStream) -> float | None:
    """Container time at which a stream ends, in seconds, from its header or its Matroska tags."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
        return 3600 * hours + 60 * minutes + seconds
    except ValueError:
        if not stream.duration or not stream.time_base:
            return None
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)


def _video_info(name: str, container: av.container.InputContainer, stream: VideoStream, scan: PacketScan) -> VideoInfo:
    frame = scan.first_frame
    assert frame is not None
    assert scan.declared is not None
    orientation = orientation_of(frame)
    height, width = orientation.displayed_size(frame)
    start = float((frame.pts or 0) * (stream.time_base or Fraction(1, 1000)))
    aspect = stream.sample_aspect_ratio or Fraction(1)
    stated = scan.declared.duration
    return VideoInfo(
        name=name,
        format=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        rotation=90 * orientation.quarter_turns,
        pixel_format=frame.format.name,
        fps=float(scan.rate) if scan.rate else None,
        num_frames=stream.frames or None,
        duration=max(0.0, (scan.declared.file_end or 0.0) - start) if stated is None else stated,
        start_time=start,
        stream=stream.index,
        streams=tuple(_stream_info(each) for each in container.streams),
        is_mirrored=orientation.is_mirrored,
        pixel_aspect=float(1 / aspect if orientation.is_transposed else aspect),
        player_offset=_player_offset(container, scan, start),
        max_pixels=max(scan.max_pixels, height * width),
        start_timecode=_start_timecode(container, stream),
        created=_created(container, stream),
    )


def _player_offset(container: av.container.InputContainer, scan: PacketScan, start: float) -> float:
    """Seconds from the start of the file, as players count, to the first frame.

    The clock of MP4 and MOV starts with the movie, so that a pause in the edit list counts. In other formats players
    count from the first time of any stream.
    """
    zero = 0.0 if "mov" in scan.format else (container.start_time or 0) / av.time_base
    offset = start - zero if container.start_time is not None else 0.0
    return offset if offset >= 0.001 else 0.0


def _start_timecode(container: av.container.InputContainer, stream: VideoStream) -> str | None:
    """Timecode of the stream, of another stream (a timecode track), or of the container; the first that is valid."""
    for metadata in (stream.metadata, *(each.metadata for each in container.streams), container.metadata):
        stated = {key.lower(): text for key, text in metadata.items()}.get("timecode", "")
        if TIMECODE.fullmatch(stated):
            return stated
    return None


def _created(container: av.container.InputContainer, stream: VideoStream) -> datetime | None:
    """Date of the container, or else of the stream; a date without a zone is in UTC, as containers define it."""
    for metadata in (container.metadata, stream.metadata):
        stated = {key.lower(): text for key, text in metadata.items()}.get("creation_time", "")
        try:
            date = datetime.fromisoformat(stated.strip())
            date = (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            continue
        if all(abs(date - zero) >= _ZERO_SLACK for zero in _ZERO_DATES) and date != _MATROSKA_ZERO:
            return date
    return None


def first_pass_notes(scan: PacketScan) -> list[str]:
    """Sentences about the stream that hold for every part of the video."""
    frame = scan.first_frame
    transfer = None if frame is None else HDR_TRANSFERS.get(int(frame.color_trc))
    return [f"the video is HDR ({transfer}): its colours are mapped to SDR"] if transfer else []


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
