"""Pictures and sound into a new file: H.264 and AAC, each picture at its own time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.codec.codec import UnknownCodecError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timechat.errors import VideoError
from timechat.video.clips.soundtrack import Samples, Soundtrack

# Without B-frames files hold the pictures in the order of their times, and the last one's length to the tick.
_VIDEO_ENCODERS = {"preset": "veryfast", "crf": "18", "bf": "0"}
_AUDIO_BIT_RATE = 160_000
_BLOCK = 1024  # samples that AAC takes at a time
_SILENCE = 2**16  # samples written at a time


class VideoWriter:
    """Writes one file; pictures and sound come in time order, piece by piece.

    Attributes:
        time_base: seconds a tick of the pictures' times.
        end: ticks, where the pictures written so far end.
    """

    def __init__(
        self,
        path: Path,
        form: str,
        *,
        first_picture: VideoFrame,
        time_base: Fraction,
        fps: float | None,
        aspect: Fraction | None,
        soundtrack: Soundtrack | None,
    ) -> None:
        """Open the file.

        Args:
            path: Where to.
            form: The container, as the library calls it.
            first_picture: Tells size, orientation and colours of all.
            time_base: Seconds a tick.
            fps: Frames per second on average, None if unknown; no time depends on it.
            aspect: Width of a stored pixel by its height; None is square.
            soundtrack: The track that samples will come from, None for none.
        """
        flags = {"movflags": "+faststart"} if form in ("mp4", "mov") else {}
        self.time_base, self.end = time_base, 0
        self._container = av.open(str(path.absolute()), "w", format=form, options=flags)
        try:
            self._pictures = self._container.add_stream("libx264", rate=_plain_rate(fps), options=_VIDEO_ENCODERS)
            self._sound = None if soundtrack is None else self._container.add_stream("aac", rate=soundtrack.rate)
        except UnknownCodecError as error:
            self._container.close()
            raise VideoError(f"this FFmpeg cannot encode {error}: take mode='copy'") from error
        self._turns = round(first_picture.rotation / 90) % 4
        self._add_video_stream(first_picture, aspect)
        if soundtrack is not None:
            self._add_audio_stream(soundtrack)
        self._waiting: VideoFrame | None = None
        self._durations: dict[int, int] = {}
        self._blocks: list[Samples] = []
        self._num_samples = 0  # given to the encoder or waiting in blocks

    def _add_video_stream(self, first: VideoFrame, aspect: Fraction | None) -> None:
        stream = self._pictures
        height, width = (first.width, first.height) if self._turns % 2 else (first.height, first.width)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = self.time_base
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if self._turns % 2 else aspect
        context.color_range, context.colorspace = first.color_range, first.colorspace
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc

    def _add_audio_stream(self, sound: Soundtrack) -> None:
        assert self._sound is not None
        self._sound.layout = sound.layout
        self._sound.bit_rate = _AUDIO_BIT_RATE
        self._sound.time_base = Fraction(1, sound.rate)

    def add_frame(self, picture: VideoFrame, time: int) -> None:
        """Show a picture from `time` (ticks) on; a time that is not after the last one's becomes the tick after it."""
        stored = _upright(picture, self._pictures.height, self._pictures.width, self._turns)
        stored.pts = time if self._waiting is None or self._waiting.pts is None else max(time, self._waiting.pts + 1)
        stored.time_base = self.time_base
        self._release(stored.pts)
        self._waiting = stored

    def end_segment(self, end: int) -> None:
        """Leave the last picture on screen until `end` (ticks); sound that is missing until then is silent."""
        assert self._waiting is not None
        assert self._waiting.pts is not None
        self.end = max(end, self._waiting.pts + 1)
        self._release(self.end)
        self._waiting = None
        if self._sound is not None:
            self.add_samples(round(self.end * self.time_base * self._sound.rate), None)

    def add_samples(self, place: int, samples: Samples | None) -> None:
        """Sound from `place` (samples from the start of the file) on, after silence up to there."""
        assert self._sound is not None
        while self._num_samples < place:
            silence = min(place - self._num_samples, _SILENCE)
            self._add_block(np.zeros((self._sound.channels, silence), np.float32))
        if samples is not None:
            self._add_block(samples[:, self._num_samples - place :])

    def _add_block(self, samples: Samples) -> None:
        self._blocks.append(samples)
        self._num_samples += samples.shape[1]
        self._encode_audio(is_last=False)

    def close(self) -> None:
        """Write what is still on its way."""
        if self._sound is not None:
            self._encode_audio(is_last=True)
            self._container.mux(self._sound.encode(None))
        self._mux(self._pictures.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Close the file as it is; what was written is of no use."""
        self._container.close()

    def _release(self, next_time: int) -> None:
        if self._waiting is not None:
            assert self._waiting.pts is not None
            self._durations[self._waiting.pts] = next_time - self._waiting.pts
            self._mux(self._pictures.encode(self._waiting))

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)

    def _encode_audio(self, *, is_last: bool) -> None:
        """Give the encoder all whole blocks; at the end also what is left."""
        assert self._sound is not None
        waiting = sum(block.shape[1] for block in self._blocks)
        if waiting < _BLOCK and not (is_last and waiting):
            return
        samples = np.concatenate(self._blocks, axis=1)
        stop = waiting if is_last else waiting - waiting % _BLOCK
        first = self._num_samples - waiting
        for start in range(0, stop, _BLOCK):
            block = np.ascontiguousarray(samples[:, start : min(start + _BLOCK, stop)])
            frame = AudioFrame.from_ndarray(block, format="fltp", layout=self._sound.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = self._sound.rate, first + start, self._sound.time_base
            self._container.mux(self._sound.encode(frame))
        self._blocks = [samples[:, stop:]]


def _plain_rate(fps: float | None) -> Fraction:
    return Fraction(fps).limit_denominator(1001) if fps and fps >= 1 else Fraction(25)


def _upright(picture: VideoFrame, height: int, width: int, quarter_turns: int) -> VideoFrame:
    """The picture in 4:2:0 of eight bits, `(height, width)` after turning it as it is to be displayed."""
    stored_height, stored_width = (width, height) if quarter_turns % 2 else (height, width)
    plain = picture.reformat(stored_width, stored_height, "yuv420p", interpolation="BICUBIC", threads=1)
    if not quarter_turns:
        return plain
    planes = [
        np.rot90(plane, quarter_turns)
        for plane in _planes(plain.to_ndarray().astype(np.uint8, copy=False), stored_height, stored_width)
    ]
    flat = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in planes])
    return VideoFrame.from_ndarray(flat.reshape(height * 3 // 2, width), format="yuv420p")


def _planes(array: NDArray[np.uint8], height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """The planes of a 4:2:0 picture, which lie one after the other in `(height * 3 / 2, width)`."""
    flat = array.reshape(-1)
    size, half = height * width, (height // 2, width // 2)
    yield flat[:size].reshape(height, width)
    yield flat[size : size * 5 // 4].reshape(half)
    yield flat[size * 5 // 4 :].reshape(half)
