"""Photos as they are shown: EXIF data can say that a picture is turned or mirrored."""

from PIL import Image
from PIL.Image import Transpose

_ORIENTATION = 0x0112  # tag of EXIF
_STEPS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
    """Return an image in RGB, turned as its EXIF data says; data that cannot be read turn nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow raises errors of many types for damaged data
        orientation = None
    shown = image.convert("RGB")
    step = _STEPS.get(orientation) if isinstance(orientation, int) else None
    return shown if step is None else shown.transpose(step)
