"""Long synthetic videos: short ones in sequence, as scenes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from timechat.synthetic.levels import durations
from timechat.synthetic.scene import Action, Level, Object, Part, Split, SyntheticVideo, write_scene


@dataclass(frozen=True, slots=True)
class LongSyntheticVideo:
    """Short videos in sequence, as one video without speech.

    Attributes:
        id: Unique id among videos of all seeds, levels, splits, lengths and numbers.
        parts: Scenes, all with the same frame size and rate, each a whole number of seconds long.
    """

    id: str
    parts: tuple[SyntheticVideo, ...]

    def __post_init__(self) -> None:
        formats = {(part.width, part.height, part.fps) for part in self.parts}
        if len(formats) != 1:
            raise ValueError(f"the scenes of a long video must have one width, height and rate, got {sorted(formats)}")
        uneven = [part.duration for part in self.parts if not part.duration.is_integer()]
        if uneven:
            raise ValueError(f"the scenes of a long video must last whole seconds, got {uneven}")

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return sum(part.duration for part in self.parts)

    @property
    def offsets(self) -> tuple[float, ...]:
        """Start of each scene, in seconds."""
        return tuple(itertools.accumulate((part.duration for part in self.parts[:-1]), initial=0.0))

    @property
    def objects(self) -> tuple[Object, ...]:
        """Objects of all scenes. A color and shape may occur several times."""
        return tuple(obj for part in self.parts for obj in part.objects)

    @property
    def actions(self) -> tuple[Action, ...]:
        """Actions of all scenes, with times and ids of the long video and indices into `objects`."""
        actions: list[Action] = []
        first = 0
        for number, (part, offset) in enumerate(zip(self.parts, self.offsets, strict=True)):
            actions += (_in_chain(action, number, offset, first) for action in part.actions)
            first += len(part.objects)
        return tuple(actions)

    @property
    def level(self) -> Level:
        """Level of every scene."""
        return self.parts[0].level

    @property
    def part(self) -> Part:
        """Part of every scene."""
        return self.parts[0].part

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self.parts[0].fps

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.parts[0].width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.parts[0].height

    @property
    def keyframe_seconds(self) -> float:
        """Maximum time between keyframes, in seconds."""
        return self.parts[0].keyframe_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the whole script as a JSON object, with the keys of `truth.jsonl`."""
        return {
            "id": self.id,
            "level": self.level,
            "part": self.part,
            "duration": self.duration,
            "offsets": list(self.offsets),
            "films": [part.to_dict() for part in self.parts],
        }


def _in_chain(action: Action, scene: int, offset: float, first_object: int) -> Action:
    return replace(
        action,
        id=event_id(scene, action.id),
        object=first_object + action.object,
        other=None if action.other is None else first_object + action.other,
        start=offset + action.start,
        end=offset + action.end,
    )


def event_id(scene: int, event: str) -> str:
    """Return the id in a long video of an event of a scene (from 0), such as `"s03e1"`."""
    return f"s{scene:02d}{event}"


def write_long_scene(
    seed: int, index: int, *, minutes: int, level: Level = 1, split: Split = "train", part: Part = "standard"
) -> LongSyntheticVideo:
    """Write the script of one long video. Equal arguments give equal scripts.

    Args:
        seed: Random seed of the set of videos.
        index: Number of the video in the set, from 0.
        minutes: Exact length in minutes.
        level: Level of the scenes, as in `write_scene`.
        split: Split, as in `write_scene`. The scenes differ from the videos of sets with small seeds.
        part: Part of the split, as in `write_scene`, without `"longer"`.

    Raises:
        ValueError: The length, level, split or part does not exist.
    """
    if minutes < 1:
        raise ValueError(f"the length of a long video must be at least 1 minute, got {minutes}")
    if part == "longer":
        raise ValueError("part 'longer' exists for short videos only; give standard or unseen_pairs for long videos")
    name = f"{split}-{level}-{seed}-{index:06d}-{minutes}min" + ("" if part == "standard" else f"-{part}")
    scene_seed = random.Random(name).randrange(2**32, 2**48)
    scenes = (write_scene(scene_seed, i, level=level, split=split, part=part) for i in itertools.count())
    return LongSyntheticVideo(name, tuple(_fill(scenes, 60.0 * minutes, durations(level)[0])))


def _fill(scenes: Iterator[SyntheticVideo], duration: float, shortest: float) -> Iterator[SyntheticVideo]:
    """Yield scenes that fill a duration exactly, with the size and rate of the first; drop scenes that do not fit."""
    first: SyntheticVideo | None = None
    for part in scenes:
        rest = duration - part.duration
        if rest != 0 and rest < shortest:
            continue  # the rest must be empty or long enough for another scene
        first = first or part
        yield replace(
            part,
            width=first.width,
            height=first.height,
            fps=first.fps,
            keyframe_seconds=first.keyframe_seconds,
        )
        duration = rest
        if not duration:
            return
