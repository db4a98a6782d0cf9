"""Which videos may be opened, and where they lie."""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from timechat.serving.access import Addresses, Folders, FolderVideo, Limits, Probed, fetch, probe_safely

_LONGEST = 24 * 3600.0  # seconds; a made-up header may tell of centuries, and each window of them would be planned
_KEPT = 32  # fetched videos, many more than are open at once
_SCHEMES = ("http:", "https:")


class VideoLibrary:
    """The videos of some folders, and of some hosts; close it afterwards.

    Attributes:
        folders: Whose videos may be opened, those in folders inside included.
        hosts: Whose addresses may be opened; the last videos that were fetched are kept in a temporary folder.
    """

    def __init__(self, folders: Sequence[Path], hosts: Sequence[str] = ()) -> None:
        """Allow some folders and some hosts.

        Raises:
            ValueError: One is no folder, or cannot be the name of a host.
        """
        self._inside, self._addresses = Folders(folders), Addresses(hosts)
        self._limits = Limits(max_duration=_LONGEST)
        self.folders, self.hosts = tuple(folder.resolve() for folder in folders), tuple(hosts)
        self._fetched: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()
        self._place: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = count()

    def close(self) -> None:
        """Delete what was fetched."""
        if self._place is not None:
            self._place.cleanup()

    def list_videos(self) -> list[FolderVideo]:
        """All videos in the folders, by name."""
        return self._inside.videos()

    def find(self, name: str, *, is_cancelled: Callable[[], bool] = lambda: False) -> Path:
        """Return the file of a video; one that has an address is fetched first, unless it was before.

        Args:
            name: A path, absolute or inside one of the folders, or an http(s) address.
            is_cancelled: Asked while a video is fetched.

        Raises:
            AccessError: It may not be opened, is not there, or does not arrive.
        """
        if not name.lower().startswith(_SCHEMES):
            return self._inside.resolve(name)
        with self._lock:
            path = self._fetched.pop(name, None) or self._fetch(name, is_cancelled)
            self._fetched[name] = path
            while len(self._fetched) > _KEPT:
                self._fetched.popitem(last=False)[1].unlink(missing_ok=True)
            return path

    def probe(self, path: Path) -> Probed:
        """Tell what a video is, without trusting it.

        Raises:
            VideoError: It cannot be read as a video.
            AccessError: It is longer or larger than what is looked at.
        """
        return probe_safely(path, self._limits)

    def _fetch(self, address: str, is_cancelled: Callable[[], bool]) -> Path:
        if self._place is None:
            self._place = tempfile.TemporaryDirectory(prefix="timechat-mcp-")
        into = Path(self._place.name) / str(next(self._numbers))
        return fetch(address, into, self._addresses, self._limits, is_cancelled=is_cancelled).path
