"""Stop signals for long jobs, which the same command resumes."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: not finished, but the same command resumes


@contextmanager
def stop_signal(minutes: float | None, when: str) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether to stop: after a time, or after the first Ctrl-C or `kill`.

    A second Ctrl-C or `kill` ends the process immediately.

    Args:
        minutes: Maximum time in minutes; None means no limit.
        when: Description of the point at which the work stops, for the message.
    """
    end = time.monotonic() + minutes * 60 if minutes is not None else float("inf")
    is_stopped = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal is_stopped
        is_stopped = True
        signal.signal(number, before[signal.Signals(number)])
        typer.echo(f"stopping {when}; press again to stop immediately", err=True)

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: is_stopped or time.monotonic() >= end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
