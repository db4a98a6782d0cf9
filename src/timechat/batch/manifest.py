"""The rows of a batch: videos of a folder, a pattern or a list, or the lines of a manifest."""

import csv
import glob
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from timechat.answers.events import Task
from timechat.answers.tasks import TASKS, build_question
from timechat.errors import DataError, located, missing_extra
from timechat.files import is_video_name, walk_files, without_scheme
from timechat.files.remote import find_remote, is_remote, open_remote, parent_address

COMMANDS: dict[str, Task] = {
    "ask": "ask",
    "caption": "dense_caption",
    "ground": "grounding",
    "highlights": "highlights",
    "steps": "steps",
    "summarize": "summary",
    "transcribe": "transcribe",
}
"""Tasks by the names of their commands, which `--task` and the column `task` take."""

COLUMNS = ("video", "id", "task", "query", "start", "end", "transcript")
"""Columns of a manifest."""

_RESULT_COLUMNS = ("status", "error_kind", "error")  # of failed.jsonl, which is a manifest too
_MANIFESTS = (".jsonl", ".csv", ".parquet", ".txt")
_METADATA = "metadata.jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """One question about one video.

    Attributes:
        id: Identifier, unique in the manifest.
        video: Path or address of the video.
        task: Task.
        query: Query or question; None for a task without one.
        start: Start in seconds of the part to use; None for the start of the video.
        end: End in seconds of the part to use; None for the end of the video.
        transcript: Path of a transcript; None without one.
    """

    id: str
    video: str
    task: Task
    query: str | None = None
    start: float | None = None
    end: float | None = None
    transcript: str | None = None

    @property
    def question(self) -> tuple[object, ...]:
        """What is asked, by which another question under the same identifier is noticed."""
        return (self.task, self.query, self.start, self.end)

    def to_manifest(self) -> dict[str, Any]:
        """Return the row as a line of a manifest in any folder."""
        row = asdict(self) | {"task": command_of(self.task)}
        paths = {name: _absolute(row[name]) for name in ("video", "transcript") if row[name] is not None}
        return {name: value for name, value in {**row, **paths}.items() if value is not None}


def read_manifest(videos: str | Path | Sequence[str | Path], *, task: str, query: str | None = None) -> list[Row]:
    """Read the rows of a batch.

    Args:
        videos: Folder, pattern, video or address, or a manifest: a list of paths (`.txt`), `.jsonl`, `.csv` or
            `.parquet`, or a folder with `metadata.jsonl`; each of them local or in an object store (`s3://`, ...).
            Several of them give their rows one after the other.
        task: Name of the command for rows that name none.
        query: Query of rows that have none and whose task takes one.

    Raises:
        DataError: A line is malformed, a column or task is unknown, an identifier occurs twice, or there is no video.
    """
    arguments = [videos] if isinstance(videos, str | Path) else list(videos)
    default = find_command(task)
    if query is not None and TASKS[default].query == "none":
        raise ValueError(f"--query is given, but {task} takes no query; leave it out")
    rows: list[Row] = []
    for argument in map(str, arguments):
        for place, content, base in _contents(argument):
            with located(place):
                rows.append(_row(content, base, default, query))
    return _with_ids(rows)


def read_row(content: Mapping[str, Any], *, task: str, query: str | None = None) -> Row:
    """Read one row from its columns; other columns than those of a manifest are ignored. The identifier may be empty.

    Raises:
        ValueError: A value is wrong.
    """
    return _row(content, None, find_command(task), query)


def find_command(name: str) -> Task:
    """Return the task of a command.

    Raises:
        ValueError: There is no such command.
    """
    if name not in COMMANDS:
        raise ValueError(f"unknown task {name!r}; choose one of {', '.join(COMMANDS)}")
    return COMMANDS[name]


def command_of(task: Task) -> str:
    """Return the name of the command of a task."""
    return next(name for name, each in COMMANDS.items() if each == task)


def _contents(argument: str) -> Iterator[tuple[str, Mapping[str, Any], str | None]]:
    """Yield the place of each row in messages, its columns, and the folder of its relative paths."""
    argument = without_scheme(argument)
    path = Path(argument)
    if is_remote(argument):
        yield from _stored(argument)
    elif "://" not in argument and path.is_dir():
        if (path / _METADATA).is_file():
            yield from _rows_of(str(path / _METADATA))
            return
        found = [each for each in walk_files(path) if is_video_name(each) and each.is_file()]
        if not found:
            raise DataError(f"{argument}: is a folder without videos; give a folder of videos or a manifest")
        for each in found:
            yield argument, {"video": str(each), "id": each.relative_to(path).as_posix()}, None
    elif _is_manifest(argument) and "://" not in argument:
        yield from _rows_of(argument)
    elif glob.has_magic(argument) and "://" not in argument and not path.exists():
        files = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - the pattern may be absolute
        files = [name for name in files if is_video_name(name) and Path(name).is_file()]
        if not files:
            raise DataError(f"{argument}: is a pattern that matches no video; give videos, a folder or a manifest")
        yield from ((argument, {"video": name}, None) for name in files)
    else:
        yield argument, {"video": argument}, None


def _stored(address: str) -> Iterator[tuple[str, Mapping[str, Any], str | None]]:
    """Yield the rows of a folder, a pattern, a manifest or a video of an object store, as `_contents`."""
    found = None if _is_manifest(address) else find_remote(address)
    if found is None:
        yield from _rows_of(address) if _is_manifest(address) else [(address, {"video": address}, None)]
        return
    folder = f"{address.rstrip('/')}/"
    if f"{folder}{_METADATA}" in found:
        yield from _rows_of(f"{folder}{_METADATA}")
        return
    videos = [each for each in found if is_video_name(each)]
    if not videos:
        raise DataError(f"{address}: is a folder or pattern without videos; give videos, a folder or a manifest")
    for video in videos:
        yield address, {"video": video, "id": video.removeprefix(folder)}, None


def _is_manifest(name: str) -> bool:
    return Path(name).suffix.lower() in _MANIFESTS


def _rows_of(manifest: str) -> Iterator[tuple[str, Mapping[str, Any], str | None]]:
    """Yield the rows of a manifest, as `_contents`; `metadata.jsonl` has columns of its own beside ours."""
    base = parent_address(manifest) if is_remote(manifest) else str(Path(manifest).parent)
    is_metadata = Path(manifest).name == _METADATA
    for number, content in _lines(manifest):
        place = f"{manifest}:{number}"
        if is_metadata:
            with located(place):
                known = {name: content[name] for name in COLUMNS if name in content}
                content = {**known, "video": content["file_name"]}
        elif unknown := [name for name in content if name not in (*COLUMNS, *_RESULT_COLUMNS)]:
            raise DataError(f"{place}: unknown column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
        yield place, content, base


def _lines(manifest: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number and the columns of each row of a manifest."""
    suffix = Path(manifest).suffix.lower()
    with open_remote(manifest) if is_remote(manifest) else Path(manifest).open("rb") as file:
        if suffix == ".parquet":
            yield from enumerate(_parquet_rows(manifest, file), 1)
            return
        with located(manifest), io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            yield from _text_rows(manifest, suffix, text)


def _parquet_rows(manifest: str, file: IO[bytes]) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise missing_extra(f"{manifest} needs pyarrow", "batch") from error
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{manifest}: is not Parquet: {' '.join(str(error).split())}") from error
    return rows


def _text_rows(manifest: str, suffix: str, file: IO[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if suffix == ".csv":
        reader = csv.DictReader(file)
        try:
            for content in reader:
                if None in content:
                    raise DataError(f"{manifest}:{reader.line_num}: has more values than the header has columns")
                yield reader.line_num, content
        except csv.Error as error:
            raise DataError(f"{manifest}:{reader.line_num}: is not CSV: {error}") from error
        return
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        if suffix == ".txt":
            yield number, {"video": line.strip()}
            continue
        with located(f"{manifest}:{number}"):
            content = json.loads(line)
            if not isinstance(content, dict):
                raise DataError(f'{manifest}:{number}: is no JSON object; expected one such as {{"video": "a.mp4"}}')
        yield number, content


def _row(content: Mapping[str, Any], base: str | None, default: Task, query: str | None) -> Row:
    """Check one row; its identifier is empty if it names none."""
    text = {name: _text(content, name) for name in ("video", "id", "task", "query", "transcript")}
    video = text["video"]
    if video is None:
        raise ValueError("the column video is missing or empty")
    task = default if text["task"] is None else find_command(text["task"])
    takes_query = TASKS[task].query != "none"
    if text["query"] is not None and not takes_query:
        raise ValueError(f"{command_of(task)} takes no query, got {text['query']!r}; leave it empty")
    asked = text["query"] or (query if takes_query else None)
    build_question(task, asked)
    start, end = _seconds(content, "start"), _seconds(content, "end")
    if start is not None and end is not None and end <= start:
        raise ValueError(f"end must be after start, got start={start:g} and end={end:g}")
    transcript = text["transcript"]
    return Row(
        text["id"] or "",
        _placed(video, base),
        task,
        asked,
        start,
        end,
        None if transcript is None else _placed(transcript, base),
    )


def _text(content: Mapping[str, Any], name: str) -> str | None:
    value = content.get(name)
    if value is None or value == "":
        return None
    if name == "id" and isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def _seconds(content: Mapping[str, Any], name: str) -> float | None:
    value = content.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} must be a number of seconds from 0, got {value!r}")
    return seconds


def _placed(name: str, base: str | None) -> str:
    """Return a path relative to the folder of the manifest as a path for this process."""
    if base is None or "://" in name:
        return name
    return f"{base}/{name}" if is_remote(base) else str(Path(base) / name)


def _absolute(name: str) -> str:
    return name if "://" in name else str(Path(name).absolute())


def _with_ids(rows: Iterable[Row]) -> list[Row]:
    """Give rows without an identifier one: their video; other questions about it also get a digest of the question."""
    found: dict[str, Row] = {}
    for row in rows:
        if not row.id:
            row = replace(row, id=row.video)
            if row.id in found:
                digest = hashlib.sha256(json.dumps(row.question).encode()).hexdigest()
                row = replace(row, id=f"{row.video}#{digest[:8]}")
        if row.id in found:
            raise DataError(f"two rows have the id {row.id!r}; give each question about a video an id of its own")
        found[row.id] = row
    return list(found.values())
