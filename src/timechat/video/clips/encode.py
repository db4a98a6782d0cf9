"""Encode frames and audio into a new file: H.264 and AAC, each frame at its own time.

The file is progressive, 8-bit, 4:2:0. Interlaced frames are deinterlaced, HDR frames are mapped to SDR (see
`timechat.video.hdr`), and RGB frames are converted to the matrix of BT.709. Other frames keep their colours and tags.
"""

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
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timechat.errors import VideoError
from timechat.video.clips.deinterlace import Deinterlacer
from timechat.video.clips.soundtrack import Samples, Soundtrack
from timechat.video.frames import UPRIGHT, FrameSize, Orientation, frame_to_pixels
from timechat.video.hdr import HDR_TRANSFERS

# Without B-frames, files store frames in display order and the exact duration of the last one.
_VIDEO_ENCODERS = {"preset": "veryfast", "crf": "18", "bf": "0"}
_AUDIO_BIT_RATE = 160_000
_BLOCK = 1024  # samples per AAC frame
_SILENCE = 2**16  # samples per block of silence


class VideoWriter:
    """Writes one file from frames and audio blocks in time order.

    Attributes:
        time_base: Duration of a tick of the frame times in seconds.
        end: End of the frames written so far, in ticks.
    """

    def __init__(
        self,
        path: Path,
        form: str,
        *,
        first_frame: VideoFrame,
        time_base: Fraction,
        fps: float | None,
        aspect: Fraction | None,
        orientation: Orientation,
        soundtrack: Soundtrack | None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: Path of the new file.
            form: Container format, under its name in FFmpeg.
            first_frame: Frame with the size and colours of all frames.
            time_base: Duration of a tick in seconds.
            fps: Average number of frames per second, None if unknown; no time depends on it.
            aspect: Aspect ratio of a stored pixel (width / height); None for square pixels.
            orientation: How frames are turned for display.
            soundtrack: Audio track of the source, None for a file without audio.
            size: Height and width in pixels, as displayed; None keeps those of the frames.
        """
        flags = {"movflags": "+faststart"} if form in ("mp4", "mov") else {}
        self.time_base, self.end = time_base, 0
        self._container = av.open(str(path.absolute()), "w", format=form, options=flags)
        try:
            self._video_stream = self._container.add_stream("libx264", rate=_plain_rate(fps), options=_VIDEO_ENCODERS)
            self._audio_stream = None if soundtrack is None else self._container.add_stream("aac", rate=soundtrack.rate)
        except UnknownCodecError as error:
            self._container.close()
            raise VideoError(f"this FFmpeg cannot encode {error}; use mode='copy'") from error
        self._orientation = orientation
        self._add_video_stream(first_frame, aspect, size or orientation.displayed_size(first_frame))
        if soundtrack is not None:
            self._add_audio_stream(soundtrack)
        self._deinterlacer = Deinterlacer(time_base)
        self._pending: VideoFrame | None = None
        self._durations: dict[int, int] = {}
        self._blocks: list[Samples] = []
        self._num_samples = 0  # passed to the encoder or stored in blocks

    def _add_video_stream(self, first: VideoFrame, aspect: Fraction | None, size: tuple[int, int]) -> None:
        stream = self._video_stream
        height, width = size
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = self.time_base
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if self._orientation.is_transposed else aspect
        self._is_converted = _needs_conversion(first)
        if self._is_converted:
            context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        else:
            context.color_range, context.colorspace = first.color_range, first.colorspace
            context.color_primaries, context.color_trc = first.color_primaries, first.color_trc

    def _add_audio_stream(self, soundtrack: Soundtrack) -> None:
        assert self._audio_stream is not None
        self._audio_stream.layout = soundtrack.layout
        self._audio_stream.bit_rate = _AUDIO_BIT_RATE
        self._audio_stream.time_base = Fraction(1, soundtrack.rate)

    def add_frame(self, frame: VideoFrame, time: int) -> None:
        """Add a frame at `time` (ticks); a time that is not after the last one's becomes the tick after it."""
        for progressive, its_time in self._deinterlacer.add(frame, time):
            self._add_progressive(progressive, its_time)

    def _add_progressive(self, frame: VideoFrame, time: int) -> None:
        height, width = self._video_stream.height, self._video_stream.width
        is_converted = self._is_converted or _needs_conversion(frame)  # all frames have the tags of the first one
        upright = (_converted if is_converted else _upright)(frame, height, width, self._orientation)
        upright.pts = time if self._pending is None or self._pending.pts is None else max(time, self._pending.pts + 1)
        upright.time_base = self.time_base
        self._release(upright.pts)
        self._pending = upright

    def end_segment(self, end: int) -> None:
        """Show the last frame until `end` (ticks) and fill missing audio with silence."""
        for progressive, its_time in self._deinterlacer.flush():
            self._add_progressive(progressive, its_time)
        assert self._pending is not None
        assert self._pending.pts is not None
        self.end = max(end, self._pending.pts + 1)
        self._release(self.end)
        self._pending = None
        if self._audio_stream is not None:
            self.add_samples(round(self.end * self.time_base * self._audio_stream.rate), None)

    def add_samples(self, position: int, samples: Samples | None) -> None:
        """Add audio at `position` (samples from the start of the file), after silence up to there."""
        assert self._audio_stream is not None
        while self._num_samples < position:
            silence = min(position - self._num_samples, _SILENCE)
            self._add_block(np.zeros((self._audio_stream.channels, silence), np.float32))
        if samples is not None:
            self._add_block(samples[:, self._num_samples - position :])

    def _add_block(self, samples: Samples) -> None:
        self._blocks.append(samples)
        self._num_samples += samples.shape[1]
        self._encode_audio(is_last=False)

    def close(self) -> None:
        """Flush the encoders and close the file."""
        if self._audio_stream is not None:
            self._encode_audio(is_last=True)
            self._container.mux(self._audio_stream.encode(None))
        self._mux(self._video_stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Close the incomplete file."""
        self._container.close()

    def _release(self, next_time: int) -> None:
        if self._pending is not None:
            assert self._pending.pts is not None
            self._durations[self._pending.pts] = next_time - self._pending.pts
            self._mux(self._video_stream.encode(self._pending))

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)

    def _encode_audio(self, *, is_last: bool) -> None:
        """Encode all complete blocks, and the rest at the end."""
        assert self._audio_stream is not None
        num_pending = sum(block.shape[1] for block in self._blocks)
        if num_pending < _BLOCK and not (is_last and num_pending):
            return
        samples = np.concatenate(self._blocks, axis=1)
        stop = num_pending if is_last else num_pending - num_pending % _BLOCK
        first = self._num_samples - num_pending
        for start in range(0, stop, _BLOCK):
            block = np.ascontiguousarray(samples[:, start : min(start + _BLOCK, stop)])
            frame = AudioFrame.from_ndarray(block, format="fltp", layout=self._audio_stream.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = (
                self._audio_stream.rate,
                first + start,
                self._audio_stream.time_base,
            )
            self._container.mux(self._audio_stream.encode(frame))
        self._blocks = [samples[:, stop:]]


def _plain_rate(fps: float | None) -> Fraction:
    return Fraction(fps).limit_denominator(1001) if fps and fps >= 1 else Fraction(25)


def _upright(frame: VideoFrame, height: int, width: int, orientation: Orientation) -> VideoFrame:
    """Return the frame in 8-bit 4:2:0, `(height, width)` after it was turned for display."""
    stored_height, stored_width = (width, height) if orientation.is_transposed else (height, width)
    converted = frame.reformat(stored_width, stored_height, "yuv420p", interpolation="BICUBIC", threads=1)
    if orientation == UPRIGHT:
        return converted
    planes = [
        orientation.apply(plane)
        for plane in _planes(converted.to_ndarray().astype(np.uint8, copy=False), stored_height, stored_width)
    ]
    flat = np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in planes])
    return VideoFrame.from_ndarray(flat.reshape(height * 3 // 2, width), format="yuv420p")


def _converted(frame: VideoFrame, height: int, width: int, orientation: Orientation) -> VideoFrame:
    """Return the frame as `_upright` does, as SDR with the matrix of BT.709."""
    pixels = np.ascontiguousarray(frame_to_pixels(frame, FrameSize(height, width, "bicubic"), orientation))
    return VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
    )


def _needs_conversion(frame: VideoFrame) -> bool:
    """Whether the colours of a frame do not fit into 8-bit YCbCr as they are: HDR and RGB."""
    return frame.color_trc in HDR_TRANSFERS or frame.format.is_rgb


def _planes(array: NDArray[np.uint8], height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the planes of a 4:2:0 frame, which are stored one after the other in `(height * 3 / 2, width)`."""
    flat = array.reshape(-1)
    size, half = height * width, (height // 2, width // 2)
    yield flat[:size].reshape(height, width)
    yield flat[size : size * 5 // 4].reshape(half)
    yield flat[size * 5 // 4 :].reshape(half)
