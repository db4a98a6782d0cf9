"""What was done of work that takes long: the first frames of a video, and the videos of a pass that reads all again.

Frames are stored behind each other while a video is encoded, and removed when all of them are stored as its frames.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from timechat.search.library_file import LibraryFile
from timechat.search.records import Kind
from timechat.search.video_vectors import EncodedPart
from timechat.video import ReadPosition

_SECONDS_BETWEEN_WRITES = 30.0
_FULL_PASS = "full_pass"  # setting with the key of the pass that is not finished


class UnfinishedWork(LibraryFile):
    """The rows of unfinished work."""

    def first_frames(self, video: int, facts: Mapping[str, Any]) -> EncodedPart | None:
        """Return the frames of an unfinished video that were stored with the same facts; None if there are none."""
        with self._guarded() as connection:
            rows = connection.execute(
                "SELECT first, num_frames, num_requested, last_pixels, times, vectors FROM unfinished "
                "WHERE video = ? AND facts = ? ORDER BY first",
                (video, _text(facts)),
            ).fetchall()
        times, vectors, end, last = [], [], 0, None
        for first, num_frames, num_requested, last_pixels, at, values in rows:
            if first != end:  # another process has stored other parts
                continue
            times.append(np.frombuffer(at, "<f8"))
            vectors.append(np.frombuffer(values, "<f2").reshape(num_frames, -1))
            end, last = first + num_frames, (num_requested, last_pixels)
        if last is None:
            return None
        stored = np.concatenate(times)
        return EncodedPart(stored, np.concatenate(vectors), ReadPosition(last[0], float(stored[-1])), last[1])

    def add_frames(self, video: int, first: int, part: EncodedPart, facts: Mapping[str, Any]) -> None:
        """Store frames of an unfinished video.

        Args:
            video: Number of the video.
            first: Number of its frames that were stored before.
            part: Frames that follow them, with the position behind them.
            facts: Everything that the frames depend on.
        """
        assert part.position is not None
        with self._writing() as connection:
            self._check_known(connection, video)
            connection.execute("DELETE FROM unfinished WHERE video = ? AND facts != ?", (video, _text(facts)))
            connection.execute(
                "INSERT OR REPLACE INTO unfinished VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(video, first, _text(facts), len(part.times), part.position.num_requested, part.last_pixels),
                    *(part.times.astype("<f8").tobytes(), part.vectors.astype("<f2").tobytes()),
                ),
            )

    def begin_full_pass(self, key: str) -> set[tuple[int, Kind]]:
        """Begin a pass that reads everything again, or resume the one with the same key.

        Returns:
            Videos and kinds that this pass has read already.
        """
        with self._writing() as connection:
            row = connection.execute("SELECT value FROM settings WHERE name = ?", (_FULL_PASS,)).fetchone()
            if row is None or row[0] != key:
                connection.execute("DELETE FROM read_again")
                connection.execute("DELETE FROM unfinished")  # a full pass leaves out nothing
                connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (_FULL_PASS, key))
            return set(connection.execute("SELECT video, kind FROM read_again").fetchall())

    def mark_read_again(self, video: int, kind: Kind) -> None:
        """Store that a part of a video was read in the current pass."""
        with self._writing() as connection:
            self._check_known(connection, video)
            connection.execute("INSERT OR REPLACE INTO read_again VALUES (?, ?)", (video, kind))

    def end_full_pass(self) -> None:
        """Store that the current pass is finished."""
        with self._writing() as connection:
            connection.execute("DELETE FROM read_again")
            connection.execute("DELETE FROM settings WHERE name = ?", (_FULL_PASS,))


class FirstFrames:
    """The frames of one video while it is encoded, stored from time to time.

    Attributes:
        begun: Frames that were stored by an earlier run; None if there are none.

    Args:
        library: Library.
        video: Number of the video.
        facts: Everything that the frames depend on.
        check: Function called before each write. An error that it raises prevents the write.
    """

    def __init__(
        self, library: UnfinishedWork, video: int, facts: Mapping[str, Any], check: Callable[[], object]
    ) -> None:
        self._library, self._video, self._facts, self._check = library, video, facts, check
        self.begun = library.first_frames(video, facts)
        self._num_stored = 0 if self.begun is None else len(self.begun.times)
        self._parts: list[EncodedPart] = []
        self._written_at = time.monotonic()

    def add(self, part: EncodedPart) -> None:
        """Take the next frames, and store all that are not stored yet if the last write is long ago."""
        self._parts.append(part)
        if time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Store the frames that are not stored yet."""
        if not self._parts:
            return
        self._check()
        last = self._parts[-1]
        times = np.concatenate([part.times for part in self._parts])
        vectors = np.concatenate([part.vectors for part in self._parts])
        joined = EncodedPart(times, vectors, last.position, last.last_pixels)
        self._library.add_frames(self._video, self._num_stored, joined, self._facts)
        self._num_stored += len(times)
        self._parts = []
        self._written_at = time.monotonic()


def _text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)
