"""Rows of files, and the values in them, whatever they hold."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from timechat.answers.events import Task
from timechat.answers.tasks import parse_events
from timechat.errors import DataError
from timechat.evaluation.metrics.grounding import Span

Value = TypeVar("Value")


@dataclass
class InputIssues:
    """What was wrong with a file, counted."""

    counts: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Count one more."""
        self.counts[what] += 1

    def say(self, note: str) -> None:
        """Tell something that is not counted."""
        self.said.append(note)

    @property
    def notes(self) -> tuple[str, ...]:
        """Plain sentences."""
        return (*self.said, *(f"{count} {what}" for what, count in self.counts.items()))


def read_content(path: Path, issues: InputIssues) -> Any:
    """Read a file of JSON, or of a JSON value a line as a list; lines that are no JSON are counted and passed over.

    Raises:
        DataError: There is no such file, or it is neither.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a file of predictions and a file of truth")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no text in UTF-8: {error}") from error
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    rows = []
    for line in filter(str.strip, text.split("\n")):
        try:
            rows.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError):
            issues.add("lines are no JSON and were passed over")
    if not rows and text.strip():
        raise DataError(f"{path}: is neither JSON nor a JSON value a line")
    return rows


def read_rows(content: Any, path: Path, issues: InputIssues) -> list[Mapping[str, Any]]:
    """Rows of `{"annotations": [...]}`, of a list, or a single row."""
    if isinstance(content, Mapping):
        content = content.get("annotations", [content])
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of rows, got {type(content).__name__}")
    rows = [row for row in content if isinstance(row, Mapping)]
    for _ in range(len(content) - len(rows)):
        issues.add("rows are no JSON objects and were passed over")
    return rows


def is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is of our predictions."""
    return "events" in row and "id" in row


def is_record(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of our records."""
    return "messages" in row and "video" in row


def read_number(value: Any) -> float | None:
    """A finite number, also where it is written as a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_span(value: Any) -> Span | None:
    """Two finite numbers, in the order in which they stand; None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    start, end = map(read_number, value)
    return None if start is None or end is None else (start, end)


def last_name(value: Any) -> str:
    """A video's name without the folders before it."""
    return str(value).rsplit("/", 1)[-1]


def read_text(value: Any) -> str:
    """A text, whatever it is; an empty one for None."""
    return "" if value is None else str(value)


def read_events(row: Mapping[str, Any], task: Task) -> list[dict[str, Any]] | None:
    """Events of a row of ours, or of one of the original's unread results, as its formatted ones have them."""
    if is_ours(row):
        events = row["events"]
        if not isinstance(events, list):
            return None
        return [
            {
                "timestamp": [event.get("start"), event.get("end")],
                "caption": event.get("caption"),
                "score": event.get("score"),
            }
            if isinstance(event, Mapping)
            else {}
            for event in events
        ]
    if not isinstance(row.get("generated_cap"), str):
        return None
    duration = read_number(row.get("duration"))
    read = parse_events(row["generated_cap"], task=task, duration=duration if duration and duration > 0 else None)
    return [{"timestamp": [e.start, e.end], "caption": e.caption, "score": e.score} for e in read.events]


def read_scores(values: Any, issues: InputIssues) -> tuple[float, ...] | None:
    """Scores of clips, 0 for one that cannot be read; None for what is no list."""
    if not isinstance(values, list):
        return None
    read = [read_number(value) for value in values]
    if None in read:
        issues.add("queries have scores that cannot be read; such a score counts as 0")
    return tuple(0.0 if value is None else value for value in read)


def check_ground_truth(ground_truth: dict[str, Value], path: Path, expected: str) -> dict[str, Value]:
    """Return the truth, unless there is none: then a `DataError` says what was expected."""
    if not ground_truth:
        raise DataError(f"{path}: has no truth that can be read; expected {expected}")
    return ground_truth
