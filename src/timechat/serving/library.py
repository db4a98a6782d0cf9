"""The library of a server: search in the videos that clients may open, and indexing of these videos.

A library holds any videos of the machine. Clients see only those that are in the allowed folders, under the names that
all other requests have for them: moments of other videos, their names and their speech are left out.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from timechat.errors import CheckpointError, TimeChatError, describe_error
from timechat.search.curve import score_curve
from timechat.search.encoder import FrameTextEncoder, load_encoder
from timechat.search.index_report import IndexStopped
from timechat.search.library import Library
from timechat.search.line_sources import SpeechLines
from timechat.search.query import DEFAULT_BEST, Searcher, SearchFilters
from timechat.search.records import KnownFile, LibraryError
from timechat.serving.access import AccessError, VideoIdentity
from timechat.serving.context import RequestContext
from timechat.serving.errors import RequestError, as_request_error
from timechat.serving.progress import ProgressUpdate
from timechat.serving.settings import ServerSettings
from timechat.serving.videos import VideoStore

Named = TypeVar("Named", bound=VideoIdentity)


@dataclass(frozen=True)
class LibraryQuery:
    """A search in the library.

    Attributes:
        words: Description of what to see or hear; empty for a picture.
        picture: `(height, width, 3)` RGB that the frames should look like; None for words.
        best: Maximum number of moments.
        videos: Names of videos and folders to search; empty for all.
        filters: Name, date and duration of the videos.
    """

    words: str = ""
    picture: NDArray[np.uint8] | None = field(default=None, repr=False)
    best: int = DEFAULT_BEST
    videos: tuple[str, ...] = ()
    filters: SearchFilters = field(default_factory=SearchFilters)


@dataclass(frozen=True)
class IndexTask:
    """Videos to index.

    Attributes:
        videos: Names of videos and folders; empty for all videos of the allowed folders.
        is_full: Whether everything is read again.
        retries: Whether files that could not be read are tried again.
    """

    videos: tuple[str, ...] = ()
    is_full: bool = False
    retries: bool = False


class ServedLibrary:
    """The library of a server, for any number of threads; the encoder is loaded for the first search."""

    def __init__(self, settings: ServerSettings, videos: VideoStore, encoder: FrameTextEncoder | None = None) -> None:
        """Open nothing yet: the file may be made later.

        Args:
            settings: Settings with the path of the library.
            videos: Videos that clients may open.
            encoder: Loaded encoder; None loads that of the library.
        """
        self._path, self._videos, self._given = settings.library, videos, encoder
        self._names_paths, self._folders = settings.opens_paths, settings.folders
        self._lock = threading.Lock()
        self._library: Library | None = None
        self._identities: dict[KnownFile, VideoIdentity | None] = {}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._library is not None:
                self._library.close()

    def state(self) -> dict[str, Any]:
        """Return what the library holds for clients, as the JSON of `GET /v1/library`."""
        exists = self._path is not None and self._path.is_file()
        content: dict[str, Any] = {
            "object": "library",
            "name": None if self._path is None else self._path.name,
            "exists": exists,
            "encoder": None,
            "num_videos": 0,
            "duration": 0.0,
            "can_index": self._path is not None and bool(self._folders),
        }
        if not exists:
            return content
        with self._reporting():
            library = self._open()
            known = self._known(library)
            indexed = [(file, video) for file, video in library.entries() if file.path in known]
            durations = [video.duration for file, video in indexed if known[file.path].path.is_file()]
            return content | {
                "encoder": _encoder_name(library.setting("encoder")),
                "num_videos": len(durations),
                "duration": round(sum(durations), 3),
            }

    def search(self, query: LibraryQuery) -> dict[str, Any]:
        """Search; blocks.

        Returns:
            The JSON of `search --json`, where `video` is the name of a video in requests. `filename` is added.

        Raises:
            RequestError: There is no library, it cannot be used, or the query is wrong.
        """
        if query.picture is None and not query.words.strip():
            raise RequestError(400, "query is empty; describe what to see or hear", "query")
        with self._reporting():
            library = self._open()
            known = self._known(library)
            chosen = self._choose(known, query.videos)
            filters = replace(query.filters, only=frozenset(chosen))
            searcher = self._searcher(library)
            if query.picture is None:
                result = searcher.search(query.words, best=query.best, filters=filters)
            else:
                result = searcher.search_like(query.picture, "picture", best=query.best, filters=filters)
            content = result.to_dict()
        for moment in content["moments"]:
            video = known[moment["video"]]
            moment |= {"video": self._name(video), "filename": video.name}
            moment["offline"] = moment["offline"] or not video.path.is_file()
        if not known:
            content["notes"] = [f"no video in the folders of this server is indexed; {self._advice}"]
        if not self._names_paths:
            content["library"] = self._path and self._path.name
        content["encoder"] = _encoder_name(result.encoder)
        return content

    def curve(self, words: str, video: str) -> dict[str, Any]:
        """Return how probably each frame of one video shows the words; blocks.

        Returns:
            `query`, `video`, `filename`, and the curve: `times` in seconds, `scores` and `threshold`.

        Raises:
            RequestError: The video is not in the library, it cannot be used, or the words are blank.
        """
        if not words.strip():
            raise RequestError(400, "query is empty; describe what to see", "query")
        with self._reporting():
            library = self._open()
            path, identity = next(iter(self._choose(self._known(library), (video,)).items()))
            number = next((file.video for file in library.files() if file.path == path), None)
            frames = None if number is None else library.frames(number)
            if frames is None:
                raise RequestError(404, f"{identity.name} is not indexed yet; {self._advice}", "video", "not_indexed")
            self._searcher(library)  # checks the version of the encoder
            curve = score_curve(frames, library.encoder(), words)
        return {"query": words, "video": self._name(identity), "filename": identity.name} | curve.to_dict()

    # -------------------------------------------------------------------------------------------------- indexing

    def check(self, task: IndexTask) -> None:
        """Check a task before it becomes a job.

        Raises:
            RequestError: The server has no library or no folders, or a name is not that of a video.
        """
        if self._path is None:
            raise RequestError(409, "this server has no library; start it with --library FILE", code="no_library")
        if not self._folders:
            message = "this server has no folder with videos to index; start it with --allow FOLDER"
            raise RequestError(409, message, "videos", "no_folders")
        self._targets(task)

    def index(
        self, task: IndexTask, context: RequestContext, report: Callable[[ProgressUpdate], object]
    ) -> dict[str, Any]:
        """Index videos; blocks. The same call resumes after a stop.

        Args:
            task: Videos.
            context: Context that ends the work.
            report: Function that receives the progress.

        Returns:
            The fields of `IndexReport`, with the names of the videos in place of their paths.

        Raises:
            RequestError: The library cannot be written, or the work was ended.
        """

        def check() -> None:
            if context.is_over:
                raise IndexStopped

        names: dict[str, str] = {}

        def advance(path: str, done: int, total: int) -> None:
            report(ProgressUpdate("index", done, total, names.get(path, "")))

        assert self._path is not None
        targets = self._targets(task)
        names |= {str(video.path): video.name for video in targets}
        report(ProgressUpdate("index", 0.0, 1.0, "opening the library"))
        try:
            with self._reporting(), Library(self._path, encoder=self._load_encoder(self._open_if_there())) as library:
                readable, failed = self._probe(targets, library, check)
                result = library.index(
                    [video.path for video in readable],
                    sources=(SpeechLines(may_read=self._videos.folders.holds),),
                    full=task.is_full,
                    retry=task.retries,
                    check=check,
                    progress=advance,
                )
        except IndexStopped:
            error = as_request_error(context.error)
            assert error is not None
            raise error from context.error
        content = asdict(result)
        if not targets:
            content["notes"] = ["the folders of this server have no videos"]
        content["failed"] = failed | {
            names.get(path, self._shown(path)): self._shown(reason) for path, reason in result.failed.items()
        }
        for kind in ("offline", "notes"):
            content[kind] = [self._shown(text) for text in content[kind]]
        return content

    def _targets(self, task: IndexTask) -> list[VideoIdentity]:
        videos = {str(video.path): video for video in self._videos.folders.videos()}
        return list(self._choose(videos, task.videos, of="in the folders of this server").values())

    def _probe(
        self, videos: Sequence[VideoIdentity], library: Library, check: Callable[[], None]
    ) -> tuple[list[VideoIdentity], dict[str, str]]:
        """Return the videos that may be decoded, and the reasons against the others by name.

        Like every video that a client names, a new or changed file is first read by a process with few rights.
        """
        known = {file.path: file.modified for file in library.files() if file.video is not None}
        readable, failed = [], {}
        for video in videos:
            check()
            try:
                if known.get(str(video.path)) != video.path.stat().st_mtime:
                    self._videos.probe(self._videos.by_id(video.id)[0])
                readable.append(video)
            except (TimeChatError, OSError) as error:
                failed[video.name] = self._shown(describe_error(error)).removeprefix(f"{video.name}: ")
        return readable, failed

    # ---------------------------------------------------------------------------------------------------- opening

    @property
    def _advice(self) -> str:
        by_request = "" if self._names_paths else "POST /v1/index, or on its machine with: "
        return f"index them with {by_request or 'the command: '}timechat index FOLDER"

    def _open(self) -> Library:
        library = self._open_if_there()
        if library is None:
            message = f"there is no library of videos yet; {self._advice}"
            raise RequestError(404, message, code="no_library")
        return library

    def _open_if_there(self) -> Library | None:
        """Return the library for reading; None if its file is not there yet.

        A file that was replaced is opened again. Other threads may still read the earlier one, which closes itself.
        """
        with self._lock:
            if self._library is not None and self._library.is_outdated:
                self._library = None
            if self._library is None and self._path is not None and self._path.is_file():
                self._library = Library(self._path, is_read_only=True, encoder=self._given)
            return self._library

    def _searcher(self, library: Library) -> Searcher:
        """Return what answers queries; one thread at a time loads the encoder."""
        with self._lock:
            return library.searcher()

    def _load_encoder(self, library: Library | None) -> FrameTextEncoder:
        """Return the encoder of the library, or the built-in one for a new library; one thread at a time loads it."""
        with self._lock:
            if library is not None:
                return library.encoder()
            return load_encoder() if self._given is None else self._given

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Convert errors of the library; messages do not contain paths of the machine."""
        try:
            yield
        except (LibraryError, CheckpointError) as error:
            raise RequestError(409, self._shown(describe_error(error)), code="library_unusable") from error

    def _shown(self, text: str) -> str:
        """Return a text without the paths of the machine: files have their names in the allowed folders."""
        if self._names_paths:
            return text
        for folder in self._folders:
            for spelling in (folder.resolve(), folder.absolute()):
                text = text.replace(f"{spelling}/", "")
        return text if self._path is None else text.replace(str(self._path.absolute()), self._path.name)

    # ----------------------------------------------------------------------------------------------------- naming

    def _known(self, library: Library) -> dict[str, VideoIdentity]:
        """Return the files of the library that clients may open, by their path in the library."""
        kept = self._identities
        folders = self._videos.folders
        self._identities = {
            file: kept[file] if file in kept else folders.identify(file.path) for file in library.files()
        }
        return {file.path: video for file, video in self._identities.items() if video is not None}

    def _choose(
        self, videos: dict[str, Named], names: Sequence[str], *, of: str = "in the library"
    ) -> dict[str, Named]:
        """Return the videos that have one of the names, or are in a folder that has one; all without names."""
        if not names:
            return videos
        chosen: dict[str, Named] = {}
        for name in names:
            spellings: list[Path] = []
            if self._names_paths or name[:5].lower() == "file:":
                try:
                    spellings = self._videos.folders.spellings(name)
                except AccessError as error:
                    raise as_request_error(error) or error from error
            folder = f"{name.rstrip('/')}/"
            matching = {
                path: video
                for path, video in videos.items()
                if name in (video.id, video.name)
                or video.name.startswith(folder)
                or any(video.path.is_relative_to(spelling) for spelling in spellings)
            }
            if not matching:
                message = f"{name[:80]!r} is no video or folder of videos {of}; GET /v1/files lists the videos"
                message = message.partition(";")[0] if self._names_paths else message
                raise RequestError(404, message, "videos", "not_indexed")
            chosen |= matching
        return chosen

    def _name(self, video: VideoIdentity) -> str:
        return str(video.path) if self._names_paths else video.id


def _encoder_name(name: str | None) -> str | None:
    """Return the name of an encoder for clients: of a folder on this machine, only its last part."""
    return Path(name).name if name is not None and Path(name).is_absolute() else name
