"""Allowed folders: the only places on this machine whose files somebody outside may name."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from timechat.errors import AccessError
from timechat.files import without_scheme

VIDEO_SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
}
"""Endings, in small letters, of files that are listed as films."""

MAX_VIDEOS = 10_000
"""Films that are listed at most."""

MAX_ENTRIES = 500_000
"""Files and folders that are looked at for one list."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_VIDEO_ID = re.compile(r"film-[0-9a-f]{24}")


@dataclass(frozen=True)
class FolderVideo:
    """A video file in an allowed folder.

    Attributes:
        id: `film-` and 24 hexadecimal digits; the same as long as the file stays where it is.
        name: its path in the allowed folder, with `/` between the parts.
        path: the real path.
        num_bytes: its size.
        modified: when it was last changed, in seconds since 1970.
    """

    id: str
    name: str
    path: Path
    num_bytes: int
    modified: float


class Folders:
    """Folders whose files may be opened, those in folders inside included."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Allow some folders; with none, nothing can be opened.

        Args:
            folders: They exist. Where one is a symbolic link, what it leads to now is what is allowed.
        """
        self._roots: list[tuple[Path, Path]] = []
        """Each folder as it was given, and where it really is."""
        for folder in folders:
            given = Path(folder).absolute()
            if not given.is_dir():
                raise ValueError(f"{folder} is no folder; allow folders that exist")
            self._roots.append((given, Path(os.path.realpath(given))))
        self._known: dict[str, FolderVideo] = {}

    def resolve(self, address_or_path: str) -> Path:
        """Find the file that an address or a path means.

        What does not lie under an allowed folder by its spelling is refused without a look at the disk, so that
        nobody learns what exists elsewhere; symbolic links inside are followed, and must end inside.

        Args:
            address_or_path: `file://` address (percent-encoded), absolute path, or a path inside one of the folders.

        Returns:
            The real path of a regular file.

        Raises:
            AccessError: It is outside (`forbidden`), not there or no file (`not_found`), or no local address.
        """
        path = _local_path(address_or_path)
        candidates = [path] if path.is_absolute() else [given / path for given, _ in self._roots]
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

    def videos(self) -> list[FolderVideo]:
        """List the video files under the folders.

        Returns:
            Sorted by name, each file once, at most `MAX_VIDEOS`. Hidden files and what is in hidden folders are left
            out, and so are symbolic links: what they lead to inside is listed where it is.
        """
        films: dict[str, FolderVideo] = {}
        left = MAX_ENTRIES
        for _, root in self._roots:
            for path in _walk(root):
                left -= 1
                if left < 0 or len(films) >= MAX_VIDEOS:
                    break
                film = self._video(path, path.relative_to(root).as_posix())
                if film is not None:
                    films.setdefault(film.id, film)
        listed = sorted(films.values(), key=lambda film: (film.name, film.id))
        self._known = {film.id: film for film in listed}
        return listed

    def find(self, film_id: str) -> FolderVideo:
        """Find a film by its id, as it is on the disk now.

        Raises:
            AccessError: There is none (`not_found`).
        """
        if _VIDEO_ID.fullmatch(film_id):
            known = self._known.get(film_id)
            film = known and self._video(known.path, known.name)
            if film is None or film.id != film_id:
                film = next((each for each in self.videos() if each.id == film_id), None)
            if film is not None:
                return film
        raise AccessError("there is no such film in the allowed folders", "not_found")

    def _video(self, path: Path, name: str) -> FolderVideo | None:
        """The film at a path, or None if it is none."""
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            return None
        status = _status(path)
        if status is None or os.path.realpath(path) != str(path):
            return None
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()
        shown = os.fsencode(name).decode("utf-8", "replace")
        return FolderVideo(f"film-{digest[:24]}", shown, path, status.st_size, status.st_mtime)

    def _is_inside(self, real: Path) -> bool:
        return any(real.is_relative_to(root) and real != root for _, root in self._roots)


def _local_path(address_or_path: str) -> Path:
    """The path that is meant, without `..`; nothing is looked up."""
    text = address_or_path
    if text[:5].lower() == "file:":
        rest = text[5:]
        host, slash, _ = rest.removeprefix("//").partition("/")
        if not rest.startswith("//") or not slash or host.lower() not in ("", "localhost"):
            raise AccessError("a file:// address must look like file:///folder/film.mp4", "bad_address")
        text = without_scheme("file://" + rest[2 + len(host) :])
    elif _SCHEME.match(text) and "//" in text:
        raise AccessError("this is no address of a file; it must be a path or begin with file://", "bad_address")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded or len(encoded) > 4096:
        raise AccessError("the path of a file must have 1 to 4096 bytes, none of them null", "bad_address")
    if ".." in re.split(r"[/\\]", text):
        raise AccessError("only files in the allowed folders may be opened; a path may not hold '..'", "forbidden")
    return Path(text)


def _status(path: Path) -> os.stat_result | None:
    """What the system tells of a regular file, None if it is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _walk(folder: Path) -> Iterator[Path]:
    """What is under a folder and is no folder, without what is hidden; what cannot be read is passed over."""
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
