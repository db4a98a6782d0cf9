"""The script of a drawn film: which things there are, and what each of them does when.

A film is made from its seed alone. Times are whole half seconds, so that a model that looks at two frames a second
can know each of them exactly.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

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
"""Seconds: every event starts and ends at a whole multiple of it."""
GROWTH = 1.8
"""A big thing's radius over a small one's."""
_GAP = 1.0  # seconds that a thing rests between two events
_ROUND = ("circle", "ring")
_STILL_KINDS = ("spin", "blink", "recolor", "grow", "shrink")  # what a thing may do while another comes to meet it


@dataclass(frozen=True, slots=True)
class Object:
    """An object of the film.

    Attributes:
        color: A name of `COLORS`.
        shape: A name of `SHAPES`.
        texture: A name of `TEXTURES`.
        radius: Of the small thing, as a share of the frame's shorter side.
        starts_big: Whether it is `GROWTH` times as large when the film begins.
        is_present: Whether it can be seen when the film begins.
        home: Where it is when the film begins, `(x, y)` as shares of width and height.
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
        """The thing in words, `"red circle"`."""
        return f"{self.color} {self.shape}"

    @property
    def shows_turning(self) -> bool:
        """Whether it can be seen how far it is turned."""
        return shows_turning(self.shape, self.texture)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing does something from `start` to `end` seconds.

    Attributes:
        id: Of the event, unique in the film.
        kind: What it does.
        object: Which thing, an index into `Film.objects`.
        start: Seconds, a whole multiple of `TICK`.
        end: Seconds, likewise.
        other: Whom it meets, an index into `Film.objects`.
        target: Where it moves, `(x, y)`; for `meet` where it touches the other.
        period: Seconds of one bounce, blink or turn.
        color: What colour it takes for a while.
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
        """Every thing that takes part."""
        return (self.object,) if self.other is None else (self.object, self.other)


@dataclass(frozen=True, slots=True)
class Scene:
    """What stands behind the things from `start` on.

    Attributes:
        start: Seconds.
        pattern: `"plain"`, `"gradient"`, `"checks"` or `"blobs"`.
        colors: Two RGB colours.
        seed: Of the pattern's details.
    """

    start: float
    pattern: str
    colors: tuple[tuple[int, int, int], tuple[int, int, int]]
    seed: int


_FILE_NAMES = {"objects": "things", "actions": "happenings", "object": "thing"}
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
    """A film before it is drawn.

    Attributes:
        id: Unique among films of other seeds, levels, splits and numbers.
        duration: Seconds.
        fps: Frames a second.
        width: Pixels, even.
        height: Pixels, even.
        keyframe_seconds: Seconds from one keyframe to the next, at most.
        objects: What there is to see; never two of the same colour and shape.
        actions: What they do, in the order of their start.
        scenes: Backgrounds in the order of time; more than one where the film has cuts.
        noise: Standard deviation of the pixel noise, in grey levels.
        shake: How far the camera shakes, as a share of the frame.
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
    scenes: tuple[Scene, ...]
    noise: float
    shake: float

    def to_dict(self) -> dict[str, Any]:
        """The whole script, ready for JSON."""
        content: dict[str, Any] = _in_file_names(asdict(self))
        return content


@dataclass(frozen=True, slots=True)
class _LevelSettings:
    """What the films of a level are drawn from; ranges include both ends."""

    num_objects: tuple[int, int]
    duration: tuple[int, int]
    longer_duration: tuple[int, int]
    event_seconds: tuple[float, float]
    radius: tuple[float, float]
    grid: int
    noise: tuple[float, float] = (0, 0)
    shake: tuple[float, float] = (0, 0)
    max_cuts: int = 0
    texture_share: float = 0.0
    patterns: tuple[str, ...] = ("plain", "gradient")
    may_repeat: bool = False
    sizes: tuple[tuple[int, int], ...] = field(default=((224, 224), (256, 192), (192, 256), (320, 240), (256, 144)))
    rates: tuple[int, ...] = (8, 10, 12, 15)


_LEVELS: dict[Level, _LevelSettings] = {
    1: _LevelSettings((2, 3), (20, 60), (65, 90), (4.0, 10.0), (0.095, 0.11), grid=3),
    2: _LevelSettings(
        (2, 5), (20, 120), (130, 180), (3.0, 10.0), (0.065, 0.08), grid=4, noise=(2, 10), texture_share=0.25,
        patterns=("plain", "gradient", "checks"), rates=(8, 10, 12, 15, 24, 25),
    ),
    3: _LevelSettings(
        (2, 6), (20, 180), (190, 280), (2.0, 10.0), (0.055, 0.08), grid=4, noise=(2, 14), shake=(0, 0.015),
        max_cuts=3, texture_share=0.4, patterns=("plain", "gradient", "checks", "blobs"), may_repeat=True,
        rates=(8, 10, 12, 15, 24, 25, 30),
    ),
}  # fmt: skip
MAX_EVENTS = 16
MIN_EVENTS = 4


def shows_turning(shape: str, texture: str) -> bool:
    """Whether it can be seen how far a thing is turned: not of what is round, unless it is striped."""
    return shape not in _ROUND or texture == "striped"


def durations(level: Level) -> tuple[int, int]:
    """Seconds of the shortest and of the longest film of a level, of any part but `"longer"`."""
    return _LEVELS[level].duration


def is_unseen_pair(color: str, shape: str) -> bool:
    """Whether a colour and a shape never occur together in training: one shape for each colour."""
    return (list(COLORS).index(color) * 3 + 1) % len(SHAPES) == SHAPES.index(shape)


def write_scene(
    seed: int, index: int, *, level: Level = 1, split: Split = "train", part: Part = "standard"
) -> SyntheticVideo:
    """Write the script of one film.

    Args:
        seed: Of the set of films.
        index: Which film of the set; the same arguments give the same film.
        level: 1 is easy, 3 is hard.
        split: `"train"` or `"test"`: films of one seed differ between the two.
        part: `"unseen_pairs"` has a colour and shape in every film that training never shows together,
            `"longer"` a film longer than any of its level in training; both exist for testing only.

    Raises:
        ValueError: There is no such level, split or part, or training is to have what is kept for testing.
    """
    if level not in _LEVELS:
        raise ValueError(f"level must be 1, 2 or 3, got {level!r}")
    if split not in get_args(Split) or part not in get_args(Part):
        raise ValueError(
            f"split must be train or test and part one of {', '.join(get_args(Part))}, got {split}, {part}"
        )
    if split == "train" and part != "standard":
        raise ValueError(f"part {part!r} is kept for testing; give split='test'")
    name = f"{split}-{level}-{seed}-{index:06d}" + ("" if part == "standard" else f"-{part}")
    rng = random.Random(name)
    while (film := _attempt(rng, name, level, split, part)) is None:
        pass
    return film


def _attempt(rng: random.Random, name: str, level: Level, split: Split, part: Part) -> SyntheticVideo | None:
    """Draw a film; None where what was drawn does not go together."""
    recipe = _LEVELS[level]
    duration = float(rng.randint(*(recipe.longer_duration if part == "longer" else recipe.duration)))
    looks = _choose_appearances(rng, recipe, part)
    acts = _plan_actions(rng, recipe, looks, duration)
    if acts is None:
        return None
    placed = _place(rng, recipe, looks, acts)
    if placed is None:
        return None
    things, happenings = placed
    width, height = rng.choice(recipe.sizes)
    return SyntheticVideo(
        id=name,
        level=level,
        split=split,
        part=part,
        duration=duration,
        fps=rng.choice(recipe.rates),
        width=width,
        height=height,
        keyframe_seconds=rng.choice((0.5, 1.0, 2.0, 5.0, 10.0)),
        objects=things,
        actions=happenings,
        scenes=_draw_scenes(rng, recipe, duration),
        noise=round(rng.uniform(*recipe.noise), 1),
        shake=round(rng.uniform(*recipe.shake), 4),
    )


def _choose_appearances(rng: random.Random, recipe: _LevelSettings, part: Part) -> list[tuple[str, str, str]]:
    """Colour, shape and texture of each thing; no two share both colour and shape."""
    wanted = rng.randint(*recipe.num_objects)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < wanted:
        wants_unseen = part == "unseen_pairs" and not pairs
        # Now and then two things share their colour or their shape, so that neither alone tells them apart.
        color = pairs[-1][0] if pairs and rng.random() < 0.12 else rng.choice(list(COLORS))
        shape = pairs[-1][1] if pairs and rng.random() < 0.12 else rng.choice(SHAPES)
        if is_unseen_pair(color, shape) == wants_unseen and (color, shape) not in pairs:
            pairs.append((color, shape))
    rng.shuffle(pairs)
    textures = [rng.choice(TEXTURES[1:]) if rng.random() < recipe.texture_share else "plain" for _ in pairs]
    return [(color, shape, texture) for (color, shape), texture in zip(pairs, textures, strict=True)]


@dataclass(slots=True)
class _PlannedAction:
    """A happening whose place is not known yet."""

    kind: Kind
    object: int
    start: float
    end: float
    other: int | None = None

    @property
    def actors(self) -> tuple[int, ...]:
        return (self.object,) if self.other is None else (self.object, self.other)


def _plan_actions(
    rng: random.Random, recipe: _LevelSettings, looks: list[tuple[str, str, str]], duration: float
) -> list[_PlannedAction] | None:
    """Who does what when: first the hard negatives that every film has, then as many more as there is room for."""
    acts: list[_PlannedAction] = []
    num_things = len(looks)
    room = duration / (sum(recipe.event_seconds) / 2 + 2.5)  # events that one thing finds time for, about
    wanted = round(min(MAX_EVENTS, max(MIN_EVENTS, rng.uniform(0.5, 0.95) * room * num_things)))
    first, second = rng.sample(range(num_things), 2)
    shared = rng.choice(KINDS)
    for thing in (first, second):  # two things do the same
        if not _try_action(rng, recipe, looks, acts, duration, thing, shared, apart_from=acts[:1], tries=40):
            return None
    for _ in range(20):  # one thing does two things
        if len(acts) == 3 or _try_action(rng, recipe, looks, acts, duration, first, rng.choice(KINDS), tries=4):
            break
    if len(acts) < 3:
        return None
    for _ in range(60):
        if len(acts) >= wanted:
            break
        _try_action(rng, recipe, looks, acts, duration, rng.randrange(num_things), rng.choice(KINDS), tries=3)
    return sorted(acts, key=lambda act: (act.start, act.end, act.object)) if len(acts) >= MIN_EVENTS else None


def _try_action(
    rng: random.Random,
    recipe: _LevelSettings,
    looks: list[tuple[str, str, str]],
    acts: list[_PlannedAction],
    duration: float,
    thing: int,
    kind: Kind,
    *,
    tries: int,
    apart_from: list[_PlannedAction] = [],  # noqa: B006 - never changed
) -> bool:
    """Add an act where there is time for it and it makes sense; returns whether it was added."""
    _, shape, texture = looks[thing]
    if kind == "spin" and not shows_turning(shape, texture):
        return False
    if not recipe.may_repeat and any(act.object == thing and act.kind == kind for act in acts):
        return False
    shortest, longest = (round(seconds / TICK) for seconds in recipe.event_seconds)
    for _ in range(tries):
        length = rng.randint(shortest, min(longest, int(duration / 2.5 / TICK))) * TICK
        start = rng.randint(1, int((duration - length) / TICK) - 1) * TICK
        other = rng.choice([i for i in range(len(looks)) if i != thing]) if kind == "meet" else None
        act = _PlannedAction(kind, thing, start, start + length, other)
        clash = any(
            set(act.actors) & set(old.actors) and start < old.end + _GAP and old.start < act.end + _GAP for old in acts
        )
        if (
            kind == "meet"
            and any(old.kind == "meet" and set(old.actors) == set(act.actors) for old in acts)
            and not recipe.may_repeat
        ):
            clash = True  # "the red circle meets the blue square" is the same event the other way round
        clash = clash or any(start < old.end and old.start < act.end for old in apart_from)
        if not clash and all(_makes_sense(i, [*acts, act]) for i in act.actors):
            acts.append(act)
            return True
    return False


def _makes_sense(thing: int, acts: list[_PlannedAction]) -> bool:
    """Whether a thing can do all of this: it is there when it acts, small when it grows, big when it shrinks."""
    is_present: bool | None = None
    is_big: bool | None = None
    for act in sorted((act for act in acts if thing in act.actors), key=lambda act: act.start):
        if act.kind == "appear":
            if is_present is not None and is_present:
                return False
            is_present = True
            continue
        if is_present is False:
            return False
        is_present = act.kind != "leave"
        if act.kind in ("grow", "shrink"):
            if is_big is not None and is_big == (act.kind == "grow"):
                return False
            is_big = act.kind == "grow"
    return True


def _place(
    rng: random.Random, recipe: _LevelSettings, looks: list[tuple[str, str, str]], acts: list[_PlannedAction]
) -> tuple[tuple[Object, ...], tuple[Action, ...]] | None:
    """Give every thing a home and every movement an aim, on a grid on which no two things share a cell."""
    grid = recipe.grid
    cells = [(column, row) for column in range(grid) for row in range(grid)]
    homes = rng.sample(cells, len(looks))
    at = dict(enumerate(homes))
    things = []
    for i, (color, shape, texture) in enumerate(looks):
        own = [act.kind for act in acts if i in act.actors]
        sizes = [kind for kind in own if kind in ("grow", "shrink")]
        starts_big = sizes[0] == "shrink" if sizes else rng.random() < 0.4
        is_present = next((kind for kind in own if kind in ("appear", "leave")), "leave") != "appear"
        radius = round(rng.uniform(*recipe.radius), 4)
        things.append(Object(color, shape, texture, radius, starts_big, is_present, _middle(rng, homes[i], grid)))
    where = {i: thing.home for i, thing in enumerate(things)}
    happenings: list[Action] = []
    held: list[tuple[float, tuple[int, int]]] = []  # cells that a thing is just leaving, until when
    for number, act in enumerate(acts):
        target: tuple[float, float] | None = None
        period: float | None = None
        new_color: str | None = None
        if act.kind == "move":
            taken = set(at.values()) | {cell for until, cell in held if until > act.start}
            free = [
                cell
                for cell in cells
                if cell not in taken and abs(cell[0] - at[act.object][0]) + abs(cell[1] - at[act.object][1]) >= 2
            ]
            if not free:
                return None
            held.append((act.end, at[act.object]))
            at[act.object] = rng.choice(free)
            target = where[act.object] = _middle(rng, at[act.object], grid)
        elif act.kind == "leave":
            x, y = where[act.object]
            target = (-0.25 if x < 0.5 else 1.25, y)
        elif act.kind == "appear" and act.start > 0:
            happened = [h for h in happenings if h.object == act.object and h.kind == "leave"]
            if happened:  # it comes back where it was before it left
                target = where[act.object]
        elif act.kind == "meet":
            assert act.other is not None
            target = _beside(things[act.object], things[act.other], where[act.object], where[act.other])
        elif act.kind in ("bounce", "spin", "blink"):
            low, high = {"bounce": (1.6, 2.6), "spin": (2.5, 4.5), "blink": (1.2, 2.2)}[act.kind]
            cycles = max(1, round((act.end - act.start) / rng.uniform(low, high)))
            period = (act.end - act.start) / cycles
        elif act.kind == "recolor":
            new_color = rng.choice([name for name in COLORS if name != looks[act.object][0]])
        happenings.append(
            Action(f"e{number}", act.kind, act.object, act.start, act.end, act.other, target, period, new_color)
        )
    return tuple(things), tuple(happenings)


def _middle(rng: random.Random, cell: tuple[int, int], grid: int) -> tuple[float, float]:
    """About the middle of a cell of the grid, which leaves a margin to the frame's edge."""
    x, y = (0.06 + 0.88 * (i + 0.5 + rng.uniform(-0.12, 0.12)) / grid for i in cell)
    return round(x, 4), round(y, 4)


def _beside(thing: Object, other: Object, where: tuple[float, float], aim: tuple[float, float]) -> tuple[float, float]:
    """Where `object` stands when it touches `other`, coming from where it is."""
    dx, dy = where[0] - aim[0], where[1] - aim[1]
    distance = max((dx * dx + dy * dy) ** 0.5, 1e-6)
    touch = min(0.9 * (thing.radius + other.radius), distance)
    return round(aim[0] + dx / distance * touch, 4), round(aim[1] + dy / distance * touch, 4)


def _draw_scenes(rng: random.Random, recipe: _LevelSettings, duration: float) -> tuple[Scene, ...]:
    """Backgrounds in muted colours, which no thing has."""
    starts = [0.0, *sorted(rng.randint(2, int(duration) - 2) * 1.0 for _ in range(rng.randint(0, recipe.max_cuts)))]
    scenes = []
    for start in dict.fromkeys(starts):
        level = rng.randint(30, 150)
        first, second = (tuple(max(0, min(255, level + rng.randint(-22, 22))) for _ in range(3)) for _ in range(2))
        scenes.append(Scene(start, rng.choice(recipe.patterns), (first, second), rng.randrange(2**31)))  # type: ignore[arg-type]
    return tuple(scenes)
