"""The library: one SQLite file with what was found in videos, for search.

Every row belongs to the content of a video (its SHA-256), not to its path. Any number of paths can have the same
content, and a moved file keeps its rows. A part of a video (its frames, its speech, ...) is written in one transaction
together with the facts that it depends on, so a killed process leaves no half of a part.

Several processes may use one file: SQLite locks it for each transaction. Frame vectors are stored in the file, as
float16, because one file can be copied and backed up as a whole.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import Event
from timechat.search.encoder import FloatArray
from timechat.search.records import IndexedPart, Kind, KnownFile, KnownVideo, LibraryError, Line, LineVectors, Segments
from timechat.search.unfinished import UnfinishedWork
from timechat.search.video_vectors import VideoVectors

_OF_THE_ENCODER = "frames.encoder = (SELECT value FROM settings WHERE name = 'encoder_fingerprint')"
_FRAMES_PER_SEGMENT = 12  # maximum; a shot is divided evenly
_CHUNK_BYTES = 1 << 18


class LibraryStore(UnfinishedWork):
    """The rows of a library file."""

    # ------------------------------------------------------------------------------------------------ settings

    def setting(self, name: str) -> str | None:
        """Return a setting, such as the name of the encoder; None if it is not set."""
        with self._guarded() as connection:
            row = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set(self, **settings: str) -> None:
        """Store settings."""
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", settings.items())

    # ------------------------------------------------------------------------------------------- files and videos

    def files(self) -> list[KnownFile]:
        """Return all files, sorted by path."""
        with self._guarded() as connection:
            rows = connection.execute(
                "SELECT path, video, stamp, modified, is_offline, error FROM files ORDER BY path"
            ).fetchall()
        return [KnownFile(os.fsdecode(path), video, stamp, at, bool(off), e) for path, video, stamp, at, off, e in rows]

    def save_file(self, file: KnownFile) -> None:
        """Store a file that could not be read, or whose video is known."""
        with self._writing() as connection:
            _save_file(connection, file)

    def add_file(self, file: KnownFile, video: KnownVideo) -> int:
        """Store a file with its content; return the number of the video, which is new if its digest is new.

        Args:
            file: File; its `video` is not used.
            video: Content; its `id` is not used.
        """
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO videos (digest, duration, height, width, created, player_offset, notes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(video.digest, video.duration, *video.size, video.created, video.player_offset),
                    json.dumps(video.notes),
                ),
            )
            row = connection.execute("SELECT id FROM videos WHERE digest = ?", (video.digest,)).fetchone()
            _save_file(connection, replace(file, video=int(row[0])))
        return int(row[0])

    def remove_orphans(self) -> None:
        """Remove videos that no file has any more, with all their rows."""
        with self._writing() as connection:
            _remove_orphans(connection)

    def remove_files(self, paths: Sequence[str]) -> None:
        """Remove files, and the videos that no file has any more."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in paths])
            _remove_orphans(connection)

    def set_offline(self, paths: Sequence[str], is_offline: bool) -> None:
        """Mark files as offline, or as found again."""
        with self._writing() as connection:
            connection.executemany(
                "UPDATE files SET is_offline = ? WHERE path = ?", [(is_offline, os.fsencode(path)) for path in paths]
            )

    def videos(self) -> dict[int, KnownVideo]:
        """Return all videos by number."""
        with self._guarded() as connection:
            rows = connection.execute(
                "SELECT id, digest, duration, height, width, created, player_offset, notes FROM videos ORDER BY id"
            ).fetchall()
        return {
            number: KnownVideo(number, digest, duration, (height, width), created, offset, tuple(json.loads(notes)))
            for number, digest, duration, height, width, created, offset, notes in rows
        }

    def entries(self) -> list[tuple[KnownFile, KnownVideo]]:
        """Return the files of all videos, each with its video, sorted by path."""
        with self._reading():
            videos = self.videos()
            return [(file, videos[file.video]) for file in self.files() if file.video is not None]

    # ---------------------------------------------------------------------------------------------------- parts

    def parts(self, video: int) -> dict[Kind, IndexedPart]:
        """Return the parts of a video by kind."""
        with self._guarded() as connection:
            rows = connection.execute(
                "SELECT kind, facts, num_rows, notes FROM parts WHERE video = ?", (video,)
            ).fetchall()
        return {kind: IndexedPart(json.loads(facts), num, tuple(json.loads(notes))) for kind, facts, num, notes in rows}

    def save_frames(self, video: int, content: VideoVectors, facts: Mapping[str, Any]) -> None:
        """Store the frames of a video, replacing earlier ones.

        Raises:
            LibraryError: The rows that were written are not the rows that were given.
        """
        starts, means = _segments(content)
        blobs = [
            content.times.astype("<f8"),
            np.array(content.cuts, "<i4"),
            content.cut_times.astype("<f8"),
            content.statistics.astype("<f4"),
            starts.astype("<i4"),
            means.astype("<f2"),
            content.vectors.astype("<f2"),
        ]
        with self._writing() as connection:
            self._check_known(connection, video)
            connection.execute(
                "INSERT OR REPLACE INTO frames (video, encoder, num_frames, times, cuts, cut_times, statistics, "
                "segment_starts, segment_vectors, vectors) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (video, facts["encoder"], len(content.times), *(blob.tobytes() for blob in blobs)),
            )
            connection.execute(
                "UPDATE videos SET duration = ?, player_offset = ?, notes = ? WHERE id = ?",
                (content.duration, content.player_offset, json.dumps(content.notes), video),
            )
            names = ("times", "cuts", "cut_times", "statistics", "segment_starts", "segment_vectors", "vectors")
            written = connection.execute(
                f"SELECT {', '.join(f'length({name})' for name in names)} FROM frames WHERE video = ?", (video,)
            ).fetchone()
            self._verify(written, [blob.nbytes for blob in blobs], "bytes of frame vectors")
            connection.execute("DELETE FROM unfinished WHERE video = ?", (video,))
            _save_part(connection, video, "picture", facts, len(content.times), content.notes)

    def save_lines(
        self,
        video: int,
        kind: Kind,
        lines: Sequence[Event],
        vectors: FloatArray,
        facts: Mapping[str, Any],
        notes: Sequence[str] = (),
    ) -> None:
        """Store the lines of one kind of a video, replacing earlier ones.

        Args:
            video: Number of the video.
            kind: Kind of the lines.
            lines: Lines on the clock of the video.
            vectors: `(lines, dimension)` sentence vectors.
            facts: Everything that the lines depend on.
            notes: Sentences about the lines.

        Raises:
            LibraryError: The rows that were written are not the rows that were given.
        """
        with self._writing() as connection:
            self._check_known(connection, video)
            connection.execute("DELETE FROM lines WHERE video = ? AND kind = ?", (video, kind))
            connection.executemany(
                "INSERT INTO lines (video, kind, start, end, text, vector) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (video, kind, line.start, line.end, storable(line.caption), vector.astype("<f2").tobytes())
                    for line, vector in zip(lines, vectors, strict=True)
                ],
            )
            written = connection.execute(
                "SELECT count(*), count(words_docsize.id) FROM lines LEFT JOIN words_docsize USING (id) "
                "WHERE video = ? AND kind = ?",
                (video, kind),
            ).fetchone()
            self._verify(written, (len(lines), len(lines)), f"lines of {kind}")
            _save_part(connection, video, kind, facts, len(lines), notes)

    def _verify(self, written: Sequence[int], expected: Sequence[int], what: str) -> None:
        if tuple(written) != tuple(expected):
            raise LibraryError(
                f"{self.path or 'library'}: wrote {list(expected)} {what} but holds {list(written)}; the file is "
                "damaged or SQLite lost a write: index again into another file with --library"
            )

    # ---------------------------------------------------------------------------------------------- reading rows

    def frames(self, video: int) -> VideoVectors | None:
        """Return the frames of a video; None if they are not indexed, or only with another encoder."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT num_frames, times, cuts, cut_times, statistics, duration, player_offset, notes "
                f"FROM frames JOIN videos ON videos.id = frames.video WHERE frames.video = ? AND {_OF_THE_ENCODER}",
                (video,),
            ).fetchone()
            if row is None:
                return None
            with connection.blobopen("frames", "vectors", video, readonly=True) as blob:  # faster than SELECT
                vectors = _read_blob(blob).view("<f2").reshape(row[0], -1)
        return VideoVectors(
            np.frombuffer(row[1], "<f8"),
            vectors,
            row[5],
            tuple(np.frombuffer(row[2], "<i4").tolist()),
            np.frombuffer(row[3], "<f8"),
            np.frombuffer(row[4], "<f4"),
            row[6],
            tuple(json.loads(row[7])),
        )

    def num_outdated(self) -> int:
        """Return the number of videos whose frames have vectors of another encoder, which are not searched."""
        with self._guarded() as connection:
            row = connection.execute(f"SELECT count(*) FROM frames WHERE NOT {_OF_THE_ENCODER}").fetchone()
        return int(row[0])

    def segments(self) -> Segments:
        """Return the segments of all videos, which stay in memory until the library changes."""
        return self._kept("segments", _read_segments)

    def line_vectors(self) -> LineVectors:
        """Return the sentence vectors of all lines, which stay in memory until the library changes."""
        return self._kept("line_vectors", _read_line_vectors)

    def lines(
        self,
        *,
        matching: str | None = None,
        containing: str | None = None,
        ids: Sequence[int] | None = None,
        limit: int | None = None,
    ) -> list[Line]:
        """Return lines of all videos, sorted by video and time.

        Args:
            matching: Query of SQLite's FTS5.
            containing: Text that is in the lines, for scripts without spaces between words.
            ids: Numbers of the lines.
            limit: Maximum number of lines; None returns all.
        """
        where, values = "1", list[Any]()
        if matching is not None:
            where, values = "id IN (SELECT rowid FROM words WHERE words MATCH ?)", [matching]
        elif containing is not None:
            where, values = "instr(text, ?)", [containing]
        elif ids is not None:
            where, values = f"id IN ({', '.join('?' * len(ids))})", list(ids)
        with self._guarded() as connection:
            rows = connection.execute(
                f"SELECT id, video, kind, start, end, text FROM lines WHERE {where} ORDER BY video, start, id LIMIT ?",
                [*values, -1 if limit is None else limit],
            ).fetchall()
        return [Line(number, video, kind, Event(start, end, text)) for number, video, kind, start, end, text in rows]


def _save_file(connection: sqlite3.Connection, file: KnownFile) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO files (path, video, stamp, modified, is_offline, error) VALUES (?, ?, ?, ?, ?, ?)",
        (os.fsencode(file.path), file.video, file.stamp, file.modified, file.is_offline, file.error),
    )


def _remove_orphans(connection: sqlite3.Connection) -> None:
    orphans = connection.execute(
        "SELECT id FROM videos WHERE id NOT IN (SELECT video FROM files WHERE video IS NOT NULL)"
    ).fetchall()
    for table in ("lines", "frames", "parts", "unfinished", "read_again"):
        connection.executemany(f"DELETE FROM {table} WHERE video = ?", orphans)
    connection.executemany("DELETE FROM videos WHERE id = ?", orphans)


def _save_part(
    connection: sqlite3.Connection,
    video: int,
    kind: Kind,
    facts: Mapping[str, Any],
    num_rows: int,
    notes: Sequence[str],
) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)",
        (video, kind, json.dumps(facts, sort_keys=True), num_rows, json.dumps(list(notes))),
    )


def storable(text: str) -> str:
    """Return the text without what SQLite cannot store: halves of surrogate pairs, and NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _segments(content: VideoVectors) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the first frames of the segments, `(segments,)`, and their mean vectors; no segment contains a cut."""
    shots = [0, *content.cuts, len(content.times)]
    parts = []
    for first, after in pairwise(shots):
        number = -(-(after - first) // _FRAMES_PER_SEGMENT)
        parts.append(first + np.arange(number) * (after - first) // number)
    starts = np.concatenate(parts).astype(np.int64)
    counts = np.diff(np.append(starts, len(content.times)))
    sums = np.add.reduceat(content.vectors.astype(np.float32), starts, axis=0)
    return starts, (sums / counts[:, None]).astype(np.float32)


def _read_blob(blob: sqlite3.Blob) -> NDArray[np.uint8]:
    """Read a large blob in chunks; a new object of its whole size would cost more than the reading."""
    content = np.empty(len(blob), np.uint8)
    for start in range(0, len(blob), _CHUNK_BYTES):
        content[start : start + _CHUNK_BYTES] = np.frombuffer(blob.read(_CHUNK_BYTES), np.uint8)
    return content


def _read_segments(connection: sqlite3.Connection) -> Segments:
    videos, vectors = [], []
    for video, starts, means in connection.execute(
        f"SELECT video, segment_starts, segment_vectors FROM frames WHERE {_OF_THE_ENCODER} ORDER BY video"
    ):
        vectors.append(np.frombuffer(means, "<f2").reshape(len(starts) // 4, -1))
        videos.append(np.full(len(vectors[-1]), video, np.int64))
    if not videos:
        return Segments(np.zeros(0, np.int64), np.zeros((0, 0), np.float16))
    return Segments(np.concatenate(videos), np.concatenate(vectors))


def _read_line_vectors(connection: sqlite3.Connection) -> LineVectors:
    rows = connection.execute("SELECT id, video, vector FROM lines ORDER BY id").fetchall()
    ids, videos = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    vectors = np.frombuffer(b"".join(row[2] for row in rows), "<f2").reshape(len(rows), -1 if rows else 0)
    return LineVectors(ids, videos, vectors.astype(np.float32))
