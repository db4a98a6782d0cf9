"""Limits of one video from a client."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits for fetching, decoding and probing a video."""

    max_bytes: int = 4_000_000_000
    """Maximum size of a fetched or uploaded video, in bytes."""
    max_duration: float = 6 * 3600.0
    """Maximum duration of a video, in seconds."""
    max_pixels: int = 4096 * 4096
    """Maximum width times height of a frame."""
    fetch_timeout: float = 120.0
    """Maximum time to fetch a video, in seconds, with redirects and name look-ups."""
    probe_timeout: float = 20.0
    """Maximum time to probe a video, in seconds."""
    max_inline_bytes: int = 64_000_000
    """Maximum decoded size of a `data:` address, in bytes."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ValueError(f"{each.name} must be above 0, got {value}")
