"""Transcripts of data sets: one file per video, as the original's programs write them."""

from collections.abc import Iterable
from pathlib import Path

from timechat.answers.events import Event
from timechat.errors import located
from timechat.files import is_video_name, write_text_atomically
from timechat.speech import clean_transcript, read_transcript


def find_transcript(folder: Path, video: str) -> tuple[Event, ...]:
    """Return the transcript of a video, by its name; a video without a file has no speech.

    Lines with almost no text and lines that repeat the line before are removed.

    Raises:
        DataError: The folder does not exist, or a line is malformed.
    """
    with located(str(folder)):
        if not folder.is_dir():
            raise ValueError("is not a folder; give the folder of the transcripts")
    path = transcript_path(folder, video)
    return clean_transcript(read_transcript(path)) if path.exists() else ()


def transcript_path(folder: Path, video: str) -> Path:
    """Return the path of the transcript of a video, by its name; a dot in a name without a video's suffix counts."""
    name = Path(video).name
    return folder / f"{Path(name).stem if is_video_name(name) else name}.txt"


def write_transcript(path: Path, speech: Iterable[Event]) -> None:
    """Write lines of start and end in seconds, with two decimals, and text, separated by tabs."""
    write_text_atomically(path, "".join(f"{line.start:.2f}\t{line.end:.2f}\t{line.caption}\n" for line in speech))
