"""Augmentation of training videos: one random resized crop for all frames of a video."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from timechat.video import Frames

_AREA = (0.5, 1.0)  # share of the frame area
_RATIO = (3 / 4, 4 / 3)  # width to height
_ATTEMPTS = 10


def random_resized_crop(frames: Frames, generator: np.random.Generator) -> Frames:
    """Crop the same random part of every frame and resize it to the size of the frames.

    Area, ratio and filter are those of the original. Values that the filter moves below 0 or above 255 are clipped. In
    the original they wrap around, so bright edges get black specks.
    """
    height, width = frames.pixels.shape[1:3]
    top, left, crop_height, crop_width = draw_crop(height, width, generator)
    part = frames.pixels[:, top : top + crop_height, left : left + crop_width]
    pixels = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float()
    pixels = functional.interpolate(pixels, size=(height, width), mode="bicubic", align_corners=False)
    pixels = pixels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return replace(frames, pixels=pixels.contiguous().numpy())


def draw_crop(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop in pixels; the whole frame if ten draws do not fit into it."""
    for _ in range(_ATTEMPTS):
        area = height * width * generator.uniform(*_AREA)
        ratio = math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(0, height - crop_height + 1))
            left = int(generator.integers(0, width - crop_width + 1))
            return top, left, crop_height, crop_width
    return 0, 0, height, width
