"""Long films: chains of ordinary ones, each a scene of the chain, whose every moment is known as well."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from timechat.data.drawing.film import Film, Happening, Level, Part, Split, Thing, durations, write_film


@dataclass(frozen=True, slots=True)
class Chain:
    """Films one after the other, as one film. Nobody speaks in it.

    Attributes:
        id: Unique among chains and films of other seeds, levels, splits, lengths and numbers.
        films: The scenes, all of one picture size and rate, each a whole number of seconds long.
    """

    id: str
    films: tuple[Film, ...]

    def __post_init__(self) -> None:
        formats = {(film.width, film.height, film.fps) for film in self.films}
        if len(formats) != 1:
            raise ValueError(f"the films of a chain must share one width, height and rate, got {sorted(formats)}")
        uneven = [film.duration for film in self.films if not film.duration.is_integer()]
        if uneven:
            raise ValueError(f"the films of a chain must last whole seconds, got {uneven}")

    @property
    def duration(self) -> float:
        """Seconds."""
        return sum(film.duration for film in self.films)

    @property
    def offsets(self) -> tuple[float, ...]:
        """When each film starts, in seconds of the chain."""
        return tuple(itertools.accumulate((film.duration for film in self.films[:-1]), initial=0.0))

    @property
    def things(self) -> tuple[Thing, ...]:
        """The things of all films; each film has its own, so a color and shape may be there many times."""
        return tuple(thing for film in self.films for thing in film.things)

    @property
    def happenings(self) -> tuple[Happening, ...]:
        """All that happens, in the times of the chain, under ids unique in it and with indices into `things`."""
        happenings: list[Happening] = []
        first = 0
        for number, (film, offset) in enumerate(zip(self.films, self.offsets, strict=True)):
            happenings += (_in_chain(happening, number, offset, first) for happening in film.happenings)
            first += len(film.things)
        return tuple(happenings)

    @property
    def level(self) -> Level:
        """Of every film."""
        return self.films[0].level

    @property
    def part(self) -> Part:
        """Of every film."""
        return self.films[0].part

    @property
    def fps(self) -> int:
        """Frames a second."""
        return self.films[0].fps

    @property
    def width(self) -> int:
        """Pixels."""
        return self.films[0].width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.films[0].height

    @property
    def keyframe_seconds(self) -> float:
        """Seconds from one keyframe to the next, at most."""
        return self.films[0].keyframe_seconds

    def to_dict(self) -> dict[str, Any]:
        """The whole script, ready for JSON."""
        return {
            "id": self.id,
            "level": self.level,
            "part": self.part,
            "duration": self.duration,
            "offsets": list(self.offsets),
            "films": [film.to_dict() for film in self.films],
        }


def _in_chain(happening: Happening, scene: int, offset: float, first_thing: int) -> Happening:
    return replace(
        happening,
        id=event_id(scene, happening.id),
        thing=first_thing + happening.thing,
        other=None if happening.other is None else first_thing + happening.other,
        start=offset + happening.start,
        end=offset + happening.end,
    )


def event_id(scene: int, happening: str) -> str:
    """Name an event in its chain by the scene, from 0, and its id there: `"s03e1"`."""
    return f"s{scene:02d}{happening}"


def write_chain(
    seed: int, index: int, *, minutes: int, level: Level = 1, split: Split = "train", part: Part = "standard"
) -> Chain:
    """Write the script of one long film.

    Args:
        seed: Of the set of chains.
        index: Which chain of the set; the same arguments give the same chain.
        minutes: How long it is, exactly.
        level: Of its scenes, as in `write_film`.
        split: As in `write_film`; no scene is a film of an ordinary set with a small seed.
        part: As in `write_film`, without `"longer"`.

    Raises:
        ValueError: There is no such length, level, split or part.
    """
    if minutes < 1:
        raise ValueError(f"the length of a long film must be at least 1 minute, got {minutes}")
    if part == "longer":
        raise ValueError("part 'longer' is of single films; long films are of the part standard or unseen_pairs")
    name = f"{split}-{level}-{seed}-{index:06d}-{minutes}min" + ("" if part == "standard" else f"-{part}")
    scene_seed = random.Random(name).randrange(2**32, 2**48)
    written = (write_film(scene_seed, i, level=level, split=split, part=part) for i in itertools.count())
    return Chain(name, tuple(_fill(written, 60.0 * minutes, durations(level)[0])))


def _fill(written: Iterator[Film], duration: float, shortest: float) -> Iterator[Film]:
    """Take films, in the first one's size and rate, that fill a time to its end; those that do not fit are passed."""
    first: Film | None = None
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
