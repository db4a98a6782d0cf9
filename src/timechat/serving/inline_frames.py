"""Frames that come with a request, cut out of a video by the client itself."""

import base64
import binascii
import hashlib
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from timechat.serving.errors import RequestError
from timechat.video import Frames
from timechat.video.images import resize

_MAX_PICTURE_PIXELS = 4096 * 4096
_MAX_ALL_PIXELS = 400_000_000


@dataclass(frozen=True)
class InlineFrames:
    """Pictures as they were sent, not decoded yet.

    Attributes:
        urls: A `data:` address each.
        times: Seconds, rising.
        duration: Seconds of the video; None takes the last time plus the average gap.
    """

    urls: tuple[str, ...] = field(repr=False)
    times: tuple[float, ...]
    duration: float | None

    @property
    def key(self) -> str:
        """The same for the same frames."""
        digest = hashlib.sha256(repr((self.times, self.duration)).encode())
        for url in self.urls:
            digest.update(hashlib.sha256(url.encode("utf-8", "surrogateescape")).digest())
        return digest.hexdigest()

    def decode(self, size: int) -> Frames:
        """Decode the pictures, one after the other.

        Args:
            size: Height and width in pixels to which each is brought, as the model sees it.

        Raises:
            RequestError: One is no picture, or is too large; or the times are none of a video.
        """
        num_pixels = 0
        pixels = np.empty((len(self.urls), size, size, 3), np.uint8)
        for i, url in enumerate(self.urls):
            picture = _decode_image(url, f"frames[{i}]")
            num_pixels += picture.width * picture.height
            if num_pixels > _MAX_ALL_PIXELS:
                raise RequestError(
                    413, f"the frames have more than {_MAX_ALL_PIXELS} pixels together; send smaller ones", "frames"
                )
            pixels[i] = resize(np.asarray(picture), size, size)
        try:
            frames = Frames.from_images(pixels, self.times, duration=self.duration)
        except ValueError as error:
            raise RequestError(400, str(error), "frames") from error
        if not frames.duration:
            raise RequestError(
                400, "the frames show no time that passes; say how long, as duration in seconds", "duration"
            )
        return frames


def _decode_image(url: str, where: str) -> Image.Image:
    head, _, content = url.partition(",")
    if not (head.lower().startswith("data:image/") and head.lower().endswith(";base64")):
        raise RequestError(400, "a frame must be a data:image/…;base64 address", where)
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)), formats=("JPEG", "PNG", "WEBP"))
        if picture.width * picture.height > _MAX_PICTURE_PIXELS:
            raise RequestError(413, f"a picture of {picture.width}x{picture.height} pixels is too large", where)
        return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        raise RequestError(413, "a picture is too large", where) from error
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise RequestError(400, "is no JPEG, PNG or WebP picture", where) from error
