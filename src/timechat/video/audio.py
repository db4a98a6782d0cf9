"""The sound of a video, as speech recognisers take it, on the clock of its pictures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import av
import av.container
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from timechat.video.index import demux, read_only, read_packets
from timechat.video.loading import DEFAULT_TIMEOUT
from timechat.video.source import VideoHandle, VideoSource, open_source, reason

SAMPLE_RATE = 16_000
"""Samples a second."""

_JUMP = 0.1  # seconds by which a file's times may differ from a count of its samples
_LONGEST_SILENCE = 30.0  # seconds; a longer gap in the sound is not filled
_CUT_SEARCH_SECONDS = 30.0  # seconds at the end of a piece in which the place to cut it is looked for
_PAUSE_SECONDS = 0.2  # seconds over which loudness is measured to find that place


@dataclass(frozen=True)
class AudioSegment:
    """A piece of sound.

    Attributes:
        samples: float32 `(samples,)`, all channels in one, from -1 to 1, `SAMPLE_RATE` a second.
        start: Seconds on the video's clock; below 0 where sound begins before the first picture.
        notes: What was lost on the way here.
    """

    samples: NDArray[np.float32]
    start: float
    notes: tuple[str, ...] = ()

    @property
    def end(self) -> float:
        """Seconds on the video's clock."""
        return self.start + len(self.samples) / SAMPLE_RATE


def read_audio(
    source: VideoSource, *, longest: float = 300.0, timeout: float = DEFAULT_TIMEOUT
) -> Iterator[AudioSegment]:
    """Read the sound of a video piece by piece, so that hours of it take no more memory than minutes.

    Sound has times of its own in the file; here they count from the first picture, as all times do. What is missing
    between is silence.

    Args:
        source: As `load_frames` takes it.
        longest: Seconds of a piece; it is cut where it is quietest shortly before.
        timeout: Seconds of reading, not counting what the caller does between pieces.

    Yields:
        Pieces in order of time; none where the video has no sound, or none that can be decoded.

    Raises:
        VideoError: The video cannot be read.
    """
    if longest < 2 * _PAUSE_SECONDS:
        raise ValueError(f"longest must be at least {2 * _PAUSE_SECONDS:g} s, got {longest}")
    with open_source(source, timeout) as opener:
        zero = read_packets(opener, only_first_picture=True)[1].start_time
        with opener.open() as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream):
                return
            losses = _DecodeIssues()
            for piece in _pieces(_blocks(_decode(opener, container, stream, losses)), longest):
                given = time.monotonic()
                yield replace(piece, start=piece.start - zero, notes=losses.notes())
                opener.deadline.ends += time.monotonic() - given


@dataclass
class _DecodeIssues:
    """What could not be decoded, until somebody is told."""

    damaged: int = 0
    stopped: str | None = None

    def notes(self) -> tuple[str, ...]:
        """Notes on what was lost since the last call."""
        damaged, stopped = self.damaged, self.stopped
        self.damaged, self.stopped = 0, None
        notes = [f"damaged packets of sound left out: {damaged}"] if damaged else []
        return (*notes, *([f"reading the sound stopped early: {stopped}"] if stopped else []))


def _decode(
    handle: VideoHandle, container: av.container.InputContainer, stream: AudioStream, issues: _DecodeIssues
) -> Iterator[AudioFrame]:
    """Decode all of the sound that can be decoded."""
    read_only(container, stream)
    try:
        for packet in demux(container, stream):
            handle.deadline.check()
            try:
                yield from stream.codec_context.decode(packet if packet.size else None)
            except av.error.FFmpegError:
                issues.damaged += 1
    except (av.error.FFmpegError, OSError) as error:
        handle.check_answering(error)
        handle.deadline.check()
        issues.stopped = reason(error)


class _ContinuousRun:
    """Sound of one kind and without a gap, resampled while it comes."""

    def __init__(self, first: AudioFrame, start: float) -> None:
        self._kind = _sample_format(first)
        self._start, self._rate = start, first.sample_rate
        self._taken = self._given = 0
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    @property
    def end(self) -> float:
        """Seconds on the file's clock at which the next frame is due."""
        return self._start + self._taken / self._rate

    def continues_with(self, frame: AudioFrame) -> bool:
        """Whether a frame is of the same kind and follows what was taken."""
        return _sample_format(frame) == self._kind and (frame.time is None or abs(frame.time - self.end) <= _JUMP)

    def append(self, frame: AudioFrame | None) -> Iterator[AudioSegment]:
        """Resample a frame; None gives what is left."""
        self._taken += 0 if frame is None else frame.samples
        for resampled in self._resampler.resample(frame):
            samples = resampled.to_ndarray().reshape(-1).astype(np.float32, copy=False)
            yield AudioSegment(samples, self._start + self._given / SAMPLE_RATE)
            self._given += len(samples)


def _sample_format(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _blocks(frames: Iterable[AudioFrame]) -> Iterator[AudioSegment]:
    """Frames at `SAMPLE_RATE` with the times that the file gives them."""
    run: _ContinuousRun | None = None
    for frame in frames:
        if run is None or not run.continues_with(frame):
            due = 0.0 if run is None else run.end
            if run is not None:
                yield from run.append(None)
            run = _ContinuousRun(frame, due if frame.time is None else frame.time)
        yield from run.append(frame)
    if run is not None:
        yield from run.append(None)


def _pieces(blocks: Iterable[AudioSegment], longest: float) -> Iterator[AudioSegment]:
    """Join blocks up to `longest` seconds, with silence where there is nothing for a while."""
    start, parts, length = 0.0, [np.zeros(0, np.float32)], 0
    for block in blocks:
        gap = round((block.start - start) * SAMPLE_RATE) - length
        if not length or not -_JUMP <= gap / SAMPLE_RATE <= _LONGEST_SILENCE:
            if length:
                yield AudioSegment(np.concatenate(parts), start)
            start, parts, length, gap = block.start, [], 0, 0
        parts += [np.zeros(max(0, gap), np.float32), block.samples]
        length += max(0, gap) + len(block.samples)
        while length > longest * SAMPLE_RATE:
            samples = np.concatenate(parts)
            cut = _quietest(samples[: int(longest * SAMPLE_RATE)])
            yield AudioSegment(samples[:cut], start)
            start, parts, length = start + cut / SAMPLE_RATE, [samples[cut:]], length - cut
    if length:
        yield AudioSegment(np.concatenate(parts), start)


def _quietest(samples: NDArray[np.float32]) -> int:
    """The sample in the middle of the quietest moment near the end, but not in the first half."""
    breath = int(_PAUSE_SECONDS * SAMPLE_RATE)
    first = max(len(samples) // 2, len(samples) - int(_CUT_SEARCH_SECONDS * SAMPLE_RATE))
    count = (len(samples) - first) // breath
    if not count:
        return len(samples)
    loudness = np.square(samples[first : first + count * breath]).reshape(count, breath).mean(axis=1)  # (count,)
    return first + int(loudness.argmin()) * breath + breath // 2
