import io

import numpy as np
import pytest
from PIL import Image

from tests.backbones.endpoint.stub import gray_frames
from timechat.backbones.endpoint.pictures import EncodedPictures, PictureFormat, PictureLimits, encode_picture
from timechat.errors import EndpointError

TOO_LONG = EndpointError("no", "too_large", "maximum context length is 4096 tokens")
AT_MOST_8 = EndpointError("no", "too_large", "At most 8 image(s) may be provided in one prompt.")


def opened(jpeg):
    return Image.open(io.BytesIO(jpeg))


@pytest.mark.parametrize(
    ("size", "max_side", "sent"),
    [
        ((1080, 1920), 512, (288, 512)),
        ((1920, 1080), 448, (448, 252)),
        ((40, 80), 512, (40, 80)),
        ((600, 2), 16, (16, 1)),
    ],
)
def test_longer_side_is_limited_and_never_enlarged(size, max_side, sent):
    picture = Image.open(io.BytesIO(encode_picture(np.zeros((*size, 3), np.uint8), PictureFormat(max_side))))
    assert picture.size == sent[::-1]


def test_size_without_limit_and_lower_quality_are_kept():
    noise = np.random.default_rng(0).integers(0, 256, (600, 700, 3), dtype=np.uint8)
    high, low = (encode_picture(noise, PictureFormat(None, quality)) for quality in (90, 30))
    assert Image.open(io.BytesIO(high)).size == (700, 600)
    assert len(low) < len(high) / 2


def test_formats_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_side must be at least 16 pixels or None, got 8"):
        PictureFormat(8)
    with pytest.raises(ValueError, match="quality must be from 1 to 95, got 100"):
        PictureFormat(quality=100)


def test_window_is_encoded_once_with_its_own_times():
    checks: list[None] = []
    pictures = EncodedPictures.of(gray_frames([0.0, 0.52, 3.04], duration=4.5), check=lambda: checks.append(None))
    assert (pictures.times, pictures.duration, pictures.size) == ((0.0, 0.52, 3.04), 4.5, (40, 80))
    assert [abs(np.asarray(opened(jpeg)).mean() - 50 * i) < 2 for i, jpeg in enumerate(pictures.jpegs)] == [True] * 3
    assert len(checks) == 3
    assert pictures.within(PictureLimits()) is pictures
    assert pictures.within(PictureLimits(80, 3)) is pictures


def test_fewer_pictures_keep_their_own_times():
    pictures = EncodedPictures.of(gray_frames([0.0, 0.1, 0.5, 2.0, 2.1, 7.3]))
    fewer = pictures.within(PictureLimits(max_frames=3))
    assert fewer.times == (0.0, 0.5, 7.3)
    assert fewer.jpegs == tuple(pictures.jpegs[i] for i in (0, 2, 5))


def test_smaller_pictures_keep_their_aspect_ratio():
    smaller = EncodedPictures.of(gray_frames([0.0, 1.0], 360, 640)).within(PictureLimits(max_side=160))
    assert smaller.size == (90, 160)
    assert [opened(jpeg).size for jpeg in smaller.jpegs] == [(160, 90)] * 2
    assert abs(np.asarray(opened(smaller.jpegs[1])).mean() - 50) < 2


def test_sides_are_halved_first_then_numbers_of_pictures():
    pictures, tried = EncodedPictures.of(gray_frames([0.0, 1.0, 2.0, 3.0], 288, 512)), []
    limits = PictureLimits()
    while (lower := pictures.within(limits).lower_limits(TOO_LONG)) is not None:
        limits = limits & lower
        tried.append((limits.max_side, limits.max_frames))
    assert tried == [(256, None), (128, None), (112, None), (112, 2), (112, 1)]


def test_stated_number_of_pictures_is_taken_at_once():
    pictures = EncodedPictures.of(gray_frames([float(i) for i in range(20)], 20, 20))
    assert pictures.lower_limits(AT_MOST_8) == PictureLimits(max_frames=8)
    assert pictures.within(PictureLimits(max_frames=8)).lower_limits(AT_MOST_8) == PictureLimits(max_frames=4)


@pytest.mark.parametrize(
    ("limits", "notes"),
    [
        (PictureLimits(), ()),
        (PictureLimits(256), ("frames in pictures of at most 256 pixels a side",)),
        (PictureLimits(None, 8), ("at most 8 frames of each window",)),
        (PictureLimits(256, 8), ("at most 8 frames of each window in pictures of at most 256 pixels a side",)),
    ],
)
def test_notes_say_what_was_sent(limits, notes):
    assert limits.notes == tuple(f"the server refuses larger requests, so {note} were sent" for note in notes)
