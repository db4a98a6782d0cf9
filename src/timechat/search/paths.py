"""Videos of files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from timechat.files import is_video_name, walk_files
from timechat.files.remote import is_remote


def find_files(paths: Sequence[str | Path], on_error: Callable[[Path, OSError], object] | None = None) -> list[str]:
    """Return the absolute paths of the videos of files, folders and patterns, each once and sorted.

    Args:
        paths: Files, folders and patterns; what does not exist gives nothing.
        on_error: Function called for each folder that cannot be read.
    """
    files: set[str] = set()
    for path in map(str, paths):
        if Path(path).is_dir():
            files |= {str(file) for file in walk_files(Path(absolute(path)), on_error) if is_video_name(file)}
        elif Path(path).exists():
            files.add(absolute(path))
        else:
            files |= {absolute(file) for file in _matches(path)}
    return sorted(files)


def check_paths(paths: Sequence[str]) -> None:
    """Check that all paths exist, or are patterns that match.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: A path is the address of an object store.
    """
    for path in paths:
        if is_remote(path):
            raise ValueError(
                f"{path}: is an address; a library holds files of this machine, so mount the store as a folder or copy "
                "the videos"
            )
        if not Path(path).exists() and not _matches(path):
            raise FileNotFoundError(f"{path}: no such file or folder; give the path of a video, a folder or a pattern")


def absolute(path: str) -> str:
    """Return the absolute path of a file or folder."""
    return os.path.abspath(path)  # noqa: PTH100 - links are kept, but ".." is resolved


def _matches(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return []
    found = [path for path in glob.glob(pattern, recursive=True) if not Path(path).is_dir()]  # noqa: PTH207
    return [path for path in found if is_video_name(path)] or found
