"""Connections that may not be held for nothing: neither by who sends no request, nor by who takes no answer."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 35.0
"""Seconds in which the head of a request must have come; uvicorn's own bound for idle connections is a little less."""

STALL_TIMEOUT = 300.0
"""Seconds that a client may leave an answer lying; a browser that has paused a film asks anew for the rest."""


class Connection(H11Protocol):
    """A connection that is ended where its client does nothing.

    Without this, a few hundred clients that open a connection and send half a line keep everybody else out for good.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        """The client takes no more of the answer for now."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._stall_timer = _cancel_timer(self._stall_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        self._head_timer, self._stall_timer = _cancel_timer(self._head_timer), _cancel_timer(self._stall_timer)

    def _watch_head(self) -> None:
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._head_timer = _cancel_timer(self._head_timer)
        elif self._head_timer is None:
            # Not closed but aborted: what waits to be sent would otherwise keep the connection as long as it waits.
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.abort)


def _cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop a timer; None takes its place."""
    if timer is not None:
        timer.cancel()
    return None
