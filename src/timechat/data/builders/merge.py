"""Join files of records to one, with a share of each, in a random order that depends on a seed and the records only."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from timechat.data.builders.report import BuildReport, SourceCounts
from timechat.data.builders.sources import PUBLISHED
from timechat.data.readers import read_records
from timechat.data.records import Record, write_lines
from timechat.errors import DataError


@dataclass(frozen=True)
class MergePart:
    """A file of records, and how much of it is used.

    Attributes:
        path: File of records in any format that training reads.
        ratio: Number of copies of each record: 1 uses all, 0.5 a random half, 2.5 all twice and a random half again.
        videos: Folder of its videos; None takes the folder of the file.
    """

    path: Path
    ratio: float = 1.0
    videos: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio < float("inf"):
            raise ValueError(f"the ratio of {self.path} must be above 0, got {self.ratio:g}")


def merge_files(parts: Sequence[MergePart], out: str | Path, *, seed: int = 0) -> BuildReport:
    """Write the records of several files in random order; the file appears when it is complete.

    A record without a source gets the name of its file. Ids that occur twice get the name of their file, or a number.

    Args:
        parts: Files and their ratios.
        out: File to write, one record per line.
        seed: Random seed of the choice and of the order.

    Returns:
        Counts of each source.

    Raises:
        DataError: A file is missing or malformed, or no record is left; nothing is written.
        ValueError: There is no file, or the file to write is one of them.
    """
    if not parts:
        raise ValueError("give at least one file of records to merge")
    if any(part.path.resolve() == Path(out).resolve() for part in parts):
        raise ValueError(f"{out}: is one of the files to merge; give another --out")
    counts: dict[str, SourceCounts] = {}
    chosen: list[tuple[bytes, Record]] = []
    for part in parts:
        records = list(read_records(part.path, videos=part.videos))
        share = _share(records, part, seed)
        for number, record in enumerate(records):
            source = record.source or part.path.stem
            its_counts = counts.setdefault(source, SourceCounts(source, PUBLISHED.get(source)))
            its_counts.read += 1
            absolute = record.video if "://" in record.video else str(Path(record.video).absolute())
            for copy in range(int(part.ratio) + (number in share)):
                its_counts.kept += 1
                its_counts.videos.add(absolute)
                place = _draw(seed, "order", f"{part.path.stem}\0{record.id}\0{copy}")
                chosen.append((place, replace(record, source=source, video=absolute, id=_id(record, copy))))
    if not chosen:
        raise DataError(f"no record is left to write to {out}; give a file with records, or a higher --ratio")
    chosen.sort(key=lambda pair: pair[0])
    write_lines(Path(out), (record.to_dict() for record in _with_unique_ids(record for _, record in chosen)))
    return BuildReport(tuple(counts.values()))


def _share(records: Sequence[Record], part: MergePart, seed: int) -> set[int]:
    """Return the numbers of the records that are used once more than the whole copies: a random share of the file."""
    size = math.floor((part.ratio - int(part.ratio)) * len(records) + 0.5)
    draws = [_draw(seed, "share", f"{part.path.stem}\0{record.id}") for record in records]
    return set(sorted(range(len(records)), key=draws.__getitem__)[:size])


def _draw(seed: int, purpose: str, key: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{purpose}\0{key}".encode()).digest()


def _id(record: Record, copy: int) -> str:
    return record.id if not copy else f"{record.id}-{copy + 1}"


def _with_unique_ids(records: Iterator[Record]) -> Iterator[Record]:
    used: set[str] = set()
    for record in records:
        name, number = record.id, 1
        while name in used:
            number += 1
            name = f"{record.id}+{number}"
        used.add(name)
        yield record if name == record.id else replace(record, id=name)
