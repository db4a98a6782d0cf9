"""Long jobs that stop when they are asked to, and go on by the same command."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

EXIT_STOPPED = 75  # as sendmail says it: not done, but the same command will go on


@contextmanager
def stop_signal(minutes: float | None, when: str) -> Iterator[Callable[[], bool]]:
    """Tell when to stop: after a time, or on the first Ctrl-C or `kill`; the second ends at once.

    Args:
        minutes: The time; None never.
        when: When the work does stop, in words.
    """
    end = time.monotonic() + minutes * 60 if minutes is not None else float("inf")
    asked = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])
        typer.echo(f"stopping {when}; once more stops at once", err=True)

    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: asked or time.monotonic() >= end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
