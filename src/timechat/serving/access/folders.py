"""Allowed folders: clients can name files of this machine only in these folders."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timechat.errors import AccessError
from timechat.files import is_video_name, walk_files, without_scheme

MAX_VIDEOS = 10_000
"""Maximum number of videos in a list."""

MAX_ENTRIES = 500_000
"""Maximum number of files that are read for a list."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_VIDEO_ID = re.compile(r"film-[0-9a-f]{24}")


@dataclass(frozen=True)
class VideoIdentity:
    """What a video in an allowed folder is called, whether or not its file is there now.

    Attributes:
        id: `film-` and 24 hexadecimal digits; constant for a path.
        name: Path relative to the allowed folder, with `/` between the parts.
        path: Real path.
    """

    id: str
    name: str
    path: Path


@dataclass(frozen=True)
class FolderVideo(VideoIdentity):
    """A video file in an allowed folder.

    Attributes:
        num_bytes: Size of the file.
        modified: Time of the last change, in seconds since 1970.
    """

    num_bytes: int
    modified: float


class Folders:
    """Folders whose files may be opened, with all their subfolders."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Allow some folders; without folders, no file can be opened.

        Args:
            folders: Existing folders. For a symbolic link, its current target is allowed.

        Raises:
            ValueError: A folder does not exist.
        """
        self._roots: list[tuple[Path, Path]] = []
        """Given path and real path of each folder."""
        for folder in folders:
            given = Path(folder).absolute()
            if not given.is_dir():
                raise ValueError(f"{folder} is not a folder; allow folders that exist")
            self._roots.append((given, Path(os.path.realpath(given))))
        self._known: dict[str, FolderVideo] = {}

    def resolve(self, address_or_path: str) -> Path:
        """Return the file of an address or a path.

        A path that is not spelled below an allowed folder is refused without access to the disk, so that clients do
        not learn which other files exist. Symbolic links are followed; their targets must be in an allowed folder.

        Args:
            address_or_path: `file://` address (percent-encoded), absolute path, or path relative to a folder.

        Returns:
            The real path of a regular file.

        Raises:
            AccessError: The path is outside of the folders (`forbidden`), is not an existing file (`not_found`), or is
                not a local address (`bad_address`).
        """
        candidates = self._candidates(address_or_path)
        leads_outside = not candidates
        for candidate in candidates:
            is_spelled_inside = any(candidate.is_relative_to(root) for pair in self._roots for root in pair)
            real = Path(os.path.realpath(candidate)) if is_spelled_inside else None
            if real is None or not self._is_inside(real):
                leads_outside = True
            elif _status(real) is not None:
                return real
        if leads_outside:
            raise AccessError("only files in the allowed folders may be opened", "forbidden")
        raise AccessError("there is no such file in the allowed folders", "not_found")

    def holds(self, path: Path) -> bool:
        """Whether a path leads to a regular file in an allowed folder, symbolic links included."""
        real = Path(os.path.realpath(path))
        return self._is_inside(real) and _status(real) is not None

    def videos(self) -> list[FolderVideo]:
        """List the videos of the folders.

        Returns:
            At most `MAX_VIDEOS` videos, sorted by name, each file once. Hidden files, files in hidden folders and
            symbolic links are omitted.
        """
        videos: dict[str, FolderVideo] = {}
        remaining = MAX_ENTRIES
        for _, root in self._roots:
            for path in walk_files(root):
                remaining -= 1
                if remaining < 0 or len(videos) >= MAX_VIDEOS:
                    break
                video = self._video(path, path.relative_to(root).as_posix())
                if video is not None:
                    videos.setdefault(video.id, video)
        listed = sorted(videos.values(), key=lambda video: (video.name, video.id))
        self._known = {video.id: video for video in listed}
        return listed

    def find(self, video_id: str) -> FolderVideo:
        """Return the video of an id, with its current size and time.

        Raises:
            AccessError: There is no such video (`not_found`).
        """
        if _VIDEO_ID.fullmatch(video_id):
            known = self._known.get(video_id)
            video = known and self._video(known.path, known.name)
            if video is None or video.id != video_id:
                video = next((each for each in self.videos() if each.id == video_id), None)
            if video is not None:
                return video
        raise AccessError("there is no such video in the allowed folders", "not_found")

    def identify(self, path: str | Path) -> VideoIdentity | None:
        """Return what a video is called, whether or not its file is there now.

        Returns:
            None for a path outside of the folders, for a hidden file, and for a file that is not a video.
        """
        real = Path(os.path.realpath(path))
        for _, root in self._roots:
            if self._is_inside(real) and real.is_relative_to(root) and is_video_name(real):
                inner = real.relative_to(root)
                is_hidden = any(part.startswith(".") for part in inner.parts)
                return None if is_hidden else _identity(real, inner.as_posix())
        return None

    def spellings(self, address_or_path: str) -> list[Path]:
        """Return the real paths that an address or a path of a file or folder can mean, without access to the disk.

        Raises:
            AccessError: It is not a local address (`bad_address`), or leads out of the folders (`forbidden`).
        """
        spelled = []
        for path in self._candidates(address_or_path):
            spelled += [real / path.relative_to(given) for given, real in self._roots if path.is_relative_to(given)]
            spelled += [path] if any(path.is_relative_to(real) for _, real in self._roots) else []
        if not spelled:
            raise AccessError("only files in the allowed folders may be searched", "forbidden")
        return spelled

    def _candidates(self, address_or_path: str) -> list[Path]:
        path = _local_path(address_or_path)
        return [path] if path.is_absolute() else [given / path for given, _ in self._roots]

    def _video(self, path: Path, name: str) -> FolderVideo | None:
        """Return the video at a path; None if the file is not a video."""
        if not is_video_name(path):
            return None
        status = _status(path)
        if status is None or os.path.realpath(path) != str(path):
            return None
        identity = _identity(path, name)
        return FolderVideo(identity.id, identity.name, path, status.st_size, status.st_mtime)

    def _is_inside(self, real: Path) -> bool:
        return any(real.is_relative_to(root) and real != root for _, root in self._roots)


def _local_path(address_or_path: str) -> Path:
    """Return the path of an address or a path, without access to the disk; refuse `..`."""
    text = address_or_path
    if text[:5].lower() == "file:":
        rest = text[5:]
        host, slash, _ = rest.removeprefix("//").partition("/")
        if not rest.startswith("//") or not slash or host.lower() not in ("", "localhost"):
            raise AccessError("a file:// address must look like file:///folder/video.mp4", "bad_address")
        text = without_scheme("file://" + rest[2 + len(host) :])
    elif _SCHEME.match(text) and "//" in text:
        raise AccessError("this is not the address of a file; it must be a path or begin with file://", "bad_address")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded or len(encoded) > 4096:
        raise AccessError("the path of a file must have 1 to 4096 bytes, none of them null", "bad_address")
    if ".." in re.split(r"[/\\]", text):
        raise AccessError("only files in the allowed folders may be opened; a path may not hold '..'", "forbidden")
    return Path(text)


def _identity(path: Path, name: str) -> VideoIdentity:
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()
    return VideoIdentity(f"film-{digest[:24]}", os.fsencode(name).decode("utf-8", "replace"), path)


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None
