"""The beginning of a Matroska or WebM file (RFC 8794, RFC 9559): whether anything is lost before its first cluster."""

from __future__ import annotations

import os
from typing import IO

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_BEFORE_CLUSTERS = {
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1254C367),  # SeekHead, Info, Tracks, Tags
    *(0x1C53BB6B, 0x1941A469, 0x1043A770, 0xEC, 0xBF),  # Cues, Attachments, Chapters, Void, CRC-32
}
_MAX_ELEMENTS = 1000


def lacks_beginning(file: IO[bytes]) -> bool:
    """Return whether a file that begins late has lost its beginning.

    That is so if there is something else than elements of Matroska before the first cluster, if the file is shorter
    than its segment says, or if the segment has no size, as in recordings of browsers, which begin at 0.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = _read_element(file)
    if header is None or header[0] != _EBML or header[1] is None:
        return True
    file.seek(header[1], os.SEEK_CUR)
    segment = _read_element(file)
    if segment is None or segment[0] != _SEGMENT or segment[1] is None or file.tell() + segment[1] > size:
        return True
    for _ in range(_MAX_ELEMENTS):
        element = _read_element(file)
        if element is None or element[0] not in {_CLUSTER, *_BEFORE_CLUSTERS}:
            return True
        if element[0] == _CLUSTER:
            return False
        if element[1] is None:
            return True
        file.seek(element[1], os.SEEK_CUR)
    return True


def _read_element(file: IO[bytes]) -> tuple[int, int | None] | None:
    """Read the ID and the size of an element, a size of None for an unknown one; None at the end or in damage."""
    number = _read_number(file, keeps_marker=True)
    size = _read_number(file, keeps_marker=False)
    if number is None or size is None:
        return None
    value, num_bytes = size
    return number[0], None if value == (1 << 7 * num_bytes) - 1 else value


def _read_number(file: IO[bytes], *, keeps_marker: bool) -> tuple[int, int] | None:
    """Read a number of variable length; return it with its length in bytes."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_bytes = 9 - first[0].bit_length()
    rest = file.read(num_bytes - 1)
    if len(rest) < num_bytes - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    return (value if keeps_marker else value & ((1 << 7 * num_bytes) - 1)), num_bytes
