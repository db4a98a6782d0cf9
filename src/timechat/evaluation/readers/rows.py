"""Rows of files and their values, with tolerance for invalid content."""

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from timechat.answers.events import Task
from timechat.answers.tasks import parse_events
from timechat.errors import DataError
from timechat.evaluation.metrics.grounding import Span

Value = TypeVar("Value")

_VIDEO_SUFFIX = re.compile(r"(?<=.)\.(?:mp4|mkv|webm|avi|mov|m4v|mpe?g|ts|flv|wmv|3gp)\Z", re.IGNORECASE)


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


def read_file_text(path: Path) -> str:
    """Read a UTF-8 text file, compressed with gzip or not.

    Raises:
        DataError: The file does not exist, is empty, or is not text.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a file of predictions and a file of ground truth")
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}") from error
    if not text.strip():
        raise DataError(f"{path}: is empty ({len(content)} bytes) and so contains no JSON; give a file with rows")
    return text


def read_content(path: Path, issues: InputIssues) -> Any:
    """Read a JSON file, or a JSON Lines file as a list; lines that are not JSON are counted and skipped.

    Raises:
        DataError: The file does not exist or has neither format.
    """
    return parse_content(read_file_text(path), path, issues)


def parse_content(text: str, path: Path, issues: InputIssues) -> Any:
    """Parse the text of a JSON file or a JSON Lines file, as `read_content` does."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError includes a number with more digits than Python converts
        pass
    rows = []
    for line in filter(str.strip, text.split("\n")):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            issues.add("lines are not JSON and were skipped")
    if not rows:
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


def read_predicted_rows(
    content: Any, path: Path, issues: InputIssues, id_keys: Sequence[str], expected: str
) -> list[tuple[str | None, Any]]:
    """Rows of predictions with the id of each: an object `{id: row}`, or a list of rows that contain their id.

    Args:
        content: Content of the file.
        path: File, for messages.
        issues: Place for the problems that are found.
        id_keys: Keys of a row that can hold its id, the best one first.
        expected: Expected keys and values of a row, for messages.

    Returns:
        Pairs of id and row; the id is None for a row without one.

    Raises:
        DataError: The content is neither an object nor a list with objects.
    """
    if isinstance(content, Mapping) and isinstance(content.get("results"), Mapping):
        content = content["results"]
    is_row = isinstance(content, Mapping) and (
        "annotations" in content or "generated_cap" in content or any(key in content for key in id_keys)
    )
    if isinstance(content, Mapping) and not is_row:
        return [(str(name), row) for name, row in content.items()]
    if isinstance(content, list) and content and not any(isinstance(row, Mapping) for row in content):
        raise DataError(
            f"{path}: its {len(content)} rows are {_shapes(content)}; {_expected_rows(id_keys)}, and {expected}"
        )
    pairs = []
    for row in read_rows(content, path, issues):
        found = next((row[key] for key in id_keys if row.get(key) is not None), None)
        pairs.append((None if found is None else str(found), row))
    return pairs


def check_predictions(
    pairs: Sequence[tuple[str | None, Any]], num_usable: int, path: Path, id_keys: Sequence[str], expected: str
) -> None:
    """Raise a `DataError` for a file in another format: no row has an id, or no row has the expected keys.

    Args:
        pairs: Rows with their ids; a file without rows is no error.
        num_usable: Number of rows with an id whose prediction has the expected format.
        path: File, for the message.
        id_keys: Keys that can hold the id.
        expected: Expected keys and values of a row.
    """
    if not pairs or num_usable:
        return
    found = f"the rows have {_shapes(row for _, row in pairs)}"
    if all(name is None for name, _ in pairs):
        raise DataError(f"{path}: no row has an id; {found}; {_expected_rows(id_keys)}, and {expected}")
    names = ", ".join(repr(name[:80]) for name, _ in pairs[:3] if name is not None)
    raise DataError(f"{path}: no row has a prediction that can be read; {found} (ids {names}); expected {expected}")


def _expected_rows(id_keys: Sequence[str]) -> str:
    return f"expected rows with {' or '.join(map(repr, id_keys))}, or an object {{id: row}}"


def _shapes(rows: Iterable[Any]) -> str:
    """The keys of the rows, or the JSON types of rows that are no objects."""
    keys: dict[str, None] = {}
    types: dict[str, None] = {}
    for row in rows:
        for item in row if isinstance(row, list) and row and isinstance(row[0], Mapping) else [row]:
            if isinstance(item, Mapping):
                keys |= dict.fromkeys(str(key)[:60] for key in list(item)[:20])
            else:
                types[_JSON_TYPES.get(type(item), "other values")] = None
        if len(keys) >= 20:
            break
    named = [f"the keys {', '.join(map(repr, list(keys)[:20]))}"] if keys else []
    return " and ".join([*named, *types]) or "no keys"


_JSON_TYPES = {
    list: "lists",
    str: "texts",
    int: "numbers",
    float: "numbers",
    bool: "true or false",
    type(None): "null",
    dict: "objects",
}


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


def video_key(value: Any) -> str:
    """The name under which a video is compared: without folders and without the extension of a video file."""
    return _VIDEO_SUFFIX.sub("", last_name(value))


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
                "score": event.get("score") if event.get("saliency") is None else event["saliency"],
            }
            if isinstance(event, Mapping)
            else {}
            for event in events
        ]
    if not isinstance(row.get("generated_cap"), str):
        return None
    duration = read_number(row.get("duration"))
    return parse_answer(row["generated_cap"], task, duration if duration and duration > 0 else None)


def parse_answer(text: str, task: Task, duration: float | None = None) -> list[dict[str, Any]]:
    """Parse an answer of a model into events in the layout of the original's formatted results."""
    read = parse_events(text, task=task, duration=duration)
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
