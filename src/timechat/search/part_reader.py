"""The parts of videos in a library: frames and lines, read if they are missing or out of date."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from timechat.errors import VideoError
from timechat.files.cache import DiskCache
from timechat.search.encoder import FrameTextEncoder
from timechat.search.index_report import IndexReport, IndexStopped
from timechat.search.line_sources import LineSource
from timechat.search.paths import absolute
from timechat.search.records import Kind
from timechat.search.stamps import is_same_stamp, stamp_of
from timechat.search.store import LibraryStore
from timechat.search.unfinished import FirstFrames
from timechat.search.video_vectors import FRAMES_PER_SECOND, VERSION, VideoVectors, encode_video

if TYPE_CHECKING:
    from timechat.search.minilm import MiniLM

Advance = Callable[[float], None]


class FileChangedError(VideoError):
    """A file that changed while it was read; nothing about it is stored."""


def check_unchanged(path: str, stamp: str) -> None:
    """Raise if a file has another stamp now.

    Raises:
        FileChangedError: The file changed.
    """
    if not is_same_stamp(stamp, stamp_of(path)):
        raise FileChangedError(f"{path}: changed while it was read; the next run reads it again")


@dataclass(frozen=True)
class ScannedFile:
    """A file of a scan whose content is in the library.

    Attributes:
        path: Path, absolute.
        video: Id of the content in the library.
        stamp: Size, times and inode of the file at the start of reading.
        paths: All paths with this content.
    """

    path: str
    video: int
    stamp: str
    paths: Sequence[str]


class PartReader:
    """Reads the parts of videos that are missing or out of date, and stores them.

    Attributes:
        picture_facts: Facts that frame vectors depend on.

    Args:
        library: Library.
        encoder: Encoder of frames.
        sources: Readers of lines: speech, on-screen text, captions.
        is_full: Whether every part is read again.
        cache: Cache of frame vectors; None for no cache.
        timeout: Maximum wall time in seconds for a part of a video, see `encode_video`.
        check: Function called repeatedly. It raises `IndexStopped` to end the work.
    """

    def __init__(
        self,
        library: LibraryStore,
        encoder: FrameTextEncoder,
        sources: Sequence[LineSource],
        *,
        is_full: bool,
        cache: DiskCache | None,
        timeout: float,
        check: Callable[[], object],
    ) -> None:
        self.picture_facts = {"encoder": encoder.fingerprint, "fps": FRAMES_PER_SECOND, "version": VERSION}
        self._library, self._encoder, self._sources = library, encoder, sources
        self._is_full, self._cache, self._timeout, self._check = is_full, cache, timeout, check
        self._read_again: set[tuple[int, Kind]] = set()

    def begin_full_pass(self, paths: Sequence[str]) -> None:
        """Begin to read every part again, or resume a stopped pass over the same paths."""
        key = [sorted(map(absolute, paths)), self.picture_facts, [source.kind for source in self._sources]]
        self._read_again = self._library.begin_full_pass(json.dumps(key))

    def is_picture_current(self, video: int) -> bool:
        """Return whether the frames of a video are stored, and are not to be read again."""
        part = self._library.parts(video).get("picture")
        is_kept = not self._is_full or (video, "picture") in self._read_again
        return part is not None and part.facts == self.picture_facts and is_kept

    def complete(self, file: ScannedFile, vectors: VideoVectors | None, report: IndexReport, advance: Advance) -> bool:
        """Read the parts of a video that are missing or out of date; return whether there were any.

        Args:
            file: File that is read.
            vectors: Frame vectors that another process has made; None to make them here.
            report: Report to which notes and the duration are added.
            advance: Callback for the finished part of encoding, from 0 to 1.

        Raises:
            FileChangedError: The file changed while it was read.
            IndexStopped: The work was ended.
            LibraryError: The library cannot be written.
            VideoError: The file cannot be read.
        """
        path, video, stamp = file.path, file.video, file.stamp
        parts = self._library.parts(video)
        if self._is_full:
            parts = {kind: part for kind, part in parts.items() if (video, kind) in self._read_again}
        is_read = False
        if not self.is_picture_current(video):
            content = self._encode(file, advance) if vectors is None else vectors
            check_unchanged(path, stamp)
            self._library.save_frames(video, content, self.picture_facts)
            self._note_read(video, "picture")
            report.seconds += content.duration
            report.notes += [f"{path}: {note}" for note in content.notes]
            is_read = True
        for source in self._sources:
            part = parts.get(source.kind)
            chosen = _path_for_lines(source, file.paths)
            if part is not None and (chosen is None or source.is_current(part.facts, chosen)):
                continue
            read_path = chosen or path
            self._check()
            frames = self._library.frames(video)
            if frames is None:
                raise VideoError("was removed from the library by another process while it was read")
            facts = source.facts(read_path)
            lines, notes = source.read(read_path, frames, self._check)
            check_unchanged(path, stamp)
            sentences = self._sentences.encode([line.caption for line in lines])
            self._library.save_lines(video, source.kind, lines, sentences, facts, notes)
            self._note_read(video, source.kind)
            report.notes += [f"{path}: {note}" for note in notes]
            is_read = True
        return is_read

    def _encode(self, file: ScannedFile, advance: Advance) -> VideoVectors:
        """Encode the frames of a video, behind those that a stopped run has stored."""
        check = partial(check_unchanged, file.path, file.stamp)
        frames = FirstFrames(self._library, file.video, self.picture_facts, check)
        try:
            return encode_video(
                file.path,
                self._encoder,
                cache=self._cache,
                timeout=self._timeout,
                begun=frames.begun,
                keep=frames.add,
                check=self._check,
                progress=lambda _, done, total: advance(done / total),
            )
        except IndexStopped:
            frames.write()
            raise

    def _note_read(self, video: int, kind: Kind) -> None:
        """Store what was read in a pass that reads everything again, so that it can be resumed."""
        if self._is_full:
            self._library.mark_read_again(video, kind)
            self._read_again.add((video, kind))

    @cached_property
    def _sentences(self) -> MiniLM:
        from timechat.search.sight import load_sentence_encoder

        return load_sentence_encoder()


def _path_for_lines(source: LineSource, paths: Sequence[str]) -> str | None:
    """Return the path from which the lines of a video are read; None if they must be kept.

    A path that is missing may be the one from which they were read.
    """
    return source.choose(list(paths)) if all(Path(path).exists() for path in paths) else None
