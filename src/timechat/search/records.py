"""What a library holds: files, videos, the parts of a video, and lines of text."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Event
from timechat.errors import TimeChatError
from timechat.search.encoder import FloatArray

Kind = Literal["picture", "speech", "text", "caption"]
"""Kind of rows, which is also the source of a moment: frames, speech, on-screen text, and captions of a model."""

LINE_KINDS: tuple[Kind, ...] = ("speech", "text", "caption")


class LibraryError(TimeChatError):
    """A library that cannot be used: another kind of file, another version, not writable, or a failed write."""


@dataclass(frozen=True)
class KnownFile:
    """A file of the library.

    Attributes:
        path: Path, absolute.
        video: Number of its video; None for a file that could not be read.
        stamp: Size, times and inode when the content was hashed; None if the file was too new to trust them.
        modified: Time of the last modification in seconds since 1970.
        is_offline: Whether the file was not found at the last scan of its folder, although its folder may come back.
        error: Reason why the file could not be read.
    """

    path: str
    video: int | None
    stamp: str | None
    modified: float
    is_offline: bool = False
    error: str | None = None


@dataclass(frozen=True)
class KnownVideo:
    """A video of the library.

    Attributes:
        id: Number of the video in this library.
        digest: SHA-256 of its content.
        duration: Duration in seconds.
        size: Displayed height and width in pixels.
        created: Time at which it was recorded, in seconds since 1970; None if the file does not state it.
        player_offset: Seconds by which the clock of players is ahead of the clock of the frames.
        notes: Sentences about reading the video.
    """

    id: int
    digest: str
    duration: float
    size: tuple[int, int]
    created: float | None
    player_offset: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexedPart:
    """Rows of one kind of a video.

    Attributes:
        facts: Everything that the rows depend on beside the content of the video.
        num_rows: Number of rows.
        notes: Sentences about the rows.
    """

    facts: dict[str, Any]
    num_rows: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Segments:
    """Mean vectors of short runs of frames of all videos, by which a query chooses videos.

    Attributes:
        videos: `(segments,)` numbers of the videos, rising.
        vectors: `(segments, dimension)` float16, as they are stored.
    """

    videos: NDArray[np.int64]
    vectors: NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class LineVectors:
    """Sentence vectors of all lines.

    Attributes:
        ids: `(lines,)` numbers of the lines, rising.
        videos: `(lines,)` numbers of their videos.
        vectors: `(lines, dimension)` float32.
    """

    ids: NDArray[np.int64]
    videos: NDArray[np.int64]
    vectors: FloatArray


@dataclass(frozen=True)
class Line:
    """A line of speech, on-screen text or a caption of one video.

    Attributes:
        id: Number of the line.
        video: Number of the video.
        kind: Kind of the line.
        event: Times in seconds on the clock of the video, and text.
    """

    id: int
    video: int
    kind: Kind
    event: Event = field(compare=False)
