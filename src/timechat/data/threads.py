"""Work shared out to threads, its results handed out in order."""

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
    """Make something of every item in threads, and hand it out in the items' order.

    Threads serve: the decoder library, torch and the tokenizers let others work while they do.

    Args:
        items: May be endless.
        make: What is done with each. What it raises is raised here, in its turn.
        workers: Threads; 0 works in the caller's own.
        ahead: Items that may be made before they are asked for; by default twice the workers.

    Yields:
        Item and what was made of it. When the caller stops, what was not begun is dropped and threads end.
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
    """A copy of one object for every thread that asks.

    A tokenizer must not be shared: whether it truncates is kept inside of it and changed by every call, so that one
    thread's text would be cut by another's limit.
    """

    def __init__(self, original: Original) -> None:
        """Take a copy of the object, from which all others are made: the object itself may go on being used."""
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
