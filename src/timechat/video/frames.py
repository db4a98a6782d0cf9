"""Values: decoded frames with their times, and the properties of a video and its streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from timechat.video.hdr import HDR_TRANSFERS, to_sdr

Interpolation = Literal["bilinear", "bicubic"]
"""Filter that resizes frames. The reader of the original TimeChat resizes bilinearly."""


def check_interpolation(name: str) -> None:
    """Raise a `ValueError` if there is no such filter."""
    if name not in get_args(Interpolation):
        raise ValueError(f"interpolation must be {' or '.join(get_args(Interpolation))}, got {name!r}")


@dataclass(frozen=True)
class FrameSize:
    """Size of frames, and how they are resized to it.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        interpolation: Filter of the decoder library (swscale), which also converts the colours.

    Raises:
        ValueError: A side is below 1 pixel, or there is no such filter.
    """

    height: int
    width: int
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.height} x {self.width}")
        check_interpolation(self.interpolation)

    @classmethod
    def of(cls, size: Size, interpolation: Interpolation = "bilinear") -> FrameSize:
        """The size that a number, a pair or a `FrameSize` means; the last one keeps its own filter."""
        if isinstance(size, FrameSize):
            return size
        height, width = (size, size) if isinstance(size, int) else size
        return cls(int(height), int(width), interpolation)


Size = int | tuple[int, int] | FrameSize
"""Height and width in pixels, or one number for both; a `FrameSize` also names the filter."""

FrameSizeRule = Callable[[int, int], FrameSize]
"""Function from the displayed height and width of a video to the size in which its frames are needed."""


@dataclass(frozen=True)
class Orientation:
    """How stored frames are turned for display.

    Attributes:
        quarter_turns: Counter-clockwise quarter turns, 0 to 3.
        is_mirrored: Whether left and right are exchanged before the turns.
    """

    quarter_turns: int = 0
    is_mirrored: bool = False

    @property
    def is_transposed(self) -> bool:
        """Whether the displayed width is the stored height."""
        return bool(self.quarter_turns % 2)

    def displayed_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Return the displayed height and width of a stored frame in pixels."""
        return (frame.width, frame.height) if self.is_transposed else (frame.height, frame.width)

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a stored picture or plane `(height, width, ...)` for display."""
        return np.rot90(picture[:, ::-1] if self.is_mirrored else picture, self.quarter_turns)


UPRIGHT = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation that the display matrix of a frame gives; upright without one.

    A matrix with a negative determinant mirrors. Of a photo with EXIF data only the turn is known, because PyAV cannot
    read its matrix.
    """
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # a kind of side data without a name in PyAV
        return Orientation(round(frame.rotation / 90) % 4)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, count=5).tolist()  # x' = a x + c y, y' = b x + d y
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return Orientation(round(-math.atan2(b, a) / (math.pi / 2)) % 4, is_mirrored)


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a container.

    Attributes:
        index: Index of the stream in the container.
        kind: `video`, `audio`, `subtitle`, `data` or `attachment`; cover art is a `picture`.
        codec: Name of the codec; None if the decoder library has no decoder.
        language: Language tag, or None.
        width: Width in pixels; None for streams without pictures.
        height: Height in pixels; None for streams without pictures.
        rate: Average frames per second of video, samples per second of audio, None for other streams.
    """

    index: int
    kind: str
    codec: str | None
    language: str | None = None
    width: int | None = None
    height: int | None = None
    rate: float | None = None


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video, from its container and its first frame.

    Attributes:
        name: Path, address, or a description of the source.
        format: Name of the container format.
        codec: Codec of the stream that is sampled.
        width: Displayed width in pixels, after rotation.
        height: Displayed height in pixels, after rotation.
        rotation: Degrees counter-clockwise by which stored frames are rotated for display, a multiple of 90.
        pixel_format: Pixel format as the decoder library names it, such as `yuv420p10le`.
        fps: Average frames per second; None if the container does not state them.
        num_frames: Number of frames; None if the container does not state it. Exact after frames were loaded.
        duration: Seconds from the first frame to the end of the last frame; an estimate until frames were loaded.
        start_time: Time of the first frame in the container, in seconds.
        stream: Index of the stream that is sampled.
        streams: All streams of the container.
        is_mirrored: Whether left and right of stored frames are exchanged for display, before the rotation.
        pixel_aspect: Displayed width of a pixel divided by its height, after rotation.
        player_offset: Seconds by which the clock of players is ahead of the clock of the frames: players count from
            the start of the file, where audio may begin earlier than the frames. It is added in subtitles, chapters
            and pages.
        max_pixels: Largest width times height that a stream states or the first frame has.
        start_timecode: Timecode of the first frame as the file states it, such as `10:20:30:05`, or `10:20:30;05` for
            drop-frame timecode; None if it states none.
        created: Time at which the video was recorded or written, as its container states it, in UTC; None if it states
            none.
    """

    name: str
    format: str
    codec: str
    width: int
    height: int
    rotation: int
    pixel_format: str
    fps: float | None
    num_frames: int | None
    duration: float
    start_time: float
    stream: int
    streams: tuple[StreamInfo, ...]
    is_mirrored: bool = False
    pixel_aspect: float = 1.0
    player_offset: float = 0.0
    max_pixels: int = 0
    start_timecode: str | None = None
    created: datetime | None = None

    @property
    def orientation(self) -> Orientation:
        """Turn of stored frames for display."""
        return Orientation(self.rotation // 90 % 4, self.is_mirrored)

    @property
    def has_audio(self) -> bool:
        """Whether the video has an audio stream."""
        return any(stream.kind == "audio" for stream in self.streams)


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of a video with their true times.

    Attributes:
        pixels: uint8 `(frames, height, width, 3)`, RGB.
        timestamps: float64 `(frames,)`, seconds on the video's clock, never decreasing.
        duration: Duration in seconds of the whole video, even if only a part of it was sampled.
        source: Properties of the file; None for ready-made frames.
        notes: Notes for readers, such as the number of damaged frames.
    """

    pixels: NDArray[np.uint8]
    timestamps: NDArray[np.float64]
    duration: float
    source: VideoInfo | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, timestamps = np.asarray(self.pixels), np.asarray(self.timestamps, dtype=np.float64)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise ValueError(
                "pixels must be uint8 (frames, height, width, 3) with at least one frame, "
                f"got {pixels.dtype} {pixels.shape}"
            )
        if timestamps.shape != pixels.shape[:1]:
            raise ValueError(f"timestamps must be ({len(pixels)},), one for each frame, got shape {timestamps.shape}")
        if not np.isfinite(timestamps).all() or (np.diff(timestamps) < 0).any():
            raise ValueError(f"timestamps must be seconds in rising order, got {timestamps.tolist()}")
        if not np.isfinite(self.duration) or self.duration < 0:
            raise ValueError(f"duration must be seconds, at least 0, got {self.duration}")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "timestamps", timestamps)
        object.__setattr__(self, "duration", float(self.duration))
        object.__setattr__(self, "notes", tuple(self.notes))

    @classmethod
    def from_images(
        cls,
        images: Iterable[ArrayLike | Image.Image],
        timestamps: ArrayLike,
        *,
        duration: float | None = None,
        size: Size | None = None,
    ) -> Frames:
        """Make frames from images.

        Args:
            images: Pillow images or arrays `(height, width, 3)` uint8 RGB; an array `(frames, height, width, 3)`.
            timestamps: `(frames,)`, increasing seconds.
            duration: Duration in seconds; None takes the last time plus the average interval.
            size: Size as in `load_frames`; without it, all images must have the same size.
        """
        pictures = [np.asarray(i.convert("RGB") if isinstance(i, Image.Image) else i) for i in images]
        if len({picture.shape for picture in pictures}) > 1 and size is None:
            raise ValueError("images must all have one size; give size=(height, width) to resize them")
        if size is not None:
            pictures = [resize(picture, FrameSize.of(size)) for picture in pictures]
        times = np.asarray(timestamps, dtype=np.float64)
        if duration is None:
            duration = float(times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1)) if times.size else 0.0
        return cls(np.stack(pictures) if pictures else np.empty((0,), np.uint8), times, duration)

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        frames, height, width, _ = self.pixels.shape
        name = f" of {self.source.name!r}" if self.source else ""
        return (
            f"<{frames} frames{name}, {width}x{height}, {self.timestamps[0]:.3f} to "
            f"{self.timestamps[-1]:.3f} s of {self.duration:.3f} s>"
        )


def frame_to_pixels(frame: VideoFrame, size: FrameSize, orientation: Orientation = UPRIGHT) -> NDArray[np.uint8]:
    """Return a decoded frame as RGB `(height, width, 3)`: resized by the decoder library, then turned for display.

    Frames of HDR videos become SDR frames, see `timechat.video.hdr`.
    """
    height, width = (size.width, size.height) if orientation.is_transposed else (size.height, size.width)
    interpolation = size.interpolation.upper()
    if frame.color_trc in HDR_TRANSFERS:
        deep = frame.reformat(width, height, "rgb48le", interpolation=interpolation, threads=1)
        codes: NDArray[np.uint16] = deep.to_ndarray().astype(np.uint16, copy=False)
        pixels = to_sdr(codes, int(frame.color_trc), int(frame.color_primaries))
    else:
        rgb = frame.reformat(width, height, "rgb24", interpolation=interpolation, threads=1)
        pixels = rgb.to_ndarray().astype(np.uint8, copy=False)
    return pixels if orientation == UPRIGHT else orientation.apply(pixels)


def resize(picture: NDArray[np.uint8], size: FrameSize) -> NDArray[np.uint8]:
    """Resize RGB `(height, width, 3)` with the filter of decoded frames."""
    if picture.shape[:2] == (size.height, size.width):
        return picture
    return frame_to_pixels(VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"), size)
