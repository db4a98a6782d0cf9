"""Audio of a video in the format of speech recognisers, on the clock of its frames."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import av
import av.container
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from timechat.errors import VideoError
from timechat.video.clock import JUMP_SECONDS, ClockFollower, ClockPart, VideoClock
from timechat.video.index import read_index
from timechat.video.limits import reason
from timechat.video.loading import DEFAULT_TIMEOUT
from timechat.video.scan import demux, has_decoder, read_only, read_packets
from timechat.video.source import VideoHandle, VideoSource, open_source

SAMPLE_RATE = 16_000
"""Samples per second."""

_TOLERANCE = 0.1  # seconds; maximum difference between a file's times and the count of its samples
_MAX_SILENCE = 30.0  # seconds; a longer gap in the audio is not filled
_STEP_BACK = 0.5  # seconds; a longer step back of the audio is one of the file's clock
_CUT_SEARCH_SECONDS = 30.0  # seconds at the end of a segment in which the cut is searched
_PAUSE_SECONDS = 0.2  # seconds over which loudness is measured for the cut


@dataclass(frozen=True)
class AudioSegment:
    """A segment of audio.

    Attributes:
        samples: float32 `(samples,)`, mono, from -1 to 1, `SAMPLE_RATE` per second.
        start: Start in seconds on the video's clock; negative if the audio begins before the first frame.
        notes: Notes on lost audio since the previous segment.
    """

    samples: NDArray[np.float32]
    start: float
    notes: tuple[str, ...] = ()

    @property
    def end(self) -> float:
        """End in seconds on the video's clock."""
        return self.start + len(self.samples) / SAMPLE_RATE


def read_audio(
    source: VideoSource, *, max_seconds: float = 300.0, timeout: float = DEFAULT_TIMEOUT
) -> Iterator[AudioSegment]:
    """Read the audio of a video in segments, so that hours take no more memory than minutes.

    Audio has its own times in the file; here they count from the first frame, as all times do. Where the clock of the
    file jumps, audio follows the clock of the frames. Gaps are filled with silence.

    Args:
        source: Video in any form that `load_frames` takes.
        max_seconds: Maximum length of a segment in seconds; it is cut at its quietest moment shortly before.
        timeout: Maximum time for reading in seconds, without the time of the caller between segments.

    Yields:
        Segments in order of time; none for a video without audio or with audio that cannot be decoded.

    Raises:
        VideoError: The video cannot be read.
    """
    if max_seconds < 2 * _PAUSE_SECONDS:
        raise ValueError(f"max_seconds must be at least {2 * _PAUSE_SECONDS:g} s, got {max_seconds}")
    with open_source(source, timeout) as handle:
        zero = read_packets(handle, only_first_frame=True)[1].start_time
        with handle.open() as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream) or not has_decoder(stream):
                return
            issues = _DecodeIssues()
            packets = _on_video_clock(handle, container, stream, issues)
            for segment in _segments(_blocks(_decode(packets, handle, stream, issues), issues), max_seconds):
                yielded_at = time.monotonic()
                yield replace(segment, start=segment.start - zero, notes=issues.notes())
                handle.deadline.ends += time.monotonic() - yielded_at


@dataclass
class _DecodeIssues:
    """Decoding issues since the last report."""

    damaged: int = 0
    stopped: str | None = None
    clock: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """Return notes on audio lost since the last call."""
        damaged, stopped, clock = self.damaged, self.stopped, self.clock
        self.damaged, self.stopped, self.clock = 0, None, ()
        notes = [*clock]
        notes += [f"damaged audio packets left out: {damaged}"] if damaged else []
        return (*notes, *([f"reading the audio stopped early: {stopped}"] if stopped else []))


def _decode(
    packets: Iterator[Packet[AudioStream]], handle: VideoHandle, stream: AudioStream, issues: _DecodeIssues
) -> Iterator[AudioFrame]:
    """Yield all audio frames that can be decoded."""
    try:
        for packet in packets:
            handle.deadline.check()
            try:
                yield from stream.codec_context.decode(packet if packet.size else None)
            except av.error.FFmpegError:
                issues.damaged += 1
    except (av.error.FFmpegError, OSError) as error:
        handle.check_answering(error)
        handle.deadline.check()
        issues.stopped = reason(error)


def _on_video_clock(
    handle: VideoHandle, container: av.container.InputContainer, stream: AudioStream, issues: _DecodeIssues
) -> Iterator[Packet[AudioStream]]:
    """Yield the packets; from the first jump of their times on, with times on the clock of the frames.

    A step back that the clock of the frames does not have, and a single time that is far from its neighbours, are
    errors of the audio's own times: such packets continue where the audio is.
    """
    read_only(container, stream)
    clock: VideoClock | None = None
    follower: ClockFollower | None = None
    last: Fraction | None = None  # in the container
    last_placed: Fraction | None = None  # on the clock of the frames, from its container time on
    for packet, following in pairwise(itertools.chain(demux(container, stream), [None])):
        assert packet is not None
        time = _time_of(packet)
        if time is not None and last is not None and not -_STEP_BACK <= time - last <= JUMP_SECONDS:
            next_time = None if following is None else _time_of(following)
            is_stray = next_time is not None and -_STEP_BACK <= next_time - last <= 1 and abs(time - last) > 1
            if is_stray:
                packet.pts = packet.dts = time = None
            elif follower is None:
                clock = _video_clock(handle)
                issues.clock = clock.notes
                follower = clock.follow()
                follower.place(last)
        last = last if time is None else time
        if time is not None and follower is not None and clock is not None:
            placed = follower.place(time) + clock.zero
            is_error = last_placed is not None and placed < last_placed - _STEP_BACK
            packet.pts = packet.dts = None if is_error else round(placed / packet.time_base)
            last_placed = last_placed if is_error else placed
        elif time is not None:
            last_placed = time
        yield packet


def _time_of(packet: Packet[AudioStream]) -> Fraction | None:
    return None if packet.pts is None or packet.time_base is None else packet.pts * packet.time_base


def _video_clock(handle: VideoHandle) -> VideoClock:
    try:
        return read_index(handle).packets.clock
    except VideoError:
        return VideoClock(Fraction(0), (ClockPart(Fraction(0), Fraction(0), Fraction(0)),))


class _ContinuousRun:
    """Audio of one format without gaps, resampled as it arrives."""

    def __init__(self, first: AudioFrame, start: float) -> None:
        self._format = _sample_format(first)
        self._start, self._rate = start, first.sample_rate
        self._num_read = self._num_yielded = 0
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    @property
    def end(self) -> float:
        """Expected time of the next frame in seconds on the file's clock."""
        return self._start + self._num_read / self._rate

    def continues_with(self, frame: AudioFrame) -> bool:
        """Whether a frame has the same format and follows without a gap."""
        return _sample_format(frame) == self._format and (
            frame.time is None or abs(frame.time - self.end) <= _TOLERANCE
        )

    def append(self, frame: AudioFrame | None) -> Iterator[AudioSegment]:
        """Resample a frame; None flushes the resampler."""
        self._num_read += 0 if frame is None else frame.samples
        for resampled in self._resampler.resample(frame):
            samples = resampled.to_ndarray().reshape(-1).astype(np.float32, copy=False)
            yield AudioSegment(samples, self._start + self._num_yielded / SAMPLE_RATE)
            self._num_yielded += len(samples)


def _sample_format(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _blocks(frames: Iterable[AudioFrame], issues: _DecodeIssues) -> Iterator[AudioSegment]:
    """Yield the audio at `SAMPLE_RATE` with the times of the file."""
    run: _ContinuousRun | None = None
    expected = 0.0
    for frame in frames:
        if run is None or not run.continues_with(frame):
            if run is not None:
                expected = run.end
                yield from run.append(None)
            run = _ContinuousRun(frame, expected if frame.time is None else frame.time)
        try:
            yield from run.append(frame)
        except av.error.FFmpegError:  # damage may give a frame a format that does not exist
            issues.damaged += 1
            expected, run = run.end, None
    if run is not None:
        yield from run.append(None)


def _segments(blocks: Iterable[AudioSegment], max_seconds: float) -> Iterator[AudioSegment]:
    """Join blocks into segments of at most `max_seconds` seconds, with silence in short gaps."""
    start, parts, length = 0.0, [np.zeros(0, np.float32)], 0
    for block in blocks:
        gap = round((block.start - start) * SAMPLE_RATE) - length
        if not length or not -_TOLERANCE <= gap / SAMPLE_RATE <= _MAX_SILENCE:
            if length:
                yield AudioSegment(np.concatenate(parts), start)
            start, parts, length, gap = block.start, [], 0, 0
        parts += [np.zeros(max(0, gap), np.float32), block.samples]
        length += max(0, gap) + len(block.samples)
        while length > max_seconds * SAMPLE_RATE:
            samples = np.concatenate(parts)
            cut = _quietest(samples[: int(max_seconds * SAMPLE_RATE)])
            yield AudioSegment(samples[:cut], start)
            start, parts, length = start + cut / SAMPLE_RATE, [samples[cut:]], length - cut
    if length:
        yield AudioSegment(np.concatenate(parts), start)


def _quietest(samples: NDArray[np.float32]) -> int:
    """Return the sample in the middle of the quietest moment near the end, not in the first half."""
    pause = int(_PAUSE_SECONDS * SAMPLE_RATE)
    first = max(len(samples) // 2, len(samples) - int(_CUT_SEARCH_SECONDS * SAMPLE_RATE))
    count = (len(samples) - first) // pause
    if not count:
        return len(samples)
    loudness = np.square(samples[first : first + count * pause]).reshape(count, pause).mean(axis=1)  # (count,)
    return first + int(loudness.argmin()) * pause + pause // 2
