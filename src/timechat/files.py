"""Files that appear whole or not at all."""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED_PATTERN = re.compile(r"\.[0-9a-f]{16}\.unfinished")
"""Names of what `atomic_write` has begun: debris, where the process that wrote it was killed."""


@contextmanager
def atomic_write(path: Path, *, is_durable: bool = False) -> Iterator[Path]:
    """Give a path to write to; what is written there takes the place of `path` when the block ends.

    A failure leaves `path` as it was, and no debris.

    Args:
        path: The file that is wanted; its folder exists.
        is_durable: Whether it must still be whole when the power goes, which takes longer.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        yield unfinished
        if is_durable:
            fsync(unfinished)
        unfinished.replace(path)
        if is_durable:
            fsync(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def fsync(path: Path) -> None:
    """Wait until a file or a folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_scheme(source: str) -> str:
    """Return the path that a `file://` address names; anything else as it is."""
    if not source.lower().startswith("file://"):
        return source
    from urllib.request import url2pathname  # loads the HTTP client, which `timechat --help` does not need

    return url2pathname(source[len("file://") :].removeprefix("localhost"))


def write_json_atomically(path: Path, content: Any) -> Path:
    """Write a file of JSON for people too, whole or not at all; its folder exists.

    Returns:
        The path.
    """
    write_text_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write a file whole or not at all: into the same folder first, then into place; a failure leaves no debris.

    Args:
        path: The file to write, replaced if it is there. A pipe or device such as `/dev/stdout` is written to.
        text: Its content, written as UTF-8 without changing line ends.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
        return
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
