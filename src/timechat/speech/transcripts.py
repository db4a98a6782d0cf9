"""Read transcripts that people and speech recognisers write: subtitles, JSON and tab-separated lines."""

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from timechat.answers.events import Answer, Event, write_speech
from timechat.errors import DataError, located

_EXPECTED = "expected SRT, WebVTT, the JSON of a Whisper program, or tab-separated lines of start, end and text"
_MAX_BYTES = 2**27  # bytes; a day of speech needs about a hundredth of it
_MAX_SECONDS = 1e7  # about four months


@dataclass(frozen=True, slots=True)
class Transcript:
    """The speech of a video.

    Attributes:
        lines: Lines in order of time, in seconds since the first frame.
        notes: Plain sentences that a reader of the answer should know.
    """

    lines: tuple[Event, ...] = ()
    notes: tuple[str, ...] = ()


NO_AUDIO = "the video has no audio that can be decoded, so there is no transcript"
"""Note of a transcript of a video without audio."""


def transcript_answer(
    transcript: Transcript,
    *,
    video: str | None,
    duration: float,
    player_offset: float = 0.0,
    start: float | None = None,
    end: float | None = None,
) -> Answer:
    """Return recognized speech as the answer to the task `transcribe`; no video model is involved.

    Args:
        transcript: Speech of the video.
        video: Path, address or name of the video.
        duration: Duration of the video in seconds.
        player_offset: Seconds by which the clock of players is ahead of the clock of the frames.
        start: Start of the part to transcribe, in seconds; None means the start of the video.
        end: End of the part to transcribe, in seconds; None means the end of the video.
    """
    low, high = start or 0.0, duration if end is None else end
    lines = [line for line in transcript.lines if line.start < high and line.end >= low]
    late = sum(line.start >= duration for line in transcript.lines)
    notes = (f"lines of the transcript after the end of the video, left out: {late}",) if late else ()
    return Answer(
        write_speech(lines),
        lines,
        task="transcribe",
        video=video,
        duration=duration,
        player_offset=player_offset,
        notes=(*transcript.notes, *notes),
    )


def read_transcript(path: str | Path) -> tuple[Event, ...]:
    """Read the lines of a transcript in order of time; an empty file is a transcript without speech.

    The content determines the format, not the name of the file: SRT; WebVTT, also with the rolling lines of automatic
    captions; the JSON of openai-whisper, faster-whisper, whisperx, whisper-timestamped, whisper.cpp or `transformers`,
    or a plain list of their segments; Whisper's TSV; tab-separated lines of start and end in seconds and text. A line
    that ends before it starts, as some recognisers write, gets the duration 0.

    Raises:
        DataError: The file is missing or malformed; the message names the line and the expected form.
    """
    return transcript_of_file(path).lines


def transcript_of_file(path: str | Path) -> Transcript:
    """Read a transcript as `read_transcript` does, with notes about the file.

    Text is UTF-8, or UTF-16 with its mark. SubRip has no stated encoding, so cues that are not UTF-8 are read as
    Windows-1252, the most frequent one of old files; the notes say so.
    """
    path = Path(path)
    text, notes = _read_text(path)
    return Transcript(parse_transcript(text, name=path), notes)


def parse_transcript(text: str, *, name: str | Path = "transcript") -> tuple[Event, ...]:
    """Read a transcript from text, as `read_transcript` does; `name` is its name in messages."""
    if not text.strip():
        return ()
    path = Path(name)
    return tuple(sorted(_reader_of(text, path)(text, path), key=lambda line: line.start))


def _read_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, and notes about it."""
    if not path.exists():
        raise DataError(f"{path}: no such file; give the path of a transcript")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give the file of one transcript")
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: is {path.stat().st_size / 2**20:.0f} MiB large; {_EXPECTED}")
    content = path.read_bytes()
    encoding = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "UTF-8"
    try:
        return content.decode(encoding).removeprefix("\ufeff"), ()
    except UnicodeDecodeError as error:
        is_subrip = encoding == "UTF-8" and b"-->" in content and b"\0" not in content
        if is_subrip and not content.startswith((b"WEBVTT", b"\xef\xbb\xbf")):
            with suppress(UnicodeDecodeError):
                return content.decode("cp1252"), (f"{path.name} is not UTF-8 and was read as Windows-1252",)
        raise DataError(f"{path}: byte {error.start} is not {encoding} text; save the file as UTF-8") from error


def _reader_of(text: str, path: Path) -> Callable[[str, Path], Iterator[Event]]:
    first = text.lstrip().splitlines()[0]
    if first.startswith(("{", "[")):
        return _read_json
    if _TAB_LINE.match(first):
        return _read_tab_lines
    if first.startswith("WEBVTT") or "-->" in text:
        return _read_cues
    number = text[: text.index(first)].count("\n") + 1
    raise DataError(f"{path}:{number}: {first[:60]!r} is not the start of a transcript; {_EXPECTED}")


def _line(start: float, end: float, text: str) -> Event:
    for seconds in (start, end):
        if not abs(seconds) <= _MAX_SECONDS:  # also true for NaN
            shown = f"{seconds:g}" if isinstance(seconds, float) else "a whole number of many digits"
            raise ValueError(f"a time must be from 0 to {_MAX_SECONDS:g} seconds, got {shown}")
    return Event(start, max(start, end), " ".join(text.split()))


# ------------------------------------------------------------------------------------------------- subtitles

_CLOCK = r"(?:(\d+)\s?:\s?)?(\d{1,2})\s?:\s?(\d{1,2})(?:\s?[.,:]\s?(\d{1,9}))?"
_TIMING = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?![\d:.,])")
_NUMBER = re.compile(r"\s*\d+\s*")
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}|[\u200b\u200e\u200f\u2060\ufeff]")
_REPEAT_GAP = 0.1  # seconds; a line shown again within this time counts as still on screen


def _read_cues(text: str, path: Path) -> Iterator[Event]:
    """Yield the cues of SRT or WebVTT, without lines that are still on screen from the cue before."""
    for start, end, lines in new_lines(_cues(text, path)):
        with located(f"{path}: the cue at {start:.24g} s"):
            line = _line(start, end, " ".join(lines))
        yield line


def new_lines(
    cues: Iterable[tuple[float, float, Sequence[str]]],
) -> Iterator[tuple[float, float, Sequence[str]]]:
    """Yield cues (start and end in seconds, text lines) without lines that are on screen from the cue before.

    Automatic captions roll: each cue repeats the last line of the one before. A cue without a new line is left out.
    """
    shown: Sequence[str] = []
    last_end = 0.0
    for start, end, lines in cues:
        num_repeated = _num_repeated(shown, lines) if start - last_end <= _REPEAT_GAP else 0
        shown, last_end = lines, end
        if lines[num_repeated:]:
            yield start, end, lines[num_repeated:]


def _num_repeated(shown: Sequence[str], lines: Sequence[str]) -> int:
    """Return the number of first lines of a cue that are the last lines of the cue before.

    The work is proportional to the number of lines: `borders[i]` is the length of the longest start of the lines that
    is also an end of the first `i + 1` of them (the method of Knuth, Morris and Pratt).
    """
    if not lines:
        return 0
    borders = [0]
    for line in lines[1:]:
        length = borders[-1]
        while length and line != lines[length]:
            length = borders[length - 1]
        borders.append(length + (line == lines[length]))
    matched = 0
    for line in shown[-len(lines) :]:
        while matched and (matched == len(lines) or line != lines[matched]):
            matched = borders[matched - 1]
        matched += line == lines[matched]
    return matched


def _cues(text: str, path: Path) -> Iterator[tuple[float, float, list[str]]]:
    """Yield start, end and text lines of every cue: the lines between its line of times and the next one."""
    lines = text.splitlines()
    ends_at_empty_line = text.lstrip().startswith("WEBVTT")  # otherwise empty lines may be part of a text
    timed = [i for i, line in enumerate(lines) if "-->" in line]
    for i, following in pairwise([*timed, len(lines)]):
        with located(f"{path}:{i + 1}"):
            start, end = _read_timing(lines[i])
        content = lines[i + 1 : following]
        if ends_at_empty_line:
            content = content[: content.index("")] if "" in content else content
        elif following < len(lines) and content and _NUMBER.fullmatch(content[-1]):
            content = content[:-1]
        with located(f"{path}:{i + 1}"):
            yield start, end, [words for line in content if (words := plain_line(line))]


def _read_timing(line: str) -> tuple[float, float]:
    timing = _TIMING.match(line)
    if timing is None:
        raise ValueError(f"expected times such as 00:01:02,500 --> 00:01:04,000, got {line.strip()[:80]!r}")
    parts = timing.groups()
    return _clock_seconds(*parts[:4]), _clock_seconds(*parts[4:])


def _clock_seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return float(f"{whole}.{fraction or 0}")  # one rounding, so that 0:18.1 is exactly the number 18.1


def plain_line(line: str) -> str:
    """Return the text of a subtitle line, without styles, speaker tags, timing marks and entities."""
    return " ".join(html.unescape(_MARKUP.sub("", line)).split())


# ------------------------------------------------------------------------------------------------------ JSON

_LISTS = ("segments", "transcription", "chunks", "events")


def _read_json(text: str, path: Path) -> Iterator[Event]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: is not JSON ({error.msg}) and not another known format; {_EXPECTED}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: its JSON is nested too deeply for a transcript; {_EXPECTED}") from error
    except ValueError as error:  # a number of more than 4,300 digits
        raise DataError(f"{path}: its JSON contains a number that is no time: {error}; {_EXPECTED}") from error
    items = content
    if isinstance(content, Mapping):
        items = next((content[key] for key in _LISTS if key in content), None)
    if not isinstance(items, list):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, Mapping) else repr(content)[:60]
        raise DataError(
            f'{path}: expected {{"segments": [{{"start", "end", "text"}}, ...]}} or a list of segments, got {found}'
        )
    for number, item in enumerate(items):
        with located(f"{path}: segment {number}"):
            yield _read_segment(item)


def _read_segment(item: Any) -> Event:
    if not isinstance(item, Mapping):
        raise ValueError(f'expected {{"start", "end", "text"}}, got {item!r:.60}')
    words = item["text"] if "caption" not in item else item["caption"]
    if not isinstance(words, str):
        raise ValueError(f"text must be text, got {words!r:.60}")
    if "offsets" in item:  # whisper.cpp, in milliseconds
        start, end = (min(item["offsets"][name], 10**12) / 1000 for name in ("from", "to"))  # a float holds 10**12
        return _line(start, end, words)
    start, end = item["timestamp"] if "timestamp" in item else (item["start"], item["end"])
    end = start if end is None else end  # transformers leaves the last end open
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        raise ValueError(f"start and end must be seconds, got {start!r:.20} and {end!r:.20}")
    return _line(start, end, words)


# ------------------------------------------------------------------------------------------------- tab lines

_TAB_HEADER = "start\tend\ttext"  # of Whisper's TSV, whose times are milliseconds
_TAB_LINE = re.compile(rf"{_TAB_HEADER}|[\d.]+\t[\d.]+(?:\t|$)")


def _read_tab_lines(text: str, path: Path) -> Iterator[Event]:
    per_second = 1
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() == _TAB_HEADER:
            per_second = 1000
        elif line.strip():
            with located(f"{path}:{number}"):
                parts = line.split("\t", 2)
                if len(parts) < 3:
                    raise ValueError(f"expected tab-separated start, end and text, got {line[:60]!r}")
                yield _line(float(parts[0]) / per_second, float(parts[1]) / per_second, parts[2])
