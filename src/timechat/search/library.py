"""`Library`: index videos and search them, in one object for Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timechat.files import user_folder
from timechat.search.records import LibraryError
from timechat.search.store import LibraryStore

if TYPE_CHECKING:
    from timechat.search.encoder import FrameTextEncoder
    from timechat.search.indexing import IndexReport, ProgressCallback
    from timechat.search.line_sources import LineSource
    from timechat.search.query import SearchFilters, SearchResult

LIBRARY_VARIABLE = "TIMECHAT_LIBRARY"


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
        is_read_only: bool = False,
        encoder: FrameTextEncoder | None = None,
    ) -> None:
        """Open a library, or create it.

        Args:
            path: Path of the file; None means `default_library()`, `":memory:"` a library in memory.
            is_read_only: Whether the file must exist and is not written, as for search.
            encoder: Loaded encoder; None loads one by its name when it is needed.

        Raises:
            LibraryError: The file is no library of this version, or cannot be opened.
        """
        self._given = self._encoder = encoder
        super().__init__(default_library() if path is None else path, is_read_only=is_read_only)

    def encoder(self, name: str | None = None) -> FrameTextEncoder:
        """Return an encoder, loaded once.

        Args:
            name: Name, folder or hub id; None means the encoder that was given when the library was opened, otherwise
                the encoder of the library, or the built-in one for a new library.

        Raises:
            CheckpointError: The encoder cannot be loaded.
        """
        from timechat.search.encoder import BUILT_IN, load_encoder

        if self._given is not None and name in (None, self._given.name):
            return self._given
        wanted = name or self.setting("encoder") or BUILT_IN
        if self._encoder is None or self._encoder.name != wanted:
            self._encoder = load_encoder(wanted)
        return self._encoder

    def index(
        self,
        paths: Sequence[str | Path],
        *,
        encoder: str | None = None,
        sources: Sequence[LineSource] | None = None,
        full: bool = False,
        retry: bool = False,
        check: Callable[[], object] | None = None,
        progress: ProgressCallback | None = None,
    ) -> IndexReport:
        """Read what is new or changed in files and folders; the same call resumes after a stop.

        Args:
            paths: Files, folders and patterns; `~` is the home folder.
            encoder: Encoder; None means that of the library.
            sources: Readers of lines; None means subtitles.
            full: Whether everything is read again.
            retry: Whether files that could not be read are tried again.
            check: Function called repeatedly; an exception it raises ends the work.
            progress: Progress callback.

        Raises:
            FileNotFoundError: A path does not exist.
            LibraryError: The library cannot be written, or has vectors of another encoder.
            CheckpointError: The encoder cannot be loaded.
        """
        from timechat.search.indexing import Indexer
        from timechat.search.line_sources import default_sources

        return Indexer(
            self,
            self.encoder(encoder),
            default_sources() if sources is None else sources,
            is_full=full,
            retries=retry,
            check=check,
            progress=progress,
        ).run([Path(path).expanduser() for path in paths])

    def search(self, words: str, *, best: int | None = None, filters: SearchFilters | None = None) -> SearchResult:
        """Return the moments that match words, the best first.

        Args:
            words: Description of what to see, or words that are said or shown.
            best: Maximum number of moments; None means 5.
            filters: Videos to search; None means all.

        Raises:
            ValueError: The words are blank.
            CheckpointError: The encoder of the library cannot be loaded, or has changed.
        """
        from timechat.search.query import DEFAULT_BEST, Searcher, SearchFilters

        searcher = Searcher(self, self.encoder())
        return searcher.search(words, best=best or DEFAULT_BEST, filters=filters or SearchFilters())


def default_library() -> Path:
    """Return the path of the user's library: `$TIMECHAT_LIBRARY`, otherwise `library.db` in the user's data folder."""
    if given := os.environ.get(LIBRARY_VARIABLE):
        return Path(given).expanduser()
    folder = user_folder("data")
    if folder is None:
        raise LibraryError(f"no home folder is known; set ${LIBRARY_VARIABLE} or give --library FILE")
    return folder / "library.db"
