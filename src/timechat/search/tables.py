"""The rows of a library as a Parquet file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from timechat.errors import missing_extra
from timechat.files import atomic_write
from timechat.search.records import Line
from timechat.search.store import LibraryStore


def write_parquet(library: LibraryStore, path: Path) -> int:
    """Write one row per frame and line of all videos, sorted by path and time; return the number of rows.

    The columns are `video` (path), `digest` (SHA-256 of the content), `kind`, `start` and `end` in seconds, `text` and
    `vector`. A frame has its time as start and end, and no text. The vector of a line is that of its sentence.

    Raises:
        ModuleNotFoundError: pyarrow is missing.
        ValueError: The path is that of the library itself.
    """
    if library.path is not None and path.exists() and path.samefile(library.path):
        raise ValueError(f"{path}: is the library itself, which the table would replace; give another path")
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise missing_extra("--export FILE.parquet needs pyarrow", "batch") from error
    text, number = pyarrow.string(), pyarrow.float64()
    schema = pyarrow.schema(
        [
            *(("video", text), ("digest", text), ("kind", text), ("start", number), ("end", number), ("text", text)),
            ("vector", pyarrow.list_(pyarrow.float32())),
        ]
    )
    num_rows = 0
    with atomic_write(path) as unfinished, pyarrow.parquet.ParquetWriter(unfinished, schema) as writer:
        for rows in _rows(library):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            num_rows += len(rows)
    return num_rows


def _rows(library: LibraryStore) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of one video after the other."""
    stored = library.line_vectors()
    vectors = dict(zip(stored.ids.tolist(), stored.vectors, strict=True))
    lines: defaultdict[int, list[Line]] = defaultdict(list)
    for line in library.lines():
        if line.id in vectors:  # another process may have added lines in the meantime
            lines[line.video].append(line)
    for file, video in library.entries():
        facts = {"video": file.path.encode("utf-8", "replace").decode(), "digest": video.digest}
        rows = []
        frames = library.frames(video.id)
        if frames is not None:
            for time, vector in zip(frames.times.tolist(), frames.vectors.astype(np.float32), strict=True):
                rows.append({**facts, "kind": "picture", "start": time, "end": time, "text": None, "vector": vector})
        rows += [
            {
                **facts,
                "kind": line.kind,
                "start": line.event.start,
                "end": line.event.end,
                "text": line.event.caption,
                "vector": vectors[line.id],
            }
            for line in lines[video.id]
        ]
        yield rows
