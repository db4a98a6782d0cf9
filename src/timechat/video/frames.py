"""The value types: frames with their times, and what a video is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Size = int | tuple[int, int]
"""Height and width in pixels, or one number for both."""


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a container.

    Attributes:
        index: its place in the container.
        kind: `video`, `audio`, `subtitle`, `data` or `attachment`; cover art is a `picture`.
        codec: the codec's name, or None where the decoder library knows none.
        language: as tagged, or None.
        width: pixels, None for streams without pictures.
        height: pixels, None for streams without pictures.
        rate: average frames per second of a video, samples per second of audio, else None.
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
    """What a video is, told by its container and its first picture.

    Attributes:
        name: path, address, or a description of what was given.
        format: the container's name.
        codec: of the stream that is sampled.
        width: pixels, as displayed (after rotation).
        height: pixels, as displayed (after rotation).
        rotation: degrees counter-clockwise by which stored pictures are turned for display.
        pixel_format: the decoder library's name, such as `yuv420p10le`.
        fps: average frames per second, None where the container does not say.
        num_frames: number of frames, None where the container does not say. Exact once frames were loaded.
        duration: seconds from the first frame to the end of the last; an estimate until frames were loaded.
        start_time: the container's own time of the first frame, in seconds.
        stream: index of the stream that is sampled.
        streams: all streams of the container.
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

    @property
    def has_audio(self) -> bool:
        """True if there is a sound track."""
        return any(stream.kind == "audio" for stream in self.streams)


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of a video with their true times.

    Attributes:
        pixels: uint8 `(frames, height, width, 3)`, RGB.
        timestamps: float64 `(frames,)`, seconds on the video's clock, never falling.
        duration: seconds, of the whole video, also where only a part of it was sampled.
        source: facts of the file, None for ready-made frames.
        notes: what a reader should know: frames lost to damage, keyframes taken for exact frames.
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
        """Make frames of ready pictures.

        Args:
            images: Pillow images or arrays `(height, width, 3)` uint8 RGB; an array `(frames, height, width, 3)`.
            timestamps: `(frames,)`, seconds, rising.
            duration: seconds; None takes the last time plus the average gap.
            size: as in `load_frames`; without it all pictures must have one size.
        """
        pictures = [np.asarray(i.convert("RGB") if isinstance(i, Image.Image) else i) for i in images]
        if len({picture.shape for picture in pictures}) > 1 and size is None:
            raise ValueError("images must all have one size; give size=(height, width) to resize them")
        if size is not None:
            height, width = height_width(size)
            pictures = [resize(picture, height, width) for picture in pictures]
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


def frame_to_pixels(frame: VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    """A decoded frame as RGB `(height, width, 3)`: resized by the decoder library, then turned for display."""
    quarter_turns = round(frame.rotation / 90) % 4
    stored_height, stored_width = (width, height) if quarter_turns % 2 else (height, width)
    rgb = frame.reformat(stored_width, stored_height, "rgb24", interpolation="BICUBIC", threads=1)
    return np.rot90(rgb.to_ndarray(), quarter_turns)


def resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize RGB `(height, width, 3)` with the filter that decoded frames get."""
    if picture.shape[:2] == (height, width):
        return picture
    return frame_to_pixels(VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"), height, width)


def height_width(size: Size) -> tuple[int, int]:
    """A size in pixels as `(height, width)`."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    return int(height), int(width)
