"""Time limits of connections: for clients that send no request or do not read the response."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 35.0
"""Maximum time to receive the head of a request, in seconds; uvicorn's limit for idle connections is a bit lower."""

STALL_TIMEOUT = 300.0
"""Maximum time in which a client reads nothing, in seconds; a browser requests the rest of a paused video again."""


MAX_WAITING = 192
"""Maximum number of connections without a whole request; the one that waits longest is closed for a new one."""

MAX_WAITING_PER_ADDRESS = 64
"""Maximum number of such connections from one IP address."""


class Connection(H11Protocol):
    """A connection that is closed if its client does nothing, or if too many others do nothing.

    Otherwise a few hundred clients that open a connection and send half a line block all other clients.
    """

    _waits_since = 0.0

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for a request."""
        super().connection_made(transport)
        self._watch_head()
        self._close_longest_waiting()

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
            self._waits_since = self.loop.time()

    def _close_longest_waiting(self) -> None:
        """Close connections without a request, of this address first, if there are too many of them."""
        all_waiting = [each for each in self.connections if isinstance(each, Connection) and each._head_timer]
        address = self.client[0] if self.client else None
        own = [each for each in all_waiting if (each.client[0] if each.client else None) == address]
        for waiting, maximum in ((own, MAX_WAITING_PER_ADDRESS), (all_waiting, MAX_WAITING)):
            waiting.sort(key=lambda each: each._waits_since)
            for each in waiting[: max(0, len(waiting) - maximum)]:
                each._head_timer = _cancel_timer(each._head_timer)
                each.transport.abort()


def _cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop a timer and return None in its place."""
    if timer is not None:
        timer.cancel()
    return None
