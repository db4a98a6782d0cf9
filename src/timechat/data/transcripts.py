"""What is said in a video, as a speech recogniser wrote it: lines of start, end and words divided by tabs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from timechat.data.records import located
from timechat.events import Event

Speech = tuple[float, float, str]

_MIN_WORDS = 3
_LINES = 15  # a transcript of twice as many or more is thinned out


def find_transcript(folder: Path, video: str) -> tuple[Event, ...]:
    """Return what is said in a video, by its name; a video without a file is one in which nobody speaks.

    Raises:
        DataError: There is no such folder, or a line is malformed.
    """
    with located(str(folder)):
        if not folder.is_dir():
            raise ValueError("is no folder; give the folder of the transcripts")
    path = folder / f"{Path(video).stem}.txt"
    return read_transcript(path) if path.exists() else ()


def read_transcript(path: Path) -> tuple[Event, ...]:
    """Read a transcript, without lines that say next to nothing or that repeat the line before."""
    speech = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            with located(f"{path}:{number}"):
                start, end, words = line.split("\t", 2)
                speech.append((float(start), float(end), words))
    return tuple(Event(start, end, words) for start, end, words in clean_speech(speech))


def clean_speech(speech: Iterable[Speech]) -> list[Speech]:
    """Drop lines of fewer than three words and lines that repeat the one kept before them."""
    kept: list[Speech] = []
    for start, end, words in speech:
        words = words.strip()
        if len(words.split()) >= _MIN_WORDS and (not kept or kept[-1][2] != words):
            kept.append((start, end, words))
    return kept


def thin_speech(speech: Sequence[Speech], *, first: int = 0) -> list[Speech]:
    """Take every so-manieth line, so that fewer than 30 are left, each ending in a full stop.

    Args:
        speech: All lines.
        first: Where to begin. The original begins at line 1 and never takes line 0.
    """
    step = max(1, len(speech) // _LINES)
    return [(start, end, words if words.endswith(".") else f"{words}.") for start, end, words in speech[first::step]]
