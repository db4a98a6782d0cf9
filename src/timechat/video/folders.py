"""Video files in folders."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

VIDEO_SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
}
"""File name extensions of videos, in lower case."""

MAX_ENTRIES = 500_000
"""Maximum number of files and folders that are read in one folder."""


def is_video_name(path: str | Path) -> bool:
    """Return whether a file name ends like that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; skip hidden ones and folders that cannot be read."""
    folders = deque([folder])
    while folders:
        current = folders.popleft()
        try:
            with os.scandir(current) as entries:
                visible = [entry for entry in islice(entries, MAX_ENTRIES) if not entry.name.startswith(".")]
        except OSError:
            continue
        for entry in sorted(visible, key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                folders.append(current / entry.name)
            else:
                yield current / entry.name
