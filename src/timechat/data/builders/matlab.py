"""Numeric arrays in MATLAB files of version 5, without SciPy: as much as the annotations of SumMe need.

The format is described in "MAT-File Format" by MathWorks. Version 7.3 is HDF5 and is refused by name.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.errors import DataError

_HEADER = 128  # bytes
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)  # double, single, and integers of 8 to 64 bits


def read_matlab(path: Path) -> dict[str, NDArray[Any]]:
    """Return the numeric arrays of a file by name; texts, cells and structures are left out.

    Raises:
        DataError: The file is not a MATLAB file of version 5, or is damaged.
    """
    content = path.read_bytes()
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content[:10] == b"MATLAB 7.3":
        raise DataError(f"{path}: is a MATLAB file of version 7.3; save it as version 5 (-v7)")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise DataError(f"{path}: is not a MATLAB file of version 5")
    arrays: dict[str, NDArray[Any]] = {}
    try:
        for kind, data in _elements(content[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, data = next(_elements(zlib.decompress(data), order))
            if kind == _MATRIX:
                arrays.update(_matrix(data, order))
    except (zlib.error, struct.error, StopIteration, ValueError, KeyError) as error:
        raise DataError(f"{path}: is damaged: {error or 'it ends within an array'}") from error
    return arrays


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the elements one after the other."""
    position = 0
    while position + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        if kind >> 16:  # a small element: type and size in four bytes, content in the next four
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
            position += 8
        else:
            start = position + 8
            position = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(data):
            raise ValueError("it ends within an element")
        yield kind, data[start : start + size]


def _matrix(data: bytes, order: str) -> dict[str, NDArray[Any]]:
    """Return one array by its name; nothing for an array that is not numeric."""
    parts = _elements(data, order)
    flags, dimensions, name = (next(parts)[1] for _ in range(3))
    if struct.unpack_from(f"{order}I", flags)[0] & 0xFF not in _NUMERIC_CLASSES:
        return {}
    shape = np.frombuffer(dimensions, f"{order}i4")
    kind, values = next(parts)
    array = np.frombuffer(values, order + _NUMBERS[kind]).reshape(shape, order="F")
    return {name.rstrip(b"\0").decode("ascii", "replace"): array}
