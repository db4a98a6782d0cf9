"""The videos of a data set in a folder, found by id, name or path."""

from collections.abc import Iterator
from pathlib import Path

from timechat.errors import DataError
from timechat.files import VIDEO_SUFFIXES, is_video_name, walk_files

_PREFIXES = ("v_", "video-")
"""Beginnings that some data sets put before the id of a video."""


class VideoFolder:
    """All files of a folder and its subfolders, by name.

    Attributes:
        path: Path of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the names of all files.

        Args:
            path: Path of the folder.

        Raises:
            DataError: The folder does not exist.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise DataError(f"{self.path}: is not a folder; give the folder of the videos with --videos")
        self._by_name: dict[str, Path] = {}
        self._by_id: dict[str, Path] = {}
        for file in walk_files(self.path):
            self._by_name.setdefault(file.name, file)
            self._by_id.setdefault(video_id(file.name), file)

    def __iter__(self) -> Iterator[Path]:
        """Yield the videos in the order of their names; files of other kinds are left out."""
        return iter(sorted(file for file in self._by_name.values() if is_video_name(file) or not file.suffix))

    def find(self, name: str) -> Path | None:
        """Return the file of a video; None if there is none.

        The first that exists counts: the relative path itself; a file of the same name in any subfolder; a file with
        the same id and another file name extension, or none; the same with or without `v_` or `video-` before the id.

        Args:
            name: Id, file name or relative path.
        """
        if (path := self.path / name).is_file():
            return path
        base = name.replace("\\", "/").rsplit("/", 1)[-1]
        if base in self._by_name:
            return self._by_name[base]
        found = video_id(base)
        bare = next((found.removeprefix(prefix) for prefix in _PREFIXES if found.startswith(prefix)), found)
        for candidate in (found, bare, *(prefix + bare for prefix in _PREFIXES)):
            if candidate in self._by_id:
                return self._by_id[candidate]
        return None


def video_id(name: str) -> str:
    """Return a file name without the file name extension of a video; other dots belong to the id."""
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in VIDEO_SUFFIXES else name
