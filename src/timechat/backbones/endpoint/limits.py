"""Limits of requests to a server, without its client."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of the requests of one client.

    Attributes:
        retries: Maximum number of retries of a request.
        timeout: Maximum seconds of a request with all its retries, from the moment at which it is sent.
        connect_timeout: Maximum seconds of one attempt to connect.
        max_concurrent: Maximum number of requests at the same time.
    """

    retries: int = 5
    timeout: float = 120.0
    connect_timeout: float = 10.0
    max_concurrent: int = 4

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries must be at least 0, got {self.retries}")
        if self.max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {self.max_concurrent}")
        if not (self.timeout > 0 and self.connect_timeout > 0):
            raise ValueError(f"time limits must be above 0 s, got {self.timeout} and {self.connect_timeout}")
