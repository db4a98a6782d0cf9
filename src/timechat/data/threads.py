"""Parallel work in threads, with results in order."""

import copy
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Original = TypeVar("Original")


def ordered_map(
    items: Iterable[Item], make: Callable[[Item], Made], *, workers: int, ahead: int | None = None
) -> Generator[tuple[Item, Made]]:
    """Apply a function to every item in threads, and yield the results in the order of the items.

    Threads are sufficient, because the decoder library, torch and the tokenizers release the lock of the interpreter.

    Args:
        items: Items, possibly without end.
        make: Function of an item. Its errors are raised here, in the order of the items.
        workers: Number of threads; 0 works in the thread of the caller.
        ahead: Maximum number of results that are made in advance; by default twice the number of workers.

    Yields:
        Item and result. When the caller stops, pending items are dropped and the threads end.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if workers == 0:
        for item in items:
            yield item, make(item)
        return
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="timechat-data")
    try:
        waiting: deque[tuple[Item, Future[Made]]] = deque()
        waiting.extend((item, pool.submit(make, item)) for item in islice(source, ahead or 2 * workers))
        while waiting:
            item, future = waiting.popleft()
            made = future.result()
            waiting.extend((item, pool.submit(make, item)) for item in islice(source, 1))
            yield item, made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class ThreadLocalCopies(Generic[Original]):
    """One copy of an object for every thread.

    Threads must not share a tokenizer: it stores its truncation settings and changes them in every call, so that the
    limit of one thread would truncate the text of another.
    """

    def __init__(self, original: Original) -> None:
        """Copy the object, as the source of all other copies. The caller may continue to use the object itself."""
        self._pristine = copy.deepcopy(original)
        self._lock = threading.Lock()
        self._local = threading.local()

    def get(self) -> Original:
        """Return this thread's copy."""
        if not hasattr(self._local, "copy"):
            with self._lock:
                self._local.copy = copy.deepcopy(self._pristine)
        mine: Original = self._local.copy
        return mine
