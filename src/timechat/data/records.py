"""Instruction records: conversations about videos or parts of videos, one JSON object per line."""

import difflib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from timechat.answers.events import Event, Task
from timechat.answers.prompts import Message
from timechat.answers.tasks import TASKS, parse_events
from timechat.data.conversations import Source, describe, find_source, read_conversation
from timechat.errors import located
from timechat.files import atomic_write

Clock = Literal["video", "part"]


@dataclass(frozen=True, slots=True)
class RecordEvent(Event):
    """An event of a record.

    Attributes:
        id: Id of the event, the same in all records of a video; None if unknown.
        extra: Other keys of the JSON object.
    """

    id: str | int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A conversation about a video, about a part of it, or about a still image.

    Attributes:
        video: Path or address of the video or the image.
        messages: Questions and answers in turn; the first message is of the user, the last of the assistant.
        id: Id of the record in reports, unique in its file.
        start: Start of the part of the video, in seconds; None is the start of the video.
        end: End of the part of the video, in seconds; None is the end of the video.
        clock: Origin of the times in messages and events: the first frame of the video, or `start`, as if the part were
            a file.
        duration: Length of the video in seconds, if known.
        task: Task: `grounding`, `dense_caption`, ...
        query: Query, for tasks that have one.
        source: Data set of the record.
        system: Text of a system turn of the file. Training does not use it, because a model has one system prompt.
        transcript: Speech of the video with times, None if unknown. It is not part of the messages.
        annotated_events: Events that the file lists, or None if it lists none.
        is_image: Whether `video` is a still image, which counts as a video of one frame at 0 s.
        extra: Other keys of the JSON object, which are kept.
    """

    video: str
    messages: tuple[Message, ...]
    id: str = ""
    start: float | None = None
    end: float | None = None
    clock: Clock = "video"
    duration: float | None = None
    task: str = "ask"
    query: str | None = None
    source: str = ""
    system: str | None = None
    transcript: tuple[Event, ...] | None = None
    annotated_events: tuple[RecordEvent, ...] | None = None
    is_image: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.video:
            raise ValueError("video must be the path or the address of a video, got an empty text")
        for name in ("video", "task", "query", "source", "system"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in ("query", "system")):
                raise ValueError(f"{name} must be text, got {value!r}")
        roles = [message.role for message in self.messages]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(f"messages must be pairs of a user and an assistant message, got {roles}")
        for message in self.messages:
            if not isinstance(message.text, str):
                raise ValueError(f"the content of a message must be text, got {message.text!r}")
        for name in ("start", "end", "duration"):
            seconds = getattr(self, name)
            if seconds is not None and not is_time(seconds):
                raise ValueError(f"{name} must be seconds, at least 0, got {seconds!r}")
        if self.start is not None and self.end is not None and not self.start < self.end:
            raise ValueError(f"start must be before end, got start={self.start} and end={self.end}")
        if self.is_image and (self.start, self.end) != (None, None):
            raise ValueError(f"an image has no start and no end, got start={self.start} and end={self.end}")
        if self.clock not in get_args(Clock):
            raise ValueError(f"clock must be one of {', '.join(get_args(Clock))}, got {self.clock!r}")

    @property
    def source_key(self) -> str:
        """Key of the video or image in the JSON object."""
        return "image" if self.is_image else "video"

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Conversation as (question, answer) pairs."""
        texts = [message.text or "" for message in self.messages]
        return list(zip(texts[::2], texts[1::2], strict=True))

    @cached_property
    def events(self) -> tuple[RecordEvent, ...]:
        """Events that the file lists, or otherwise the events of the answers."""
        return self.parsed_events if self.annotated_events is None else self.annotated_events

    @cached_property
    def parsed_events(self) -> tuple[RecordEvent, ...]:
        """Events of the answers."""
        parsed = [event for _, answer in self.turns for event in parse_events(answer, task=_task_of(answer)).events]
        return tuple(RecordEvent(e.start, e.end, e.caption, e.score, e.saliency) for e in parsed)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Record":
        """Make a record from a JSON object.

        Raises:
            ValueError: A key is missing or has an invalid value.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a record must be a JSON object, got {type(data).__name__}")
        if "messages" not in data:
            raise _lacks("messages", data)
        conversation = read_conversation(data["messages"])
        source = find_source(data, conversation)
        if source is None:
            raise _lacks("video", data)
        known = {f.name for f in fields(cls)} - {"annotated_events", "is_image", "extra"}
        values = {key: value for key, value in data.items() if key in known}
        return cls(
            **values
            | {
                "id": str(data.get("id", "")),
                "video": source.path,
                "is_image": source.is_image,
                "messages": conversation.messages,
                "system": conversation.system or data.get("system") or None,
                "transcript": _optional(data.get("transcript"), _line_of_speech),
                "annotated_events": _optional(data.get("events"), _event),
            },
            extra=without_keys(data, {*known, "events"}, source),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a JSON object, without unknown fields."""
        values = {
            "id": self.id,
            self.source_key: self.video,
            "start": self.start,
            "end": self.end,
            "clock": None if self.clock == "video" else self.clock,
            "duration": self.duration,
            "task": None if self.task == "ask" else self.task,
            "query": self.query,
            "source": self.source,
            "system": self.system,
            "messages": [{"role": message.role, "content": message.text} for message in self.messages],
            "events": None if self.annotated_events is None else [_event_dict(e) for e in self.annotated_events],
            "transcript": None
            if self.transcript is None
            else [{"start": e.start, "end": e.end, "text": e.caption} for e in self.transcript],
        }
        return {key: value for key, value in values.items() if value not in (None, "")} | dict(self.extra)


def read_jsonl(path: Path) -> Iterator[Record]:
    """Read our records, one per line; empty lines and a byte order mark are skipped.

    Raises:
        DataError: A line holds no valid record; the message names file and line.
    """
    for location, item in read_json_lines(path):
        with located(location):
            record = Record.from_dict(item)
        yield record


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Read JSON values, one per line, each with its location for messages, `FILE:LINE`.

    Raises:
        DataError: A line is not JSON.
    """
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                location = f"{path}:{number}"
                with located(location):
                    item = json.loads(line)
                yield location, item


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects, one per line; the file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def is_time(value: Any) -> bool:
    """Return whether a JSON value is a number of seconds from 0; `true` is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _event(data: Any) -> RecordEvent:
    if not isinstance(data, Mapping) or "start" not in data or "end" not in data:
        raise ValueError(f'an event must be {{"start", "end", "caption", ...}}, got {describe(data)}')
    _check_span(data, "an event")
    if not isinstance(data.get("caption", ""), str):
        raise ValueError(f"the caption of an event must be text, got {data['caption']!r}")
    known = {"start", "end", "caption", "score", "saliency", "id"}
    extra = {key: value for key, value in data.items() if key not in known}
    return RecordEvent(**{key: data[key] for key in known & set(data)}, extra=extra)


def _event_dict(event: RecordEvent) -> dict[str, Any]:
    values = {"id": event.id} | event.to_dict()
    return {key: value for key, value in values.items() if value is not None} | dict(event.extra)


def _line_of_speech(data: Any) -> Event:
    text = data.get("text", data.get("caption")) if isinstance(data, Mapping) else None
    if not isinstance(text, str) or "start" not in data or "end" not in data:
        raise ValueError(f'a line of the transcript must be {{"start", "end", "text"}}, got {describe(data)}')
    _check_span(data, "a line of the transcript")
    return Event(data["start"], data["end"], text)


def _check_span(data: Mapping[str, Any], what: str) -> None:
    for name in ("start", "end"):
        if not is_time(data[name]):
            raise ValueError(f"the {name} of {what} must be seconds, at least 0, got {data[name]!r}")


def _optional(items: Any, make: Any) -> tuple[Any, ...] | None:
    if items is None:
        return None
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise ValueError(f"events and transcript must be lists, got {type(items).__name__}")
    return tuple(make(item) for item in items)


def _task_of(answer: str) -> Task:
    """Detect the task from the first words of an answer, so that its numbers are parsed correctly."""
    openings = ((task, definition.opening) for task, definition in TASKS.items())
    return next((task for task, opening in openings if opening and opening.match(answer)), "ask")


def _lacks(key: str, data: Mapping[str, Any]) -> ValueError:
    return ValueError(f"a record needs {key!r}, got {describe(data)}{closest_key(key, data)}")


def without_keys(data: Mapping[str, Any], read: Collection[str], source: Source) -> dict[str, Any]:
    """Return the keys of a JSON object that were not read, where `source` was."""
    names = ("image", "images") if source.is_image else ("video", "videos")
    return {key: value for key, value in data.items() if key not in (*read, *names)}


def closest_key(key: str, data: Mapping[str, Any]) -> str:
    """Suggest a key that is similar to the missing one."""
    close = difflib.get_close_matches(key, [str(name) for name in data], n=1)
    return f"; is {close[0]!r} a typing error?" if close else ""
