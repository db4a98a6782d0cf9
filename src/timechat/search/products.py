"""Products of many stored vectors with a few others: float16 is widened in blocks that stay in the processor's cache.

The products are those of float32. numpy alone needs 5 to 8 times as long to widen float16.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from timechat.files.system import num_cores
from timechat.search.encoder import FloatArray, StoredVectors

_BLOCK = 256  # rows
_ROWS_AT_ONCE = 16  # rows that torch widens without its threads, whose start costs more than the work
_ROWS_PER_THREAD = 8192  # minimum; one hour of a video is computed by one thread


def multiply(vectors: StoredVectors, columns: FloatArray) -> FloatArray:
    """Multiply vectors with columns in float32.

    Args:
        vectors: `(rows, dimension)`.
        columns: `(dimension, columns)`.

    Returns:
        `(columns, rows)`.
    """
    products = np.empty((columns.shape[1], len(vectors)), np.float32)
    num_threads = min(num_cores(), len(vectors) // _ROWS_PER_THREAD)
    if num_threads < 2:
        _fill(products, vectors, columns)
        return products
    parts = [slice(rows[0], rows[-1] + 1) for rows in np.array_split(np.arange(len(vectors)), num_threads)]
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(lambda part: _fill(products[:, part], vectors[part], columns), parts))
    return products


def _fill(products: FloatArray, vectors: StoredVectors, columns: FloatArray) -> None:
    narrow, wide = (torch.empty(_BLOCK, vectors.shape[1], dtype=dtype) for dtype in (torch.float16, torch.float32))
    narrow_rows, wide_rows = list(narrow.split(_ROWS_AT_ONCE)), list(wide.split(_ROWS_AT_ONCE))
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        size = len(block)
        if block.dtype == np.float16:
            narrow.numpy()[:size] = block
            torch._foreach_copy_(wide_rows, narrow_rows)
            block = wide.numpy()[:size]
        products[:, start : start + size] = (block @ columns).T
