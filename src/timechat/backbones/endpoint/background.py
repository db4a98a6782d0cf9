"""A thread with an event loop, for callers that are not asynchronous."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

from timechat.backbones.backbone import Check
from timechat.errors import EndpointError

Result = TypeVar("Result")

POLL_SECONDS = 0.05
"""Seconds between two calls of a check function."""


class BackgroundLoop:
    """An event loop in a daemon thread, which starts with the first coroutine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Start a coroutine; to cancel the future cancels the coroutine too.

        Raises:
            EndpointError: The loop is closed.
        """
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise EndpointError("the connection to the server was closed; open it again", "interrupted")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, Result], check: Check) -> Result:
        """Run a coroutine and wait for its result in this thread, with calls of the check function."""
        future = self.submit(coroutine)
        try:
            while not future.done():
                check()
                wait_for([future], timeout=POLL_SECONDS)
            return future.result()
        finally:
            future.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Cancel all coroutines, run a last one, and end the thread.

        Args:
            last: Function that makes the last coroutine; it is not called if the loop never started.
        """
        with self._lock:
            self._is_closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_finish(last), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _finish(last: Callable[[], Coroutine[Any, Any, object]]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await last()
    await asyncio.get_running_loop().shutdown_asyncgens()
