"""Audio of a part of a video: samples on the clock of its frames, or packets to copy."""

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
from av.stream import Discard, Stream
from numpy.typing import NDArray

from timechat.video.clock import VideoClock
from timechat.video.source import VideoHandle

Samples = NDArray[np.float32]

_PREROLL = 0.5  # seconds that decoders need for correct output after a seek
_JITTER = 0.02  # seconds; containers round audio times, and a true gap is longer
_RATES = frozenset(
    {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000}
)  # sampling rates of AAC
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


class Soundtrack:
    """The audio track that players choose, opened in its own container.

    Attributes:
        stream: Audio stream, None if it cannot be decoded.
        zero: Container time of the first frame of the video, in seconds.
        rate: Sampling rate of the output in Hz.
        layout: Channel layout of the output.
    """

    def __init__(self, handle: VideoHandle, clock: VideoClock) -> None:
        """Open the track.

        Args:
            handle: Handle of the source.
            clock: Clock of the video.
        """
        self._handle, self._clock, self.zero = handle, clock, clock.zero
        best = self._open()
        is_readable = isinstance(best, AudioStream) and best.codec_context is not None and best.sample_rate > 0
        self.stream: AudioStream | None = best if is_readable and isinstance(best, AudioStream) else None
        if self.stream is not None:
            self.rate = self.stream.sample_rate if self.stream.sample_rate in _RATES else 48000
            self.layout = _LAYOUTS.get(self.stream.channels, "stereo")

    def _open(self) -> Stream | None:
        """Open the file at its start, and return the audio stream that players choose."""
        self._container = self._handle.open()
        best = self._container.streams.best("audio")
        for stream in self._container.streams:
            if stream is not best:
                stream.discard = Discard.all
        return best

    def __enter__(self) -> Soundtrack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def packets(self, start: Fraction, end: Fraction) -> Iterator[tuple[Fraction, Packet[AudioStream]]]:
        """Yield packets that begin from `start` to `end` (seconds on the video's clock), each with its time."""
        for packet in self._seek_to(start):
            if packet.pts is None or packet.time_base is None or not packet.size:
                continue
            time = packet.pts * packet.time_base - self.zero
            if time >= end:
                return
            if time >= start:
                yield time, packet

    def samples(self, start: Fraction, end: Fraction) -> Iterator[tuple[int, Samples]]:
        """Yield blocks of float samples, `(channels, samples)`, from `start` to `end` (seconds), with their positions.

        Positions count samples from `start`; a gap between two blocks is silence.
        """
        length = round((end - start) * self.rate)
        position: int | None = None
        for frame in self._decoded(start - Fraction(_PREROLL)):
            if frame.pts is None or frame.time_base is None:
                continue
            from_file = round((frame.pts * frame.time_base - self.zero - start) * self.rate)
            if position is None or abs(from_file - position) > _JITTER * self.rate:
                position = from_file
            samples = frame.to_ndarray().astype(np.float32, copy=False)
            skipped, kept = max(0, -position), max(0, length - position)
            if skipped < min(kept, samples.shape[1]):
                yield position + skipped, samples[:, skipped:kept]
            position += samples.shape[1]
            if position >= length:
                return

    def _decoded(self, start: Fraction) -> Iterator[AudioFrame]:
        """Yield frames as float planes, from shortly before `start` on, without damaged frames."""
        assert self.stream is not None
        self.stream.codec_context.flush_buffers()
        resampler = AudioResampler("fltp", self.layout, self.rate)
        for packet in self._seek_to(start):
            try:
                frames = self.stream.codec_context.decode(packet if packet.size else None)
            except av.error.FFmpegError:
                continue
            for frame in frames:
                yield from resampler.resample(frame)

    def _seek_to(self, start: Fraction) -> Iterator[Packet[AudioStream]]:
        """Yield packets from `start` (seconds on the video's clock) or shortly before on; the last one is empty."""
        assert self.stream is not None
        assert self.stream.time_base is not None
        is_continuous = self._clock.is_continuous
        if is_continuous:
            target = round((start + self.zero) / self.stream.time_base)
            self._container.seek(max(target, self.stream.start_time or 0), stream=self.stream)
        else:  # times are not unique, so that the file cannot be searched
            self._container.close()
            stream = self._open()
            assert isinstance(stream, AudioStream)
            self.stream = stream
        clock = self._clock.follow()
        try:
            for packet in self._container.demux(self.stream):
                self._handle.deadline.check()
                if not is_continuous and packet.pts is not None and packet.time_base is not None:
                    time = clock.place(packet.pts * packet.time_base)
                    if time < start:
                        continue
                    packet.pts = packet.dts = round((time + self.zero) / packet.time_base)
                yield packet
        except (av.error.FFmpegError, IndexError):  # damaged: the rest is silence
            return
