"""The serving service of an MCP server: starts without the model, which the first question loads."""

import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from timechat.answers.events import Answer
from timechat.serving.access import FolderVideo, Limits, Probed
from timechat.serving.database import Database
from timechat.serving.library import LibraryQuery, ServedLibrary
from timechat.serving.mcp.tools import VideoTask
from timechat.serving.progress import ProgressTracker
from timechat.serving.settings import ServerSettings
from timechat.serving.videos import VideoStore

if TYPE_CHECKING:
    from timechat.pipeline import TimeChat
    from timechat.search.encoder import FrameTextEncoder
    from timechat.serving.service import Service

_MAX_DURATION = 24 * 3600.0  # seconds; a forged header may claim centuries, and all their windows would be planned
_MAX_REQUESTS = 4  # questions that are answered at the same time; further ones wait
_MAX_OPEN_VIDEOS = 4


class ToolWorker:
    """Answers tool calls with a `Service`; close it afterwards.

    Attributes:
        folders: Folders whose videos may be opened.
        hosts: Hosts from which videos may be fetched, into a temporary folder.
        limits: Sentences about the limits of the model.
    """

    def __init__(
        self,
        load: "Callable[[], TimeChat]",
        folders: Sequence[Path],
        hosts: Sequence[str] = (),
        *,
        limits: Sequence[str] = (),
        privacy_note: str | None = None,
        library: Path | None = None,
        encoder: "FrameTextEncoder | None" = None,
    ) -> None:
        """Allow folders and hosts; load nothing yet.

        Args:
            load: Function that loads the model.
            folders: Folders whose videos may be opened.
            hosts: Hosts from which videos may be fetched.
            limits: Sentences about the limits of the model, for the instructions of the tools.
            privacy_note: Sentence about what leaves this machine, for the instructions; None if nothing does.
            library: Library that is searched; None for no library.
            encoder: Loaded encoder of the library; None loads it for the first search.

        Raises:
            ValueError: A folder does not exist, or a host cannot be the name of one.
        """
        self._load, self.limits, self.privacy_note = load, tuple(limits), privacy_note
        self._folder = tempfile.TemporaryDirectory(prefix="timechat-mcp-", ignore_cleanup_errors=True)
        self._settings = ServerSettings(
            data=Path(self._folder.name),
            folders=tuple(folders),
            library=library,
            hosts=tuple(hosts),
            opens_paths=True,
            limits=Limits(max_duration=_MAX_DURATION),
            request_timeout=math.inf,
            max_requests=_MAX_REQUESTS,
            max_open_videos=_MAX_OPEN_VIDEOS,
        )
        self.folders, self.hosts = tuple(folder.resolve() for folder in folders), tuple(hosts)
        self._database = Database(self._settings.data / "server.sqlite3")
        self._videos = VideoStore(self._settings, self._database)
        self._library = ServedLibrary(self._settings, self._videos, encoder)
        self._service: Service | None = None
        self._loading = threading.Lock()

    def close(self) -> None:
        """End all work and delete the fetched videos."""
        if self._service is not None:
            self._service.stop()
        self._library.close()
        self._database.close()
        self.delete_files()

    def delete_files(self) -> None:
        """Delete the fetched videos, without waiting for anything."""
        self._folder.cleanup()

    def load(self) -> "Service":
        """Return the service; the first call loads the model."""
        with self._loading:
            if self._service is None:
                from timechat.serving.service import Service

                service = Service(self._load(), self._settings, self._videos)
                service.start()
                self._service = service
            return self._service

    def list_videos(self) -> list[FolderVideo]:
        """Return all videos of the folders, sorted by name."""
        return self._videos.folders.videos()

    async def search(self, query: LibraryQuery) -> dict[str, Any]:
        """Search the library; the first call loads its encoder.

        Raises:
            RequestError: There is no library, or it cannot be searched.
        """
        return await anyio.to_thread.run_sync(self._library.search, query, abandon_on_cancel=True)

    async def probe(self, name: str) -> Probed:
        """Return the properties of a video; fetch it first if its name is an address.

        Raises:
            AccessError: The video may not be opened, is not there, or is too large.
            VideoError: The file is not a video.
        """
        is_cancelled = threading.Event()

        def probe() -> Probed:
            with self._videos.open(name, is_cancelled.is_set) as file:
                return self._videos.probe(file)

        try:
            return await anyio.to_thread.run_sync(probe, abandon_on_cancel=True)
        finally:
            is_cancelled.set()

    async def answer(self, arguments: VideoTask, progress: ProgressTracker) -> Answer:
        """Answer a question; if the coroutine is cancelled, the work ends.

        Args:
            arguments: Arguments of the tool call.
            progress: Receives the progress.

        Raises:
            RequestError: The question cannot be answered.
        """
        await self.probe(arguments.video)  # finds bad input before the model is loaded
        progress.start("loading the model" if self._service is None else "opening the video")
        service = await anyio.to_thread.run_sync(self.load, abandon_on_cancel=True)
        context = service.new_context()
        work = partial(service.answer, arguments.to_request(), context, progress)
        return await service.in_thread(work, context)
