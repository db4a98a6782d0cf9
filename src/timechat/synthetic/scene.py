"""The script of a synthetic video: its objects, and when each of them does what.

A video is determined by its seed. Times are multiples of half a second, so that a model that reads two frames per
second can know each of them exactly.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from timechat.synthetic.backgrounds import Background, draw_backgrounds
from timechat.synthetic.levels import LEVELS, LevelSettings

Kind = Literal["appear", "leave", "move", "bounce", "spin", "grow", "shrink", "blink", "recolor", "meet"]
Level = Literal[1, 2, 3]
Split = Literal["train", "test"]
Part = Literal["standard", "unseen_pairs", "longer"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLORS = {
    "red": (222, 38, 38),
    "orange": (255, 140, 0),
    "yellow": (250, 224, 40),
    "green": (46, 170, 60),
    "cyan": (60, 215, 225),
    "blue": (40, 70, 225),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
}
TEXTURES = ("plain", "striped", "dotted")

TICK = 0.5
"""Every event starts and ends at a whole multiple of this time, in seconds."""
GROWTH = 1.8
"""Ratio of the radius of a big object to that of a small one."""
_GAP = 1.0  # minimum time between two events of an object, in seconds
_ROUND = ("circle", "ring")


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a video.

    Attributes:
        color: Name of a color in `COLORS`.
        shape: Name of a shape in `SHAPES`.
        texture: Name of a texture in `TEXTURES`.
        radius: Radius at its small size, as a share of the frame's shorter side.
        starts_big: Whether it is `GROWTH` times as large at the start of the video.
        is_present: Whether it is visible at the start of the video.
        home: Position at the start of the video, `(x, y)` as shares of width and height.
    """

    color: str
    shape: str
    texture: str
    radius: float
    starts_big: bool
    is_present: bool
    home: tuple[float, float]

    @property
    def name(self) -> str:
        """Description of the object, such as `"red circle"`."""
        return f"{self.color} {self.shape}"

    @property
    def shows_turning(self) -> bool:
        """Whether a rotation of the object is visible."""
        return shows_turning(self.shape, self.texture)


@dataclass(frozen=True, slots=True)
class Action:
    """An action of one object from `start` to `end` seconds.

    Attributes:
        id: Id of the event, unique in the video.
        kind: Kind of action.
        object: Index of the object in `SyntheticVideo.objects`.
        start: Start in seconds, a whole multiple of `TICK`.
        end: End in seconds, a whole multiple of `TICK`.
        other: For `meet`, index of the object that it meets.
        target: Position `(x, y)` that it moves to; for `meet`, where it touches the other object.
        period: Duration of one bounce, blink or turn, in seconds.
        color: For `recolor`, name of the color that it has for a while.
    """

    id: str
    kind: Kind
    object: int
    start: float
    end: float
    other: int | None = None
    target: tuple[float, float] | None = None
    period: float | None = None
    color: str | None = None

    @property
    def actors(self) -> tuple[int, ...]:
        """Indices of all objects that take part."""
        return (self.object,) if self.other is None else (self.object, self.other)


_FILE_NAMES = {"objects": "things", "actions": "happenings", "object": "thing", "backgrounds": "scenes"}
"""Keys of `truth.jsonl` that differ from the names of the fields."""


def _in_file_names(content: Any) -> Any:
    """Rename the keys of nested dictionaries to those of `truth.jsonl`."""
    if isinstance(content, dict):
        return {_FILE_NAMES.get(key, key): _in_file_names(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_in_file_names(value) for value in content]
    return content


@dataclass(frozen=True, slots=True)
class SyntheticVideo:
    """The script of a video.

    Attributes:
        id: Unique id among videos of all seeds, levels, splits and numbers.
        level: Level of difficulty, 1 to 3.
        split: Split that the video belongs to.
        part: Part of the split.
        duration: Length in seconds.
        fps: Frames per second.
        width: Width in pixels, even.
        height: Height in pixels, even.
        keyframe_seconds: Maximum time between keyframes, in seconds.
        objects: Objects; no two have the same color and shape.
        actions: Actions of the objects, in order of their start.
        backgrounds: Backgrounds in order of time; more than one if the video has cuts.
        noise: Standard deviation of the pixel noise, in grey levels.
        shake: Shake of the camera, as a share of the frame.
    """

    id: str
    level: Level
    split: Split
    part: Part
    duration: float
    fps: int
    width: int
    height: int
    keyframe_seconds: float
    objects: tuple[Object, ...]
    actions: tuple[Action, ...]
    backgrounds: tuple[Background, ...]
    noise: float
    shake: float

    def to_dict(self) -> dict[str, Any]:
        """Return the whole script as a JSON object, with the keys of `truth.jsonl`."""
        content: dict[str, Any] = _in_file_names(asdict(self))
        return content


MAX_EVENTS = 16
MIN_EVENTS = 4


def shows_turning(shape: str, texture: str) -> bool:
    """Whether a rotation of an object is visible: all shapes that are not round, and all striped ones."""
    return shape not in _ROUND or texture == "striped"


def is_unseen_pair(color: str, shape: str) -> bool:
    """Whether a color and a shape never occur together in training: one shape for each color."""
    return (list(COLORS).index(color) * 3 + 1) % len(SHAPES) == SHAPES.index(shape)


def write_scene(
    seed: int, index: int, *, level: Level = 1, split: Split = "train", part: Part = "standard"
) -> SyntheticVideo:
    """Write the script of one video. Equal arguments give equal scripts.

    Args:
        seed: Random seed of the set of videos.
        index: Number of the video in the set, from 0.
        level: Level of difficulty: 1 is easy, 3 is hard.
        split: `"train"` or `"test"`. The videos of a seed differ between the two.
        part: `"standard"`; `"unseen_pairs"`, where every video has an object with a color and shape that never occur
            together in training; or `"longer"`, where every video is longer than any training video of its level.
            The last two exist for the test split only.

    Raises:
        ValueError: The level, split or part does not exist, or the part does not exist for the training split.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be 1, 2 or 3, got {level!r}")
    if split not in get_args(Split) or part not in get_args(Part):
        raise ValueError(
            f"split must be train or test and part one of {', '.join(get_args(Part))}, got {split}, {part}"
        )
    if split == "train" and part != "standard":
        raise ValueError(f"part {part!r} exists for testing only; give split='test'")
    name = f"{split}-{level}-{seed}-{index:06d}" + ("" if part == "standard" else f"-{part}")
    rng = random.Random(name)
    while (video := _attempt(rng, name, level, split, part)) is None:
        pass
    return video


def _attempt(rng: random.Random, name: str, level: Level, split: Split, part: Part) -> SyntheticVideo | None:
    """Draw a video; None if the drawn parts do not fit together."""
    settings = LEVELS[level]
    duration = float(rng.randint(*(settings.longer_duration if part == "longer" else settings.duration)))
    looks = _choose_looks(rng, settings, part)
    planned = _plan_actions(rng, settings, looks, duration)
    if planned is None:
        return None
    placed = _place(rng, settings, looks, planned)
    if placed is None:
        return None
    objects, actions = placed
    width, height = rng.choice(settings.sizes)
    return SyntheticVideo(
        id=name,
        level=level,
        split=split,
        part=part,
        duration=duration,
        fps=rng.choice(settings.rates),
        width=width,
        height=height,
        keyframe_seconds=rng.choice((0.5, 1.0, 2.0, 5.0, 10.0)),
        objects=objects,
        actions=actions,
        backgrounds=draw_backgrounds(rng, settings.patterns, settings.max_cuts, duration),
        noise=round(rng.uniform(*settings.noise), 1),
        shake=round(rng.uniform(*settings.shake), 4),
    )


def _choose_looks(rng: random.Random, settings: LevelSettings, part: Part) -> list[tuple[str, str, str]]:
    """Draw color, shape and texture of each object; no two share both color and shape."""
    count = rng.randint(*settings.num_objects)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        needs_unseen = part == "unseen_pairs" and not pairs
        # Sometimes two objects share their color or their shape, so that neither alone distinguishes them.
        color = pairs[-1][0] if pairs and rng.random() < 0.12 else rng.choice(list(COLORS))
        shape = pairs[-1][1] if pairs and rng.random() < 0.12 else rng.choice(SHAPES)
        if is_unseen_pair(color, shape) == needs_unseen and (color, shape) not in pairs:
            pairs.append((color, shape))
    rng.shuffle(pairs)
    textures = [rng.choice(TEXTURES[1:]) if rng.random() < settings.texture_share else "plain" for _ in pairs]
    return [(color, shape, texture) for (color, shape), texture in zip(pairs, textures, strict=True)]


@dataclass(slots=True)
class _PlannedAction:
    """An action before positions are chosen."""

    kind: Kind
    object: int
    start: float
    end: float
    other: int | None = None

    @property
    def actors(self) -> tuple[int, ...]:
        return (self.object,) if self.other is None else (self.object, self.other)


def _plan_actions(
    rng: random.Random, settings: LevelSettings, looks: list[tuple[str, str, str]], duration: float
) -> list[_PlannedAction] | None:
    """Plan actions: first the hard negatives that every video has, then more while there is time for them."""
    planned: list[_PlannedAction] = []
    num_objects = len(looks)
    room = duration / (sum(settings.event_seconds) / 2 + 2.5)  # approximate number of events of one object
    count = round(min(MAX_EVENTS, max(MIN_EVENTS, rng.uniform(0.5, 0.95) * room * num_objects)))
    first, second = rng.sample(range(num_objects), 2)
    shared = rng.choice(KINDS)
    for index in (first, second):  # two objects do the same
        if not _try_action(rng, settings, looks, planned, duration, index, shared, apart_from=planned[:1], tries=40):
            return None
    for _ in range(20):  # one object does two things
        if len(planned) == 3 or _try_action(rng, settings, looks, planned, duration, first, rng.choice(KINDS), tries=4):
            break
    if len(planned) < 3:
        return None
    for _ in range(60):
        if len(planned) >= count:
            break
        _try_action(rng, settings, looks, planned, duration, rng.randrange(num_objects), rng.choice(KINDS), tries=3)
    if len(planned) < MIN_EVENTS:
        return None
    return sorted(planned, key=lambda action: (action.start, action.end, action.object))


def _try_action(
    rng: random.Random,
    settings: LevelSettings,
    looks: list[tuple[str, str, str]],
    planned: list[_PlannedAction],
    duration: float,
    index: int,
    kind: Kind,
    *,
    tries: int,
    apart_from: list[_PlannedAction] = [],  # noqa: B006 - never changed
) -> bool:
    """Add an action if there is time for it and the object can do it; return whether it was added."""
    _, shape, texture = looks[index]
    if kind == "spin" and not shows_turning(shape, texture):
        return False
    if not settings.may_repeat and any(old.object == index and old.kind == kind for old in planned):
        return False
    shortest, longest = (round(seconds / TICK) for seconds in settings.event_seconds)
    for _ in range(tries):
        length = rng.randint(shortest, min(longest, int(duration / 2.5 / TICK))) * TICK
        start = rng.randint(1, int((duration - length) / TICK) - 1) * TICK
        other = rng.choice([i for i in range(len(looks)) if i != index]) if kind == "meet" else None
        new = _PlannedAction(kind, index, start, start + length, other)
        clashes = any(
            set(new.actors) & set(old.actors) and start < old.end + _GAP and old.start < new.end + _GAP
            for old in planned
        )
        if (
            kind == "meet"
            and any(old.kind == "meet" and set(old.actors) == set(new.actors) for old in planned)
            and not settings.may_repeat
        ):
            clashes = True  # "A meets B" and "B meets A" are the same event
        clashes = clashes or any(start < old.end and old.start < new.end for old in apart_from)
        if not clashes and all(_is_possible(i, [*planned, new]) for i in new.actors):
            planned.append(new)
            return True
    return False


def _is_possible(index: int, planned: list[_PlannedAction]) -> bool:
    """Whether an object can do all its actions: it must be visible, small before `grow` and big before `shrink`."""
    is_present: bool | None = None
    is_big: bool | None = None
    for action in sorted((action for action in planned if index in action.actors), key=lambda action: action.start):
        if action.kind == "appear":
            if is_present is not None and is_present:
                return False
            is_present = True
            continue
        if is_present is False:
            return False
        is_present = action.kind != "leave"
        if action.kind in ("grow", "shrink"):
            if is_big is not None and is_big == (action.kind == "grow"):
                return False
            is_big = action.kind == "grow"
    return True


def _place(
    rng: random.Random, settings: LevelSettings, looks: list[tuple[str, str, str]], planned: list[_PlannedAction]
) -> tuple[tuple[Object, ...], tuple[Action, ...]] | None:
    """Choose a home for every object and a target for every movement, on a grid without two objects in one cell."""
    grid = settings.grid
    cells = [(column, row) for column in range(grid) for row in range(grid)]
    homes = rng.sample(cells, len(looks))
    objects = []
    for i, (color, shape, texture) in enumerate(looks):
        own = [action.kind for action in planned if i in action.actors]
        sizes = [kind for kind in own if kind in ("grow", "shrink")]
        starts_big = sizes[0] == "shrink" if sizes else rng.random() < 0.4
        is_present = next((kind for kind in own if kind in ("appear", "leave")), "leave") != "appear"
        radius = round(rng.uniform(*settings.radius), 4)
        objects.append(Object(color, shape, texture, radius, starts_big, is_present, _middle(rng, homes[i], grid)))
    cell_of = dict(enumerate(homes))
    positions = {i: obj.home for i, obj in enumerate(objects)}
    actions: list[Action] = []
    vacated: list[tuple[float, tuple[int, int]]] = []  # cells that an object is leaving, and when it has left them
    for number, plan in enumerate(planned):
        target: tuple[float, float] | None = None
        period: float | None = None
        new_color: str | None = None
        if plan.kind == "move":
            taken = set(cell_of.values()) | {cell for until, cell in vacated if until > plan.start}
            own_cell = cell_of[plan.object]
            free = [
                cell
                for cell in cells
                if cell not in taken and abs(cell[0] - own_cell[0]) + abs(cell[1] - own_cell[1]) >= 2
            ]
            if not free:
                return None
            vacated.append((plan.end, own_cell))
            cell_of[plan.object] = rng.choice(free)
            target = positions[plan.object] = _middle(rng, cell_of[plan.object], grid)
        elif plan.kind == "leave":
            x, y = positions[plan.object]
            target = (-0.25 if x < 0.5 else 1.25, y)
        elif plan.kind == "appear" and plan.start > 0:
            if any(action.object == plan.object and action.kind == "leave" for action in actions):
                target = positions[plan.object]  # it comes back where it was before it left
        elif plan.kind == "meet":
            assert plan.other is not None
            target = _beside(objects[plan.object], objects[plan.other], positions[plan.object], positions[plan.other])
        elif plan.kind in ("bounce", "spin", "blink"):
            low, high = {"bounce": (1.6, 2.6), "spin": (2.5, 4.5), "blink": (1.2, 2.2)}[plan.kind]
            cycles = max(1, round((plan.end - plan.start) / rng.uniform(low, high)))
            period = (plan.end - plan.start) / cycles
        elif plan.kind == "recolor":
            new_color = rng.choice([name for name in COLORS if name != looks[plan.object][0]])
        actions.append(
            Action(f"e{number}", plan.kind, plan.object, plan.start, plan.end, plan.other, target, period, new_color)
        )
    return tuple(objects), tuple(actions)


def _middle(rng: random.Random, cell: tuple[int, int], grid: int) -> tuple[float, float]:
    """Draw a position near the middle of a grid cell; the grid leaves a margin to the frame's edges."""
    x, y = (0.06 + 0.88 * (i + 0.5 + rng.uniform(-0.12, 0.12)) / grid for i in cell)
    return round(x, 4), round(y, 4)


def _beside(
    obj: Object, other: Object, position: tuple[float, float], other_position: tuple[float, float]
) -> tuple[float, float]:
    """Position of an object where it touches another, on the straight way to it."""
    dx, dy = position[0] - other_position[0], position[1] - other_position[1]
    distance = max((dx * dx + dy * dy) ** 0.5, 1e-6)
    touch = min(0.9 * (obj.radius + other.radius), distance)
    return round(other_position[0] + dx / distance * touch, 4), round(other_position[1] + dy / distance * touch, 4)
