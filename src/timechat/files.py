"""Atomic writing of files: a file appears complete or not at all."""

import errno
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED_PATTERN = re.compile(r"\.[0-9a-f]{16}\.unfinished")
"""Names of the temporary files of `atomic_write`; a killed process leaves them behind."""


@contextmanager
def atomic_write(path: Path, *, is_durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path; its file replaces `path` at the end of the block.

    After a failure `path` is unchanged and no temporary file remains.

    Args:
        path: Path of the file to write; its folder must exist.
        is_durable: Whether the file must survive a power failure, which takes longer.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        yield unfinished
        if is_durable:
            fsync(unfinished)
        unfinished.replace(path)
        if is_durable:
            fsync(path.parent)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(unfinished)):
            error.filename = str(path)  # for messages: the temporary name says nothing
        raise


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created; the system releases the lock when the process ends.

    SQLite locks files on every system. A file system without locks gives no protection, and no error.

    Raises:
        BlockingIOError: Another process, or another block of this one, holds the lock.
    """
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        try:
            connection.execute("PRAGMA journal_mode=MEMORY")  # no second file
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BlockingIOError(errno.EAGAIN, "is locked by another process", str(path)) from error
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open
                path.unlink(missing_ok=True)
    finally:
        connection.close()


def fsync(path: Path) -> None:
    """Wait until a file or a folder is written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_scheme(source: str) -> str:
    """Return the path of a `file://` address; return any other text unchanged."""
    if not source.lower().startswith("file://"):
        return source
    from urllib.request import url2pathname  # loads the HTTP client, which `timechat --help` does not need

    return url2pathname(source[len("file://") :].removeprefix("localhost"))


def write_json_atomically(path: Path, content: Any) -> Path:
    """Write a readable JSON file atomically; its folder must exist.

    Returns:
        Path of the file.
    """
    write_text_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write a text file atomically, through a temporary file in the same folder.

    Args:
        path: Path of the file, replaced if it exists. A pipe or device such as `/dev/stdout` is written directly.
        text: Content of the file, written as UTF-8 without changing line ends.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
        return
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
