"""Transcripts of data sets: a file a video, as the original's programs write them."""

from pathlib import Path

from timechat.answers.events import Event
from timechat.errors import located
from timechat.speech import clean_transcript, read_transcript


def find_transcript(folder: Path, video: str) -> tuple[Event, ...]:
    """Return what is said in a video, by its name; a video without a file is one in which nobody speaks.

    Lines that say next to nothing or repeat the line before are left out.

    Raises:
        DataError: There is no such folder, or a line is malformed.
    """
    with located(str(folder)):
        if not folder.is_dir():
            raise ValueError("is no folder; give the folder of the transcripts")
    path = folder / f"{Path(video).stem}.txt"
    return clean_transcript(read_transcript(path)) if path.exists() else ()
