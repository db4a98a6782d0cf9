"""Videos that other processes read for a library, which one process writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from timechat.search.encoder import FrameTextEncoder
from timechat.search.records import KnownFile
from timechat.search.stamps import is_same_stamp, stamp_of
from timechat.search.video_vectors import VideoVectors, encode_video

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class EncodedFile:
    """What another process has read of a file.

    Attributes:
        path: Path, absolute.
        stamp: Stamp of the file before it was read.
        digest: SHA-256 of its content.
        vectors: Its frames as vectors; None for content that the library knows, and after an error.
        error: Reason why it cannot be read.
    """

    path: str
    stamp: str = ""
    digest: str = ""
    vectors: VideoVectors | None = None
    error: str | None = None


EncodeFiles: TypeAlias = Callable[[Sequence[str], Collection[str], Callable[[], object]], Iterator[EncodedFile]]
"""Function that reads files in other processes, given the digests of known content and a function that may raise.

It yields the files in any order, and may leave some out.
"""


def encode_file(path: str, encoder: FrameTextEncoder, known: Collection[str], *, timeout: float) -> EncodedFile:
    """Read a file, as `Indexer` does it.

    Args:
        path: Path.
        encoder: Encoder of frames.
        known: SHA-256 of contents whose frames need not be encoded.
        timeout: Maximum wall time in seconds for a part of a video, see `encode_video`.

    Raises:
        VideoError: The video cannot be read.
        OSError: The file cannot be read.
    """
    stamp, digest = stamp_of(path), digest_of(path)
    vectors = None if digest in known else encode_video(path, encoder, timeout=timeout)
    return EncodedFile(path, stamp, digest, vectors)


def paths_to_encode(
    paths: Iterable[str], known: Mapping[str, KnownFile], is_current: Callable[[int], bool], *, retries: bool
) -> list[str]:
    """Return the files that are new or changed, or whose frames are missing.

    Args:
        paths: Paths, absolute.
        known: Files of the library, by their paths.
        is_current: Function that returns whether a video of the library has its frames.
        retries: Whether files that could not be read are tried again.
    """
    found = []
    for path in paths:
        file = known.get(path)
        try:
            is_same = file is not None and is_same_stamp(file.stamp, stamp_of(path))
        except OSError:
            continue  # it is reported when it is read
        if file is None or not is_same or (retries if file.video is None else not is_current(file.video)):
            found.append(path)
    return found


def digest_of(path: str, check: Callable[[], object] = lambda: None) -> str:
    """Return the SHA-256 of all bytes of a file; `check` is called repeatedly and may raise."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            check()
    return digest.hexdigest()
