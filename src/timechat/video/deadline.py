"""Time limit for reading a file, and reasons of errors in one line."""

from __future__ import annotations

import time
from collections.abc import Callable

from timechat.errors import VideoTimeoutError

DEFAULT_PATIENCE = 30.0
"""Maximum silence of a server, in seconds."""


class Deadline:
    """Time limit for reading a file; also stops the other workers when one has failed.

    Attributes:
        check_caller: Callback during reading; raises if the caller has cancelled the request.
    """

    def __init__(self, seconds: float, name: str, check_caller: Callable[[], object] | None = None) -> None:
        self.seconds, self.name, self.check_caller = seconds, name, check_caller
        self.restart()

    def restart(self) -> None:
        """Start the time limit again and clear the cancellation."""
        self.ends = time.monotonic() + self.seconds
        self.is_cancelled = False

    def left(self) -> float:
        """Return the remaining time in seconds."""
        return max(0.0, self.ends - time.monotonic())

    @property
    def patience(self) -> float:
        """Maximum silence of a server in seconds, for the whole request."""
        return min(self.seconds, DEFAULT_PATIENCE)

    def renew(self) -> None:
        """Start the time limit again, for the next piece of work on the same file."""
        self.ends = time.monotonic() + self.seconds

    def check(self) -> None:
        """Raise if the time is up or the request is cancelled."""
        if self.check_caller is not None:
            self.check_caller()
        if self.is_cancelled or not self.left():
            raise VideoTimeoutError(
                f"{self.name}: not read within {self.seconds:g} s; it is damaged, endless or very large. "
                "Allow more with timeout=SECONDS, or sample less of it"
            )


def reason(error: Exception) -> str:
    """Return one line of an exception, without the number and the path that FFmpeg adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
