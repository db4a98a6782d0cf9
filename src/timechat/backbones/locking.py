"""Waiting for a lock by a thread whose request may be over before it gets the lock."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from timechat.backbones.backbone import Check

_POLL_SECONDS = 0.1  # between two calls of `check` while `acquire` waits


@contextmanager
def acquire(lock: threading.Lock, check: Check) -> Iterator[None]:
    """Hold a lock; while another thread holds it, `check` is called several times a second and may raise."""
    while not lock.acquire(timeout=_POLL_SECONDS):
        check()
    try:
        yield
    finally:
        lock.release()
