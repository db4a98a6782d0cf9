"""Bytes: how many are moved at once, and how people read them."""

CHUNK_BYTES = 1 << 20


def readable_size(size: float) -> str:
    """Bytes as a short decimal number with its unit: `13.5 GB`."""
    for unit, unit_size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= unit_size:
            return f"{size / unit_size:.1f} {unit}"
    return f"{size:.0f} bytes"
