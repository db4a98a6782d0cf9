"""Frames as JPEG pictures with their true times: encoded once for a window, smaller where a server demands it."""

import io
import re
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from timechat.backbones.backbone import Check
from timechat.errors import EndpointError
from timechat.video import Frames
from timechat.video.frames import FrameSize, resize

_MIN_SIDE = 112  # pixels; below, no picture is made smaller
_STATED_LIMIT = re.compile(r"at most (\d{1,6}) image", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """How frames are sent.

    Attributes:
        max_side: Maximum length of the longer side in pixels; None sends frames in their own size. Frames are never
            enlarged.
        quality: JPEG quality, 1 to 95.
    """

    max_side: int | None = 512
    quality: int = 85

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 16:
            raise ValueError(f"max_side must be at least 16 pixels or None, got {self.max_side}")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be from 1 to 95, got {self.quality}")

    def size(self, height: int, width: int) -> FrameSize:
        """Return the size in which a frame is sent; the aspect ratio is kept."""
        scale = min(1.0, (self.max_side or max(height, width)) / max(height, width))
        return FrameSize(max(1, round(height * scale)), max(1, round(width * scale)), "bicubic")


DEFAULT_PICTURES = PictureFormat()


def encode_picture(pixels: NDArray[np.uint8], pictures: PictureFormat = DEFAULT_PICTURES) -> bytes:
    """Return a frame `(height, width, 3)` as JPEG, in the size and quality of the format."""
    content = io.BytesIO()
    smaller = resize(pixels, pictures.size(*pixels.shape[:2]))
    Image.fromarray(np.ascontiguousarray(smaller)).save(content, "JPEG", quality=pictures.quality)
    return content.getvalue()


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a server takes in one request, learned from its refusals; None where nothing is known.

    Attributes:
        max_side: Maximum length of the longer side of a picture in pixels.
        max_frames: Maximum number of pictures.
    """

    max_side: int | None = None
    max_frames: int | None = None

    def __and__(self, other: "PictureLimits") -> "PictureLimits":
        """Return the limits that satisfy both."""
        return PictureLimits(_lower(self.max_side, other.max_side), _lower(self.max_frames, other.max_frames))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for readers of an answer that was made within these limits."""
        side = f"in pictures of at most {self.max_side} pixels a side"
        number = f"at most {self.max_frames} frames of each window"
        sent = [text for text, limit in ((number, self.max_frames), (side, self.max_side)) if limit is not None]
        if not sent:
            return ()
        words = " ".join(sent if self.max_frames is not None else ["frames", *sent])
        return (f"the server refuses larger requests, so {words} were sent",)


@dataclass(frozen=True, eq=False)
class EncodedPictures:
    """The frames of a window as JPEG pictures.

    Attributes:
        jpegs: Content of each picture.
        times: Time of each picture in seconds on the clock of the window.
        duration: Duration of the window in seconds.
        size: Height and width of the pictures in pixels.
        quality: JPEG quality.
    """

    jpegs: tuple[bytes, ...] = field(repr=False)
    times: tuple[float, ...]
    duration: float
    size: tuple[int, int]
    quality: int

    @classmethod
    def of(
        cls, frames: Frames, pictures: PictureFormat = DEFAULT_PICTURES, check: Check = lambda: None
    ) -> "EncodedPictures":
        """Encode frames.

        Args:
            frames: Frames with times on the clock of the window.
            pictures: Size and quality of the pictures.
            check: Function that is called before each picture and can raise.
        """
        jpegs = []
        for pixels in frames.pixels:
            check()
            jpegs.append(encode_picture(pixels, pictures))
        size = pictures.size(*frames.pixels.shape[1:3])
        times = tuple(frames.timestamps.tolist())
        return cls(tuple(jpegs), times, frames.duration, (size.height, size.width), pictures.quality)

    @cached_property
    def num_bytes(self) -> int:
        """Number of bytes of all pictures."""
        return sum(map(len, self.jpegs))

    def within(self, limits: PictureLimits) -> "EncodedPictures":
        """Return these pictures within limits: fewer ones, evenly spread and with their own times, and smaller ones."""
        kept = self._spread(limits.max_frames)
        if limits.max_side is None or limits.max_side >= max(kept.size):
            return kept
        smaller = PictureFormat(limits.max_side, kept.quality)
        jpegs = tuple(encode_picture(_decode(jpeg), smaller) for jpeg in kept.jpegs)
        size = smaller.size(*kept.size)
        return replace(kept, jpegs=jpegs, size=(size.height, size.width))

    def lower_limits(self, error: EndpointError) -> PictureLimits | None:
        """Return limits to try after a server has refused these pictures as too large; None if there are none.

        A number of pictures that the server states is taken as it is. Otherwise the side is halved first, down to 112
        pixels, then the number of pictures.
        """
        number = len(self.jpegs)
        stated = stated_picture_limit(error)
        if stated is not None and 1 <= stated < number:
            return PictureLimits(max_frames=stated)
        if max(self.size) > _MIN_SIDE:
            return PictureLimits(max_side=max(_MIN_SIDE, max(self.size) // 2))
        return PictureLimits(max_frames=number // 2) if number > 1 else None

    def _spread(self, max_frames: int | None) -> "EncodedPictures":
        if max_frames is None or max_frames >= len(self.jpegs):
            return self
        places = [round(place) for place in np.linspace(0, len(self.jpegs) - 1, max_frames).tolist()]
        chosen = tuple(self.jpegs[i] for i in places), tuple(self.times[i] for i in places)
        return replace(self, jpegs=chosen[0], times=chosen[1])


def stated_picture_limit(error: EndpointError) -> int | None:
    """Return the maximum number of pictures in one request that the server states in its refusal; None without one."""
    found = _STATED_LIMIT.search(error.detail)
    return int(found[1]) if found else None


def _decode(jpeg: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def _lower(first: int | None, second: int | None) -> int | None:
    known = [value for value in (first, second) if value is not None]
    return min(known, default=None)
