"""A video that a request names, made into a file that may be opened.

file-…    uploaded before          film-…   in an allowed folder        file://   a path in an allowed folder
http(s)   fetched, kept a while    data:    written down, kept a while
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timechat.files import UNFINISHED_PATTERN, atomic_write
from timechat.pipeline.executor import acquire
from timechat.serving.access import AccessError, Addresses, Folders, Probed, decode_data_url, fetch, probe_safely
from timechat.serving.errors import ApiError
from timechat.serving.http.database import Database
from timechat.serving.settings import ServerSettings
from timechat.video import Frames

_MEDIA_TYPES = {"mp4": "video/mp4", "matroska": "video/x-matroska", "webm": "video/webm", "avi": "video/x-msvideo"}
_MEDIA_TYPES |= {"mpegts": "video/mp2t", "mpeg": "video/mpeg", "ogg": "video/ogg", "flv": "video/x-flv"}
_KEPT_SECONDS = 900.0  # that a fetched film stays, for the next question about it
_KEPT_BYTES = 10_000_000_000
_KEPT_PROBES = 10_000


@dataclass(frozen=True)
class VideoFile:
    """A video that may be opened.

    Attributes:
        name: As the request names it; told in answers.
        path: Where it lies on this machine, which nobody is told; None for ready-made frames.
        frames: Those frames.
        key: The same for the same content; another once the file changes.
    """

    name: str
    path: Path | None
    key: str
    frames: Frames | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Upload:
    """The record of an upload."""

    id: str
    num_bytes: int
    created_at: float
    filename: str
    purpose: str
    video: Probed

    def to_dict(self) -> dict[str, Any]:
        """As OpenAI's API has it, and what video it is."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.num_bytes,
            "created_at": int(self.created_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "video": self.video.to_dict(),
        }


class VideoStore:
    """All videos of a server.

    Attributes:
        folder: Where uploads lie.
        folders: The allowed ones.
        num_arriving: Bytes of uploads that have begun.
    """

    def __init__(self, settings: ServerSettings, database: Database) -> None:
        """Look for what is there; debris of a server that was killed is removed."""
        self._settings, self._database = settings, database
        self.folder = settings.data / "uploads"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folders = Folders(settings.folders)
        self._addresses = Addresses(settings.hosts, allows_private=settings.allows_private)
        self._kept = FetchedFiles(settings.data / "fetched")
        self._probes: dict[str, Probed] = {}
        self._lock = threading.Lock()
        self.num_arriving = 0
        self._files = {record["id"]: _from_record(record) for record in database.load_files()}
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for path in self.folder.iterdir():
            if path.is_file() and (UNFINISHED_PATTERN.fullmatch(path.name) or path.name not in self._files):
                path.unlink()
        for file_id in [file_id for file_id in self._files if not (self.folder / file_id).is_file()]:
            self._forget(file_id)

    # -------------------------------------------------------------------------------------------------- uploads

    @property
    def num_bytes(self) -> int:
        """Of all uploads."""
        return sum(file.num_bytes for file in list(self._files.values()))

    def uploads(self) -> list[Upload]:
        """All uploads, the newest first."""
        return sorted(self._files.values(), key=lambda file: -file.created_at)

    def new_path(self) -> Path:
        """A path for an upload that has begun."""
        return self.folder / f".{secrets.token_hex(8)}.unfinished"

    def store_upload(self, unfinished: Path, filename: str, purpose: str) -> Upload:
        """Take an upload in that has arrived whole.

        Raises:
            VideoError, AccessError: It is no video, or a longer or larger one than is allowed.
        """
        probed = probe_safely(unfinished, self._settings.limits)
        file_id = f"file-{secrets.token_hex(12)}"
        stored = Upload(file_id, unfinished.stat().st_size, time.time(), filename, purpose, probed)
        unfinished.replace(self.folder / file_id)
        self._files[file_id] = stored
        record = stored.to_dict() | {"created_at": stored.created_at}
        self._database.save_file(file_id, stored.created_at, record)
        return stored

    def delete(self, file_id: str) -> None:
        """Remove an upload.

        Raises:
            ApiError: There is none, or it is a film of a folder.
        """
        if file_id.startswith("film-"):
            self.folders.find(file_id)
            raise ApiError(403, "films of the server's own folders cannot be deleted here", "file_id")
        self.upload(file_id)
        self._forget(file_id)

    def upload(self, file_id: str) -> Upload:
        """The record of an upload.

        Raises:
            ApiError: There is none of that id.
        """
        if file_id not in self._files:
            raise ApiError(404, f"there is no file {file_id[:40]!r}; upload it first", "file_id", "file_not_found")
        return self._files[file_id]

    def _forget(self, file_id: str) -> None:
        self._database.delete("files", file_id)
        self._files.pop(file_id, None)
        (self.folder / file_id).unlink(missing_ok=True)

    # --------------------------------------------------------------------------------------------------- finding

    def list_files(self) -> list[dict[str, Any]]:
        """Uploads, then the films of the folders, as the API lists them."""
        return [file.to_dict() for file in self.uploads()] + [
            self._folder_record(film.id, film.name, film.num_bytes, film.modified, None)
            for film in self.folders.videos()
        ]

    def record(self, file_id: str) -> dict[str, Any]:
        """One of them, with what video it is."""
        if not file_id.startswith("film-"):
            return self.upload(file_id).to_dict()
        film = self.folders.find(file_id)
        probed = self.probe(_local(film.name, film.path))
        return self._folder_record(film.id, film.name, film.num_bytes, film.modified, probed.to_dict())

    def _folder_record(
        self, film_id: str, name: str, num_bytes: int, modified: float, video: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {
            "id": film_id,
            "object": "file",
            "bytes": num_bytes,
            "created_at": int(modified),
            "filename": name,
            "purpose": "library",
            "status": "processed",
            "video": video,
        }

    def by_id(self, file_id: str) -> tuple[VideoFile, str]:
        """A film of the server by its id, and the name of its file.

        Raises:
            ApiError, AccessError: There is none.
        """
        if file_id.startswith("film-"):
            film = self.folders.find(file_id)
            return _local(file_id, film.path), film.name
        upload = self.upload(file_id)
        return VideoFile(file_id, self.folder / file_id, file_id), upload.filename

    @contextmanager
    def open(self, name: str, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[VideoFile]:
        """Lend the file that a request names, for as long as the block lasts.

        Args:
            name: `file-…`, `film-…`, or an address: `file://`, `http(s)://`, `data:`.
            is_cancelled: Asked while the film is fetched or waited for.

        Raises:
            ApiError, AccessError, VideoError: It may not be opened, is not there, or is no video.
        """
        scheme = name.split(":", 1)[0].lower() if ":" in name[:12] else ""
        if scheme in ("http", "https"):
            with self._kept.acquire(name, lambda path: self._fetch(name, path, is_cancelled), is_cancelled) as path:
                yield self._checked(VideoFile(name, path, _key_of(path)))
        elif scheme == "data":
            with self._kept.acquire(name, lambda path: self._write_inline(name, path), is_cancelled) as path:
                yield self._checked(VideoFile(f"{name[: name.find(';')]}", path, _key_of(path)))
        elif scheme == "file":
            yield self._checked(_local(name, self.folders.resolve(name)))
        elif name.startswith(("file-", "film-")):
            yield self._checked(self.by_id(name)[0])
        else:
            raise ApiError(
                400,
                f"{name[:80]!r} names no video; give the id of an upload (file-…), of a film in the server's folders "
                "(film-…), or an http(s), file:// or data: address",
                "video",
            )

    def delete_expired(self) -> None:
        """Remove fetched films that nobody has asked about for a while; to be called now and then."""
        self._kept.delete_expired()

    def probe(self, film: VideoFile) -> Probed:
        """Find out what a film is; remembered until its file changes."""
        assert film.path is not None
        if film.key in self._files:
            return self._files[film.key].video
        known = self._probes.get(film.key)
        if known is None:
            known = probe_safely(film.path, self._settings.limits)
            with self._lock:
                if len(self._probes) >= _KEPT_PROBES:
                    self._probes.clear()
                self._probes[film.key] = known
        return known

    def media_type(self, film: VideoFile) -> str:
        """Media type of a film, by its content."""
        formats = set(self.probe(film).format.split(","))
        return next((kind for name, kind in _MEDIA_TYPES.items() if name in formats), "application/octet-stream")

    def _checked(self, film: VideoFile) -> VideoFile:
        self.probe(film)
        return film

    def _fetch(self, address: str, path: Path, is_cancelled: Callable[[], bool]) -> None:
        if not self._settings.hosts:
            raise AccessError(
                "this server fetches no films from the web; upload the film, or start the server with --allow-host",
                "forbidden",
            )
        fetch(address, path, self._addresses, self._settings.limits, is_cancelled=is_cancelled)

    def _write_inline(self, address: str, path: Path) -> None:
        content = decode_data_url(address, self._settings.limits)
        with atomic_write(path) as unfinished:
            unfinished.write_bytes(content)


class FetchedFiles:
    """Files that were made of an address and are kept a while; none is removed while somebody uses it."""

    def __init__(self, folder: Path) -> None:
        """Begin with an empty folder."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
        self._lock = threading.Lock()
        self._files: dict[str, _FetchedFile] = {}

    @contextmanager
    def acquire(self, address: str, make: Callable[[Path], None], is_cancelled: Callable[[], bool]) -> Iterator[Path]:
        """Lend the file of an address, which `make` writes where it is not there.

        Raises:
            AccessError: It is cancelled while somebody else makes the file; and whatever `make` raises.
        """

        def check() -> None:
            if is_cancelled():
                raise AccessError("waiting for the file was cancelled", "unreachable")

        digest = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()
        with self._lock:
            kept = self._files.setdefault(digest, _FetchedFile(self._folder / digest))
            kept.num_users += 1
        try:
            with acquire(kept.lock, check):  # who asks for the same at the same time waits for it
                if not kept.path.is_file():
                    make(kept.path)
            yield kept.path
        finally:
            with self._lock:
                kept.num_users -= 1
                kept.used = time.monotonic()
            self.delete_expired()

    def delete_expired(self) -> None:
        """Remove what nobody uses and is old, or too much."""
        with self._lock:
            idle = sorted((kept.used, digest) for digest, kept in self._files.items() if not kept.num_users)
            total = sum(kept.num_bytes for kept in self._files.values())
            for used, digest in idle:
                kept = self._files[digest]
                if total > _KEPT_BYTES or time.monotonic() - used > _KEPT_SECONDS or not kept.num_bytes:
                    total -= kept.num_bytes
                    kept.path.unlink(missing_ok=True)
                    del self._files[digest]


class _FetchedFile:
    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.num_users, self.used = 0, time.monotonic()

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0


def _local(name: str, path: Path) -> VideoFile:
    return VideoFile(name, path, _key_of(path))


def _key_of(path: Path) -> str:
    status = path.stat()
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"


def _from_record(record: dict[str, Any]) -> Upload:
    return Upload(
        record["id"],
        record["bytes"],
        record["created_at"],
        record["filename"],
        record["purpose"],
        Probed(**record["video"]),
    )
