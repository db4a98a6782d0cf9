"""What the drawing program knows about each frame of a film, as numbers to learn from.

Only the auxiliary losses of nano's training read these; they are dropped with their heads when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timechat.synthetic.render import Appearance, appearance_at
from timechat.synthetic.scene import COLORS, KINDS, SHAPES, TICK, Action, SyntheticVideo

COLOR_NAMES = tuple(COLORS)
NUM_COLORS, NUM_SHAPES, NUM_KINDS = len(COLORS), len(SHAPES), len(KINDS)
NUM_ROWS = NUM_COLORS + NUM_SHAPES
"""Every colour and every shape has a row of its own in what is told of a frame."""
MAX_TIME = 300.0
"""Seconds: the longest time that has a class of its own."""
NUM_TIMES = int(MAX_TIME / TICK) + 1

_SYMMETRY = {"square": 4, "cross": 4, "star": 5}  # turns by a part of the circle that cannot be seen
_VISIBLE = 0.08  # opacity from which a thing counts as seen
GEOMETRY = ("x", "y", "radius", "opacity", "sin", "cos")
"""What is told of each thing that is seen: where, how large, how solid, how far it is turned."""
_MIDDLE = np.array([0.5, 0.5, 0.55, 1.0, 0.0, 0.5], dtype=np.float32)  # what is usual
_CHANGE_SCALE = np.float32(2.5)

# One row of `state_labels`: who does what, by colour and by shape; who is there; what begins and what ends.
COLOR_KIND = slice(0, NUM_COLORS * NUM_KINDS)
SHAPE_KIND = slice(COLOR_KIND.stop, COLOR_KIND.stop + NUM_SHAPES * NUM_KINDS)
PAIRS = slice(SHAPE_KIND.stop, SHAPE_KIND.stop + NUM_COLORS * NUM_SHAPES)
NEW = slice(PAIRS.stop, PAIRS.stop + SHAPE_KIND.stop)
OVER = slice(NEW.stop, NEW.stop + SHAPE_KIND.stop)
NUM_STATES = OVER.stop


@dataclass(frozen=True, slots=True)
class VisibleObject:
    """A thing in one frame: displayed colour, shape and geometry."""

    color: int
    shape: int
    geometry: NDArray[np.float32]
    look: Appearance


def visible_objects(film: SyntheticVideo, time: float) -> list[VisibleObject]:
    """List what can be seen at a time, in the order of drawing."""
    seen = []
    for i, thing in enumerate(film.objects):
        look = appearance_at(film, i, time)
        inside = (
            -look.radius * 0.5 < look.x < 1 + look.radius * 0.5 and -look.radius * 0.5 < look.y < 1 + look.radius * 0.5
        )
        if look.opacity >= _VISIBLE and inside:
            turn = np.deg2rad(look.angle * _SYMMETRY.get(thing.shape, 1))
            geometry = np.array(
                [look.x, look.y, 4 * look.radius, look.opacity, np.sin(turn) / 2, np.cos(turn) / 2], dtype=np.float32
            )
            seen.append(VisibleObject(_nearest_color(look), SHAPES.index(thing.shape), geometry, look))
    return seen


def _nearest_color(look: Appearance) -> int:
    distances = [sum((a - b) ** 2 for a, b in zip(look.color, COLORS[name], strict=True)) for name in COLOR_NAMES]
    return int(np.argmin(distances))


def patch_labels(
    seen: Sequence[VisibleObject], grid: int, aspect: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Say for every patch of a frame which thing it shows.

    Args:
        seen: What can be seen.
        grid: Patches along one side.
        aspect: Width and height of the film, which the model sees stretched to a square.

    Returns:
        Classes `(grid * grid, 2)`: colour and shape, both 0 for the background and 1 + index otherwise; geometry
        `(grid * grid, 6)` in the order of `GEOMETRY`, with the place relative to the patch.
    """
    classes = np.zeros((grid, grid, 2), dtype=np.int64)
    geometry = np.zeros((grid, grid, len(GEOMETRY)), dtype=np.float32)
    middles = (np.arange(grid) + 0.5) / grid
    short = min(aspect)
    for thing in seen:
        rx, ry = (max(thing.look.radius * short / side * 0.9, 0.51 / grid) for side in aspect)
        dx = (thing.look.x - middles)[None, :]
        dy = (thing.look.y - middles)[:, None]
        inside = (dx / rx) ** 2 + (dy / ry) ** 2 <= 1
        classes[inside] = (1 + thing.color, 1 + thing.shape)
        geometry[inside] = thing.geometry
        geometry[..., 0] = np.where(inside, dx * 2, geometry[..., 0])
        geometry[..., 1] = np.where(inside, dy * 2, geometry[..., 1])
    return classes.reshape(-1, 2), geometry.reshape(grid * grid, -1)


def frame_labels(seen: Sequence[VisibleObject]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Say for every colour and for every shape what of it can be seen in a frame.

    Returns:
        Classes `(colors + shapes,)`: -1 where it cannot be seen, -100 where more than one thing has it, else the
        shape (for a colour) or the colour (for a shape); geometry `(colors + shapes, 6)`.
    """
    classes = np.full(NUM_COLORS + NUM_SHAPES, -1, dtype=np.int64)
    geometry = np.zeros((NUM_COLORS + NUM_SHAPES, len(GEOMETRY)), dtype=np.float32)
    for thing in seen:
        for row, value in ((thing.color, thing.shape), (NUM_COLORS + thing.shape, thing.color)):
            classes[row] = value if classes[row] == -1 else -100
            geometry[row] = thing.geometry
    return classes, geometry


def motion_labels(
    film: SyntheticVideo, times: Sequence[float] | NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Say for every time and every colour and shape where it is and how it changes from a second before to one after.

    Over two seconds slow changes, such as growing, are far larger than what a frame is misread by.

    Returns:
        `(times, colors + shapes, 2 * len(GEOMETRY))`, first the geometry, about its middle, then its change, so that
        both are of a like size; and which of these are known: those of which there is exactly one thing to be seen,
        and changes only where there is a second before and one after.
    """
    classes, geometry = (
        np.stack(rows) for rows in zip(*(frame_labels(visible_objects(film, t)) for t in times), strict=True)
    )
    second = round(1 / TICK)
    places = np.arange(len(times))
    before, after = np.maximum(places - second, 0), np.minimum(places + second, len(times) - 1)
    seen = classes >= 0
    whole = np.asarray(times)[after] - np.asarray(times)[before] > 2 - 1e-6
    lasts = seen & seen[before] & seen[after] & whole[:, None]
    change = _CHANGE_SCALE * (geometry[after] - geometry[before]) * lasts[..., None]
    known = np.repeat(np.stack([seen, lasts], axis=2), len(GEOMETRY), axis=2)
    return np.concatenate([geometry - _MIDDLE, change], axis=2), known


def state_labels(film: SyntheticVideo, times: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Say for every time who is doing what.

    Returns:
        `(times, NUM_STATES)`, 1 where a thing of a colour (`COLOR_KIND`) or shape (`SHAPE_KIND`) is doing a kind of
        thing, and where a thing of a colour and shape is there at all (`PAIRS`); then which of the first two begin
        (`NEW`) or are over (`OVER`) since the time before. An event holds from just after its start to just before its
        end: at the very ends nothing of it can be seen yet, or any more.
    """
    times = np.asarray(times, dtype=np.float64)
    labels = np.zeros((len(times), NUM_STATES), dtype=np.float32)
    for i, thing in enumerate(film.objects):
        color, shape = COLOR_NAMES.index(thing.color), SHAPES.index(thing.shape)
        present = np.full(len(times), thing.is_present)
        for happening in film.actions:
            if i not in happening.actors:
                continue
            during = (times > happening.start + 1e-6) & (times < happening.end - 1e-6)
            kind = KINDS.index(happening.kind)
            labels[during, COLOR_KIND.start + color * NUM_KINDS + kind] = 1
            labels[during, SHAPE_KIND.start + shape * NUM_KINDS + kind] = 1
            if happening.kind == "appear":
                present = present | (times > happening.start + 1e-6)
            elif happening.kind == "leave":
                present = present & (times < happening.end - 1e-6)
        labels[present, PAIRS.start + color * NUM_SHAPES + shape] = 1
    acts = labels[:, : SHAPE_KIND.stop]
    before = np.concatenate([np.zeros_like(acts[:1]), acts[:-1]])
    labels[:, NEW], labels[:, OVER] = acts * (1 - before), before * (1 - acts)
    return labels


def query_classes(film: SyntheticVideo, happening: Action) -> tuple[int, int, int]:
    """Say who does what in one event: colour, shape and kind."""
    thing = film.objects[happening.object]
    return COLOR_NAMES.index(thing.color), SHAPES.index(thing.shape), KINDS.index(happening.kind)


def time_classes(times: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of each time on the grid of `TICK`, `(times,)`."""
    return np.round(np.asarray(times) / TICK).clip(0, NUM_TIMES - 1).astype(np.int64)


def time_code(width: int, num_times: int = NUM_TIMES) -> NDArray[np.float32]:
    """Sine and cosine features of every time on the grid, `(num_times, width)` of unit length.

    Periods run from 1.5 seconds to four times the longest time, so that neighbours are alike and far times are not
    (after "Attention Is All You Need", arXiv:1706.03762, section 3.5).
    """
    periods = np.geomspace(3 * TICK, 4 * MAX_TIME, width // 2)
    angles = 2 * np.pi * np.arange(num_times)[:, None] * TICK / periods
    code: NDArray[np.float32] = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return code / np.float32(np.sqrt(width // 2))


def state_code(width: int) -> NDArray[np.float32]:
    """Vectors to write states with, `(NUM_STATES, width)`, each of norm about 4.

    What begins and what is over is written by its parts, colour (or shape) and kind: a question names the same parts,
    so to find its event is to find where most parts agree, and pairs that were never seen together are written like
    any other. What goes on is written as a whole in half, so that two things at once do not mix.
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
