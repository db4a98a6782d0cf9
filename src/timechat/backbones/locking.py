"""Locks of work that may be cancelled while it waits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_POLL_SECONDS = 0.1  # between two calls of `check` while `acquire` waits


class Lock(Protocol):
    """A lock of `threading`: `Lock` or `RLock`."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """Take the lock; return whether it was taken in time."""

    def release(self) -> None:
        """Give the lock back."""


@contextmanager
def acquire(lock: "Lock | threading.Lock", check: Callable[[], object]) -> Iterator[None]:
    """Hold a lock; while another thread holds it, `check` is called several times a second and may raise."""
    while not lock.acquire(timeout=_POLL_SECONDS):
        check()
    try:
        yield
    finally:
        lock.release()
