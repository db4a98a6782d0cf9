"""`Library`: index videos and search them, in one object for Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timechat.errors import DataError
from timechat.files import is_below, user_folder
from timechat.files.cache import DiskCache, file_digest
from timechat.files.remote import is_remote
from timechat.search.encoded_files import EncodeFiles
from timechat.search.encoder import BUILT_IN, FrameTextEncoder, full_name, load_encoder
from timechat.search.index_report import IndexReport
from timechat.search.indexing import Indexer, ProgressCallback
from timechat.search.line_sources import LineSource, default_sources
from timechat.search.moments import SearchResult
from timechat.search.query import DEFAULT_BEST, EVERYTHING, Searcher, SearchFilters
from timechat.search.records import LibraryError
from timechat.search.stamps import is_same_stamp, stamp_of
from timechat.search.store import LibraryStore

LIBRARY_VARIABLE = "TIMECHAT_LIBRARY"

Paths = str | Path | Sequence[str | Path]
"""One path or several."""


class Library(LibraryStore):
    """A library of videos. `index` brings it up to date with files and folders, `search` finds moments in it.

    Example:
        >>> with Library("holidays.db") as library:
        ...     library.index(["~/Videos"])
        ...     for moment in library.search("a dog on the beach").moments:
        ...         print(moment.video, moment.start, moment.end, moment.score)
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        encoder: FrameTextEncoder | None = None,
        is_read_only: bool = False,
    ) -> None:
        """Open a library, or create it.

        Args:
            path: Path of the file; None means `default_library()`, `":memory:"` a library in memory.
            encoder: Encoder; None loads that of the library when it is needed.
            is_read_only: Whether the file must exist and is not written, as for search.

        Raises:
            LibraryError: The file is no library of this version, or cannot be opened.
        """
        self._encoder = encoder
        super().__init__(default_library() if path is None else path, is_read_only=is_read_only)

    def encoder(self, name: str | None = None) -> FrameTextEncoder:
        """Return the encoder, loaded once.

        Args:
            name: Name, folder or hub id; None means the encoder that was given, that of the library, or for a new
                library the built-in one.

        Raises:
            CheckpointError: The encoder cannot be loaded.
        """
        wanted = full_name(name) if name else self.setting("encoder")  # another process may have changed it
        if self._encoder is None or wanted not in (None, self._encoder.name):
            self._encoder = load_encoder(wanted or BUILT_IN)
        return self._encoder

    def index(
        self,
        paths: Paths,
        *,
        encoder: str | None = None,
        sources: Sequence[LineSource] | None = None,
        full: bool = False,
        retry: bool = False,
        cache: DiskCache | None = None,
        check: Callable[[], object] | None = None,
        progress: ProgressCallback | None = None,
        encode_files: EncodeFiles | None = None,
    ) -> IndexReport:
        """Read what is new or changed in files and folders; the same call resumes after a stop.

        Args:
            paths: Files, folders and patterns, or one of them; `~` is the home folder.
            encoder: Encoder; None means that of the library.
            sources: Readers of lines; None means subtitles.
            full: Whether everything is read again.
            retry: Whether files that could not be read are tried again.
            cache: Cache of frame vectors; None for no cache.
            check: Function called repeatedly; an exception it raises ends the work.
            progress: Progress callback.
            encode_files: Function that reads new and changed files in other processes; None reads them here.

        Raises:
            FileNotFoundError: A path does not exist.
            LibraryError: The library cannot be written, or has vectors of another encoder.
            CheckpointError: The encoder cannot be loaded.
        """

        return Indexer(
            self,
            self.encoder(encoder),
            default_sources() if sources is None else sources,
            is_full=full,
            retries=retry,
            cache=cache,
            check=check,
            progress=progress,
            encode_files=encode_files,
        ).run([path if is_remote(str(path)) else Path(path).expanduser() for path in _path_list(paths)])

    def search(
        self,
        words: str = "",
        *,
        like: Path | None = None,
        best: int = DEFAULT_BEST,
        filters: SearchFilters = EVERYTHING,
    ) -> SearchResult:
        """Return the moments that match words or look like a picture, the best first.

        Args:
            words: Description of what to see, or words that are said or shown.
            like: Image file to compare frames with, instead of words.
            best: Maximum number of moments.
            filters: Videos to search.

        Raises:
            ValueError: The words are blank, or words and a picture are given.
            LibraryError: The library has vectors of another version of its encoder.
            CheckpointError: The encoder of the library cannot be loaded.
            DataError: The picture cannot be read.
        """
        if words and like is not None:
            raise ValueError("both words and a picture are given; search for one of them")
        searcher = self.searcher()
        if like is not None:
            return searcher.search_like(read_picture(like), str(like), best=best, filters=filters)
        return searcher.search(words, best=best, filters=filters)

    def searcher(self) -> Searcher:
        """Return what answers queries about this library.

        Raises:
            LibraryError: The library has vectors of another version of its encoder.
            CheckpointError: The encoder of the library cannot be loaded.
        """
        encoder = self.encoder()
        if self.setting("encoder_fingerprint") not in (None, encoder.fingerprint):
            raise LibraryError(
                f"{self.path or 'library'}: holds vectors of another version of the encoder {encoder.name}; encode the "
                "videos again with: timechat index --full PATH"
            )
        return Searcher(self, encoder)

    def split_known(self, paths: Paths) -> tuple[list[str], list[str]]:
        """Divide files and folders into those of which the library has a file, as absolute paths, and others."""
        files = [file.path for file in self.files()]
        absolute = {str(path): _absolute(path) for path in _path_list(paths)}
        known = {path for path, root in absolute.items() if any(is_below(file, root) for file in files)}
        return [absolute[path] for path in absolute if path in known], [path for path in absolute if path not in known]

    def without_current(self, paths: Sequence[str]) -> list[str]:
        """Return those of some absolute paths of files that are not indexed, or whose content has changed since.

        A file whose times have changed, or that was new when it was indexed, is hashed.
        """
        known = {file.path: (file.stamp, video.digest) for file, video in self.entries()}
        no_cache = DiskCache(max_bytes=0)

        def is_current(path: str) -> bool:
            if path not in known:
                return False
            stamp, digest = known[path]
            return is_same_stamp(stamp, stamp_of(path)) or file_digest(path, no_cache) == digest

        return [path for path in paths if not is_current(path)]

    def remove(self, paths: Paths) -> int:
        """Remove files and all files below folders, whether they exist or not; return how many were known."""
        roots = [_absolute(path) for path in _path_list(paths)]
        known = [file.path for file in self.files() if any(is_below(file.path, root) for root in roots)]
        self.remove_files(known)
        return len(known)

    def info(self) -> LibraryInfo:
        """Return what the library holds."""
        files, videos = self.files(), self.videos()
        rows: dict[str, int] = {}
        for number in videos:
            for kind, part in self.parts(number).items():
                rows[kind] = rows.get(kind, 0) + part.num_rows
        return LibraryInfo(
            None if self.path is None else str(self.path),
            self.setting("encoder"),
            len(videos),
            sum(video.duration for video in videos.values()),
            0 if self.path is None else self.path.stat().st_size,
            rows,
            [file.path for file in files if file.is_offline],
            {file.path: file.error for file in files if file.error is not None},
        )


@dataclass(frozen=True)
class LibraryInfo:
    """What a library holds.

    Attributes:
        library: Path of the library; None for one in memory.
        encoder: Name of the encoder; None for an empty library.
        num_videos: Number of videos.
        seconds: Duration of all videos in seconds.
        num_bytes: Size of the library in bytes.
        rows: Number of rows by kind.
        offline: Paths of the files that were not found at the last scan.
        failed: Paths of the files that could not be read, each with the reason.
    """

    library: str | None
    encoder: str | None
    num_videos: int
    seconds: float
    num_bytes: int
    rows: dict[str, int]
    offline: list[str]
    failed: dict[str, str]


def _path_list(paths: Paths) -> list[str | Path]:
    """Return the paths as a list: a string is one path, not a sequence of characters."""
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _absolute(path: str | Path) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - links are kept


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read an image file as `(height, width, 3)` RGB, turned as its EXIF data says.

    Raises:
        DataError: The file is missing, or is no image.
    """
    from PIL import Image, UnidentifiedImageError

    from timechat.video.orientation import upright

    try:
        with Image.open(path) as image:
            return np.asarray(upright(image))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "is not an image"
        raise DataError(f"{path}: {reason}; give an image file, such as a .jpg or .png") from error


def default_library() -> Path:
    """Return the path of the user's library: `$TIMECHAT_LIBRARY`, otherwise `library.db` in the user's data folder."""
    if given := os.environ.get(LIBRARY_VARIABLE):
        return Path(given).expanduser()
    folder = user_folder("data")
    if folder is None:
        raise LibraryError(f"no home folder is known; set ${LIBRARY_VARIABLE} or give --library FILE")
    return folder / "library.db"
