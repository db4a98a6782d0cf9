"""What the routes work with."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from timechat.server.films import Films
from timechat.server.gate import Keys
from timechat.server.jobs import Jobs
from timechat.server.metrics import Metrics
from timechat.server.service import Service
from timechat.server.settings import ServerSettings


@dataclass(frozen=True)
class Server:
    """One server's parts, when it was started (seconds since 1970), and the last thumbnails; few are drawn at once."""

    settings: ServerSettings
    service: Service
    films: Films
    jobs: Jobs
    keys: Keys
    metrics: Metrics
    started: int = field(default_factory=lambda: int(time.time()))
    thumbnails: OrderedDict[tuple[str, float, int], bytes] = field(default_factory=OrderedDict)
    drawing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))


def _server(request: Request) -> Server:
    server: Server = request.app.state.server
    return server


Here = Annotated[Server, Depends(_server)]


def until_gone(request: Request) -> Callable[[], Awaitable[None]]:
    """Something to wait for: that the client goes away. For after the body was read."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait
