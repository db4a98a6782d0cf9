"""Results kept on disk under the hash of all that they depend on; the least recently used make room for new ones."""

import errno
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO

from timechat.files import UNFINISHED_PATTERN, atomic_write, without_scheme

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Raised when the same facts are to give other files: what was kept until then is never found again."""

FOLDER_VARIABLE = "TIMECHAT_CACHE"
LIMIT_VARIABLE = "TIMECHAT_CACHE_LIMIT"
DEFAULT_MAX_BYTES = 10_000_000_000

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_KEY = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"[0-9a-f]{2}")
_EXPECTED_WRITERS = 8  # processes that may fill the cache at once and still stay below its limit
_FILLED_AGAIN_TO = 0.95  # of the limit, after making room: so that not every new entry has to make some
_ABANDONED_AFTER = 3600.0  # seconds without a write, after which an unfinished file belongs to nobody
_CLOCK_TICK = 2.0  # seconds, the coarsest time stamps of a file system (FAT): within it a change may go unseen
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class CacheEntry:
    """One file of a cache.

    Attributes:
        key: Its name.
        path: Where it lies.
        num_bytes: Its size.
        used: When it was last written or asked for, seconds since 1970.
    """

    key: str
    path: Path
    num_bytes: int
    used: float


class DiskCache:
    """A folder of files, each under a key of `cache_key`, whose sizes stay within a limit.

    Any number of processes may use one folder, without locks: a file appears whole or not at all, and the same key
    stands for the same content, whoever writes it; what they write at once may pass the limit for a moment. A process
    may be killed at any moment. A folder that cannot be written to, or a full disk, is noted once in the log; then
    what would have been kept is not.

    Attributes:
        folder: Where the files are.
        max_bytes: Their limit, 0 where nothing is kept.
    """

    def __init__(self, folder: str | Path | None = None, max_bytes: int | None = None) -> None:
        """Name a cache; the folder is made when the first file is kept.

        Args:
            folder: None takes `$TIMECHAT_CACHE`, or the platform's folder for a user's caches. An empty variable
                keeps nothing.
            max_bytes: None takes `$TIMECHAT_CACHE_LIMIT`, such as `5GB`, or 10 GB; 0 or an empty variable keeps
                nothing.

        Raises:
            ValueError: The limit is no size.
        """
        given = os.environ.get(FOLDER_VARIABLE) if folder is None else folder
        place = _user_folder() if given is None else Path(given).expanduser() if str(given) else None
        self.folder = place if place is not None else Path(tempfile.gettempdir()) / "timechat"
        limit = _limit_of_environment() if max_bytes is None else max_bytes
        if limit < 0:
            raise ValueError(f"max_bytes must be at least 0 bytes, got {limit}; 0 keeps nothing")
        self.max_bytes = limit if place is not None else 0
        self._room = 0  # bytes that were left when the folder was last looked through
        self._written = 0  # bytes that have been written since
        self._has_complained = False

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all."""
        return self.max_bytes > 0

    def get(self, key: str) -> Path | None:
        """Return the file of a key, which counts as used now; None if there is none.

        Another process may remove it before it is opened: take that for a miss as well.
        """
        path = self._path(key)
        if not self.is_on:
            return None
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError:  # a folder that may be read only
            return path if path.is_file() else None
        return path

    def put(self, key: str, write: Callable[[Path], object]) -> None:
        """Keep a file.

        Args:
            key: Of `cache_key`.
            write: Writes the file to the path that it is given; not called where nothing is kept. Its `OSError`s
                are those of the disk and go no further.
        """
        path = self._path(key)
        if not self.is_on:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as unfinished:
                write(unfinished)
                num_bytes = unfinished.stat().st_size
                if num_bytes > self.max_bytes:
                    raise OSError(errno.EFBIG, f"{num_bytes} bytes are more than its limit of {self.max_bytes}")
            self._free_space(num_bytes, key)
        except FileNotFoundError:  # the folder was removed meanwhile: the next file makes it anew
            logger.debug("%s was removed while it was written", path)
        except OSError as error:
            self._warn_once(error)

    def discard(self, key: str) -> None:
        """Remove a file, such as one that turned out to be damaged."""
        with suppress(OSError):
            self._path(key).unlink()

    def entries(self) -> list[CacheEntry]:
        """List all files, the least recently used first."""
        found = []
        for file in self._files():
            if _KEY.fullmatch(file.name):
                with suppress(OSError):  # removed by another process
                    status = file.stat()
                    found.append(CacheEntry(file.name, Path(file.path), status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: (entry.used, entry.key))

    def clear(self) -> list[CacheEntry]:
        """Remove all files of the cache, and nothing else that may lie in its folder; returns them."""
        return self.prune(0)

    def prune(self, max_bytes: int) -> list[CacheEntry]:
        """Remove the least recently used files until those left take no more than `max_bytes`; returns what went."""
        self._sweep()
        return self._evict(self.entries(), max_bytes)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"key must be 64 hexadecimal digits, got {key!r}; make it with cache_key(...)")
        return self.folder / key[:2] / key

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """All files in the folders that a cache makes."""
        for shard in _listed(self.folder):
            if _SHARD.fullmatch(shard.name):
                yield from _listed(shard.path)

    def _free_space(self, num_bytes: int, key: str) -> None:
        """Keep to the limit, looking through the folder only when it may have been passed."""
        self._written += num_bytes
        if self._written <= self._room // _EXPECTED_WRITERS:
            return
        self._sweep()
        entries = self.entries()
        total = sum(entry.num_bytes for entry in entries)
        if total > self.max_bytes:
            others = [entry for entry in entries if entry.key != key]
            own_bytes = total - sum(entry.num_bytes for entry in others)
            gone = self._evict(others, int(_FILLED_AGAIN_TO * self.max_bytes) - own_bytes)
            total -= sum(entry.num_bytes for entry in gone)
        self._room, self._written = max(0, self.max_bytes - total), 0

    def _evict(self, entries: list[CacheEntry], max_bytes: int) -> list[CacheEntry]:
        """Remove entries from the first on until the rest is small enough; returns those that are gone."""
        total = sum(entry.num_bytes for entry in entries)
        gone = []
        for entry in entries:
            if total <= max_bytes:
                break
            if _remove(entry):
                total -= entry.num_bytes
                gone.append(entry)
        return gone

    def _sweep(self) -> None:
        """Remove what killed processes have left unfinished."""
        for file in self._files():
            if UNFINISHED_PATTERN.fullmatch(file.name):
                with suppress(OSError):
                    if time.time() - file.stat().st_mtime > _ABANDONED_AFTER:
                        Path(file.path).unlink()

    def _warn_once(self, error: OSError) -> None:
        level = logging.DEBUG if self._has_complained else logging.WARNING
        self._has_complained = True
        logger.log(
            level,
            "the cache in %s cannot keep results, which changes none of them: %s; make room there, or name another "
            "folder in $%s or another limit in $%s",
            self.folder,
            error.strerror or error,
            FOLDER_VARIABLE,
            LIMIT_VARIABLE,
        )


def cache_key(**facts: object) -> str:
    """Return the key of what these facts determine: 64 hexadecimal digits.

    Args:
        **facts: Strings, numbers, None, and lists and dicts of these; all that the content depends on.

    Raises:
        TypeError: A fact is of another kind, so that its text could be the same for different values.
    """
    content = {"format": FORMAT_VERSION, "facts": facts}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(source: str | os.PathLike[str] | bytes | IO[bytes], cache: DiskCache) -> str | None:
    """Return the SHA-256 of a file's content; the cache remembers it until the file changes.

    Args:
        source: A path (or `file://`), bytes, or a binary file object, whose position is left where it is.
        cache: What remembers the digests of paths.

    Returns:
        64 hexadecimal digits; None for what is no file to be read twice: an address, a pipe, a path without a file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return hashlib.sha256(source).hexdigest()
    try:
        if isinstance(source, str | os.PathLike):
            path = Path(without_scheme(os.fspath(source)))
            return _digest_of_path(path.resolve(), cache) if path.is_file() else None
        if not hasattr(source, "seek") or (hasattr(source, "seekable") and not source.seekable()):
            return None
        position = source.tell()
        try:
            source.seek(0)
            return _digest(source)
        finally:
            source.seek(position)
    except (OSError, ValueError):  # unreadable, or a path with a null byte: whoever opens it says so better
        return None


def parse_size(text: str) -> int:
    """Read a number of bytes as people write it: `500000000`, `5GB`, `1.5 GiB`.

    Raises:
        ValueError: It is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"a size must be bytes or a number with a unit, such as 500MB or 5GB, got {text!r}")
    return int(Decimal(found[1]) * _UNITS[found[2].upper()])


def readable_size(num_bytes: float) -> str:
    """Write a number of bytes as a short decimal number with its unit, such as `13.5 GB`."""
    for unit, unit_size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= unit_size:
            return f"{num_bytes / unit_size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def _limit_of_environment() -> int:
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        return DEFAULT_MAX_BYTES
    try:
        return parse_size(text) if text.strip() else 0
    except ValueError as error:
        raise ValueError(f"${LIMIT_VARIABLE}: {error}") from error


def _user_folder() -> Path | None:
    """Return where this platform keeps the caches of a user; None for a user without a home."""
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():  # relative ones are to be ignored, says the XDG base directory specification
        return given / "timechat"
    below_home = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    try:
        return Path.home() / below_home / "timechat"
    except RuntimeError:
        return None


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none, or it may not be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _remove(entry: CacheEntry) -> bool:
    """Remove an entry unless it was used since it was listed; returns whether it is gone, whoever removed it."""
    try:
        if entry.path.stat().st_mtime != entry.used:
            return False
        entry.path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _digest_of_path(path: Path, cache: DiskCache) -> str:
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        key = _key_of_file(path, before)
        if known := _remembered_digest(key, cache):
            return known
        is_settled = time.time() - max(before.st_mtime, before.st_ctime) > _CLOCK_TICK
        digest = _digest(file)
        if is_settled and _key_of_file(path, os.fstat(file.fileno())) == key:
            cache.put(key, lambda unfinished: unfinished.write_text(digest))
        return digest


def _key_of_file(path: Path, status: os.stat_result) -> str:
    """Return a key that is another one when the file is, or has been written to."""
    times = [status.st_mtime_ns, status.st_ctime_ns]  # the second cannot be set back by who copies or restores files
    return cache_key(kind="digest", path=str(path), size=status.st_size, times=times, inode=status.st_ino)


def _remembered_digest(key: str, cache: DiskCache) -> str | None:
    path = cache.get(key)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError):
        text = ""
    if _KEY.fullmatch(text):
        return text
    cache.discard(key)
    return None


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
