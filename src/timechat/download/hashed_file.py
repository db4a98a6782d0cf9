"""A file whose checksum is known as soon as its last byte is."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from timechat.download.sizes import CHUNK_BYTES


class HashedFile:
    """The bytes of one file that are here so far, and their sha256.

    Args:
        path: The file; what it already holds is read, and a missing one counts as empty.
        on_bytes: Called while it is read, with the bytes read so far and all there are.
    """

    def __init__(self, path: Path, on_bytes: Callable[[int, int], None]) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        if not path.exists():
            return
        total = path.stat().st_size
        with path.open("rb") as handle:
            while chunk := handle.read(CHUNK_BYTES):
                self._count(chunk)
                on_bytes(self.size, total)

    @property
    def sha256(self) -> str:
        """Of all bytes so far, in hex."""
        return self._digest.hexdigest()

    def append(self, handle: BinaryIO, chunk: bytes) -> None:
        """Write a chunk to the file, opened as `handle`."""
        handle.write(chunk)
        self._count(chunk)

    def delete(self) -> None:
        """Remove the file and start from nothing."""
        self.path.unlink(missing_ok=True)
        self.size = 0
        self._digest = hashlib.sha256()

    def _count(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._digest.update(chunk)
