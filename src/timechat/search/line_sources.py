"""What a video says and shows in words, as lines with times: the readers that an index uses beside the frames."""

from collections.abc import Callable
from typing import Any, Protocol

from timechat.answers.events import Event
from timechat.search.records import Kind
from timechat.search.video_vectors import VideoVectors


class LineSource(Protocol):
    """A reader of one kind of lines.

    Attributes:
        kind: Kind of the lines.
    """

    kind: Kind

    def facts(self, path: str) -> dict[str, Any]:
        """Return everything that the lines depend on beside the content of the video, ready for JSON."""

    def is_current(self, facts: dict[str, Any], path: str) -> bool:
        """Return whether lines with these facts need not be read again."""

    def read(self, path: str, frames: VideoVectors, check: Callable[[], object]) -> tuple[list[Event], tuple[str, ...]]:
        """Read the lines of a video.

        Args:
            path: Path of the video.
            frames: Its frames, whose cuts tell where on-screen text may change.
            check: Function called repeatedly; an exception it raises ends the work.

        Returns:
            Lines on the clock of the video, sorted by time, and notes.

        Raises:
            VideoError: The video cannot be read.
        """


def default_sources() -> tuple[LineSource, ...]:
    """Return the readers that need no extra."""
    return ()
