"""Which videos may be opened, and where they lie."""

from collections.abc import Sequence
from pathlib import Path

from timechat.errors import TimeChatError
from timechat.video import VideoInfo, probe_video

_ENDINGS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".ts", ".m4v")


class Library:
    """The videos of some folders.

    Attributes:
        folders: Whose videos may be opened.
        hosts: Whose addresses may be opened.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Allow some folders, with all that is in them."""
        self.folders, self.hosts = tuple(folder.resolve() for folder in folders), ()

    def close(self) -> None:
        """Delete what was fetched."""

    def films(self) -> list[Path]:
        """Paths of all videos in the folders."""
        paths = (path for folder in self.folders for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
        return sorted(path for path in paths if path.is_file())

    def find(self, name: str) -> Path:
        """Return the file of a video."""
        path = Path(name).expanduser().resolve()
        if not any(path.is_relative_to(folder) for folder in self.folders):
            raise TimeChatError(f"{name}: is not in a folder that may be read")
        return path

    def look(self, path: Path) -> VideoInfo:
        """Tell what a video is."""
        return probe_video(path)
