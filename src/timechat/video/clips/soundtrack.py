"""The sound of a stretch of a video: as samples on the clock of its pictures, or as packets to copy."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Discard
from numpy.typing import NDArray

from timechat.video.source import VideoHandle

Samples = NDArray[np.float32]

_PREROLL = 0.5  # seconds: what decoders need to come right after a jump
_JITTER = 0.02  # seconds: containers round the times of sound; a true gap is longer
_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000})  # those of AAC
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


class Soundtrack:
    """The sound track that players choose, opened on its own.

    Attributes:
        stream: the track, None where it cannot be decoded.
        zero: the container's time of the video's first picture, in seconds.
        rate: samples per second of what is read.
        layout: the name of its channels' arrangement.
    """

    def __init__(self, handle: VideoHandle, zero: Fraction) -> None:
        """Open the track.

        Args:
            handle: The source.
            zero: The container's time of the video's first picture, in seconds.
        """
        self._deadline, self.zero = handle.deadline, zero
        self._container = handle.open()
        found = self._container.streams.best("audio")
        is_readable = isinstance(found, AudioStream) and found.codec_context is not None and found.sample_rate > 0
        self.stream: AudioStream | None = found if is_readable and isinstance(found, AudioStream) else None
        for stream in self._container.streams:
            if stream is not found:
                stream.discard = Discard.all
        if self.stream is not None:
            self.rate = self.stream.sample_rate if self.stream.sample_rate in _RATES else 48000
            self.layout = _LAYOUTS.get(self.stream.channels, "stereo")

    def __enter__(self) -> Soundtrack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def packets(self, start: Fraction, end: Fraction) -> Iterator[tuple[Fraction, Packet[AudioStream]]]:
        """Packets that begin from `start` to `end` (seconds on the video's clock), each with its time."""
        for packet in self._seek_to(start):
            if packet.pts is None or packet.time_base is None or not packet.size:
                continue
            time = packet.pts * packet.time_base - self.zero
            if time >= end:
                return
            if time >= start:
                yield time, packet

    def samples(self, start: Fraction, end: Fraction) -> Iterator[tuple[int, Samples]]:
        """Float samples `(channels, samples)` from `start` to `end` (seconds), each block with its place.

        Places count samples from `start`; what lies between two blocks is silent.
        """
        length = round((end - start) * self.rate)
        here: int | None = None
        for frame in self._decoded(start - Fraction(_PREROLL)):
            if frame.pts is None or frame.time_base is None:
                continue
            told = round((frame.pts * frame.time_base - self.zero - start) * self.rate)
            if here is None or abs(told - here) > _JITTER * self.rate:
                here = told
            samples = frame.to_ndarray().astype(np.float32, copy=False)
            skipped, kept = max(0, -here), max(0, length - here)
            if skipped < min(kept, samples.shape[1]):
                yield here + skipped, samples[:, skipped:kept]
            here += samples.shape[1]
            if here >= length:
                return

    def _decoded(self, start: Fraction) -> Iterator[AudioFrame]:
        """Frames as planes of floats, from a little before `start` on; damaged ones are left out."""
        assert self.stream is not None
        context = self.stream.codec_context
        context.flush_buffers()
        resampler = AudioResampler("fltp", self.layout, self.rate)
        for packet in self._seek_to(start):
            try:
                frames = context.decode(packet if packet.size else None)
            except av.error.FFmpegError:
                continue
            for frame in frames:
                yield from resampler.resample(frame)

    def _seek_to(self, start: Fraction) -> Iterator[Packet[AudioStream]]:
        """Packets from `start` (seconds on the video's clock) or a little before on, the last one empty."""
        stream = self.stream
        assert stream is not None
        assert stream.time_base is not None
        target = round((start + self.zero) / stream.time_base)
        self._container.seek(max(target, stream.start_time or 0), stream=stream)
        try:
            for packet in self._container.demux(stream):
                self._deadline.check()
                yield packet
        except (av.error.FFmpegError, IndexError):  # damaged: what follows is silent
            return
