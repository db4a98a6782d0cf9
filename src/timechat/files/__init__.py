"""Files: written completely or not at all, names and addresses, and the videos of a folder."""

import json
import os
import re
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from timechat.files.system import flush_to_disk

UNFINISHED_PATTERN = re.compile(r"\.[0-9a-f]{16}\.unfinished")
"""Names of the temporary files of `atomic_write`; a killed process leaves them behind."""

_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)

VIDEO_SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
}
"""File name extensions of videos, in lower case."""

MAX_ENTRIES = 500_000
"""Maximum number of files and folders that are read in one folder."""


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
            flush_to_disk(unfinished)
        unfinished.replace(path)
        if is_durable:
            flush_to_disk(path.parent)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(unfinished)):
            error.filename = str(path)  # for messages: the temporary name says nothing
        raise


def without_scheme(source: str, *, is_windows: bool = sys.platform == "win32") -> str:
    """Return the path of a `file://` address; return any other text unchanged.

    Args:
        source: Address such as `file:///clips/a.mp4`, on Windows `file:///C:/clips/a.mp4`; or a path.
        is_windows: Whether the path is one of Windows.
    """
    if not source.lower().startswith("file://"):
        return source
    from urllib.parse import unquote

    path = unquote(source[len("file://") :], errors="surrogateescape")
    host, slash, below = path.partition("/")
    if host.lower() == "localhost":
        path, host = slash + below, ""
    if not is_windows:
        return path
    if drive := re.match(r"/*([a-zA-Z])[:|](?=/|$)", path):
        path = f"{drive[1]}:{path[drive.end() :]}"
    elif host:
        path = f"//{path}"  # a folder that another computer shares
    return path.replace("/", "\\")


def address_from(path: Path, folder: Path) -> str:
    """Return the address of a file for a page in a folder: relative; absolute if it is on another drive."""
    from urllib.parse import quote

    try:
        relative = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:  # Windows: there is no relative path to another drive
        return path.absolute().as_uri()
    return quote(relative.encode("utf-8", "surrogateescape"))


def portable_name(name: str) -> str:
    """Return a file name that every system accepts; a name that is already such a name is returned unchanged.

    Windows forbids some characters, dots and spaces at the end, and the names of its devices.
    """
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).rstrip(". ") or "_"
    return f"_{name}" if _DEVICE.fullmatch(name) else name


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


def user_folder(kind: Literal["cache", "data"]) -> Path | None:
    """Return this program's folder for caches or for data of the user; None for a user without a home folder."""
    variables = {"win32": "LOCALAPPDATA", "darwin": ""}
    given = Path(os.environ.get(variables.get(sys.platform, f"XDG_{kind.upper()}_HOME"), ""))
    if given.is_absolute():  # the XDG base directory specification ignores relative paths
        return given / "timechat"
    below_home = {
        "cache": {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache"),
        "data": {"win32": "AppData/Local", "darwin": "Library/Application Support"}.get(sys.platform, ".local/share"),
    }
    try:
        return Path.home() / below_home[kind] / "timechat"
    except RuntimeError:
        return None


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is a folder or below it; both are absolute."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_video_name(path: str | Path) -> bool:
    """Return whether a file name ends like that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def walk_files(folder: Path, on_error: Callable[[Path, OSError], object] | None = None) -> Iterator[Path]:
    """Yield all files below a folder; skip hidden ones, links to folders, and folders that cannot be read.

    Args:
        folder: Folder.
        on_error: Function called for each folder that cannot be read.
    """
    folders = deque([folder])
    while folders:
        current = folders.popleft()
        try:
            with os.scandir(current) as entries:
                visible = [entry for entry in islice(entries, MAX_ENTRIES) if not entry.name.startswith(".")]
        except OSError as error:
            if on_error is not None:
                on_error(current, error)
            continue
        for entry in sorted(visible, key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                folders.append(current / entry.name)
            else:
                yield current / entry.name
