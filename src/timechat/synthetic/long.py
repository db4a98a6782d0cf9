"""Long films: chains of ordinary ones, each a scene of the chain, whose every moment is known as well."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from timechat.synthetic.scene import Action, Level, Object, Part, Split, SyntheticVideo, durations, write_scene


@dataclass(frozen=True, slots=True)
class LongSyntheticVideo:
    """Films one after the other, as one film. Nobody speaks in it.

    Attributes:
        id: Unique among chains and films of other seeds, levels, splits, lengths and numbers.
        parts: The scenes, all of one picture size and rate, each a whole number of seconds long.
    """

    id: str
    parts: tuple[SyntheticVideo, ...]

    def __post_init__(self) -> None:
        formats = {(film.width, film.height, film.fps) for film in self.parts}
        if len(formats) != 1:
            raise ValueError(f"the films of a chain must share one width, height and rate, got {sorted(formats)}")
        uneven = [film.duration for film in self.parts if not film.duration.is_integer()]
        if uneven:
            raise ValueError(f"the films of a chain must last whole seconds, got {uneven}")

    @property
    def duration(self) -> float:
        """Seconds."""
        return sum(film.duration for film in self.parts)

    @property
    def offsets(self) -> tuple[float, ...]:
        """When each film starts, in seconds of the chain."""
        return tuple(itertools.accumulate((film.duration for film in self.parts[:-1]), initial=0.0))

    @property
    def objects(self) -> tuple[Object, ...]:
        """The things of all films; each film has its own, so a color and shape may be there many times."""
        return tuple(thing for film in self.parts for thing in film.objects)

    @property
    def actions(self) -> tuple[Action, ...]:
        """All that happens, in the times of the chain, under ids unique in it and with indices into `objects`."""
        happenings: list[Action] = []
        first = 0
        for number, (film, offset) in enumerate(zip(self.parts, self.offsets, strict=True)):
            happenings += (_in_chain(happening, number, offset, first) for happening in film.actions)
            first += len(film.objects)
        return tuple(happenings)

    @property
    def level(self) -> Level:
        """Of every film."""
        return self.parts[0].level

    @property
    def part(self) -> Part:
        """Of every film."""
        return self.parts[0].part

    @property
    def fps(self) -> int:
        """Frames a second."""
        return self.parts[0].fps

    @property
    def width(self) -> int:
        """Pixels."""
        return self.parts[0].width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.parts[0].height

    @property
    def keyframe_seconds(self) -> float:
        """Seconds from one keyframe to the next, at most."""
        return self.parts[0].keyframe_seconds

    def to_dict(self) -> dict[str, Any]:
        """The whole script, ready for JSON."""
        return {
            "id": self.id,
            "level": self.level,
            "part": self.part,
            "duration": self.duration,
            "offsets": list(self.offsets),
            "films": [film.to_dict() for film in self.parts],
        }


def _in_chain(happening: Action, scene: int, offset: float, first_thing: int) -> Action:
    return replace(
        happening,
        id=event_id(scene, happening.id),
        object=first_thing + happening.object,
        other=None if happening.other is None else first_thing + happening.other,
        start=offset + happening.start,
        end=offset + happening.end,
    )


def event_id(scene: int, happening: str) -> str:
    """Name an event in its chain by the scene, from 0, and its id there: `"s03e1"`."""
    return f"s{scene:02d}{happening}"


def write_long_scene(
    seed: int, index: int, *, minutes: int, level: Level = 1, split: Split = "train", part: Part = "standard"
) -> LongSyntheticVideo:
    """Write the script of one long film.

    Args:
        seed: Of the set of chains.
        index: Which chain of the set; the same arguments give the same chain.
        minutes: How long it is, exactly.
        level: Of its scenes, as in `write_scene`.
        split: As in `write_scene`; no scene is a film of an ordinary set with a small seed.
        part: As in `write_scene`, without `"longer"`.

    Raises:
        ValueError: There is no such length, level, split or part.
    """
    if minutes < 1:
        raise ValueError(f"the length of a long film must be at least 1 minute, got {minutes}")
    if part == "longer":
        raise ValueError("part 'longer' is of single films; long films are of the part standard or unseen_pairs")
    name = f"{split}-{level}-{seed}-{index:06d}-{minutes}min" + ("" if part == "standard" else f"-{part}")
    scene_seed = random.Random(name).randrange(2**32, 2**48)
    written = (write_scene(scene_seed, i, level=level, split=split, part=part) for i in itertools.count())
    return LongSyntheticVideo(name, tuple(_fill(written, 60.0 * minutes, durations(level)[0])))


def _fill(written: Iterator[SyntheticVideo], duration: float, shortest: float) -> Iterator[SyntheticVideo]:
    """Take films, in the first one's size and rate, that fill a time to its end; those that do not fit are passed."""
    first: SyntheticVideo | None = None
    for film in written:
        rest = duration - film.duration
        if rest != 0 and rest < shortest:
            continue  # what is left must have room for another film, or be nothing
        first = first or film
        yield replace(
            film,
            width=first.width,
            height=first.height,
            fps=first.fps,
            keyframe_seconds=first.keyframe_seconds,
        )
        duration = rest
        if not duration:
            return
