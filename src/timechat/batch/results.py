"""The folder of a batch: what is answered, what has failed, and what was begun.

recipe.json                      settings that the answers depend on
answers/part-00001.parquet       rows, one for each question, and the same as JSON lines in part-00001.jsonl
open.jsonl                       rows that are not in a part yet; written row by row
pieces/                          answers about windows of videos that were interrupted
failed.jsonl                     rows without an answer, each with its error: a manifest for the next run
report.json  progress.json       counts
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timechat import __version__
from timechat.batch.manifest import Row
from timechat.batch.stages import Piece
from timechat.batch.stored import StoredResults
from timechat.errors import DataError, located, missing_extra
from timechat.files import UNFINISHED_PATTERN, atomic_write, write_json_atomically, write_text_atomically
from timechat.files.remote import is_remote
from timechat.files.system import lock_file

_ROWS_OF_PART = 1000
_SECONDS_OF_PART = 600.0
_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}  # some readers end lines there
_TEXTS = ("id", "video", "task", "query", "transcript", "status", "error_kind", "error", "text", "model", "by")
_NUMBERS = ("start", "end", "duration", "score", "step", "read_share", "player_offset")


@dataclass(frozen=True)
class BatchReport:
    """Counts of a batch; `ok`, `failed` and `lost` add up to `rows`.

    Attributes:
        rows: Number of rows: those of the manifest, and earlier ones in the folder.
        ok: Number of rows with an answer.
        failed: Number of rows that failed, each with its error in `failed.jsonl`.
        lost: Number of rows without any result; in a stopped batch, the rows that are still to do.
        stopped: Whether the batch was stopped before its end; the same command resumes.
        errors: Number of failed rows by the kind of error.
        windows: Number of windows of the answered rows.
        video_seconds: Duration of the answered rows in seconds of video.
        answered_now: Number of rows that this run has answered.
        seconds_now: Wall time of this run in seconds.
    """

    rows: int
    ok: int
    failed: int
    lost: int
    stopped: bool = False
    errors: Mapping[str, int] = field(default_factory=dict)
    windows: int = 0
    video_seconds: float = 0.0
    answered_now: int = 0
    seconds_now: float = 0.0


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a row with a result."""

    status: str
    question: tuple[object, ...]
    part: str | None
    windows: int
    duration: float
    error_kind: str | None


class ResultFolder:
    """Stores results so that a process can be killed at any time; a context manager that locks the folder.

    Attributes:
        path: Path of the folder; for an object store, the local folder that is copied to it.
    """

    def __init__(self, output: Path | str, recipe: Mapping[str, Any]) -> None:
        """Open a folder, made if it is missing, and repair what a killed process left.

        Args:
            output: Path of the folder, or its address in an object store.
            recipe: Settings that the answers depend on.

        Raises:
            DataError: The folder holds answers that were made with another recipe, or another process writes to it.
            ModuleNotFoundError: pyarrow is missing.
        """
        check_pyarrow()
        self._store = StoredResults(output) if isinstance(output, str) and is_remote(output) else None
        path = Path(output) if self._store is None else self._store.path
        self.path, self._answers, self._name = path, path / "answers", str(output)
        self._known: dict[str, _Known] = {}
        self._open: dict[str, dict[str, Any]] = {}
        self._began = time.monotonic()
        self._files = ExitStack()
        if self._store is None:
            self._check_recipe(recipe)
        self._answers.mkdir(parents=True, exist_ok=True)
        try:
            lock = self._files.enter_context((path / ".lock").open("a", encoding="utf-8"))
            if not lock_file(lock):
                raise DataError(f"{output} is in use by another process; wait for it, or give another --output")
            if self._store is not None:
                self._store.fetch()
            self._check_recipe(recipe)
            self._send(write_json_atomically(path / "recipe.json", recipe))
            self._repair()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ResultFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the folder."""
        self._files.close()

    # ----------------------------------------------------------------------------------------------- rows

    def todo(self, rows: Sequence[Row], *, retry: bool) -> list[Row]:
        """Return the rows without a result, with `retry` also those that failed, whose results are removed.

        Raises:
            DataError: A row has a result, but of another question.
        """
        for row in rows:
            known = self._known.get(row.id)
            if known is not None and known.question != row.question:
                raise DataError(
                    f"{self._name} holds an answer to another question with the id {row.id!r}; give the row another "
                    "id, or another --output"
                )
        failed = [row for row in rows if row.id in self._known and self._known[row.id].status != "ok"]
        if retry:
            self._remove([row.id for row in failed])
        return [row for row in rows if row.id not in self._known]

    def add(self, row: Row, status: str, columns: Mapping[str, Any]) -> None:
        """Store the result of a row; it is on disk when this returns."""
        result: dict[str, Any] = dict.fromkeys(_ORDER)
        result |= {"events": [], "notes": [], "timings": {}, "attempts": 1, "windows": 0, "timechat": __version__}
        result |= {name: columns[name] for name in _ORDER if name in columns}
        result |= {**asdict(row), "status": status}
        with (self.path / "open.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(result))
            file.flush()
            os.fsync(file.fileno())
        self._open[row.id] = result
        self._remember(result, None)
        self._piece_file(row.id).unlink(missing_ok=True)
        if len(self._open) >= _ROWS_OF_PART or time.monotonic() - self._began > _SECONDS_OF_PART:
            self.seal()

    def seal(self) -> None:
        """Move all rows that are not in a part yet into a new part."""
        self._began = time.monotonic()
        if not self._open:
            return
        numbers = [int(path.stem.rpartition("-")[2]) for path in self._answers.glob("part-*.parquet")]
        name = f"part-{max(numbers, default=0) + 1:05d}"
        self._write_part(name, list(self._open.values()))
        (self.path / "open.jsonl").unlink()
        self._open.clear()

    def finish(self, rows: Sequence[Row], *, is_stopped: bool, seconds: float, answered: int) -> BatchReport:
        """Write the last part, `failed.jsonl` and `report.json`.

        Rows without any result are stored as lost, unless the batch was stopped.

        Args:
            rows: Rows of the manifest.
            is_stopped: Whether the batch was stopped before its end.
            seconds: Wall time of the run in seconds.
            answered: Number of rows that the run has answered.
        """
        missing = [row for row in rows if row.id not in self._known]
        if not is_stopped:
            for row in missing:
                error = f"{row.video}: no result came back; repeat it with --retry"
                self.add(row, "lost", {"error_kind": "lost", "error": error})
        self.seal()
        known = list(self._known.values())
        counts = Counter(each.status for each in known)
        answers = [each for each in known if each.status == "ok"]
        report = BatchReport(
            rows=len(known) + (len(missing) if is_stopped else 0),
            ok=counts["ok"],
            failed=counts["failed"],
            lost=counts["lost"] + (len(missing) if is_stopped else 0),
            stopped=is_stopped,
            errors=dict(sorted(Counter(each.error_kind or "" for each in known if each.status != "ok").items())),
            windows=sum(each.windows for each in answers),
            video_seconds=round(sum(each.duration for each in answers), 3),
            answered_now=answered,
            seconds_now=round(seconds, 3),
        )
        self._send(self._write_failed(), write_json_atomically(self.path / "report.json", asdict(report)))
        if self._store is not None and not is_stopped:
            self._files.callback(self._store.remove_local)
        return report

    # --------------------------------------------------------------------------------------------- pieces

    def pieces(self, row: Row) -> list[Piece]:
        """Return the answers about windows of a row that was interrupted."""
        path = self._piece_file(row.id)
        if not path.exists():
            return []
        lines = [content for content in _whole_lines(path) if content["question"] == list(row.question)]
        write_text_atomically(path, "".join(map(_line, lines)))  # without a cut last line
        return [Piece.from_dict(content) for content in lines]

    def add_piece(self, row: Row, piece: Piece) -> None:
        """Store the answers about some windows of a row; nothing is stored if they are all of its windows."""
        if len(piece.answers) == piece.num_windows:
            return
        path = self._piece_file(row.id)
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(_line({"question": list(row.question), **piece.to_dict()}))
            file.flush()
            os.fsync(file.fileno())

    def _piece_file(self, row_id: str) -> Path:
        return self.path / "pieces" / f"{hashlib.sha256(row_id.encode()).hexdigest()[:32]}.jsonl"

    # --------------------------------------------------------------------------------------------- the folder

    def _check_recipe(self, recipe: Mapping[str, Any]) -> None:
        path = self.path / "recipe.json"
        if not path.exists():
            return
        with located(str(path)):
            there = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in {**there, **recipe} if there.get(name) != recipe.get(name)]
        if differing:
            differences = ", ".join(f"{name} {there.get(name)!r} instead of {recipe.get(name)!r}" for name in differing)
            raise DataError(f"{self._name} holds answers that were made with {differences}; give another --output")

    def _repair(self) -> None:
        """Read what is there; complete or remove what a killed process left half done."""
        for folder in (self.path, self._answers):
            for path in folder.iterdir():
                if UNFINISHED_PATTERN.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        parts = sorted(self._answers.glob("part-*.parquet"))
        for path in self._answers.glob("part-*.jsonl"):
            if path.with_suffix(".parquet") not in parts:
                path.unlink()
        for path in parts:
            rows = _read_part(path)
            for row in rows:
                self._remember(row, path.stem)
            if not path.with_suffix(".jsonl").exists():
                write_text_atomically(path.with_suffix(".jsonl"), "".join(map(_line, rows)))
                self._send(path.with_suffix(".jsonl"))
        path = self.path / "open.jsonl"
        rows = _whole_lines(path)
        if path.exists():  # without a cut last line, and without rows that a part has already
            rows = [row for row in rows if row["id"] not in self._known]
            write_text_atomically(path, "".join(map(_line, rows)))
        for row in rows:
            self._open[row["id"]] = row
            self._remember(row, None)

    def _remember(self, row: Mapping[str, Any], part: str | None) -> None:
        question = (row["task"], row["query"], row["start"], row["end"])
        self._known[row["id"]] = _Known(
            row["status"], question, part, row["windows"] or 0, row["duration"] or 0.0, row["error_kind"]
        )

    def _remove(self, ids: Iterable[str]) -> None:
        """Remove the results of rows that are repeated."""
        removed = set(ids)
        for part in sorted({self._known[each].part or "" for each in removed} - {""}):
            path = self._answers / f"{part}.parquet"
            rows = [row for row in _read_part(path) if row["id"] not in removed]
            self._delete(path.with_suffix(".jsonl"))
            if rows:
                self._write_part(part, rows)
            else:
                self._delete(path)
        if removed & self._open.keys():
            self._open = {name: row for name, row in self._open.items() if name not in removed}
            write_text_atomically(self.path / "open.jsonl", "".join(map(_line, self._open.values())))
        for each in removed:
            del self._known[each]

    def _write_part(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a part; the Parquet file is what counts, and its JSON lines are made again if they are missing."""
        import pyarrow
        import pyarrow.parquet

        path = self._answers / f"{name}.parquet"
        table = pyarrow.Table.from_pylist([_to_arrow(row) for row in rows], schema=_schema())
        with atomic_write(path, is_durable=True) as unfinished:
            pyarrow.parquet.write_table(table, unfinished)
        for row in rows:
            self._remember(row, name)
        write_text_atomically(path.with_suffix(".jsonl"), "".join(map(_line, rows)))
        self._send(path, path.with_suffix(".jsonl"))

    def _send(self, *paths: Path) -> None:
        if self._store is not None:
            self._store.send(*paths)

    def _delete(self, path: Path) -> None:
        if self._store is not None:
            self._store.delete(path)
        path.unlink(missing_ok=True)

    def _write_failed(self) -> Path:
        """Write the rows without an answer as a manifest."""
        lines = []
        for part in sorted({each.part or "" for each in self._known.values() if each.status != "ok"} - {""}):
            for row in _read_part(self._answers / f"{part}.parquet"):
                if row["status"] != "ok":
                    given = Row(*(row[name] for name in Row.__slots__))
                    errors = {name: row[name] for name in ("status", "error_kind", "error")}
                    lines.append(_line({**given.to_manifest(), **errors}))
        write_text_atomically(self.path / "failed.jsonl", "".join(lines))
        return self.path / "failed.jsonl"


def check_pyarrow() -> None:
    """Raise an error that names the extra if pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("timechat batch needs pyarrow", "batch") from error


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS) + "\n"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file of JSON lines; a killed process may have cut the last one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    with located(str(path)):
        return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]]


def _schema() -> Any:
    """Columns of a part, the same for every task."""
    import pyarrow

    text, number, count = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    event = pyarrow.struct(
        [("start", number), ("end", number), ("caption", text), ("score", number), ("saliency", number)]
    )
    types = {
        **dict.fromkeys(_TEXTS, text),
        **dict.fromkeys(_NUMBERS, number),
        "events": pyarrow.list_(event),
        "found": pyarrow.bool_(),
        "notes": pyarrow.list_(text),
        "timings": pyarrow.map_(text, number),
        "windows": count,
        "attempts": count,
        "timechat": text,
    }
    return pyarrow.schema([(name, types[name]) for name in _ORDER])


_ORDER = (
    *("id", "video", "task", "query", "start", "end", "transcript", "status", "error_kind", "error", "attempts"),
    *("duration", "text", "events", "found", "score", "step", "by", "read_share", "player_offset", "notes"),
    *("model", "timechat", "windows", "timings"),
)


def _to_arrow(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "timings": list(row["timings"].items())}


def _read_part(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a part as they were stored."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    for row in rows:
        row["timings"] = dict(row["timings"])
        for event in row["events"]:
            if event["saliency"] is None:
                del event["saliency"]
    return rows
