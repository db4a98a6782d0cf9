"""Records that stay in their files: an index holds the place of each, and a record is read when it is needed.

So the number of records is limited by the disk and not by memory, and `Mixture` still knows each sample by its number.
"""

import glob
import io
import json
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from timechat.data.hub_records import SCHEME, DatasetAddress, DatasetRecords
from timechat.data.readers import Format, items_of, place_video, read_item, refuse_duplicates, with_transcript
from timechat.data.records import Record
from timechat.errors import DataError, VideoError, located
from timechat.files.remote import find_remote, is_remote, open_remote, parent_address

_BYTES = "#bytes="


@dataclass(frozen=True)
class _Options:
    """How a record is made from an item of a file."""

    videos: str
    format: Format
    transcripts: str | None


class RecordIndex(Sequence[Record]):
    """The records of a file, or of tar shards, in their order. It can be pickled; its files must be there again.

    Attributes:
        files: Paths or addresses of the files.
    """

    def __init__(self, files: Sequence[str], places: NDArray[np.int64], options: _Options) -> None:
        """Make an index; `index_records` finds the places.

        Args:
            files: Paths or addresses of the files.
            places: Number of the file, start and length of each record in bytes, and start and length of its video
                in a tar shard, otherwise zeros: `(records, 5)`.
            options: How records are made.
        """
        self.files = tuple(files)
        self._places, self._options = places, options
        self._copies: dict[str, IO[bytes]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Record: ...
    @overload
    def __getitem__(self, number: slice) -> list[Record]: ...
    def __getitem__(self, number: int | slice) -> Record | list[Record]:
        """Read a record.

        Raises:
            DataError: The file has changed or cannot be read.
        """
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        index = range(len(self))[number]
        file, start, length, video_start, video_length = (int(value) for value in self._places[index])
        name = self.files[file]
        with located(f"{name}: record {index}"):
            item = json.loads(self._read(name, start, length).decode("utf-8-sig"))
            record = _read(item, self._options.format, in_tar=bool(video_length))
        if video_length:
            inside = f"{name}/{record.video}{_BYTES}{video_start},{video_length}"
            return replace(record, video=inside, id=record.id or f"{name}:{index}")
        return _placed(record, name, index, self._options)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but open files."""
        return self.__dict__ | {"_copies": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore an index without open files."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _read(self, name: str, start: int, length: int) -> bytes:
        """Read a part of a file; a file of records in an object store is copied to the disk first."""
        try:
            if name.endswith(".tar"):
                return read_part(name, start, length)
            with self._lock:
                if name not in self._copies:
                    self._copies[name] = _local_copy(name) if is_remote(name) else Path(name).open("rb")  # noqa: SIM115
                file = self._copies[name]
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error


def index_records(
    path: str | Path,
    *,
    videos: str | Path | None = None,
    format: Format = "auto",
    transcripts: str | Path | None = None,
) -> RecordIndex | DatasetRecords:
    """Find the records of a file or data set and check each of them; only their places stay in memory.

    Args:
        path: Path or address (`s3://`, ...) of a file as for `read_records`, or of WebDataset shards: a `.tar` file, or
            a pattern such as `shards/*.tar`. In a shard, files with the same name up to the first dot are a sample: a
            `.json` record and its video or image. `hf-dataset://NAME?split=train` is a data set of the `datasets`
            library.
        videos: Base folder or address of the video paths; None takes the folder of the file. Shards hold their videos.
        format: Format of the items; see `read_records`.
        transcripts: Folder with transcripts; see `read_records`.

    Raises:
        DataError: The file is missing, or an item is malformed; the message names it.
        ModuleNotFoundError: The package of an object store, or `datasets`, is not installed.
    """
    name = str(path)
    if name.startswith(SCHEME):
        rows = DatasetRecords(name, videos=videos, format=format, transcripts=transcripts)
        rows.check()
        return rows
    base = str(videos) if videos is not None else folder_of(name)
    options = _Options(base, format, None if transcripts is None else str(transcripts))
    if name.endswith(".tar"):
        return _index_shards(name, options)
    places, seen = [], set[str]()
    try:
        with _local_copy(name) if is_remote(name) else Path(name).open("rb") as file:
            for number, item in enumerate(items_of(file, name)):
                with located(item.location):
                    record = _placed(read_item(item.value, format), name, number, options)
                refuse_duplicates(record.id, seen, name)
                places.append((0, item.start, item.length, 0, 0))
    except IsADirectoryError as error:
        raise DataError(f"{name}: is a folder; give a file of instruction records, such as records.jsonl") from error
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; give a file of instruction records") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8 text; give a file of instruction records") from error
    if not places:
        raise DataError(f"{name}: holds no record")
    return RecordIndex([name], np.array(places, dtype=np.int64), options)


def open_video(record: Record) -> str | bytes:
    """Return the video of a record: its path or address, or its bytes from a tar shard.

    Raises:
        VideoError: The shard cannot be read.
    """
    shard, mark, place = record.video.rpartition(_BYTES)
    if not mark:
        return record.video
    name = shard[: shard.index(".tar/") + len(".tar")]
    start, length = map(int, place.split(","))
    try:
        return read_part(name, start, length)
    except OSError as error:
        raise VideoError(f"{record.video}: cannot be read: {error.strerror or error}") from error


def read_part(name: str, start: int, length: int) -> bytes:
    """Read some bytes of a file, by its path or address.

    Raises:
        OSError: The file cannot be read, or is too short.
    """
    with open_remote(name) if is_remote(name) else Path(name).open("rb") as file:
        file.seek(start)
        content = file.read(length)
    if len(content) < length:
        raise OSError(0, f"it has changed: {length} bytes at {start} are expected, got {len(content)}")
    return content


def _index_shards(pattern: str, options: _Options) -> RecordIndex:
    if glob.has_magic(pattern):
        files = (find_remote(pattern) or []) if is_remote(pattern) else sorted(glob.glob(pattern))  # noqa: PTH207
    else:
        files = [pattern]
    if not files:
        raise DataError(f"{pattern}: no such file; give a .tar file or a pattern of .tar files")
    places = []
    for number, name in enumerate(files):
        try:
            with open_remote(name) if is_remote(name) else Path(name).open("rb") as file:
                for place, content, video in _samples(file, name):
                    with located(f"{name}/{video}"):
                        _read(json.loads(content), options.format, in_tar=True)
                    places.append((number, *place))
        except (OSError, tarfile.TarError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{name}: cannot be read: {reason}; give uncompressed tar files") from error
    if not places:
        raise DataError(f"{pattern}: holds no sample: a .json file and a video with the same name")
    return RecordIndex(files, np.array(places, dtype=np.int64), options)


def _samples(file: IO[bytes], name: str) -> Iterator[tuple[tuple[int, int, int, int], bytes, str]]:
    """Yield the places, the JSON text and the name of the video of each sample of a shard."""
    parts: dict[str, tarfile.TarInfo] = {}
    key = ""
    with tarfile.open(fileobj=file, mode="r:") as archive:

        def sample() -> Iterator[tuple[tuple[int, int, int, int], bytes, str]]:
            record = parts.pop("json", None)
            if record is None or not parts:
                raise DataError(f"{name}/{key}: a sample needs a .json file and a video, got {sorted(parts) or 'one'}")
            video = next(iter(parts.values()))
            stored = archive.extractfile(record)
            assert stored is not None
            place = (record.offset_data, record.size, video.offset_data, video.size)
            yield place, stored.read(), PurePosixPath(video.name).name

        for member in archive:
            if not member.isfile():
                continue
            stem, _, ending = member.name.rpartition("/")[2].partition(".")
            stem = f"{member.name.rpartition('/')[0]}/{stem}"
            if stem != key and parts:
                yield from sample()
                parts = {}
            key, parts[ending.lower()] = stem, member
        if parts:
            yield from sample()


def _read(item: Any, format: Format, *, in_tar: bool) -> Record:
    """Read an item; one of a shard need not name its video."""
    if in_tar and isinstance(item, dict) and not {"video", "image"} & item.keys():
        item = item | {"video": "video"}
    return read_item(item, format)


def _placed(record: Record, name: str, number: int, options: _Options) -> Record:
    stem = Path(name).stem
    record = replace(record, video=place_video(record.video, options.videos), id=record.id or f"{stem}:{number}")
    return record if options.transcripts is None else with_transcript(record, Path(options.transcripts))


def folder_of(name: str) -> str:
    """Return the path or address of the folder of a file, or of the files of a data set."""
    if name.startswith(SCHEME):
        return DatasetAddress.parse(name).videos
    return parent_address(name) if is_remote(name) else str(Path(name).parent)


def short_name(name: str) -> str:
    """Return the name of a file without its ending, or that of a data set."""
    return DatasetAddress.parse(name).name if name.startswith(SCHEME) else Path(name).stem


def _local_copy(address: str) -> IO[bytes]:
    """Return a file of an object store as a temporary file, which disappears when it is closed."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with open_remote(address) as file:
            shutil.copyfileobj(file, copy, 1 << 20)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return io.BufferedReader(copy) if isinstance(copy, io.RawIOBase) else copy
