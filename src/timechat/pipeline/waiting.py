"""Waiting that can be called off."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE = 0.1  # seconds between two looks at whether it was


@contextmanager
def acquire(lock: threading.Lock, check: Callable[[], object]) -> Iterator[None]:
    """Hold a lock; while somebody else has it, `check` is called several times a second and may raise."""
    while not lock.acquire(timeout=_PATIENCE):
        check()
    try:
        yield
    finally:
        lock.release()
