"""State of the server that routes use."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from timechat.serving.http.jobs import Jobs
from timechat.serving.http.metrics import Metrics
from timechat.serving.http.security import Keys
from timechat.serving.library import ServedLibrary
from timechat.serving.service import Service
from timechat.serving.settings import ServerSettings
from timechat.serving.videos import VideoStore


@dataclass(frozen=True)
class ServerState:
    """Parts of one server.

    Attributes:
        settings: Settings.
        service: Service with the model.
        videos: Videos that requests may name.
        library: Library that is searched.
        jobs: Queue of jobs.
        keys: API keys.
        metrics: Metrics.
        started: Time of the start, in seconds since 1970.
        thumbnails: Cache of thumbnails by video, time and height.
        thumbnail_slots: Limits the number of thumbnails that are decoded at the same time.
    """

    settings: ServerSettings
    service: Service
    videos: VideoStore
    library: ServedLibrary
    jobs: Jobs
    keys: Keys
    metrics: Metrics
    started: int = field(default_factory=lambda: int(time.time()))
    thumbnails: OrderedDict[tuple[str, float, int], bytes] = field(default_factory=OrderedDict)
    thumbnail_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))


def _server(request: Request) -> ServerState:
    server: ServerState = request.app.state.server
    return server


CurrentServer = Annotated[ServerState, Depends(_server)]


def wait_for_disconnect(request: Request) -> Callable[[], Awaitable[None]]:
    """Return a coroutine function that returns when the client disconnects; call it after the body was read."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait
