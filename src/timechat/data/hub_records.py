"""Records of a data set of the `datasets` library: Arrow files on the disk, of which single rows are read.

This is the only file that imports `datasets`.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, overload
from urllib.parse import parse_qsl

from timechat.data.readers import Format, place_video, read_item, refuse_duplicates, with_transcript
from timechat.data.records import Record
from timechat.errors import DataError, located, missing_extra

SCHEME = "hf-dataset://"

_CONVERSATIONS = ("messages", "conversations", "QA")
_BATCH = 256  # rows that are read together to check them


@dataclass(frozen=True)
class DatasetAddress:
    """Address of a split, such as `hf-dataset://OWNER/NAME?split=train`.

    Attributes:
        path: Id of the data set on the hub, or a folder of Parquet, JSON lines or other files.
        split: Name of the split.
        config: Name of the configuration (subset); None for the only or default one.
        revision: Branch, tag or commit on the hub; None for the newest.
    """

    path: str
    split: str = "train"
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, address: str) -> "DatasetAddress":
        """Read an address.

        Raises:
            DataError: It names no data set, or has an unknown option.
        """
        path, _, options = address.removeprefix(SCHEME).partition("?")
        values = dict(parse_qsl(options, keep_blank_values=True))
        unknown = values.keys() - {"split", "config", "revision"}
        if not path or unknown or not all(values.values()):
            raise DataError(
                f"{address}: expected {SCHEME}NAME?split=SPLIT, with &config=CONFIG and &revision=REVISION where needed"
            )
        return cls(path, **values)

    @property
    def name(self) -> str:
        """Short name for reports and ids."""
        return PurePosixPath(self.path.rstrip("/")).name

    @property
    def videos(self) -> str:
        """Folder or address of the files of the data set, to which the paths of videos are relative."""
        if Path(self.path).is_dir():
            return self.path
        return f"hf://datasets/{self.path}{f'@{self.revision}' if self.revision else ''}"


class DatasetRecords(Sequence[Record]):
    """The records of a split, in its order. It can be pickled; another process opens the data set when it reads."""

    def __init__(
        self, address: str, *, videos: str | Path | None, format: Format, transcripts: str | Path | None
    ) -> None:
        """Open a split, which is downloaded and converted to Arrow files once on each machine.

        Args:
            address: Address, as for `DatasetAddress`.
            videos: Base folder or address of the video paths; None takes the files of the data set.
            format: Format of the rows; see `read_records`.
            transcripts: Folder with transcripts; see `read_records`.

        Raises:
            DataError: There is no such data set or split, or a column is missing.
            ModuleNotFoundError: `datasets` is not installed.
        """
        self._address, self._format, self._transcripts = address, format, transcripts
        self._location = DatasetAddress.parse(address)
        self._videos = self._location.videos if videos is None else str(videos)
        self._lock = threading.Lock()
        self._rows: Any = _open(address, self._location)
        self._length = len(self._rows)
        if not self._length:
            raise DataError(f"{address}: holds no record")

    def __len__(self) -> int:
        """Return the number of records."""
        return self._length

    @overload
    def __getitem__(self, number: int) -> Record: ...
    @overload
    def __getitem__(self, number: slice) -> list[Record]: ...
    def __getitem__(self, number: int | slice) -> Record | list[Record]:
        """Read a record.

        Raises:
            DataError: The data set cannot be opened, or is not that of the first process.
        """
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        index = range(len(self))[number]
        return self._record(index, self._opened()[index])

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the open data set."""
        return self.__dict__ | {"_rows": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the records; the data set is opened when one is read."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def check(self) -> None:
        """Check each record; only one batch of rows is in memory.

        Raises:
            DataError: A row is no record, or two have the same id; the message names it.
        """
        seen = set[str]()
        number = 0
        for batch in self._opened().iter(_BATCH):
            for row in _split_batch(batch):
                refuse_duplicates(self._record(number, row).id, seen, self._address)
                number += 1

    def _opened(self) -> Any:
        with self._lock:
            if self._rows is None:
                rows = _open(self._address, self._location)
                if len(rows) != self._length:
                    raise DataError(
                        f"{self._address}: has {len(rows)} rows here and {self._length} in the first process; give all "
                        "machines the same files, or the same &revision="
                    )
                self._rows = rows
            return self._rows

    def _record(self, number: int, row: Mapping[str, Any]) -> Record:
        with located(f"{self._address}: row {number}"):
            record = read_item(_item(row), self._format)
        record = replace(
            record,
            video=place_video(record.video, self._videos),
            id=record.id or f"{self._location.name}:{number}",
        )
        return record if self._transcripts is None else with_transcript(record, Path(self._transcripts))


def _open(address: str, location: DatasetAddress) -> Any:
    """Return a split whose rows are read from the disk."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_extra(f"{address} needs datasets", "datasets") from error
    try:
        rows = datasets.load_dataset(
            location.path, location.config, split=location.split, revision=location.revision, keep_in_memory=False
        )
    except Exception as error:  # errors of the hub, of builders and of Arrow
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{address}: cannot be loaded: {reason}") from error
    names = rows.column_names
    if not set(_CONVERSATIONS) & set(names):
        raise DataError(
            f"{address}: has no column 'messages' (or 'conversations' as in LLaVA, or 'QA' as in TimeIT); its columns "
            f"are {', '.join(names)}"
        )
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Video | datasets.Image):
            rows = rows.cast_column(name, type(feature)(decode=False))
    return rows


def _split_batch(batch: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as the JSON object of a record: Arrow fills missing keys with None, and files are structures."""
    item: dict[str, Any] = _without_nulls(row)
    for key in ("video", "image"):
        if isinstance(file := item.get(key), Mapping):
            if "path" not in file or "bytes" in file:
                raise ValueError(f"the column {key!r} holds the bytes of files; only paths and addresses are read")
            item[key] = file["path"]
    return item


def _without_nulls(value: Any) -> Any:
    """Return a value without the keys of objects that are None."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
