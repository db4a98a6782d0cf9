"""Disk cache: files under the hash of all facts that they depend on, with eviction of the least recently used."""

import errno
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO

from timechat.files import UNFINISHED_PATTERN, atomic_write, user_folder, without_scheme

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""Increased when the same facts must give other files; earlier entries are then never found again."""

FOLDER_VARIABLE = "TIMECHAT_CACHE"
LIMIT_VARIABLE = "TIMECHAT_CACHE_LIMIT"
DEFAULT_MAX_BYTES = 10_000_000_000

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_KEY = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"[0-9a-f]{2}")
_EXPECTED_WRITERS = 8  # number of processes that may fill the cache at once within its limit
_EVICTION_TARGET = 0.95  # share of the limit after an eviction, so that not every new entry evicts
_ABANDONED_AFTER = 3600.0  # seconds without a write after which an unfinished file is removed
_CLOCK_TICK = 2.0  # seconds; coarsest time stamps of a file system (FAT), within which a change may be undetected
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class CacheEntry:
    """One file of a cache.

    Attributes:
        key: Key and file name.
        path: Path of the file.
        num_bytes: Size in bytes.
        used: Time of the last write or read, in seconds since 1970.
    """

    key: str
    path: Path
    num_bytes: int
    used: float


class DiskCache:
    """A folder of files, each under a key from `cache_key`, with a limit for their total size.

    Any number of processes may use one folder without locks: files are written atomically, and a key always has the
    same content, whichever process writes it. Simultaneous writes may exceed the limit for a moment. A process may be
    killed at any time. If the folder is not writable or the disk is full, one warning is logged and the results are
    not cached.

    Attributes:
        folder: Folder of the files.
        max_bytes: Limit of the total size in bytes; 0 switches the cache off.
    """

    def __init__(self, folder: str | Path | None = None, max_bytes: int | None = None) -> None:
        """Open a cache; its folder is created with the first file.

        Args:
            folder: Folder of the cache. None means `$TIMECHAT_CACHE`, or the platform's folder for user caches. An
                empty variable switches the cache off.
            max_bytes: Limit in bytes. None means `$TIMECHAT_CACHE_LIMIT`, such as `5GB`, or 10 GB; 0 or an empty
                variable switches the cache off.

        Raises:
            ValueError: The limit is not a size.
        """
        given = os.environ.get(FOLDER_VARIABLE) if folder is None else folder
        chosen = user_folder("cache") if given is None else Path(given).expanduser() if str(given) else None
        self.folder = chosen if chosen is not None else Path(tempfile.gettempdir()) / "timechat"
        limit = _limit_of_environment() if max_bytes is None else max_bytes
        if limit < 0:
            raise ValueError(f"max_bytes must be at least 0 bytes, got {limit}; 0 switches the cache off")
        self.max_bytes = limit if chosen is not None else 0
        self._room = 0  # free bytes at the last scan of the folder
        self._written = 0  # bytes written since then
        self._has_warned = False

    @property
    def is_on(self) -> bool:
        """Whether the cache is switched on."""
        return self.max_bytes > 0

    def get(self, key: str) -> Path | None:
        """Return the file of a key and mark it as used now; None for a miss.

        Another process may remove the file before it is opened; treat that as a miss too.
        """
        path = self._path(key)
        if not self.is_on:
            return None
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError:  # the folder is read-only
            return path if path.is_file() else None
        return path

    def put(self, key: str, write: Callable[[Path], object]) -> None:
        """Store a file.

        Args:
            key: Key from `cache_key`.
            write: Function that writes the file to the given path; not called if the cache is off. Its `OSError`s
                are logged and not raised.
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
        except FileNotFoundError:  # the folder was removed in the meantime; the next file creates it again
            logger.debug("%s was removed during the write", path)
        except OSError as error:
            self._warn_once(error)

    def discard(self, key: str) -> None:
        """Remove a file, for example a damaged one."""
        with suppress(OSError):
            self._path(key).unlink()

    def entries(self) -> list[CacheEntry]:
        """Return all files, the least recently used first."""
        entries = []
        for file in self._files():
            if _KEY.fullmatch(file.name):
                with suppress(OSError):  # removed by another process
                    status = file.stat()
                    entries.append(CacheEntry(file.name, Path(file.path), status.st_size, status.st_mtime))
        return sorted(entries, key=lambda entry: (entry.used, entry.key))

    def clear(self) -> list[CacheEntry]:
        """Remove all files of the cache, but no other files in its folder; return the removed entries."""
        return self.prune(0)

    def prune(self, max_bytes: int) -> list[CacheEntry]:
        """Remove the least recently used files until at most `max_bytes` remain; return the removed entries."""
        self._sweep()
        return self._evict(self.entries(), max_bytes)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"key must be 64 hexadecimal digits, got {key!r}; make it with cache_key(...)")
        return self.folder / key[:2] / key

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Yield all files in the subfolders of the cache."""
        for shard in _listed(self.folder):
            if _SHARD.fullmatch(shard.name):
                yield from _listed(shard.path)

    def _free_space(self, num_bytes: int, key: str) -> None:
        """Enforce the limit; scan the folder only if the limit may be exceeded."""
        self._written += num_bytes
        if self._written <= self._room // _EXPECTED_WRITERS:
            return
        self._sweep()
        entries = self.entries()
        total = sum(entry.num_bytes for entry in entries)
        if total > self.max_bytes:
            others = [entry for entry in entries if entry.key != key]
            own_bytes = total - sum(entry.num_bytes for entry in others)
            removed = self._evict(others, int(_EVICTION_TARGET * self.max_bytes) - own_bytes)
            total -= sum(entry.num_bytes for entry in removed)
        self._room, self._written = max(0, self.max_bytes - total), 0

    def _evict(self, entries: list[CacheEntry], max_bytes: int) -> list[CacheEntry]:
        """Remove entries from the first on until the rest is at most `max_bytes`; return the removed entries."""
        total = sum(entry.num_bytes for entry in entries)
        removed = []
        for entry in entries:
            if total <= max_bytes:
                break
            if _remove(entry):
                total -= entry.num_bytes
                removed.append(entry)
        return removed

    def _sweep(self) -> None:
        """Remove unfinished files of killed processes."""
        for file in self._files():
            if UNFINISHED_PATTERN.fullmatch(file.name):
                with suppress(OSError):
                    if time.time() - file.stat().st_mtime > _ABANDONED_AFTER:
                        Path(file.path).unlink()

    def _warn_once(self, error: OSError) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        logger.log(
            level,
            "the cache in %s cannot store results, which changes no answer: %s; free some space, or set another folder "
            "in $%s or another limit in $%s",
            self.folder,
            error.strerror or error,
            FOLDER_VARIABLE,
            LIMIT_VARIABLE,
        )


def cache_key(**facts: object) -> str:
    """Return the cache key of facts: 64 hexadecimal digits.

    Args:
        **facts: All facts that the content depends on: strings, numbers, None, and lists and dicts of them.

    Raises:
        TypeError: A fact has another type, whose text could be equal for different values.
    """
    content = {"format": FORMAT_VERSION, "facts": facts}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(source: str | os.PathLike[str] | bytes | IO[bytes], cache: DiskCache) -> str | None:
    """Return the SHA-256 of a file's content; the cache stores it until the file changes.

    Args:
        source: Path (or `file://`), bytes, or binary file object, whose position does not change.
        cache: Cache for the digests of paths.

    Returns:
        64 hexadecimal digits; None for a source that cannot be read twice: an address, a pipe, a missing file.
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
    except (OSError, ValueError):  # unreadable, or a path with a null byte; the error on opening it is clearer
        return None


def parse_size(text: str) -> int:
    """Parse a size in bytes: `500000000`, `5GB`, `1.5 GiB`.

    Raises:
        ValueError: The text is not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"a size must be bytes or a number with a unit, such as 500MB or 5GB, got {text!r}")
    return int(Decimal(found[1]) * _UNITS[found[2].upper()])


def readable_size(num_bytes: float) -> str:
    """Format a number of bytes as a short decimal number with its unit, such as `13.5 GB`."""
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


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the content of a folder; empty for a missing or unreadable folder."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _remove(entry: CacheEntry) -> bool:
    """Remove an entry unless it was used since it was listed; return whether it no longer exists."""
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
        if known := _cached_digest(key, cache):
            return known
        is_settled = time.time() - max(before.st_mtime, before.st_ctime) > _CLOCK_TICK
        digest = _digest(file)
        if is_settled and _key_of_file(path, os.fstat(file.fileno())) == key:
            cache.put(key, lambda unfinished: unfinished.write_text(digest, encoding="utf-8"))
        return digest


def _key_of_file(path: Path, status: os.stat_result) -> str:
    """Return a key that changes when the file is replaced or written to."""
    times = [status.st_mtime_ns, status.st_ctime_ns]  # copying or restoring files cannot set the second one back
    return cache_key(kind="digest", path=str(path), size=status.st_size, times=times, inode=status.st_ino)


def _cached_digest(key: str, cache: DiskCache) -> str | None:
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
