"""Rows of files and their values, with tolerance for invalid content."""

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
    """Counted problems of the input files."""

    counts: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Count one more problem of this kind."""
        self.counts[what] += 1

    def say(self, note: str) -> None:
        """Add a note without a count."""
        self.said.append(note)

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes as sentences."""
        return (*self.said, *(f"{count} {what}" for what, count in self.counts.items()))


def read_content(path: Path, issues: InputIssues) -> Any:
    """Read a JSON file, or a JSON Lines file as a list; lines that are not JSON are counted and skipped.

    Raises:
        DataError: The file does not exist or has neither format.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a file of predictions and a file of ground truth")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}") from error
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    rows = []
    for line in filter(str.strip, text.split("\n")):
        try:
            rows.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError):
            issues.add("lines are not JSON and were skipped")
    if not rows and text.strip():
        raise DataError(f"{path}: is neither JSON nor JSON Lines")
    return rows


def read_rows(content: Any, path: Path, issues: InputIssues) -> list[Mapping[str, Any]]:
    """Rows of `{"annotations": [...]}`, of a list, or a single row."""
    if isinstance(content, Mapping):
        content = content.get("annotations", [content])
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of rows, got {type(content).__name__}")
    rows = [row for row in content if isinstance(row, Mapping)]
    for _ in range(len(content) - len(rows)):
        issues.add("rows are not JSON objects and were skipped")
    return rows


def is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is from our `predictions.jsonl`."""
    return "events" in row and "id" in row


def is_record(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of our records."""
    return "messages" in row and "video" in row


def read_number(value: Any) -> float | None:
    """Read a finite number, also from a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_span(value: Any) -> Span | None:
    """Read two finite numbers without sorting them; None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    start, end = map(read_number, value)
    return None if start is None or end is None else (start, end)


def last_name(value: Any) -> str:
    """A video's name without the folders before it."""
    return str(value).rsplit("/", 1)[-1]


def read_text(value: Any) -> str:
    """Convert any value to a text; None gives an empty text."""
    return "" if value is None else str(value)


def read_events(row: Mapping[str, Any], task: Task) -> list[dict[str, Any]] | None:
    """Events of one of our rows or of a raw result row of the original, in the layout of its formatted results."""
    if is_ours(row):
        events = row["events"]
        if not isinstance(events, list):
            return None
        return [
            {
                "timestamp": [event.get("start"), event.get("end")],
                "caption": event.get("caption"),
                "score": event.get("saliency", event.get("score")),
            }
            if isinstance(event, Mapping)
            else {}
            for event in events
        ]
    if not isinstance(row.get("generated_cap"), str):
        return None
    duration = read_number(row.get("duration"))
    read = parse_events(row["generated_cap"], task=task, duration=duration if duration and duration > 0 else None)
    return [
        {"timestamp": [e.start, e.end], "caption": e.caption, "score": e.score if e.saliency is None else e.saliency}
        for e in read.events
    ]


def read_scores(values: Any, issues: InputIssues) -> tuple[float, ...] | None:
    """Read scores of clips, 0 for an unreadable score; None if the value is not a list."""
    if not isinstance(values, list):
        return None
    read = [read_number(value) for value in values]
    if None in read:
        issues.add("queries have unreadable scores, which count as 0")
    return tuple(0.0 if value is None else value for value in read)


def check_ground_truth(ground_truth: dict[str, Value], path: Path, expected: str) -> dict[str, Value]:
    """Return the ground truth; an empty one raises a `DataError` with the expected format."""
    if not ground_truth:
        raise DataError(f"{path}: has no readable ground truth; expected {expected}")
    return ground_truth
