"""Stamps of files: what changes when a file is replaced or written to, without reading it."""

import json
import os
import time
from pathlib import Path

from timechat.search.records import KnownFile

_SETTLED_SECONDS = 2.0  # coarsest time stamps of a file system (FAT), within which a change may be undetected


def stamp_of(path: str) -> str:
    """Return what changes when a file is replaced or written to."""
    status = Path(path).stat()
    # Copying or restoring a file cannot set back the time of the last change.
    return json.dumps([status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])


def settled(stamp: str) -> str | None:
    """Return a stamp; None if the file is so new that a change after it may have the same times."""
    _, modified, changed, _ = json.loads(stamp)
    return stamp if time.time() - max(modified, changed) / 1e9 > _SETTLED_SECONDS else None


def is_same_stamp(before: str | None, now: str) -> bool:
    """Return whether two stamps are those of the same content: size and times; some file systems invent inodes."""
    return before is not None and json.loads(before)[:3] == json.loads(now)[:3]


def has_moved(file: KnownFile, stamp: str) -> bool:
    """Return whether a missing file is the one with a stamp: its folder is there with other files, or its inode."""
    if file.stamp is not None and json.loads(file.stamp)[3] == json.loads(stamp)[3]:
        return True
    try:
        with os.scandir(Path(file.path).parent) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
