"""Folders of `timechat data draw`: the records of each synthetic video, and all events of its script."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timechat.data.records import Record, read_jsonl
from timechat.errors import DataError, located
from timechat.evaluation.metrics.captioning import Attributes
from timechat.synthetic.long import event_id
from timechat.synthetic.scene import Level

RECORDS_FILE = "records.jsonl"
TRUTH_FILE = "truth.jsonl"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of a synthetic video.

    Attributes:
        id: Identifier, unique in the video; records refer to it.
        kind: Kind of action, such as `"bounce"`.
        start: Start in seconds.
        end: End in seconds.
        subjects: Color and shape of the object, or of both objects of a meeting, which has no direction.
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
        """Attributes of a correct caption, in each correct form."""
        return tuple(Attributes(object=shape, color=color, action=self.kind) for color, shape in self.subjects)


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """A synthetic video, short or long, and its records.

    Attributes:
        video: Path as the records give it; identifies the video.
        path: Path of the file.
        duration: Duration in seconds.
        level: Difficulty of the set, 1 to 3.
        part: Part of the test split: `"standard"`, `"unseen_pairs"` or `"longer"`.
        events: All events of the video.
        records: Questions with their reference answers.
    """

    video: str
    path: Path
    duration: float
    level: Level
    part: str
    events: tuple[StoredEvent, ...]
    records: tuple[Record, ...]

    def kind(self, record: Record) -> str:
        """Kind of event in the query of a grounding record; `"absent"` if there is no such event."""
        asked = {event.id for event in record.events}
        return next((event.kind for event in self.events if event.id in asked), "absent")


def read_videos(folder: Path, *, tasks: Sequence[str] | None = None, limit: int | None = None) -> list[StoredVideo]:
    """Read a folder that `timechat data draw` has written.

    Args:
        folder: Folder with `records.jsonl`, `truth.jsonl` and the videos.
        tasks: Tasks of the records that are read; None reads all.
        limit: Maximum number of videos; None reads all.

    Raises:
        DataError: A file is missing or has no records of these tasks, or records and scripts do not match.
    """
    for name in (RECORDS_FILE, TRUTH_FILE):
        if not (folder / name).is_file():
            raise DataError(f"{folder} has no {name}; make the folder with `timechat data draw {folder} --split test`")
    scripts = dict(_read_scripts(folder / TRUTH_FILE))
    records: dict[str, list[Record]] = {}
    for record in read_jsonl(folder / RECORDS_FILE):
        of_video = records.setdefault(record.video, [])
        if tasks is None or record.task in tasks:
            of_video.append(record)
    names = list(records)  # parts alternate video by video, so the first videos are a representative sample
    videos = [_video(folder, video, tuple(records[video]), scripts.get(Path(video).stem)) for video in names[:limit]]
    videos = [video for video in videos if video.records]
    if not videos:
        expected = "any task" if tasks is None else " or ".join(tasks)
        raise DataError(f"{folder / RECORDS_FILE} has no records of {expected}; draw the folder again")
    return videos


def _read_scripts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            with located(f"{path}:{number}"):
                script = json.loads(line)
                yield str(script["id"]), script


def _video(folder: Path, video: str, records: tuple[Record, ...], script: dict[str, Any] | None) -> StoredVideo:
    if script is None:
        raise DataError(f"{folder / TRUTH_FILE} has no script for {video}; draw the folder again")
    events = tuple(_chain_events(script) if "films" in script else _scene_events(script))
    known = {event.id for event in events}
    for record in records:
        strange = [event.id for event in record.events if record.task == "grounding" and event.id not in known]
        if strange:
            raise DataError(
                f"{folder / RECORDS_FILE}: record {record.id!r} names the events {strange}, but the script of {video} "
                f"has {', '.join(sorted(known))}; draw the folder again"
            )
    return StoredVideo(
        video=video,
        path=folder / video,
        duration=float(script["duration"]),
        level=script["level"],
        part=script["part"],
        events=events,
        records=records,
    )


def _scene_events(script: dict[str, Any]) -> Iterator[StoredEvent]:
    return (_event(happening, script["things"]) for happening in script["happenings"])


def _chain_events(script: dict[str, Any]) -> Iterator[StoredEvent]:
    """Events of a long video, a chain of short ones, with times and unique identifiers of the long video."""
    for number, (scene, offset) in enumerate(zip(script["films"], script["offsets"], strict=True)):
        for event in _scene_events(scene):
            yield replace(event, id=event_id(number, event.id), start=offset + event.start, end=offset + event.end)


def _event(happening: dict[str, Any], things: Sequence[dict[str, Any]]) -> StoredEvent:
    cast = [happening["thing"], *([] if happening["other"] is None else [happening["other"]])]
    return StoredEvent(
        id=str(happening["id"]),
        kind=str(happening["kind"]),
        start=float(happening["start"]),
        end=float(happening["end"]),
        subjects=tuple((str(things[i]["color"]), str(things[i]["shape"])) for i in cast),
    )
