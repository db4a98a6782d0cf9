"""Drawn films to be asked about: the records of `timechat data draw` gathered film by film, with the script's truth."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.data.records import Record, RecordEvent, read_jsonl
from timechat.errors import DataError, located
from timechat.evaluation.metrics.captioning import Attributes
from timechat.synthetic.long import event_id
from timechat.synthetic.scene import Level

RECORDS_FILE = "records.jsonl"
TRUTH_FILE = "truth.jsonl"


@dataclass(frozen=True, slots=True)
class FilmEvent:
    """Something that happens in a drawn film.

    Attributes:
        id: Unique in its film; records name the event by it.
        kind: What happens, such as `"bounce"`.
        start: Seconds.
        end: Seconds.
        subjects: Colour and shape of who does it; of both where two meet, as meeting has no direction.
    """

    id: str
    kind: str
    start: float
    end: float
    subjects: tuple[tuple[str, str], ...]

    @property
    def span(self) -> tuple[float, float]:
        """Start and end in seconds."""
        return self.start, self.end

    @property
    def readings(self) -> tuple[Attributes, ...]:
        """What a right caption says, in every way in which it may be said."""
        return tuple(Attributes(object=shape, color=color, action=self.kind) for color, shape in self.subjects)


@dataclass(frozen=True, slots=True)
class DrawnFilm:
    """A film, short or long, and everything that is asked about it.

    Attributes:
        video: Path as the records give it; names the film.
        path: Where the file is.
        duration: Seconds.
        level: Of the set, 1 to 3.
        part: `"standard"`, `"unseen_pairs"` or `"longer"`.
        events: All that happens.
        records: The questions with their true answers.
    """

    video: str
    path: Path
    duration: float
    level: Level
    part: str
    events: tuple[FilmEvent, ...]
    records: tuple[Record, ...]

    def spans(self, *, apart_from: Sequence[RecordEvent] = ()) -> NDArray[np.float64]:
        """Spans of the film's events, `(events, 2)` seconds, but for those that a record names."""
        left_out = {event.id for event in apart_from}
        return np.array([event.span for event in self.events if event.id not in left_out]).reshape(-1, 2)

    def kind(self, record: Record) -> str:
        """What kind of event a grounding record asks for; `"absent"` where it does not happen."""
        asked = {event.id for event in record.events}
        return next((event.kind for event in self.events if event.id in asked), "absent")


def read_films(folder: Path, *, tasks: Sequence[str] | None = None, limit: int | None = None) -> list[DrawnFilm]:
    """Read a folder that `timechat data draw` has written.

    Args:
        folder: Holds `records.jsonl`, `truth.jsonl` and the films.
        tasks: Records of these tasks only; None takes all.
        limit: The first so many films; None takes all.

    Raises:
        DataError: A file is missing or has nothing of these tasks, or records and truth do not go together.
    """
    for name in (RECORDS_FILE, TRUTH_FILE):
        if not (folder / name).is_file():
            raise DataError(f"{folder} has no {name}; make the folder with `timechat data draw {folder} --split test`")
    scripts = dict(_read_scripts(folder / TRUTH_FILE))
    records: dict[str, list[Record]] = {}
    for record in read_jsonl(folder / RECORDS_FILE):
        of_film = records.setdefault(record.video, [])
        if tasks is None or record.task in tasks:
            of_film.append(record)
    videos = list(records)  # parts follow each other film by film, so the first films are a fair sample
    films = [_film(folder, video, tuple(records[video]), scripts.get(Path(video).stem)) for video in videos[:limit]]
    films = [film for film in films if film.records]
    if not films:
        wanted = "any task" if tasks is None else " or ".join(tasks)
        raise DataError(f"{folder / RECORDS_FILE} has no records of {wanted}; draw the folder again")
    return films


def _read_scripts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            with located(f"{path}:{number}"):
                script = json.loads(line)
                yield str(script["id"]), script


def _film(folder: Path, video: str, records: tuple[Record, ...], script: dict[str, Any] | None) -> DrawnFilm:
    if script is None:
        raise DataError(f"{folder / TRUTH_FILE} has no script for {video}; draw the folder again")
    events = tuple(_chain_events(script) if "films" in script else _film_events(script))
    known = {event.id for event in events}
    for record in records:
        strange = [event.id for event in record.events if record.task == "grounding" and event.id not in known]
        if strange:
            raise DataError(
                f"{folder / RECORDS_FILE}: record {record.id!r} names the events {strange}, but the script of {video} "
                f"has {', '.join(sorted(known))}; draw the folder again"
            )
    return DrawnFilm(
        video=video,
        path=folder / video,
        duration=float(script["duration"]),
        level=script["level"],
        part=script["part"],
        events=events,
        records=records,
    )


def _film_events(script: dict[str, Any]) -> Iterator[FilmEvent]:
    return (_event(happening, script["things"]) for happening in script["happenings"])


def _chain_events(script: dict[str, Any]) -> Iterator[FilmEvent]:
    """The events of a long film, which is a chain of films, in its own times and under ids that are unique in it."""
    for number, (film, offset) in enumerate(zip(script["films"], script["offsets"], strict=True)):
        for event in _film_events(film):
            yield replace(event, id=event_id(number, event.id), start=offset + event.start, end=offset + event.end)


def _event(happening: dict[str, Any], things: Sequence[dict[str, Any]]) -> FilmEvent:
    cast = [happening["thing"], *([] if happening["other"] is None else [happening["other"]])]
    return FilmEvent(
        id=str(happening["id"]),
        kind=str(happening["kind"]),
        start=float(happening["start"]),
        end=float(happening["end"]),
        subjects=tuple((str(things[i]["color"]), str(things[i]["shape"])) for i in cast),
    )
