"""Render frames of synthetic videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from timechat.synthetic.backgrounds import Background
from timechat.synthetic.scene import COLORS, GROWTH, Action, Object, SyntheticVideo

_OVERSAMPLING = 3  # objects are drawn this many times larger, then reduced, for smooth edges
_BOUNCE = 0.13  # height of a bounce, as a share of the frame's height
_MARK_OPACITY = 70  # of 255
_NOISE_TILE = 256  # number of offsets of a frame's noise in each direction


@dataclass(frozen=True, slots=True)
class Appearance:
    """Appearance of an object at one time.

    Attributes:
        x: Center, as a share of the frame's width; may lie outside the frame.
        y: Center, as a share of the frame's height.
        radius: Radius, as a share of the frame's shorter side.
        angle: Rotation in degrees.
        opacity: Opacity from 0 (invisible) to 1 (opaque).
        color: RGB color.
    """

    x: float
    y: float
    radius: float
    angle: float
    opacity: float
    color: tuple[int, int, int]


def appearance_at(video: SyntheticVideo, index: int, time: float) -> Appearance:
    """Appearance of the object with this index at `time` seconds."""
    obj = video.objects[index]
    look = Appearance(
        *obj.home,
        radius=obj.radius * (GROWTH if obj.starts_big else 1.0),
        angle=0.0,
        opacity=1.0 if obj.is_present else 0.0,
        color=COLORS[obj.color],
    )
    for action in video.actions:
        if action.object == index and action.start <= time:
            done = min(1.0, (time - action.start) / (action.end - action.start))
            look = _apply_action(look, obj, action, done)
    return look


def _apply_action(look: Appearance, obj: Object, action: Action, done: float) -> Appearance:
    """Change an appearance by the share `done` (0 to 1) of an action."""
    cycles = (action.end - action.start) / action.period * done if action.period else 0.0
    match action.kind:
        case "appear":
            x, y = action.target or (look.x, look.y)
            return replace(look, x=x, y=y, opacity=done)
        case "leave":
            return _towards(look, action, done, opacity=0.0 if done == 1 else look.opacity)
        case "move":
            return _towards(look, action, done)
        case "meet":  # come, touch, go back
            return _towards(look, action, min(1.0, done / 0.4, (1 - done) / 0.4))
        case "bounce":
            height = _BOUNCE * abs(math.sin(math.pi * cycles))  # down where there is no space above
            return replace(look, y=look.y - height if look.y > 0.4 else look.y + height)
        case "spin":
            return replace(look, angle=360 * (cycles % 1))
        case "grow" | "shrink":
            small, big = obj.radius, obj.radius * GROWTH
            begin, end = (small, big) if action.kind == "grow" else (big, small)
            return replace(look, radius=begin + (end - begin) * done)
        case "blink":
            return replace(look, opacity=look.opacity if cycles % 1 < 0.5 or done == 1 else 0.0)
        case "recolor":
            assert action.color is not None
            share = min(1.0, done / 0.15, (1 - done) / 0.15)
            pairs = zip(look.color, COLORS[action.color], strict=True)
            red, green, blue = (round(own + (other - own) * share) for own, other in pairs)
            return replace(look, color=(red, green, blue))


def _towards(look: Appearance, action: Action, share: float, *, opacity: float | None = None) -> Appearance:
    assert action.target is not None
    x, y = action.target
    opacity = look.opacity if opacity is None else opacity
    return replace(look, x=look.x + (x - look.x) * share, y=look.y + (y - look.y) * share, opacity=opacity)


def draw_frames(
    video: SyntheticVideo,
    times: Sequence[float] | NDArray[np.float64],
    width: int | None = None,
    height: int | None = None,
) -> NDArray[np.uint8]:
    """Render the frames of a video at the given times.

    Args:
        video: Script of the video.
        times: Times `(frames,)` in seconds.
        width: Width of the frames in pixels; None takes that of the video.
        height: Height of the frames in pixels; None takes that of the video.

    Returns:
        RGB pixels `(frames, height, width, 3)`.
    """
    size = (width or video.width, height or video.height)
    return np.stack([_draw_frame(video, float(time), *size) for time in times])


def _draw_frame(video: SyntheticVideo, time: float, width: int, height: int) -> NDArray[np.uint8]:
    background = max((item for item in video.backgrounds if item.start <= time), key=lambda item: item.start)
    image = Image.fromarray(_draw_background(background, width, height))
    rng = np.random.default_rng([round(time * 1000), background.seed])
    shake = rng.uniform(-video.shake, video.shake, 2) if video.shake else (0.0, 0.0)
    for i, obj in enumerate(video.objects):
        look = appearance_at(video, i, time)
        if look.opacity > 0:
            _paint(image, obj, replace(look, x=look.x + shake[0], y=look.y + shake[1]))
    pixels: NDArray[np.uint8] = np.asarray(image)
    if video.noise:
        top, left = rng.integers(0, _NOISE_TILE, 2)
        noise = video.noise * _noise(height, width)[top : top + height, left : left + width]
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels


@lru_cache(maxsize=8)
def _noise(height: int, width: int) -> NDArray[np.float32]:
    """Noise of standard deviation 1, from which each frame's noise is cut; drawing it per frame is far slower."""
    shape = (height + _NOISE_TILE, width + _NOISE_TILE, 3)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _paint(image: Image.Image, obj: Object, look: Appearance) -> None:
    """Draw an object onto the image."""
    width, height = image.size
    radius = look.radius * min(width, height)
    # The mask is placed at whole pixels and the object is shifted in it by the rest, so that slow movements show.
    half = math.ceil(radius * 1.15) + 1
    left, top = math.floor(look.x * width) - half, math.floor(look.y * height) - half
    if left > width or top > height or left + 2 * half < 0 or top + 2 * half < 0:
        return
    middle = ((look.x * width - left) * _OVERSAMPLING, (look.y * height - top) * _OVERSAMPLING)
    mask = Image.new("L", (2 * half * _OVERSAMPLING,) * 2)
    _draw_shape(mask, obj, look, middle, radius * _OVERSAMPLING)
    mask = mask.reduce(_OVERSAMPLING)
    if look.opacity < 1:
        mask = mask.point([round(value * look.opacity) for value in range(256)])
    image.paste(look.color, (left, top), mask)


def _draw_shape(mask: Image.Image, obj: Object, look: Appearance, middle: tuple[float, float], radius: float) -> None:
    pen = ImageDraw.Draw(mask)
    turn = math.radians(look.angle)
    cos, sin = math.cos(turn), math.sin(turn)

    def place(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(middle[0] + radius * (x * cos - y * sin), middle[1] + radius * (x * sin + y * cos)) for x, y in points]

    pen.polygon(place(_outline(obj.shape)), fill=255)
    if obj.shape == "ring":
        pen.polygon(place(_RING_HOLE), fill=0)
    if marks := _marks(obj.texture):
        texture = Image.new("L", mask.size, 255)
        for mark in marks:
            ImageDraw.Draw(texture).polygon(place(mark), fill=_MARK_OPACITY)
        mask.paste(ImageChops.darker(mask, texture))


@lru_cache
def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape of radius 1 around the origin; y points down."""
    match shape:
        case "circle" | "ring":
            return _arc(1.0, 0, 360)
        case "square":
            return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
        case "triangle":
            return [(0, -1), (0.95, 0.75), (-0.95, 0.75)]
        case "star":
            radii = [1.1, 0.45] * 5
            return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]
        case "heart":
            steps = [2 * math.pi * i / 40 for i in range(40)]
            curve = [(16 * math.sin(t) ** 3, -_heart_height(t)) for t in steps]
            return [(x / 16, (y - 2) / 15) for x, y in curve]
        case "cross":
            a, b = 0.34, 1.0
            return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a),
                    (-a, -a)]  # fmt: skip
        case "moon":
            inner = [(x + 0.5, y) for x, y in _arc(0.87, 90 + 33, 270 - 33)]
            return [*_arc(1.0, 50, 310), *reversed(inner)]
    raise ValueError(f"there is no shape {shape!r}")


def _heart_height(t: float) -> float:
    return 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)


def _arc(radius: float, begin: float, end: float) -> list[tuple[float, float]]:
    angles = [math.radians(begin + (end - begin) * i / 32) for i in range(33)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


_RING_HOLE = _arc(0.55, 0, 360)


@lru_cache
def _marks(texture: str) -> list[list[tuple[float, float]]]:
    """Outlines of the marks of a texture, which are partly transparent."""
    match texture:
        case "plain":
            return []
        case "striped":
            return [[(-1.2, y), (1.2, y), (1.2, y + 0.22), (-1.2, y + 0.22)] for y in (-0.75, -0.3, 0.15, 0.6)]
        case "dotted":
            spots = ((-0.4, -0.35), (0.4, -0.35), (0.0, 0.1), (-0.42, 0.5), (0.42, 0.5))
            return [[(x + dx, y + dy) for dx, dy in _arc(0.17, 0, 360)] for x, y in spots]
    raise ValueError(f"there is no texture {texture!r}")


@lru_cache(maxsize=64)
def _draw_background(background: Background, width: int, height: int) -> NDArray[np.uint8]:
    """Draw a background as RGB pixels `(height, width, 3)`."""
    first, second = (np.array(color, dtype=np.float32) for color in background.colors)
    rng = np.random.default_rng(background.seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width, y / height
    match background.pattern:
        case "plain":
            share = np.zeros_like(x)
        case "gradient":
            angle = rng.uniform(0, 2 * np.pi)
            share = 0.5 + 0.5 * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)) / 0.71
        case "checks":
            cells = int(rng.integers(4, 9))
            share = ((np.floor(x * cells) + np.floor(y * cells)) % 2).astype(np.float32)
        case "blobs":
            share = np.zeros_like(x)
            for cx, cy, size in rng.uniform((0, 0, 0.08), (1, 1, 0.3), (6, 3)):
                share = np.maximum(share, np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / size**2)))
        case _:
            raise ValueError(f"there is no background pattern {background.pattern!r}")
    pixels: NDArray[np.uint8] = (first + (second - first) * share[..., None]).clip(0, 255).astype(np.uint8)
    return pixels
