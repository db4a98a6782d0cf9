"""Labels of each frame of a synthetic video, computed from its script.

Only the auxiliary losses of nano's training use them. They are dropped with their heads after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timechat.synthetic.render import Appearance, appearance_at
from timechat.synthetic.scene import COLORS, KINDS, SHAPES, TICK, Action, SyntheticVideo

COLOR_NAMES = tuple(COLORS)
NUM_COLORS, NUM_SHAPES, NUM_KINDS = len(COLORS), len(SHAPES), len(KINDS)
NUM_ROWS = NUM_COLORS + NUM_SHAPES
"""Number of rows of the labels of a frame: one for every color and one for every shape."""
MAX_TIME = 300.0
"""Longest time with a class of its own, in seconds."""
NUM_TIMES = int(MAX_TIME / TICK) + 1

_SYMMETRY = {
    "square": 4,
    "cross": 4,
    "star": 5,
}  # order of rotational symmetry; a turn by this part of a circle is invisible
_VISIBLE = 0.08  # minimum opacity of a visible object
GEOMETRY = ("x", "y", "radius", "opacity", "sin", "cos")
"""Geometry of each visible object: position, size, opacity and rotation."""

# Columns of `state_labels`: current actions by color and by shape, visible objects, actions that start, and that ended.
COLOR_KIND = slice(0, NUM_COLORS * NUM_KINDS)
SHAPE_KIND = slice(COLOR_KIND.stop, COLOR_KIND.stop + NUM_SHAPES * NUM_KINDS)
PAIRS = slice(SHAPE_KIND.stop, SHAPE_KIND.stop + NUM_COLORS * NUM_SHAPES)
NEW = slice(PAIRS.stop, PAIRS.stop + SHAPE_KIND.stop)
OVER = slice(NEW.stop, NEW.stop + SHAPE_KIND.stop)
NUM_STATES = OVER.stop
NUM_ROW_STATES = 3 * NUM_KINDS
"""Number of labels of one row: for every kind whether it is current, starts, and ended."""


@dataclass(frozen=True, slots=True)
class VisibleObject:
    """An object in one frame: displayed color, shape and geometry."""

    color: int
    shape: int
    geometry: NDArray[np.float32]
    look: Appearance


def visible_objects(video: SyntheticVideo, time: float) -> list[VisibleObject]:
    """Return the visible objects at a time, in the order of rendering."""
    visible = []
    for i, obj in enumerate(video.objects):
        look = appearance_at(video, i, time)
        inside = (
            -look.radius * 0.5 < look.x < 1 + look.radius * 0.5 and -look.radius * 0.5 < look.y < 1 + look.radius * 0.5
        )
        if look.opacity >= _VISIBLE and inside:
            turn = np.deg2rad(look.angle * _SYMMETRY.get(obj.shape, 1))
            geometry = np.array(
                [look.x, look.y, 4 * look.radius, look.opacity, np.sin(turn) / 2, np.cos(turn) / 2], dtype=np.float32
            )
            visible.append(VisibleObject(_nearest_color(look), SHAPES.index(obj.shape), geometry, look))
    return visible


def _nearest_color(look: Appearance) -> int:
    distances = [sum((a - b) ** 2 for a, b in zip(look.color, COLORS[name], strict=True)) for name in COLOR_NAMES]
    return int(np.argmin(distances))


def patch_labels(
    visible: Sequence[VisibleObject], grid: int, aspect: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the class and geometry of the object in every patch of a frame.

    Args:
        visible: Visible objects.
        grid: Number of patches along one side.
        aspect: Width and height of the video, which the model gets stretched to a square.

    Returns:
        Classes `(grid * grid, 2)`: color and shape, both 0 for the background and 1 + index otherwise; and geometry
        `(grid * grid, 6)` in the order of `GEOMETRY`, with the position relative to the patch.
    """
    classes = np.zeros((grid, grid, 2), dtype=np.int64)
    geometry = np.zeros((grid, grid, len(GEOMETRY)), dtype=np.float32)
    middles = (np.arange(grid) + 0.5) / grid
    short = min(aspect)
    for obj in visible:
        rx, ry = (max(obj.look.radius * short / side * 0.9, 0.51 / grid) for side in aspect)
        dx = (obj.look.x - middles)[None, :]
        dy = (obj.look.y - middles)[:, None]
        inside = (dx / rx) ** 2 + (dy / ry) ** 2 <= 1
        classes[inside] = (1 + obj.color, 1 + obj.shape)
        geometry[inside] = obj.geometry
        geometry[..., 0] = np.where(inside, dx * 2, geometry[..., 0])
        geometry[..., 1] = np.where(inside, dy * 2, geometry[..., 1])
    return classes.reshape(-1, 2), geometry.reshape(grid * grid, -1)


def frame_labels(visible: Sequence[VisibleObject]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the class and geometry of the object of every color and of every shape in a frame.

    Returns:
        Classes `(colors + shapes,)`: -1 for no visible object, -100 for more than one, otherwise the shape (of a color)
        or the color (of a shape); and geometry `(colors + shapes, 6)`.
    """
    classes = np.full(NUM_COLORS + NUM_SHAPES, -1, dtype=np.int64)
    geometry = np.zeros((NUM_COLORS + NUM_SHAPES, len(GEOMETRY)), dtype=np.float32)
    for obj in visible:
        for row, value in ((obj.color, obj.shape), (NUM_COLORS + obj.shape, obj.color)):
            classes[row] = value if classes[row] == -1 else -100
            geometry[row] = obj.geometry
    return classes, geometry


def state_labels(video: SyntheticVideo, times: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the current actions at every time.

    Returns:
        Labels `(times, NUM_STATES)`. They are 1 where an object of a color (`COLOR_KIND`) or shape (`SHAPE_KIND`) does
        a kind of action, and where an object of a color and shape is present (`PAIRS`); then where one of the first
        two has started (`NEW`) or ended (`OVER`) since the time before. An event lasts from just after its start to
        just before its end, because it is not visible at these times themselves.
    """
    times = np.asarray(times, dtype=np.float64)
    labels = np.zeros((len(times), NUM_STATES), dtype=np.float32)
    for i, obj in enumerate(video.objects):
        color, shape = COLOR_NAMES.index(obj.color), SHAPES.index(obj.shape)
        present = np.full(len(times), obj.is_present)
        for action in video.actions:
            if i not in action.actors:
                continue
            during = (times > action.start + 1e-6) & (times < action.end - 1e-6)
            kind = KINDS.index(action.kind)
            labels[during, COLOR_KIND.start + color * NUM_KINDS + kind] = 1
            labels[during, SHAPE_KIND.start + shape * NUM_KINDS + kind] = 1
            if action.kind == "appear":
                present = present | (times > action.start + 1e-6)
            elif action.kind == "leave":
                present = present & (times < action.end - 1e-6)
        labels[present, PAIRS.start + color * NUM_SHAPES + shape] = 1
    current = labels[:, : SHAPE_KIND.stop]
    before = np.concatenate([np.zeros_like(current[:1]), current[:-1]])
    labels[:, NEW], labels[:, OVER] = current * (1 - before), before * (1 - current)
    return labels


def row_labels(states: Tensor) -> Tensor:
    """Return the labels of single rows: actions that are current, that start, and that ended.

    Args:
        states: Labels `(times, NUM_STATES)` from `state_labels`.

    Returns:
        Labels `(times, NUM_ROWS, NUM_ROW_STATES)`.
    """
    parts = (states[:, columns] for columns in (slice(0, SHAPE_KIND.stop), NEW, OVER))
    return torch.cat([part.unflatten(1, (NUM_ROWS, NUM_KINDS)) for part in parts], dim=2)


def query_classes(video: SyntheticVideo, action: Action) -> tuple[int, int, int]:
    """Return the classes of color, shape and kind of an action."""
    obj = video.objects[action.object]
    return COLOR_NAMES.index(obj.color), SHAPES.index(obj.shape), KINDS.index(action.kind)


def time_classes(times: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class of each time on the grid of `TICK`, `(times,)`."""
    return np.round(np.asarray(times) / TICK).clip(0, NUM_TIMES - 1).astype(np.int64)


def time_code(width: int, num_times: int = NUM_TIMES) -> NDArray[np.float32]:
    """Return sine and cosine features of unit length of every time on the grid, `(num_times, width)`.

    Periods range from 1.5 seconds to four times the longest time, so that near times are similar and far times are not
    (after "Attention Is All You Need", arXiv:1706.03762, section 3.5).
    """
    periods = np.geomspace(3 * TICK, 4 * MAX_TIME, width // 2)
    angles = 2 * np.pi * np.arange(num_times)[:, None] * TICK / periods
    code: NDArray[np.float32] = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return code / np.float32(np.sqrt(width // 2))


def state_code(width: int) -> NDArray[np.float32]:
    """Return code vectors of the states, `(NUM_STATES, width)`, each with a norm of about 4.

    The codes of starts and ends are sums of codes of their parts: color (or shape) and kind. A question names the same
    parts, so its event is where most parts agree, and pairs that do not occur in training have codes like all others.
    One half of the code of a current action is specific to the whole action, so that two actions at once do not mix.
    """
    rng = np.random.default_rng(0)

    def draw(count: int, norm: float) -> NDArray[np.float64]:
        code: NDArray[np.float64] = rng.standard_normal((count, width)) * (norm / np.sqrt(width))
        return code

    code = np.zeros((NUM_STATES, width))
    for first, whole in ((0, 2.8), (NEW.start, 0.5), (OVER.start, 0.5)):
        kinds = draw(NUM_KINDS, 2.8)
        for start, looks in ((0, NUM_COLORS), (NUM_COLORS * NUM_KINDS, NUM_SHAPES)):
            parts = draw(looks, 2.8)[:, None] + kinds[None]
            place = slice(first + start, first + start + looks * NUM_KINDS)
            scale = np.sqrt(1 - (whole / 4) ** 2)
            code[place] = parts.reshape(-1, width) * scale + draw(looks * NUM_KINDS, whole)
    code[PAIRS] = draw(NUM_COLORS * NUM_SHAPES, 4.0)
    return code.astype(np.float32)
