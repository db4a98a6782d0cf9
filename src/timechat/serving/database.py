"""Records of uploads and jobs that survive a restart, in one SQLite file."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from timechat.files.system import lock_file, only_for_owner

DATABASE = "server.sqlite3"
"""Name of the file in the data folder."""

Table = Literal["files", "jobs"]

_TABLES = """
CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, created_at REAL NOT NULL, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, created_at REAL NOT NULL, status TEXT NOT NULL, content TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_time ON jobs (created_at);
"""


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a data folder for a `with` block, so that two servers do not run the same jobs.

    Other users of the machine cannot read a folder that a server has made: it holds uploads and answers.

    Raises:
        ValueError: Another server has locked it.
    """
    is_own = not folder.exists() or (folder / DATABASE).exists()  # not, for example, /tmp
    folder.mkdir(parents=True, exist_ok=True)
    if is_own:
        only_for_owner(folder)
    with (folder / "lock").open("ab") as file:
        if not lock_file(file):
            raise ValueError(
                f"{folder} is the data folder of a running server; give this one another folder with --data"
            )
        yield


class Database:
    """A file of JSON records by id; may be used from any thread.

    Attributes:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file in an existing folder."""
        self.path = path
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30.0)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def save_file(self, file_id: str, created_at: float, content: Mapping[str, Any]) -> None:
        """Save the record of an upload."""
        with self._writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (file_id, created_at, json.dumps(content))
            )

    def save_job(self, job_id: str, created_at: float, status: str, content: Mapping[str, Any]) -> None:
        """Save the record of a job."""
        with self._writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", (job_id, created_at, status, json.dumps(content))
            )

    def load_files(self) -> list[dict[str, Any]]:
        """Return all records of uploads, the newest first."""
        return self._load("SELECT content FROM files ORDER BY created_at DESC")

    def load_jobs(self) -> list[dict[str, Any]]:
        """Return all records of jobs, the newest first."""
        return self._load("SELECT content FROM jobs ORDER BY created_at DESC")

    def delete(self, table: Table, record_id: str) -> None:
        """Delete a record."""
        statements = {"files": "DELETE FROM files WHERE id = ?", "jobs": "DELETE FROM jobs WHERE id = ?"}
        with self._writing() as connection:
            connection.execute(statements[table], (record_id,))

    def _load(self, statement: str) -> list[dict[str, Any]]:
        with self._lock:
            return [json.loads(content) for (content,) in self._connection.execute(statement)]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connection
