"""Files of the videos that requests name.

name      video                        name      video
file-…    an upload                    film-…    in an allowed folder, by id
file://   in an allowed folder         a path    the same, where paths are accepted (`opens_paths`)
http(s)   fetched and kept for a while data:     written to a file and kept for a while
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
from timechat.serving.access import (
    AccessError,
    Addresses,
    Folders,
    FolderVideo,
    Probed,
    decode_data_url,
    fetch,
    probe_safely,
)
from timechat.serving.database import Database
from timechat.serving.errors import RequestError
from timechat.serving.settings import ServerSettings
from timechat.video import Frames

Reserve = Callable[[int], None]
"""Function that reserves bytes of the disk, or raises if there is no room."""

_MEDIA_TYPES = {"mp4": "video/mp4", "matroska": "video/x-matroska", "avi": "video/x-msvideo"}
_MEDIA_TYPES |= {"mpegts": "video/mp2t", "mpeg": "video/mpeg", "ogg": "video/ogg", "flv": "video/x-flv"}
_WEBM_CODECS = {"vp8", "vp9", "av1", "libdav1d", "libaom-av1"}
_WEBM_AUDIO_CODECS = {None, "opus", "vorbis"}
_KEPT_SECONDS = 900.0  # time that a fetched video is kept after its last use
_KEPT_PROBES = 10_000
_POLL_SECONDS = 0.1  # between two checks whether a waiting request was cancelled


@dataclass(frozen=True)
class VideoFile:
    """A video that may be opened.

    Attributes:
        name: Name of the video in the request and in its answer.
        path: Path on this machine, which no client may see; None for frames that came with the request.
        key: Key of the content; a file that changes gets another key.
        frames: Frames that came with the request.
    """

    name: str
    path: Path | None
    key: str
    frames: Frames | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Upload:
    """The record of an upload; `created_at` is in seconds since 1970."""

    id: str
    num_bytes: int
    created_at: float
    filename: str
    purpose: str
    video: Probed

    def to_dict(self) -> dict[str, Any]:
        """Return the file object of OpenAI's API, and the properties of the video."""
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
    """All videos that requests may name.

    Attributes:
        folder: Folder of the uploads.
        folders: Allowed folders.
    """

    def __init__(self, settings: ServerSettings, database: Database) -> None:
        """Read the records of uploads; remove unfinished files of a server that was killed."""
        self._settings, self._database = settings, database
        self.folder = settings.data / "uploads"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folders = Folders(settings.folders)
        self._addresses = Addresses(settings.hosts, allows_private=settings.allows_private)
        self._fetched = FetchedFiles(settings.data / "fetched", settings.max_fetched_bytes)
        self._probes: dict[str, Probed] = {}
        self._lock = threading.Lock()
        self._num_arriving = 0
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
        """Size of all uploads together."""
        return sum(file.num_bytes for file in list(self._files.values()))

    def uploads(self) -> list[Upload]:
        """Return all uploads, the newest first."""
        return sorted(self._files.values(), key=lambda file: -file.created_at)

    @property
    def num_arriving(self) -> int:
        """Bytes that are reserved for unfinished uploads."""
        return self._num_arriving

    def reserve(self, num_bytes: int) -> None:
        """Reserve room for a part of an upload before it is written; a negative number gives it back.

        Raises:
            RequestError: The uploads, with the unfinished ones, would need more than the settings allow.
        """
        with self._lock:
            if num_bytes > 0 and self.num_bytes + self._num_arriving + num_bytes > self._settings.max_store_bytes:
                raise RequestError(507, "there is no room for this file; delete others first", "file")
            self._num_arriving += num_bytes

    def new_path(self) -> Path:
        """Return a path for an upload that begins."""
        return self.folder / f".{secrets.token_hex(8)}.unfinished"

    def store_upload(self, unfinished: Path, filename: str, purpose: str) -> Upload:
        """Store a complete upload.

        Raises:
            VideoError: It is not a video.
            AccessError: It is longer or larger than allowed.
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
            RequestError: There is no upload of that id.
        """
        if file_id.startswith("film-"):
            self.folders.find(file_id)
            raise RequestError(403, "videos of the server's own folders cannot be deleted here", "file_id")
        self.upload(file_id)
        self._forget(file_id)

    def upload(self, file_id: str) -> Upload:
        """Return the record of an upload.

        Raises:
            RequestError: There is no upload of that id.
        """
        if file_id not in self._files:
            raise RequestError(404, f"there is no file {file_id[:40]!r}; upload it first", "file_id", "file_not_found")
        return self._files[file_id]

    def _forget(self, file_id: str) -> None:
        self._database.delete("files", file_id)
        self._files.pop(file_id, None)
        (self.folder / file_id).unlink(missing_ok=True)

    # --------------------------------------------------------------------------------------------------- finding

    def list_files(self) -> list[dict[str, Any]]:
        """Return the file objects of all uploads, then of the videos in the allowed folders."""
        return [file.to_dict() for file in self.uploads()] + [
            _folder_record(video, None) for video in self.folders.videos()
        ]

    def record(self, file_id: str) -> dict[str, Any]:
        """Return the file object of one of them, with the properties of the video."""
        if not file_id.startswith("film-"):
            return self.upload(file_id).to_dict()
        video = self.folders.find(file_id)
        return _folder_record(video, self.probe(_local_file(video.name, video.path)))

    def by_id(self, file_id: str) -> tuple[VideoFile, str]:
        """Return the video of an id, and the name of its file.

        Raises:
            RequestError: There is no upload of that id.
            AccessError: There is no video of that id in the allowed folders.
        """
        if file_id.startswith("film-"):
            video = self.folders.find(file_id)
            return _local_file(file_id, video.path), video.name
        upload = self.upload(file_id)
        return VideoFile(file_id, self.folder / file_id, file_id), upload.filename

    @contextmanager
    def open(self, name: str, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[VideoFile]:
        """Find the file of a video, fetch it if needed, probe it, and keep it for a `with` block.

        Args:
            name: `file-…`, `film-…`, or an address: `file://`, `http(s)://`, `data:`. With `opens_paths`: a path in an
                allowed folder, or an `http(s)://` address.
            is_cancelled: Function that returns True to end fetching or waiting.

        Raises:
            AccessError: The video may not be opened or is not there.
            RequestError: The name is not the name of a video.
            VideoError: The file is not a video.
        """
        scheme = name.split(":", 1)[0].lower() if ":" in name[:12] else ""
        if scheme in ("http", "https"):
            with self._fetched.acquire(
                name, lambda path, reserve: self._fetch(name, path, reserve, is_cancelled), is_cancelled
            ) as path:
                yield self._probed(_local_file(name, path))
        elif self._settings.opens_paths or scheme == "file":
            yield self._probed(_local_file(name, self.folders.resolve(name)))
        elif scheme == "data":
            with self._fetched.acquire(
                name, lambda path, reserve: self._write_inline(name, path, reserve), is_cancelled
            ) as path:
                yield self._probed(_local_file(name[: name.find(";")], path))
        elif name.startswith(("file-", "film-")):
            yield self._probed(self.by_id(name)[0])
        else:
            raise RequestError(
                400,
                f"{name[:80]!r} names no video; give the id of an upload (file-…), of a video in the server's folders "
                "(film-…), or an http(s), file:// or data: address",
                "video",
            )

    def delete_expired(self) -> None:
        """Delete fetched videos that were not used for a while; call it from time to time."""
        self._fetched.delete_expired()

    def probe(self, file: VideoFile) -> Probed:
        """Return the properties of a video; they are kept until its file changes."""
        assert file.path is not None
        if file.key in self._files:
            return self._files[file.key].video
        known = self._probes.get(file.key)
        if known is None:
            known = probe_safely(file.path, self._settings.limits)
            with self._lock:
                if len(self._probes) >= _KEPT_PROBES:
                    self._probes.clear()
                self._probes[file.key] = known
        return known

    def media_type(self, file: VideoFile) -> str:
        """Return the media type of a video, by its content.

        FFmpeg has one name for Matroska and WebM, which is Matroska with a few codecs.
        """
        probed = self.probe(file)
        formats = set(probed.format.split(","))
        if "webm" in formats and probed.codec in _WEBM_CODECS and probed.audio_codec in _WEBM_AUDIO_CODECS:
            return "video/webm"
        return next((kind for name, kind in _MEDIA_TYPES.items() if name in formats), "application/octet-stream")

    def _probed(self, file: VideoFile) -> VideoFile:
        self.probe(file)
        return file

    def _fetch(self, address: str, path: Path, reserve: Reserve, is_cancelled: Callable[[], bool]) -> None:
        limits = self._settings.limits
        fetch(address, path, self._addresses, limits, is_cancelled=is_cancelled, reserve=reserve)

    def _write_inline(self, address: str, path: Path, reserve: Reserve) -> None:
        content = decode_data_url(address, self._settings.limits)
        reserve(len(content))
        with atomic_write(path) as unfinished:
            unfinished.write_bytes(content)


class FetchedFiles:
    """Files that were made from addresses and are kept for a while; a file that is in use is not deleted."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Begin with an empty folder.

        Args:
            folder: Folder of the files.
            max_bytes: Maximum size of all files together, with the unfinished ones.
        """
        self._folder, self._max_bytes = folder, max_bytes
        self._num_reserved = 0
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
        self._changed = threading.Condition()
        self._files: dict[str, _FetchedFile] = {}

    @contextmanager
    def acquire(
        self, address: str, make: Callable[[Path, Reserve], None], is_cancelled: Callable[[], bool]
    ) -> Iterator[Path]:
        """Keep the file of an address for a `with` block; `make` writes the file if it does not exist.

        `make` reserves the size of each part before it writes it.

        Raises:
            AccessError: The request was cancelled while another request made the file. Errors of `make` pass through.
        """
        digest = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()
        with self._changed:
            file = self._files.setdefault(digest, _FetchedFile(self._folder / digest))
            file.num_users += 1
        try:
            with self._exclusive(file, is_cancelled):
                if not file.path.is_file():
                    self._make(file, make)
            yield file.path
        finally:
            with self._changed:
                file.num_users -= 1
                file.used = time.monotonic()
            self.delete_expired()

    def _make(self, file: "_FetchedFile", make: Callable[[Path, Reserve], None]) -> None:
        num_reserved = 0

        def reserve(num_bytes: int) -> None:
            nonlocal num_reserved
            self._reserve(num_bytes)
            num_reserved += num_bytes

        try:
            make(file.path, reserve)
        finally:
            with self._changed:
                self._num_reserved -= num_reserved

    def _reserve(self, num_bytes: int) -> None:
        """Reserve room for a part of an unfinished file; unused files are deleted for it."""
        with self._changed:
            if self._num_bytes() + num_bytes > self._max_bytes:
                self._delete_expired(self._max_bytes - num_bytes)
            if self._num_bytes() + num_bytes > self._max_bytes:
                raise AccessError("the server has no room for another fetched video; try again later", "no_room")
            self._num_reserved += num_bytes

    def _num_bytes(self) -> int:
        return self._num_reserved + sum(file.num_bytes for file in self._files.values())

    @contextmanager
    def _exclusive(self, file: "_FetchedFile", is_cancelled: Callable[[], bool]) -> Iterator[None]:
        """Let one request at a time make a file; the others wait."""
        with self._changed:
            while file.is_busy:
                if is_cancelled():
                    raise AccessError("waiting for the file was cancelled", "unreachable")
                self._changed.wait(_POLL_SECONDS)
            file.is_busy = True
        try:
            yield
        finally:
            with self._changed:
                file.is_busy = False
                self._changed.notify_all()

    def delete_expired(self) -> None:
        """Delete files that are not in use and are old, or too many."""
        with self._changed:
            self._delete_expired(self._max_bytes)

    def _delete_expired(self, max_bytes: int) -> None:
        idle = sorted((file.used, digest) for digest, file in self._files.items() if not file.num_users)
        total = self._num_bytes()
        for used, digest in idle:
            file = self._files[digest]
            if total > max_bytes or time.monotonic() - used > _KEPT_SECONDS or not file.num_bytes:
                total -= file.num_bytes
                file.path.unlink(missing_ok=True)
                del self._files[digest]


class _FetchedFile:
    def __init__(self, path: Path) -> None:
        self.path, self.is_busy = path, False
        self.num_users, self.used = 0, time.monotonic()

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0


def _local_file(name: str, path: Path) -> VideoFile:
    status = path.stat()
    return VideoFile(name, path, f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}")


def _folder_record(video: FolderVideo, probed: Probed | None) -> dict[str, Any]:
    """Return the file object of a video in an allowed folder."""
    return {
        "id": video.id,
        "object": "file",
        "bytes": video.num_bytes,
        "created_at": int(video.modified),
        "filename": video.name,
        "purpose": "library",
        "status": "processed",
        "video": None if probed is None else probed.to_dict(),
    }


def _from_record(record: dict[str, Any]) -> Upload:
    return Upload(
        record["id"],
        record["bytes"],
        record["created_at"],
        record["filename"],
        record["purpose"],
        Probed(**record["video"]),
    )
