"""Photos whose EXIF data say how they are shown."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from timechat.video.orientation import upright

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def photo(orientation: object) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, "PNG", exif=exif)
    return Image.open(content)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_pillow_turns_it(orientation):
    wanted = ImageOps.exif_transpose(photo(orientation))
    assert np.array_equal(np.asarray(upright(photo(orientation))), np.asarray(wanted))
    assert upright(photo(orientation)).size == ((4, 2) if orientation < 5 else (2, 4))


def test_data_that_cannot_be_read_turn_nothing(monkeypatch):
    for orientation in (0, 9, 700):
        assert np.array_equal(np.asarray(upright(photo(orientation))), PIXELS)
    image = photo(6)
    monkeypatch.setattr(image, "getexif", lambda: {}["damaged"])
    assert np.array_equal(np.asarray(upright(image)), PIXELS)
