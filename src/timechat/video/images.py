"""Decoded frames as RGB arrays of the size and orientation in which they are wanted."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Size = int | tuple[int, int]


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
