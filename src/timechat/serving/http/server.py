"""The server: it announces its address, and ends event streams as soon as it is asked to stop."""

import socket
from collections.abc import Callable
from typing import Any

import uvicorn


class HttpServer(uvicorn.Server):
    """A uvicorn server for the application of `create_app`.

    uvicorn waits for running responses before it stops the application. A stream of events ends only with its work, so
    it would always use up that time.
    """

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], object] | None = None) -> None:
        """Prepare the server.

        Args:
            config: Configuration with the application.
            on_start: Function that is called once the server accepts requests.
        """
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `on_start`."""
        await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all event streams, then wait for the other responses and stop."""
        app: Any = self.config.app
        app.state.server.service.end_streams()
        await super().shutdown(sockets)
