"""MVBench's own way of looking: the middles of equal parts, as squares; and videos that are folders of pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timechat.errors import VideoError
from timechat.video import Frames, FrameSampling, VideoReader

PICTURES_FPS = 3.0
"""Pictures a second in folders of pictures, as TVQA has them."""


def segment_centres(
    num_available: int, fps: float, num_frames: int, *, start: float | None = None, end: float | None = None
) -> NDArray[np.int64]:
    """Which frames MVBench looks at: one in the middle of each of equally many parts.

    Args:
        num_available: Frames of the video.
        fps: Frame rate of the video.
        num_frames: Number of frames; a short clip repeats some of them.
        start: Seconds; None begins with the first frame.
        end: Seconds; None ends with the last.

    Returns:
        `(num_frames,)` indices from 0, never falling.
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
    """Load the frames that MVBench looks at, with their true times.

    Args:
        path: A video, or a folder of pictures `00001.jpg`, `00002.jpg`, ... at 3 a second.
        num_frames: As in `segment_centres`.
        start: Seconds.
        end: Seconds.
        size: Pixels of the square that is cut from the middle, once the shorter side is as long; None keeps pictures
            whole, as they are.
        timeout: Seconds after which reading a video is given up.

    Raises:
        VideoError: It cannot be read.
    """
    if path.is_dir():
        frames = load_pictures(path, num_frames=num_frames, start=start, end=end, size=size)
    else:
        with VideoReader(path, timeout=timeout) as reader:
            num_available = reader.info.num_frames or 1
            fps = num_available / reader.duration
            chosen = segment_centres(num_available, fps, num_frames, start=start, end=end)
            shape = None if size is None else _short_side(reader.info.height, reader.info.width, size)
            times = (chosen + 0.5) / fps  # half way, whatever the rounding of the file's times
            frames = reader.load(FrameSampling(timestamps=times), size=shape)
    return frames if size is None else replace(frames, pixels=_middle(frames.pixels, size))


def load_pictures(
    folder: Path,
    *,
    num_frames: int | None = None,
    fps: float = PICTURES_FPS,
    start: float | None = None,
    end: float | None = None,
    size: int | None = None,
) -> Frames:
    """Load a folder of images as a video: image number n, from 1, is shown from `(n - 1) / fps` seconds.

    Args:
        folder: Folder with the images `00001.jpg`, `00002.jpg`, ...
        num_frames: Number of frames, chosen between `start` and `end` as MVBench does; None loads all images.
        fps: Images per second.
        start: Start of the stretch in seconds.
        end: End of the stretch in seconds.
        size: Pixels of the shorter side; None keeps the pictures' size.

    Raises:
        VideoError: There is none, or one is missing or damaged.
    """
    count = sum(path.stem.isdigit() for path in folder.glob("*.jpg"))
    if not count:
        raise VideoError(f"{folder}: has no pictures 00001.jpg, 00002.jpg, ...")
    chosen = np.arange(count)
    if num_frames is not None:
        chosen = segment_centres(count, fps, num_frames, start=start, end=end)
    images, rows = np.unique(chosen, return_inverse=True)
    pictures = [_open(folder / f"{i + 1:05d}.jpg") for i in images]
    shape = None if size is None else _short_side(pictures[0].height, pictures[0].width, size)
    frames = Frames.from_images(pictures, images / fps, duration=count / fps, size=shape)
    return replace(frames, pixels=frames.pixels[rows], timestamps=frames.timestamps[rows])


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise VideoError(f"{path}: no such picture; the folder's pictures must be numbered without a gap") from None
    except OSError as error:
        raise VideoError(f"{path}: is no picture: {error}") from error


def _short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width in pixels with the shorter side as long as `size`, in the same proportion."""
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def _middle(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The square in the middle: `(frames, size, size, 3)`."""
    top, left = (round((length - size) / 2) for length in pixels.shape[1:3])
    return np.ascontiguousarray(pixels[:, top : top + size, left : left + size])
