"""Annotations of videos as the readers of the sources yield them: events with texts, not yet checked."""

import gzip
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from timechat.data.builders.video_folder import VideoFolder
from timechat.errors import located

Item = TypeVar("Item")
Text = TypeVar("Text")
Split = Literal["train", "val", "test", "all"]
Time = float | Decimal
"""Seconds; a `Decimal` is written with the digits of the annotation."""

_LARGEST = 1e9  # seconds; a float holds it with a tenth of a second

MIN_LETTERS = 2
"""Minimum number of characters of a sentence; the original skips shorter ones."""

_SPLITS = {"training": "train", "train": "train", "validation": "val", "val": "val", "testing": "test", "test": "test"}


@dataclass(frozen=True, slots=True)
class Span:
    """An event of an annotation; a moment has equal start and end.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
        text: Caption.
        saliency: Score of a highlight, on the scale that the answer uses.
    """

    start: Time
    end: Time
    text: str = ""
    saliency: float | None = None


def timed(segment: Any, text: str) -> Span:
    """Return an event from `[start, end]` in seconds and its text."""
    if not isinstance(segment, Sequence) or isinstance(segment, str) or len(segment) != 2:
        raise ValueError(f"the time of an event must be [start, end], got {segment!r:.60}")
    return Span(as_number(segment[0]), as_number(segment[1]), as_text(text))


def as_text(value: Any) -> str:
    """Return a value of a file that must be text."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {_shown(value)}")
    return value


def as_clean_text(value: Any) -> str:
    """Return a value that must be text without `#` and without blanks around it."""
    return as_text(value).replace("#", "").strip()


def as_number(value: Any) -> float:
    """Return a value of a file that must be a number; whole numbers stay whole."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {_shown(value)}")
    if abs(value) > _LARGEST:
        raise ValueError("expected a number of seconds or a score, got a much larger one")
    return value


def as_list(value: Any) -> list[Any]:
    """Return a value of a file that must be a list."""
    if not isinstance(value, list | tuple):  # pickles have tuples
        raise ValueError(f"expected a list, got {_shown(value)}")
    return list(value)


def paired(times: Sequence[Item], texts: Sequence[Text], name: str, text_name: str) -> list[tuple[Item, Text]]:
    """Return the items of two lists of a file in pairs; both lists must have the same length.

    Args:
        times: First list.
        texts: Second list.
        name: Plural of what the first list holds, for messages.
        text_name: Plural of what the second list holds, for messages.
    """
    if len(times) != len(texts):
        raise ValueError(f"{len(texts)} {text_name} for {len(times)} {name}; their numbers must be equal")
    return list(zip(times, texts, strict=True))


def as_object(value: Any) -> Mapping[str, Any]:
    """Return a value of a file that must be an object."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a JSON object, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return type(value).__name__ if isinstance(value, list | Mapping) else f"{value!r:.40}"


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What is known about one video, enough for one record.

    Attributes:
        video: Id, file name or relative path of the video.
        task: Key of a wording, such as `grounding`.
        write: Function that writes the answer from the events.
        spans: Events.
        spans_of: Function that makes the events from the duration of the video; it replaces `spans`.
        query: Query, for tasks that have one.
        duration: Length of the video in seconds, if the annotation states it.
        part: Start and end in seconds of the part of the video that the record is about. Times of events count from
            its start.
        has_moments: Whether an event may have no length.
        may_be_empty: Whether a record without events is kept.
        turns: Questions and answers of a finished conversation; it has no events and no wording.
    """

    video: str
    task: str
    write: Callable[[Sequence[Span]], str] = field(default=lambda _: "", repr=False)
    spans: tuple[Span, ...] = ()
    spans_of: Callable[[float], tuple[Span, ...]] | None = field(default=None, repr=False)
    query: str | None = None
    duration: float | None = None
    part: tuple[float, float] | None = None
    has_moments: bool = False
    may_be_empty: bool = False
    turns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not as_text(self.video):
            raise ValueError("the name of the video is empty")
        if self.query is not None:
            as_text(self.query)
        if self.duration is not None and not 0 < as_number(self.duration) < math.inf:
            raise ValueError(f"the length of a video must be seconds above 0, got {self.duration}")


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item of the annotations that gives no record.

    Attributes:
        video: Name of its video.
        reason: Reason, one of those of `report.REASONS`.
    """

    video: str
    reason: str


@dataclass(frozen=True)
class ReadContext:
    """What a reader may use beside the file of annotations.

    Attributes:
        videos: Videos of the source.
        split: Split to read from a file that holds several.
    """

    videos: VideoFolder
    split: Split = "train"

    def includes(self, split: str) -> bool:
        """Return whether a split is to be read, by any of its usual names; an unknown name is an error."""
        if as_text(split).lower() not in _SPLITS:
            raise ValueError(f"the split of a video must be one of {', '.join(_SPLITS)}, got {split!r}")
        return self.split in ("all", _SPLITS[split.lower()])


Reader = Callable[[Path, ReadContext], Iterator[Annotation | Dropped]]
"""Function that reads the annotations of one source."""


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    with located(str(path)), open_text(path) as file:
        return json.load(file)


def read_list(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a JSON list, or of a file with one object per line, each with its location."""
    with located(str(path)), open_text(path) as file:
        is_list = _first_character(file) == "["
    if not is_list:
        yield from read_rows(path)
        return
    for number, item in enumerate(read_json(path)):
        location = f"{path}: item {number}"
        with located(location):
            as_object(item)
        yield location, item


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a file with one object per line, each with its location; the file is not held in memory."""
    for location, line in read_lines(path):
        with located(location):
            item = json.loads(line)
            as_object(item)
        yield location, item


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a text file that are not blank, each with its location; `.gz` files are unpacked."""
    with located(str(path)), open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}:{number}", line.rstrip("\r\n")


def coco_items(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of `{"annotations": [{...}, ...]}`, the format of the original, each with its location."""
    content = read_json(path)
    with located(str(path)):
        if not isinstance(content, Mapping) or not isinstance(content.get("annotations"), list):
            raise ValueError('expected {"annotations": [...]}')
    for number, item in enumerate(content["annotations"]):
        location = f"{path}: item {number}"
        with located(location):
            as_object(item)
        yield location, item


def database_items(path: Path, content: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the videos of `{"database": {ID: {...}}}`, each with its location and its id."""
    with located(str(path)):
        database = as_object(content["database"])
    for video, item in database.items():
        location = f"{path}: {video}"
        with located(location):
            as_object(item)
        yield location, video, item


def open_text(path: Path) -> IO[str]:
    """Open a text file, also one that gzip has packed; a byte order mark is skipped."""
    if path.is_dir():
        raise ValueError("is a folder; give the file of the annotations (docs/data.md lists the files of each source)")
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def is_one_object(path: Path, key: str) -> bool:
    """Return whether a file is one JSON object with a key, and not one object per line, by its first characters."""
    with located(str(path)), open_text(path) as file:
        start = file.read(1 << 10)
    return re.match(rf'\s*\{{\s*"{key}"\s*:', start) is not None


def is_object(content: Any, *keys: str) -> bool:
    """Return whether a JSON value is an object that has all keys."""
    return isinstance(content, Mapping) and all(key in content for key in keys)


def _first_character(file: IO[str]) -> str:
    while block := file.read(1 << 12):
        if stripped := block.lstrip():
            return stripped[0]
    return ""
