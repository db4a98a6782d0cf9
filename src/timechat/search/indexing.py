"""Files → library: what is new or changed is read, what is known is left, and nothing is lost.

A scan compares the files of a folder with the library:

- A file with the size, times and inode of the last scan is not opened.
- Any other file is hashed, all bytes of it. Content that the library knows is a moved or copied file, and keeps its
  rows. New content under a known path replaces the rows of that path.
- A known file that is missing is dropped only if its folder can be read and still holds another known file, or if it
  was moved. Otherwise its storage may be away, and it is marked as offline.

Then each video is completed: only those of its parts are read that are missing, or that were made by another encoder,
another recogniser or another version.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from timechat.errors import TimeChatError, VideoError, describe_error
from timechat.files import is_below
from timechat.files.cache import DiskCache
from timechat.search.encoded_files import EncodedFile, EncodeFiles, digest_of, paths_to_encode
from timechat.search.encoder import FrameTextEncoder
from timechat.search.index_report import IndexReport, IndexStopped
from timechat.search.line_sources import LineSource
from timechat.search.part_reader import FileChangedError, PartReader, ScannedFile
from timechat.search.paths import absolute, check_paths, find_files
from timechat.search.records import KnownFile, KnownVideo, LibraryError
from timechat.search.stamps import has_moved, is_same_stamp, settled, stamp_of
from timechat.search.store import LibraryStore
from timechat.video import probe_video
from timechat.video.loading import DEFAULT_TIMEOUT

ProgressCallback = Callable[[str, int, int], None]
"""Called with the path of the file that is read, the finished bytes and the bytes of all files to read."""


@dataclass(frozen=True)
class _Job:
    """A video file of a scan.

    Attributes:
        path: Path, absolute.
        num_bytes: Size in bytes.
        bytes_before: Size of the files before it in bytes.
        total_bytes: Size of all files of the scan in bytes.
    """

    path: str
    num_bytes: int
    bytes_before: int
    total_bytes: int


class Indexer:
    """Brings a library up to date with files and folders.

    Args:
        library: Library.
        encoder: Encoder of frames. A library has vectors of one encoder.
        sources: Readers of lines: speech, on-screen text, captions.
        is_full: Whether every part is read again. A stopped pass is resumed by the next one with the same paths.
        retries: Whether files that could not be read are tried again, though they have not changed.
        cache: Cache of frame vectors; None for no cache.
        timeout: Maximum wall time in seconds for a part of a video, see `encode_video`.
        check: Function called repeatedly. It raises `IndexStopped` to end the work.
        progress: Progress callback.
        encode_files: Function that reads new and changed files in other processes; None reads them here.
    """

    def __init__(
        self,
        library: LibraryStore,
        encoder: FrameTextEncoder,
        sources: Sequence[LineSource] = (),
        *,
        is_full: bool = False,
        retries: bool = False,
        cache: DiskCache | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        check: Callable[[], object] | None = None,
        progress: ProgressCallback | None = None,
        encode_files: EncodeFiles | None = None,
    ) -> None:
        self._library, self._encoder = library, encoder
        self._is_full, self._retries, self._timeout = is_full, retries, timeout
        self._check = check or (lambda: None)
        self._progress = progress or (lambda *_: None)
        self._encode_files = encode_files
        self._parts = PartReader(
            library,
            encoder,
            sources,
            is_full=is_full,
            cache=None if is_full else cache,
            timeout=timeout,
            check=self._check,
        )
        self._known: dict[str, KnownFile] = {}
        self._before: dict[str, KnownFile] = {}
        self._unreadable_folders: list[str] = []
        self._contents: dict[str, KnownVideo] = {}
        self._paths: defaultdict[int, set[str]] = defaultdict(set)
        self._report = IndexReport()

    def run(self, paths: Sequence[str | Path]) -> IndexReport:
        """Index files and folders.

        Raises:
            FileNotFoundError: A path does not exist. Known files below it are marked as offline first.
            ValueError: A path is the address of an object store.
            LibraryError: The library has vectors of another encoder, or cannot be written.
            IndexStopped: `check` has ended the work.
        """
        self._report = report = IndexReport()
        self._unreadable_folders = []
        self._before = {file.path: file for file in self._library.files()}
        self._known = dict(self._before)
        self._contents = {video.digest: video for video in self._library.videos().values()}
        self._paths = defaultdict(set)
        for file in self._before.values():
            if file.video is not None:
                self._paths[file.video].add(file.path)
        given = [str(path) for path in paths]
        self._check_paths(given)
        self._use_encoder()
        if self._is_full:
            self._parts.begin_full_pass(given)
        jobs, roots = self._scan(given)
        try:
            for job in self._read_elsewhere(jobs):
                self._check()
                self._progress(job.path, job.bytes_before, job.total_bytes)
                self._read_file(job)
                self._progress(job.path, job.bytes_before + job.num_bytes, job.total_bytes)
        except IndexStopped as stopped:
            stopped.report = report
            raise
        self._settle_missing({job.path for job in jobs}, roots)
        if self._is_full:
            self._library.end_full_pass()
        self._library.remove_orphans()  # only now: content that is missing under one path may be found under another
        self._library.checkpoint()
        if not jobs and not report.offline:
            report.notes.append(f"no videos were found in {', '.join(given)}")
        return report

    def _check_paths(self, paths: Sequence[str]) -> None:
        for path in paths:
            root = absolute(path)
            away = [known for known in self._known if is_below(known, root)]
            if away and not Path(path).exists():
                self._library.set_offline(away, True)
                raise FileNotFoundError(
                    f"{path}: is away; its {len(away)} known files are kept and marked as offline; connect its "
                    "storage, or remove it with --remove"
                )
        check_paths(paths)

    def _use_encoder(self) -> None:
        """Check that the library has no vectors of another encoder."""
        name, fingerprint = self._library.setting("encoder"), self._library.setting("encoder_fingerprint")
        if fingerprint == self._encoder.fingerprint:
            return
        if fingerprint is not None and not self._is_full:
            what = f"another version of the encoder {name}" if name == self._encoder.name else f"the encoder {name}"
            raise LibraryError(
                f"{self._library.path or 'library'}: holds vectors of {what}, not of {self._encoder.name}; add --full "
                "to encode all videos again, or give another file with --library"
            )
        self._library.set(encoder=self._encoder.name, encoder_fingerprint=self._encoder.fingerprint)

    # -------------------------------------------------------------------------------------------------- scanning

    def _scan(self, paths: Sequence[str]) -> tuple[list[_Job], list[str]]:
        """Return the video files of the paths, each once and sorted, and the folders among the paths."""
        roots = [absolute(path) for path in paths if Path(path).is_dir()]
        sizes = {}
        for file in find_files(paths, self._unreadable):
            try:
                sizes[file] = Path(file).stat().st_size
            except OSError as error:  # a broken link, or a file that was removed in the meantime
                if not Path(file).is_symlink():
                    continue
                self._fail(file, None, describe_error(error))
        jobs, before, total = [], 0, max(1, sum(sizes.values()))
        for file, num_bytes in sizes.items():
            jobs.append(_Job(file, num_bytes, before, total))
            before += num_bytes
        return jobs, roots

    def _unreadable(self, folder: Path, error: OSError) -> None:
        self._unreadable_folders.append(str(folder))
        self._report.failed[str(folder)] = f"the folder cannot be read: {(error.strerror or str(error)).lower()}"

    def _settle_missing(self, found: set[str], roots: Sequence[str]) -> None:
        """Drop known files that are gone, and mark those as offline whose storage may be away.

        A new file is no sign that the storage is there: a recorder may write into the empty folder of a mount point.
        """
        scanned = [path for path in self._known if any(is_below(path, root) for root in roots)]
        hidden = [path for path in scanned if any(is_below(path, each) for each in self._unreadable_folders)]
        lost = [path for path in scanned if path not in found and not os.path.lexists(path)]
        missing = {*hidden, *lost}
        present = {str(Path(path).parent) for path in found if self._is_as_before(path)}
        gone = sorted(path for path in missing if str(Path(path).parent) in present)
        away = sorted(missing - set(gone))
        self._library.remove_files(gone)
        self._library.set_offline(away, True)
        self._report.num_removed += len(gone)
        self._report.offline += away

    def _is_as_before(self, path: str) -> bool:
        """Return whether a file had the same content before this scan."""
        before, now = self._before.get(path), self._known.get(path)
        return before is not None and now is not None and before.video is not None and before.video == now.video

    # --------------------------------------------------------------------------------------------------- reading

    def _read_elsewhere(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Read files in other processes as far as possible; return the others."""
        if self._encode_files is None:
            return list(jobs)
        rest = {job.path: job for job in jobs}
        todo = paths_to_encode(
            rest, self._known, self._parts.is_picture_current, retries=self._retries or self._is_full
        )
        known = {digest for digest, video in self._contents.items() if self._parts.is_picture_current(video.id)}
        done, total = 0, max(1, sum(rest[path].num_bytes for path in todo))
        for file in self._encode_files(todo, known, self._check):
            job = rest.pop(file.path)
            self._read_file(job, file)
            done += job.num_bytes
            self._progress(file.path, done, total)
        return list(rest.values())

    def _read_file(self, job: _Job, file: EncodedFile | None = None) -> None:
        """Bring one file up to date, perhaps from what another process has read of it.

        A file that cannot be read is no reason to stop.
        """
        report, before = self._report, self._known.get(job.path)
        try:
            stamp = stamp_of(job.path)
            if file is not None and file.error is not None:
                raise VideoError(file.error)
            if file is not None and not is_same_stamp(file.stamp, stamp):
                raise FileChangedError(f"{job.path}: changed while it was read; the next run reads it again")
            is_same = before is not None and is_same_stamp(before.stamp, stamp)
            if is_same and before is not None and before.error and not (self._retries or self._is_full):
                report.failed[job.path] = f"{before.error} (the file has not changed; --retry tries it again)"
                return
            if is_same and before is not None and before.video is not None:
                video = before.video
                if before.is_offline:
                    self._library.set_offline([job.path], False)
            else:
                video = self._identify(job, stamp, file)
            content = ScannedFile(job.path, video, stamp, sorted(self._paths[video]))
            vectors = None if file is None else file.vectors
            is_read = self._parts.complete(content, vectors, report, partial(self._advance, job))
        except LibraryError:
            raise
        except FileChangedError as error:
            report.failed[job.path] = describe_error(error).removeprefix(f"{job.path}: ")
            return
        except (TimeChatError, OSError, ValueError) as error:
            self._fail(job.path, before, describe_error(error))
            return
        report.num_videos += 1
        report.num_read += is_read
        report.num_unchanged += not is_read

    def _identify(self, job: _Job, stamp: str, file: EncodedFile | None) -> int:
        """Return the video with the content of a new or changed file, and store the file."""
        digest = digest_of(job.path, self._check) if file is None else file.digest
        content = self._contents.get(digest)
        is_known = content is not None
        if content is None:
            info = probe_video(job.path, timeout=self._timeout)
            created = None if info.created is None else info.created.timestamp()
            size = (info.height, info.width)
            content = KnownVideo(0, digest, info.duration, size, created, info.player_offset)
        known = KnownFile(job.path, None, settled(stamp), Path(job.path).stat().st_mtime)
        video = self._library.add_file(known, content)
        self._contents[digest] = replace(content, id=video)
        self._known[job.path] = replace(known, video=video)
        before = self._before.get(job.path)
        if before is not None and before.video is not None:
            self._paths[before.video].discard(job.path)
        self._paths[video].add(job.path)
        if is_known and job.path not in self._before:
            self._forget_moved(video, stamp)
        return video

    def _forget_moved(self, video: int, stamp: str) -> None:
        """Remove the paths from which a file was moved; a path whose storage may be away is kept."""
        missing = [self._known[path] for path in self._paths[video] if not os.path.lexists(path)]
        old = [file.path for file in missing if has_moved(file, stamp)]
        if old:
            self._library.remove_files(old)
            self._report.num_moved += 1
        for path in old:
            del self._known[path]
            self._paths[video].discard(path)

    def _advance(self, job: _Job, share: float) -> None:
        self._check()
        self._progress(job.path, job.bytes_before + int(job.num_bytes * share), job.total_bytes)

    def _fail(self, path: str, before: KnownFile | None, reason: str) -> None:
        """Store that a file cannot be read, unless its frames were read earlier and it has not changed."""
        self._report.failed[path] = reason.removeprefix(f"{path}: ")
        try:
            stamp, modified = stamp_of(path), Path(path).stat().st_mtime
        except OSError:
            return
        known = self._known.get(path, before)
        is_unchanged = known is not None and known.stamp in (None, stamp)
        if is_unchanged and known is not None and known.video and "picture" in self._library.parts(known.video):
            return
        file = KnownFile(path, None, settled(stamp), modified, error=self._report.failed[path])
        self._library.save_file(file)
        self._known[path] = file
