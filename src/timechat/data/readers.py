"""Read instruction files as records: our JSON Lines and published formats."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from timechat.answers.prompts import Message
from timechat.data.records import Record, read_jsonl
from timechat.data.transcripts import find_transcript
from timechat.errors import DataError, located

Format = Literal["auto", "timechat", "instruct", "valley"]

_VATEX_ID = re.compile(r".{11}_\d{6}_\d{6}")
_VIDEO_MARK = re.compile(r"<video>\n?|\n<video>")


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
        format: `timechat`, our JSON Lines; `instruct`, a JSON list of `{"video", "QA": [{"q", "a"}], "source"}` as in
            TimeIT and similar sets; `valley`, the JSON list of `{"v_id", "conversations"}` of Valley; `auto` detects
            the format from the content.
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
    try:
        chosen = _detect_format(path) if format == "auto" else format
        records = list(_READERS[chosen](path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a file of instruction records") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; give a file of instruction records") from error
    if not records:
        raise DataError(f"{path}: holds no record")
    folder = path.parent if videos is None else Path(videos)
    placed = [
        replace(record, video=place_video(record.video, folder), id=record.id or f"{path.stem}:{number}")
        for number, record in enumerate(records)
    ]
    _check_unique(placed, path)
    if transcripts is not None:
        placed = [_with_transcript(record, Path(transcripts)) for record in placed]
    return placed


def place_video(video: str, folder: Path) -> str:
    """Return the path of a video relative to `folder`; addresses and absolute paths do not change."""
    return video if "://" in video else str(folder / video)


def _with_transcript(record: Record, folder: Path) -> Record:
    if record.transcript is not None:
        return record
    return replace(record, transcript=find_transcript(folder, record.video))


def _check_unique(records: Sequence[Record], path: Path) -> None:
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise DataError(f"{path}: two records have the id {record.id!r}; ids must be unique")
        seen.add(record.id)


def _detect_format(path: Path) -> str:
    """Detect the format of a file from its first item."""
    with path.open(encoding="utf-8") as file:
        start = file.read(1 << 12).lstrip()
    if not start.startswith("["):
        return "timechat"
    items = _load_list(path)
    first = items[0] if items and isinstance(items[0], Mapping) else {}
    for key, name in (("QA", "instruct"), ("conversations", "valley")):
        if key in first:
            return name
    raise DataError(
        f"{path}: is a JSON list whose first item has neither 'QA' nor 'conversations'; expected instructions as "
        "TimeIT or Valley publish them, or JSON Lines of records"
    )


def _load_list(path: Path) -> list[Any]:
    with located(str(path)):
        items = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(items, list):
            raise ValueError(f"expected a JSON list, got {type(items).__name__}")
    return items


def _read_instruct(path: Path) -> Iterator[Record]:
    """Read items `{"video", "QA": [{"q", "a"}, ...], "source"}`."""
    for number, item in enumerate(_load_list(path)):
        with located(f"{path}: item {number}"):
            turns = [(_get(turn, "q"), _get(turn, "a")) for turn in _get(item, "QA")]
            record = Record(
                video=_get(item, "video"),
                messages=as_messages(turns),
                source=item.get("source", ""),
                extra={key: value for key, value in item.items() if key not in ("video", "QA", "source")},
            )
        yield record


def _read_valley(path: Path) -> Iterator[Record]:
    """Read items `{"v_id", "video", "source", "conversations": [{"from", "value"}, ...]}`.

    A VATEX item is about ten seconds of its video, which its id names.
    """
    for number, item in enumerate(_load_list(path)):
        with located(f"{path}: item {number}"):
            name = _get(item, "v_id")
            is_part = item.get("source") == "VATEX" and _VATEX_ID.fullmatch(name) is not None
            record = Record(
                video=item.get("video") or f"{name}.mp4",
                messages=as_messages(_valley_turns(_get(item, "conversations"))),
                start=float(name[12:18]) if is_part else None,
                end=float(name[19:25]) if is_part else None,
                clock="part" if is_part else "video",
                source=item.get("source", ""),
                extra={"v_id": name},
            )
        yield record


def _valley_turns(conversation: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    speakers = [_get(message, "from") for message in conversation]
    if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
        raise ValueError(f"conversations must be pairs of a human and a gpt message, got {speakers}")
    texts = [_VIDEO_MARK.sub("", _get(message, "value")) for message in conversation]
    return list(zip(texts[::2], texts[1::2], strict=True))


def as_messages(turns: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Return (question, answer) pairs as messages."""
    return tuple(
        message for question, answer in turns for message in (Message("user", question), Message("assistant", answer))
    )


def _get(item: Mapping[str, Any], key: str) -> Any:
    if not isinstance(item, Mapping) or key not in item:
        got = f"the keys {', '.join(item)}" if isinstance(item, Mapping) else repr(item)
        raise ValueError(f"needs {key!r}, got {got}")
    return item[key]


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    "timechat": read_jsonl,
    "instruct": _read_instruct,
    "valley": _read_valley,
}
