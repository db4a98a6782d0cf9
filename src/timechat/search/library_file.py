"""One SQLite file for any number of threads and processes: opening, transactions, errors in plain words."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from timechat.errors import VideoError
from timechat.search.records import LibraryError
from timechat.search.schema import check_version, is_new, make_tables, make_tables_of_work

IN_MEMORY = ":memory:"

Result = TypeVar("Result")

_WAIT_SECONDS = 60.0  # for other processes that write


class LibraryFile:
    """A library file with its tables, for any number of threads; a context manager.

    Attributes:
        path: Path of the file; None for a library in memory.
        is_read_only: Whether nothing can be written.
    """

    def __init__(self, path: str | Path, *, is_read_only: bool = False) -> None:
        """Open a library, or create it.

        Args:
            path: Path of the file; `":memory:"` means a library in memory.
            is_read_only: Whether the file must exist and is not written, as for search.

        Raises:
            LibraryError: The file is no library of this version, or cannot be opened.
        """
        self.path = None if path == IN_MEMORY else Path(path).absolute()
        self.is_read_only = is_read_only
        self._lock = threading.RLock()
        self._in_memory: dict[str, tuple[tuple[int, int], Any]] = {}
        self._is_immutable = False
        self._opened = self._identity()
        self._connection = self._connect()
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @property
    def is_outdated(self) -> bool:
        """Whether the file was replaced or removed, or has changed while SQLite takes it as immutable."""
        return self.path is not None and self._identity() != self._opened

    def _identity(self) -> tuple[int, ...] | None:
        """Return what changes when the open file is no longer the right one; None if there is no file."""
        try:
            status = None if self.path is None else self.path.stat()
        except OSError:
            status = None
        if status is None:
            return None
        changing = (status.st_size, status.st_mtime_ns) if self._is_immutable else ()
        return (status.st_dev, status.st_ino, *changing)

    def _connect(self) -> sqlite3.Connection:
        if self.path is None:
            return _connection(IN_MEMORY)
        if self.is_read_only and not self.path.is_file():
            raise LibraryError(f"{self.path}: there is no library; make it with: timechat index FOLDER")
        if self.path.is_dir():
            raise LibraryError(f"{self.path}: is a folder; give the path of a library file, such as {self.path}.db")
        try:
            if not self.is_read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return _connection(str(self.path))
            # A file on a read-only place cannot have the shared memory that its journal needs.
            is_at_rest = not Path(f"{self.path}-wal").exists()
            self._is_immutable = is_at_rest and not os.access(self.path.parent, os.W_OK)
            self._opened = self._identity()
            mode = "ro&immutable=1" if self._is_immutable else "ro"
            return _connection(f"{self.path.as_uri()}?mode={mode}")
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error

    def _prepare(self) -> None:
        """Check that the file is a library of this version; make the tables of a new one."""
        with self._guarded() as connection:
            if not is_new(connection):
                check_version(connection, str(self.path))
            elif self.is_read_only:
                raise LibraryError(f"{self.path}: is empty; fill it with: timechat index FOLDER")
            if self.is_read_only:
                return
            connection.execute("PRAGMA page_size = 16384")  # of a new file; large rows are read faster
            _use_journal(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            with self._writing():
                if is_new(connection):  # no other process has been faster
                    make_tables(connection)
                make_tables_of_work(connection)

    @contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread, and say in plain words what SQLite cannot do."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise self._error(error) from error

    def checkpoint(self) -> None:
        """Move what was written from the journal into the file, so that the file alone can be copied."""
        with self._guarded() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Run several reads that see the same state of the file."""
        with self._guarded() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction; after an error nothing of it remains."""
        with self._guarded() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def _check_known(self, connection: sqlite3.Connection, video: int) -> None:
        if connection.execute("SELECT 1 FROM videos WHERE id = ?", (video,)).fetchone() is None:
            raise VideoError("was removed from the library by another process while it was read")

    def _error(self, error: Exception) -> LibraryError:
        reason, advice = str(error), "check the file, or give another one with --library"
        if "full" in reason:
            advice = "free some space; nothing that was written before is lost, and the same command resumes"
        elif "readonly" in reason or "unable to open" in reason:
            advice = "it cannot be written there; give a file in another folder with --library"
        elif "locked" in reason:
            advice = "another process writes to it; try again later"
        elif "not a database" in reason or "malformed" in reason:
            advice = "it is damaged or another kind of file; give another one with --library"
        return LibraryError(f"{self.path or 'library'}: {reason}; {advice}")

    def _kept(self, name: str, read: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return rows from memory; read them again after any process has written to the library."""
        with self._guarded() as connection:
            state = (int(connection.execute("PRAGMA data_version").fetchone()[0]), connection.total_changes)
            if name not in self._in_memory or self._in_memory[name][0] != state:
                self._in_memory[name] = state, read(connection)
            result: Result = self._in_memory[name][1]
        return result


def _use_journal(connection: sqlite3.Connection) -> None:
    """Switch to the journal with which processes can read while another one writes.

    SQLite does not wait for other processes here, as it does for transactions.
    """
    ends = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)
        else:
            return


def _connection(name: str) -> sqlite3.Connection:
    return sqlite3.connect(
        name,
        timeout=_WAIT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=name.startswith("file:"),
    )
