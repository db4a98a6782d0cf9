"""Frame sampling of MVBench: the middles of equal parts, cropped to squares; and videos that are folders of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timechat.errors import VideoError
from timechat.video import Frames, FrameSampling, VideoReader

PICTURES_FPS = 3.0
"""Images per second in folders of images, as in TVQA."""


def segment_centres(
    num_available: int, fps: float, num_frames: int, *, start: float | None = None, end: float | None = None
) -> NDArray[np.int64]:
    """Compute the frame indices that MVBench samples: the middle of each of `num_frames` equal parts.

    Args:
        num_available: Number of frames of the video.
        fps: Frame rate of the video.
        num_frames: Number of sampled frames; a short clip repeats some frames.
        start: Start of the clip in seconds; None starts at the first frame.
        end: End of the clip in seconds; None ends at the last frame.

    Returns:
        `(num_frames,)` indices from 0, in non-decreasing order.
    """
    last = num_available - 1
    first = 0 if start is None else max(0, round(start * fps))
    stop = last if end is None else min(round(end * fps), last)
    part = (stop - first) / num_frames
    centres = first + part / 2 + np.round(part * np.arange(num_frames))
    return np.clip(centres.astype(np.int64), 0, last)


def load_segment_centres(
    path: Path,
    *,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    size: int | None = None,
    timeout: float = 600.0,
) -> Frames:
    """Load the frames that MVBench samples, with their true times.

    Args:
        path: Path of a video, or of a folder of images `00001.jpg`, `00002.jpg`, ... at 3 images per second.
        num_frames: Number of sampled frames, as in `segment_centres`.
        start: Start of the clip in seconds.
        end: End of the clip in seconds.
        size: Side of the output square in pixels: the shorter side is resized to it by Pillow, as in the original,
            and the centre is cropped. None keeps the frames unchanged.
        timeout: Time limit in seconds for reading a video.

    Raises:
        VideoError: The video cannot be read.
    """
    if path.is_dir():
        frames = load_pictures(path, num_frames=num_frames, start=start, end=end)
    else:
        with VideoReader(path, timeout=timeout) as reader:
            num_available = reader.info.num_frames or 1
            fps = num_available / reader.duration
            chosen = segment_centres(num_available, fps, num_frames, start=start, end=end)
            times = (chosen + 0.5) / fps  # half a frame, so that rounding of the file's times does not matter
            frames = reader.load(FrameSampling(timestamps=times))
    return frames if size is None else replace(frames, pixels=np.stack([_square(each, size) for each in frames.pixels]))


def load_pictures(
    folder: Path,
    *,
    num_frames: int | None = None,
    fps: float = PICTURES_FPS,
    start: float | None = None,
    end: float | None = None,
) -> Frames:
    """Load a folder of images as a video: image number n, counted from 1, starts at `(n - 1) / fps` seconds.

    Args:
        folder: Folder with the images `00001.jpg`, `00002.jpg`, ...
        num_frames: Number of frames, sampled between `start` and `end` as in MVBench; None loads all images.
        fps: Images per second.
        start: Start of the clip in seconds.
        end: End of the clip in seconds.

    Raises:
        VideoError: The folder has no images, or an image is missing or damaged.
    """
    count = sum(path.stem.isdigit() for path in folder.glob("*.jpg"))
    if not count:
        raise VideoError(f"{folder}: has no images 00001.jpg, 00002.jpg, ...")
    chosen = np.arange(count)
    if num_frames is not None:
        chosen = segment_centres(count, fps, num_frames, start=start, end=end)
    images, rows = np.unique(chosen, return_inverse=True)
    pictures = [_open(folder / f"{i + 1:05d}.jpg") for i in images]
    frames = Frames.from_images(pictures, images / fps, duration=count / fps)
    return replace(frames, pixels=frames.pixels[rows], timestamps=frames.timestamps[rows])


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise VideoError(f"{path}: no such image; the images of a folder must be numbered without a gap") from None
    except OSError as error:
        raise VideoError(f"{path}: is not an image: {error}") from error


def _square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the shorter side of `(height, width, 3)` to `size` bicubically, and crop the centre: `(size, size, 3)`."""
    height, width = pixels.shape[:2]
    sides = (int(size * width / height), size) if height <= width else (size, int(size * height / width))
    resized = np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling.BICUBIC))
    top, left = (round((length - size) / 2) for length in resized.shape[:2])
    return resized[top : top + size, left : left + size]
