"""Read instruction files as records: our format and published ones, as a JSON list or one item per line."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, get_args

from timechat.answers.prompts import Message
from timechat.data.conversations import Source, describe, find_source, read_conversation, without_video_place
from timechat.data.records import Record, closest_key, without_keys
from timechat.data.transcripts import find_transcript
from timechat.errors import DataError, located
from timechat.files.remote import is_remote

Format = Literal["auto", "timechat", "instruct", "valley"]

_VATEX_ID = re.compile(r".{11}_\d{6}_\d{6}")
_SPACE = re.compile(r"[ \t\n\r]*")
_CHARADES_LINE = re.compile(r"\S+ [\d.]+ [\d.]+##")
_RECORDS_FILE = "records.jsonl"
_SUFFIXES = (".json", ".jsonl")


def read_records(
    path: str | Path,
    *,
    videos: str | Path | None = None,
    format: Format = "auto",
    transcripts: str | Path | None = None,
) -> list[Record]:
    """Read a file of instructions.

    Args:
        path: Path of the file.
        videos: Base folder of the video paths; None takes the folder of the file.
        format: Format of the items: `timechat`, our records with `messages`; `instruct`, `{"video", "QA": [{"q", "a"}],
            "source"}` as in TimeIT and similar sets; `valley`, `{"video", "conversations": [{"from", "value"}]}` as in
            Valley, LLaVA and similar sets; `auto` detects the format of each item. An item of any format may have
            `image` instead of `video`. A file of any format is a JSON list or has one item per line.
        transcripts: Folder with files `VIDEO_NAME.txt`, lines of start, end and text separated by tabs. A video without
            a file has no speech. Records that have a transcript keep it.

    Returns:
        Records in the order of the file, each with a unique `id` and a `video` relative to the working folder.

    Raises:
        DataError: The file is missing, or an item is malformed; the message names it.
    """
    path = Path(path)
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    records, seen = [], set[str]()
    folder = path.parent if videos is None else Path(videos)
    try:
        with path.open("rb") as file:
            for number, item in enumerate(items_of(file, str(path))):
                with located(item.location):
                    record = read_item(item.value, format)
                record = replace(
                    record, video=place_video(record.video, folder), id=record.id or f"{path.stem}:{number}"
                )
                refuse_duplicates(record.id, seen, str(path))
                records.append(record if transcripts is None else with_transcript(record, Path(transcripts)))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a file of instruction records") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder; give a file of instruction records, such as {_RECORDS_FILE}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; give a file of instruction records") from error
    if not records:
        raise DataError(f"{path}: holds no record")
    return records


def record_files(path: Path) -> list[Path]:
    """Return the files of records that a path names: a file itself; in a folder `records.jsonl`, or all JSON files.

    Raises:
        DataError: The folder holds no such file.
    """
    if not path.is_dir():
        return [path]
    if (path / _RECORDS_FILE).is_file():
        return [path / _RECORDS_FILE]
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if not found:
        raise DataError(f"{path}: the folder holds no {_RECORDS_FILE} and no other .json or .jsonl file of records")
    return found


def place_video(video: str, folder: str | Path) -> str:
    """Return the path of a video relative to a folder or address; addresses and absolute paths do not change."""
    if "://" in video:
        return video
    return f"{folder}/{video}" if is_remote(str(folder)) else str(Path(folder) / video)


def with_transcript(record: Record, folder: Path) -> Record:
    """Return a record with the transcript of its video from a folder, unless it has one."""
    if record.transcript is not None:
        return record
    return replace(record, transcript=find_transcript(folder, record.video))


def refuse_duplicates(name: str, seen: set[str], path: str) -> None:
    """Remember the id of a record, and refuse one that was seen before."""
    if name in seen:
        raise DataError(f"{path}: two records have the id {name!r}; ids must be unique")
    seen.add(name)


@dataclass(frozen=True)
class Item:
    """An item of a file of records.

    Attributes:
        location: Place in the file, for messages.
        value: The JSON value.
        start: Start of its text in bytes.
        length: Length of its text in bytes.
    """

    location: str
    value: Any
    start: int
    length: int


def items_of(file: IO[bytes], name: str) -> Iterator[Item]:
    """Yield the items of a file, a JSON list or one item per line.

    Raises:
        DataError: An item is no JSON, or is an annotation of a data set instead of an instruction.
    """
    start = file.read(1 << 12).decode("utf-8-sig", errors="ignore").lstrip()
    file.seek(0)
    _refuse_annotations(name, start)
    if start.startswith("["):
        yield from _items_of_list(file.read(), name)
        return
    if (whole := _read_one_object(file, start)) is not None:
        _refuse_annotation_item(name, whole)
        yield Item(name, whole, 0, file.tell())
        return
    file.seek(0)
    place = 0
    for number, line in enumerate(file, 1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        if text.strip():
            with located(f"{name}:{number}"):
                value = json.loads(text)
            _refuse_annotation_item(name, value)
            yield Item(f"{name}:{number}", value, place, len(line))
        place += len(line)


def _items_of_list(content: bytes, name: str) -> Iterator[Item]:
    """Yield the items of a JSON list."""
    text = content.decode("utf-8-sig")
    place = len(content) - len(text.encode())  # of a byte order mark
    decoder, end, number = json.JSONDecoder(), text.index("[") + 1, 0
    position = 0  # in the text, of `place`
    with located(name):
        while True:
            start = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[start : start + 1] == "]" and (number == 0 or text[end - 1] != ","):
                break
            try:
                value, stop = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):
                json.loads(text)  # its message names the place
                raise
            place += len(text[position:start].encode())
            length = len(text[start:stop].encode())
            position, place_of_item, place = stop, place, place + length
            yield Item(f"{name}: item {number}", value, place_of_item, length)
            number += 1
            end = _SPACE.match(text, stop).end()  # type: ignore[union-attr]
            if text[end : end + 1] != ",":
                break
            end += 1
        if text[_SPACE.match(text, end).end() :].strip() != "]":  # type: ignore[union-attr]
            json.loads(text)


def _read_one_object(file: IO[bytes], start: str) -> Any:
    """Return the content of a file that is one JSON object on several lines; None for any other file."""
    first_line = start.partition("\n")[0].rstrip()
    if not start.startswith("{") or first_line.endswith("}"):
        return None
    try:
        return json.loads(file.read().decode("utf-8-sig"))
    except (json.JSONDecodeError, RecursionError):
        return None


def read_item(item: Any, format: Format) -> Record:
    """Read an item of a file.

    Raises:
        ValueError: It is malformed.
    """
    if format != "auto":
        return _READERS[format](item)
    for key, read in (
        ("messages", Record.from_dict),
        ("conversations", read_conversation_item),
        ("QA", _read_instruct),
    ):
        if isinstance(item, Mapping) and key in item:
            return read(item)
    raise ValueError(
        f"a record needs 'video' and 'messages' (or 'conversations' as in LLaVA, or 'QA' as in TimeIT), got "
        f"{describe(item)}{closest_key('messages', item) if isinstance(item, Mapping) else ''}"
    )


def _refuse_annotations(path: str, start: str) -> None:
    """Refuse lines of Charades-STA, which are annotations and no instructions."""
    if _CHARADES_LINE.match(start):
        raise DataError(_annotations_message(path, "Charades-STA", "charades"))


def _refuse_annotation_item(path: str, item: Any) -> None:
    """Refuse annotations of data sets that are one JSON object, or one object per line."""
    if not isinstance(item, Mapping):
        return
    if {"qid", "query", "vid"} <= item.keys():
        raise DataError(_annotations_message(path, "QVHighlights", "qvhighlights"))
    if isinstance(item.get("database"), Mapping):
        raise DataError(_annotations_message(path, "YouCook2 or ActivityNet"))
    if isinstance(item.get("annotations"), list):
        raise DataError(_annotations_message(path, "a data set"))
    first = next(iter(item.values()), None)
    if isinstance(first, Mapping) and {"timestamps", "sentences"} <= first.keys():
        raise DataError(_annotations_message(path, "ActivityNet Captions", "anet"))


def _annotations_message(path: str, owner: str, builder: str | None = None) -> str:
    how = 'make records with timechat data build, or write one line {"video", "messages"} for each question'
    if builder is not None:
        how = f"make records with: timechat data build {builder} {path} --videos DIR --out FILE.jsonl"
    return f"{path}: holds annotations of {owner}, not instructions; {how} (docs/data.md)"


def _read_instruct(item: Any) -> Record:
    """Read `{"video", "QA": [{"q", "a"}, ...], "source"}`."""
    turns = [(_get(turn, "q"), _get(turn, "a")) for turn in _get_list(item, "QA")]
    source = find_source(item) or _refuse_without_source(item)
    return Record(
        video=source.path,
        is_image=source.is_image,
        messages=as_messages([(_without_place(question), answer) for question, answer in turns]),
        source=item.get("source") or "",
        extra=without_keys(item, ("QA", "source"), source),
    )


def read_conversation_item(item: Any) -> Record:
    """Read `{"video", "conversations": [{"from", "value"}, ...]}` as LLaVA and Valley write it, or with `image`.

    Valley also has `v_id`, which names the video if `video` does not; a VATEX item is about ten seconds of its video,
    which its `v_id` names.
    """
    conversation = read_conversation(_get_list(item, "conversations"))
    name = item.get("v_id")
    source = find_source(item, conversation)
    if source is None:
        source = Source(f"{name}.mp4") if name else _refuse_without_source(item)
    is_part = item.get("source") == "VATEX" and isinstance(name, str) and _VATEX_ID.fullmatch(name) is not None
    return Record(
        video=source.path,
        is_image=source.is_image,
        messages=conversation.messages,
        system=conversation.system or item.get("system") or None,
        start=float(name[12:18]) if is_part else None,
        end=float(name[19:25]) if is_part else None,
        clock="part" if is_part else "video",
        source=item.get("source") or "",
        extra=without_keys(item, ("conversations", "source", "system"), source),
    )


def as_messages(turns: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Return (question, answer) pairs as messages."""
    return tuple(
        message for question, answer in turns for message in (Message("user", question), Message("assistant", answer))
    )


def _without_place(question: Any) -> Any:
    return without_video_place(question) if isinstance(question, str) else question


def _refuse_without_source(item: Mapping[str, Any]) -> NoReturn:
    raise ValueError(f"needs 'video' or 'image', got {describe(item)}{closest_key('video', item)}")


def _get_list(item: Any, key: str) -> list[Any]:
    value = _get(item, key)
    if not isinstance(value, list):
        raise ValueError(f"{key!r} must be a list, got {describe(value)}")
    return value


def _get(item: Any, key: str) -> Any:
    if not isinstance(item, Mapping) or key not in item:
        raise ValueError(f"needs {key!r}, got {describe(item)}")
    return item[key]


_READERS: dict[str, Callable[[Any], Record]] = {
    "timechat": Record.from_dict,
    "instruct": _read_instruct,
    "valley": read_conversation_item,
}
