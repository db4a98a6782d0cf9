"""A child process that runs a stage, and can be killed when a video hangs or crashes in native code."""

import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from timechat.batch.stages import ErrorKind, OnPiece, Piece, Stage, WorkItem, error_kind, error_message
from timechat.errors import TimeChatError

# A fork of a process with threads may hang; a fork server has none, and starts a process faster than `spawn`.
_START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
ATTEMPTS = 2
"""Number of times that a row is tried whose process dies; a row that reaches the time limit is tried once."""

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 1.0  # the reader of a video has the same limit and says more about it
_ORPHAN_SECONDS = 30.0  # after the limit; a worker whose parent was killed ends then, also in native code

StopCheck = Callable[[], bool]


def _ignore(piece: Piece) -> None:
    """Keep nothing of an interrupted attempt."""


def _never() -> bool:
    """Never stop."""
    return False


class StoppedError(Exception):
    """The batch was stopped while a row was processed."""


@dataclass(frozen=True)
class Outcome:
    """What a stage made of one row, or of a part of one.

    Attributes:
        result: Columns of the result; None after a failure.
        kind: Reason of the failure.
        error: Message of the failure.
        has_died: Whether the process died, so that another attempt may succeed.
        attempts: Number of attempts.
    """

    result: dict[str, Any] | None = None
    kind: ErrorKind | None = None
    error: str | None = None
    has_died: bool = False
    attempts: int = 1


class Worker:
    """Runs a stage in a child process, which is started with the first row and again after its death."""

    def __init__(self, stage: Stage[Any], folder: str | None = None) -> None:
        """Prepare a process.

        Args:
            stage: Stage.
            folder: Working directory of the process, if there is one of that name; None takes that of its parent.
        """
        self._stage, self._folder = stage, folder
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def run(
        self,
        row: WorkItem,
        pieces: Callable[[], Sequence[Piece]] = list,
        *,
        timeout: float,
        on_piece: OnPiece = _ignore,
        should_stop: StopCheck = _never,
    ) -> Outcome:
        """Process one row, or a part of one; again if the process dies, up to `ATTEMPTS` times.

        Args:
            row: Row of the manifest, or another job of the stage.
            pieces: Function that returns the answers of earlier, interrupted attempts.
            timeout: Maximum wall time of an attempt in seconds, without the time to load the model.
            on_piece: Callback for the answers about each further batch of windows.
            should_stop: Function that returns whether to stop; called several times a second.

        Raises:
            StoppedError: `should_stop` returned True.
            TimeChatError: The model cannot be loaded.
        """
        outcome = Outcome(has_died=True, attempts=0)
        while outcome.has_died and outcome.attempts < ATTEMPTS:
            again = self._attempt(row, pieces(), timeout=timeout, on_piece=on_piece, should_stop=should_stop)
            outcome = replace(again, attempts=outcome.attempts + 1)
        return outcome

    def _attempt(
        self, row: WorkItem, pieces: Sequence[Piece], *, timeout: float, on_piece: OnPiece, should_stop: StopCheck
    ) -> Outcome:
        connection = self._start(should_stop)
        with suppress(OSError):  # a dead process is noticed below
            connection.send((row, list(pieces), timeout))
        ends = time.monotonic() + timeout + _GRACE_SECONDS
        while True:
            message = self._receive(should_stop, ends)
            if message is None:
                if time.monotonic() >= ends:
                    self.kill()
                    return Outcome(
                        kind="timeout",
                        error=f"{row.video}: not answered within {timeout:g} s; allow more with --timeout SECONDS",
                    )
                return Outcome(
                    kind="crashed",
                    error=f"{row.video}: the process ended while it worked on this video ({self._end()})",
                    has_died=True,
                )
            if isinstance(message, Piece):
                on_piece(message)
            else:
                return message  # type: ignore[no-any-return]

    def kill(self) -> None:
        """End the process immediately."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _start(self, should_stop: StopCheck) -> Connection:
        """Start the process and wait until its model is loaded."""
        if self._connection is not None:
            return self._connection
        context: Any = multiprocessing.get_context(_START_METHOD)
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._stage, child, self._folder), daemon=True)
        self._process.start()
        child.close()
        message = self._receive(should_stop, float("inf"))
        if message is None:
            raise TimeChatError(f"the worker process ended before its model was loaded ({self._end()})")
        if isinstance(message, Exception):
            self.kill()
            raise message
        return self._connection

    def _receive(self, should_stop: StopCheck, ends: float) -> Any:
        """Wait for a message; None if the time is up or the process has died."""
        assert self._connection is not None
        while True:
            if should_stop():
                self.kill()
                raise StoppedError
            left = ends - time.monotonic()
            if left <= 0:
                return None
            try:
                if self._connection.poll(min(left, _POLL_SECONDS)):
                    return self._connection.recv()
            except (EOFError, OSError):
                return None

    def _end(self) -> str:
        """Forget a process that has ended or is ending; return how it ended."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        assert process is not None
        assert connection is not None
        connection.close()
        process.join()
        code = process.exitcode or 0
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name


def _serve(stage: Stage[Any], connection: Connection, folder: str | None) -> None:
    """Load the model and process rows until the parent closes the connection; runs in the child process."""
    if folder is not None:
        with suppress(OSError):
            os.chdir(folder)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    # A process that ends with its parent may start none of its own, which an engine of answers needs.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    try:
        stage.load()
    except Exception as error:
        with suppress(OSError):
            connection.send(error)
        return
    with suppress(EOFError, OSError), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        connection.send("ready")
        while True:
            row, pieces, timeout = connection.recv()
            faulthandler.dump_traceback_later(timeout + _ORPHAN_SECONDS, exit=True, file=nowhere)
            outcome = _process(partial(stage, row, pieces, connection.send))
            faulthandler.cancel_dump_traceback_later()
            connection.send(outcome)


def _process(work: Callable[[], dict[str, Any]]) -> Outcome:
    """Turn any error about one video into an outcome, so that the other videos are answered."""
    try:
        return Outcome(work())
    except BrokenPipeError:
        raise
    except Exception as error:
        return Outcome(kind=error_kind(error), error=error_message(error))
