"""Transcripts of data sets: one file per video, as the original's programs write them."""

from pathlib import Path

from timechat.answers.events import Event
from timechat.errors import located
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
    path = folder / f"{Path(video).stem}.txt"
    return clean_transcript(read_transcript(path)) if path.exists() else ()
