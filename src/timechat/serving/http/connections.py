"""Time limits of connections: for clients that send no request or do not read the response."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 35.0
"""Maximum time to receive the head of a request, in seconds; uvicorn's limit for idle connections is a bit lower."""

STALL_TIMEOUT = 300.0
"""Maximum time in which a client reads nothing, in seconds; a browser requests the rest of a paused video again."""


class Connection(H11Protocol):
    """A connection that is closed if its client does nothing.

    Otherwise a few hundred clients that open a connection and send half a line block all other clients for ever.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for a request."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Stop the timer when the head is complete."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Start the timer for the next request."""
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        """Start the timer: the client does not read the response."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the client reads again."""
        super().resume_writing()
        self._stall_timer = _cancel_timer(self._stall_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        self._head_timer, self._stall_timer = _cancel_timer(self._head_timer), _cancel_timer(self._stall_timer)

    def _watch_head(self) -> None:
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._head_timer = _cancel_timer(self._head_timer)
        elif self._head_timer is None:
            # Abort instead of close: closing would wait until all data are sent.
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.abort)


def _cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop a timer and return None in its place."""
    if timer is not None:
        timer.cancel()
    return None
