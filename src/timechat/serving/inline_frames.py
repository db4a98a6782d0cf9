"""Frames in a request, extracted from a video by the client."""

import base64
import binascii
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from timechat.serving.errors import RequestError
from timechat.video import Frames
from timechat.video.frames import FrameSizeRule, resize
from timechat.video.limits import MAX_SCANS, num_scans
from timechat.video.orientation import upright

_MAX_IMAGE_PIXELS = 4096 * 4096
_MAX_TOTAL_PIXELS = 400_000_000


@dataclass(frozen=True)
class InlineFrames:
    """Encoded images with their times.

    Attributes:
        urls: `data:` address of each image.
        times: Time of each image in seconds, in rising order.
        duration: Duration of the video in seconds; None takes the last time plus the average interval.
        is_one_window: Whether the client has chosen the frames for one prompt: all of them are read, in one window.
    """

    urls: tuple[str, ...] = field(repr=False)
    times: tuple[float, ...]
    duration: float | None
    is_one_window: bool = False

    @property
    def key(self) -> str:
        """Key of the content: equal for equal frames."""
        digest = hashlib.sha256(repr((self.times, self.duration, self.is_one_window)).encode())
        for url in self.urls:
            digest.update(hashlib.sha256(url.encode("utf-8", "surrogateescape")).digest())
        return digest.hexdigest()

    def decode(self, frame_size: FrameSizeRule, check: Callable[[], object] = lambda: None) -> Frames:
        """Decode the images one after the other.

        Args:
            frame_size: Function that gives the size of all frames from the height and width of the first image.
            check: Function called before each image; an exception it raises ends the decoding.

        Raises:
            RequestError: An image cannot be read or is too large, or the times are not those of a video.
        """
        num_pixels = 0
        size, pixels = None, np.empty((0, 1, 1, 3), np.uint8)
        for i, url in enumerate(self.urls):
            check()
            image = decode_picture(url, f"frames[{i}]")
            num_pixels += image.width * image.height
            if num_pixels > _MAX_TOTAL_PIXELS:
                raise RequestError(
                    413, f"the frames have more than {_MAX_TOTAL_PIXELS} pixels together; send smaller ones", "frames"
                )
            if size is None:
                size = frame_size(image.height, image.width)
                pixels = np.empty((len(self.urls), size.height, size.width, 3), np.uint8)
            pixels[i] = resize(np.asarray(image), size)
        try:
            frames = Frames.from_images(pixels, self.times, duration=self.duration)
        except ValueError as error:
            raise RequestError(400, str(error), "frames") from error
        if not frames.duration:
            raise RequestError(400, "the frames have no duration; give duration in seconds", "duration")
        return frames


def decode_picture(url: str, where: str) -> Image.Image:
    """Decode a picture of a request, turned as its EXIF data says, within the limits of size and of JPEG scans.

    Args:
        url: `data:` address of a JPEG, PNG or WebP image.
        where: Name of the field for messages.

    Raises:
        RequestError: It cannot be read or is too large.
    """
    head, _, content = url.partition(",")
    if not (head.lower().startswith("data:image/") and head.lower().endswith(";base64")):
        raise RequestError(400, "a picture must be a data:image/…;base64 address", where)
    try:
        data = base64.b64decode(content, validate=True)
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        if image.width * image.height > _MAX_IMAGE_PIXELS:
            raise RequestError(413, f"an image of {image.width}x{image.height} pixels is too large", where)
        if image.format == "JPEG" and (scans := num_scans(data)) > MAX_SCANS:
            raise RequestError(413, f"a JPEG image has {scans} scans; at most {MAX_SCANS} are decoded", where)
        return upright(image)
    except Image.DecompressionBombError as error:
        raise RequestError(413, "an image is too large", where) from error
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise RequestError(400, "is not a JPEG, PNG or WebP image", where) from error
