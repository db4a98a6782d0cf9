"""How much a video from outside may ask of this machine."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of what is fetched, decoded and probed for somebody outside."""

    max_bytes: int = 4_000_000_000
    """Bytes of one video that is fetched or uploaded."""
    max_duration: float = 6 * 3600.0
    """Seconds that one video may last."""
    max_pixels: int = 4096 * 4096
    """Width times height of one picture."""
    fetch_timeout: float = 120.0
    """Seconds that fetching one video may take in all, redirects and name look-ups included."""
    probe_timeout: float = 20.0
    """Seconds that finding out what a video is may take."""
    max_inline_bytes: int = 64_000_000
    """Bytes, decoded, of one `data:` address."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ValueError(f"{each.name} must be above 0, got {value}")
