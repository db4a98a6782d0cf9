"""Write synthetic videos into a folder: one H.264 file each, `records.jsonl` and `truth.jsonl`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import IO, Any, Literal

import av
import numpy as np
from av.error import FFmpegError

from timechat.files import UNFINISHED_PATTERN, atomic_write
from timechat.files.system import num_cores
from timechat.synthetic.long import LongSyntheticVideo, write_long_scene
from timechat.synthetic.long_records import long_records
from timechat.synthetic.records import SyntheticRecord, synthetic_records
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import Level, Part, Split, SyntheticVideo, write_scene

RECORDS_FILE = "records.jsonl"
TRUTH_FILE = "truth.jsonl"
VIDEOS_FOLDER = "videos"
_CHUNK = 64  # maximum number of frames in memory
_QUALITY = 24  # x264's constant rate factor
_MARK = "timechat film"  # start of the comment in the metadata of each file
_ENCODING = 1  # to be increased when the file of an unchanged script changes

_MIX: tuple[Part, ...] = (*("standard",) * 8, "unseen_pairs", "longer")


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """A set of synthetic videos.

    Attributes:
        clips: Number of videos.
        seed: Random seed. Two sets of the same seed begin with the same videos.
        level: Level of difficulty: 1 is easy, 3 is hard.
        split: `"train"` or `"test"`. The videos of a seed differ between the two.
        part: Part of all videos; or `"mixed"`: of ten videos of the test split eight are standard, one has an unseen
            pair and one is longer. None means mixed for testing and standard for training.
    """

    clips: int
    seed: int
    level: Level = 1
    split: Split = "train"
    part: Part | Literal["mixed"] | None = None

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ValueError(f"the number of clips must be at least 1, got {self.clips}")
        if self.split == "train" and self.part not in (None, "standard"):
            raise ValueError(f"part {self.part!r} exists for testing only; give split='test'")
        self.script(0)  # raises an error if other fields are invalid

    def script(self, index: int) -> SyntheticVideo:
        """Write the script of the video with this number, from 0."""
        part = self.part or ("mixed" if self.split == "test" else "standard")
        chosen = _MIX[index % len(_MIX)] if part == "mixed" else part
        return write_scene(self.seed, index, level=self.level, split=self.split, part=chosen)


@dataclass(frozen=True, slots=True)
class LongSet:
    """A set of long synthetic videos.

    Attributes:
        clips: Number of videos.
        seed: Random seed. Two sets of the same seed and length begin with the same videos.
        minutes: Length of each video, in minutes.
        level: Level of difficulty of the scenes: 1 is easy, 3 is hard.
        split: `"train"` or `"test"`. The videos of a seed differ between the two.
        part: `"standard"` or, for testing, `"unseen_pairs"`; None means standard.
    """

    clips: int
    seed: int
    minutes: int
    level: Level = 1
    split: Split = "train"
    part: Part | Literal["mixed"] | None = None

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ValueError(f"the number of clips must be at least 1, got {self.clips}")
        if self.part == "mixed":
            raise ValueError("long videos have one part, standard or unseen_pairs, got 'mixed'")
        self.script(0)  # raises an error if other fields are invalid

    def script(self, index: int) -> LongSyntheticVideo:
        """Write the script of the video with this number, from 0."""
        assert self.part != "mixed"
        part = self.part or "standard"
        return write_long_scene(self.seed, index, minutes=self.minutes, level=self.level, split=self.split, part=part)


@dataclass(frozen=True, slots=True)
class RenderReport:
    """Result of `render_videos`.

    Attributes:
        drawn: Number of videos that were rendered.
        kept: Number of videos that existed already.
        records: Number of records that were written.
        removed: Number of videos of an earlier set that were removed, because no record names them any more.
    """

    drawn: int
    kept: int
    records: int
    removed: int = 0


def render_videos(
    videos: SyntheticSet | LongSet,
    out: str | Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RenderReport:
    """Render videos into a folder and write their records.

    Complete files of the same scripts are kept. The records are written last, so a folder with records has all videos.
    They do not depend on the number of workers or on the files that were kept. Videos of an earlier set in the folder,
    which this program made and which no record names any more, are removed at the end.

    Args:
        videos: Set of videos.
        out: Output folder; it is created if it does not exist.
        workers: Number of processes; None takes one per available core.
        progress: Callback that gets the number of finished videos and the number of all videos.

    Returns:
        Number of rendered videos, kept videos and records.

    Raises:
        ValueError: The number of workers is below 1.
        NotADirectoryError: `out` is a file.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"the number of workers must be at least 1, got {workers}")
    out = Path(out)
    (out / VIDEOS_FOLDER).mkdir(parents=True, exist_ok=True)
    num_workers = min(workers or num_cores(), videos.clips)
    drawn = 0
    for done, is_new in enumerate(_render_all(videos, out, num_workers), start=1):
        drawn += is_new
        if progress is not None:
            progress(done, videos.clips)
    num_records = write_records(videos, out)
    return RenderReport(drawn, videos.clips - drawn, num_records, _remove_orphans(videos, out))


def _remove_orphans(videos: SyntheticSet | LongSet, out: Path) -> int:
    """Remove synthetic videos that are not in the set, and unfinished files; return the number of videos."""
    kept = {f"{videos.script(index).id}.mp4" for index in range(videos.clips)}
    removed = 0
    for path in (out / VIDEOS_FOLDER).iterdir():
        if UNFINISHED_PATTERN.fullmatch(path.name):
            path.unlink()
        elif path.name not in kept and path.suffix == ".mp4" and _mark(path).startswith(_MARK):
            path.unlink()
            removed += 1
    return removed


def _mark(path: Path) -> str:
    """Return the mark that this program writes into its files; "" for any other file."""
    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment", "")
    except (FFmpegError, OSError):
        return ""


def write_records(videos: SyntheticSet | LongSet, out: Path) -> int:
    """Write `records.jsonl` and `truth.jsonl` of a set of videos; return the number of records."""
    count = 0
    with _lines(out / RECORDS_FILE) as records, _lines(out / TRUTH_FILE) as truth:
        for index in range(videos.clips):
            video = videos.script(index)
            video_records = _records(video)
            for record in video_records:
                records.write(_line(record.to_dict()))
            truth.write(_line({"video": video_records[0].video, **video.to_dict()}))
            count += len(video_records)
    return count


def _records(video: SyntheticVideo | LongSyntheticVideo) -> list[SyntheticRecord]:
    return long_records(video) if isinstance(video, LongSyntheticVideo) else synthetic_records(video)


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


@contextmanager
def _lines(path: Path) -> Iterator[IO[str]]:
    with atomic_write(path) as unfinished, unfinished.open("x", encoding="utf-8", newline="") as file:
        yield file


def _render_all(videos: SyntheticSet | LongSet, out: Path, num_workers: int) -> Iterator[bool]:
    """Render all missing videos; yield for each video, in order, whether it was rendered."""
    if num_workers == 1:
        for index in range(videos.clips):
            yield _render_one(videos, index, out)
        return
    # Spawned, not forked, because the caller may run threads. Each worker imports only what rendering needs.
    context = get_context("spawn")
    should_stop = context.Event()
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker, initargs=(should_stop,))
    try:
        for future in [pool.submit(_render_unless_stopped, videos, index, out) for index in range(videos.clips)]:
            yield future.result()
    finally:
        should_stop.set()
        pool.shutdown(cancel_futures=True)  # waits for the videos that are being rendered


_should_stop: list[Event] = []  # event of this worker, set by the main process


def _start_worker(should_stop: Event) -> None:
    """Ignore Ctrl-C, which the main process handles, and end when the main process ends for any reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _should_stop.append(should_stop)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _render_unless_stopped(videos: SyntheticSet | LongSet, index: int, out: Path) -> bool:
    """Render a video unless the main process has stopped; the pool submits tasks in advance."""
    return not _should_stop[0].is_set() and _render_one(videos, index, out)


def _render_one(videos: SyntheticSet | LongSet, index: int, out: Path) -> bool:
    video = videos.script(index)
    path = out / VIDEOS_FOLDER / f"{video.id}.mp4"
    if is_rendered(video, path):
        return False
    write_video(video, path)
    return True


def num_frames(video: SyntheticVideo | LongSyntheticVideo) -> int:
    """Number of frames of a video file."""
    return round(video.duration * video.fps)  # scenes of long videos last whole seconds, so their frames add up


def is_rendered(video: SyntheticVideo | LongSyntheticVideo, path: Path) -> bool:
    """Whether a file holds this video completely."""
    if not path.is_file():
        return False
    try:
        with av.open(str(path.absolute())) as container:
            is_same = container.metadata.get("comment") == _fingerprint(video)
            return is_same and container.streams.video[0].frames == num_frames(video)
    except (FFmpegError, IndexError):
        return False  # a damaged file is rendered again


def write_video(video: SyntheticVideo | LongSyntheticVideo, path: Path) -> None:
    """Render a video into an H.264 MP4 file, which appears when it is complete."""
    with atomic_write(path) as unfinished:
        _encode(video, unfinished)


def _encode(video: SyntheticVideo | LongSyntheticVideo, path: Path) -> None:
    group = max(1, round(video.keyframe_seconds * video.fps))
    has_b_frames = random.Random(f"{video.id} file").random() < 0.5
    options = {
        "preset": "veryfast",
        "crf": str(_QUALITY),
        "g": str(group),
        "bf": "2" if has_b_frames else "0",
        "threads": "1",  # there is one process per core
    }
    if isinstance(video, LongSyntheticVideo):
        # With x264's macroblock tree, the bytes differ from run to run for the same frames and settings. Short videos
        # keep it, so that their files do not change.
        options["x264-params"] = "no-mbtree=1"
    with av.open(str(path.absolute()), "w", format="mp4") as container:
        container.metadata["comment"] = _fingerprint(video)
        stream = container.add_stream("libx264", rate=video.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for number, pixels in enumerate(_frames(video)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _frames(video: SyntheticVideo | LongSyntheticVideo) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    if isinstance(video, LongSyntheticVideo):
        for scene in video.parts:
            yield from _frames(scene)
        return
    total = num_frames(video)
    for first in range(0, total, _CHUNK):
        yield from draw_frames(video, np.arange(first, min(first + _CHUNK, total)) / video.fps)


def _fingerprint(video: SyntheticVideo | LongSyntheticVideo) -> str:
    """Mark of a script in the metadata of its file. Files of other scripts with the same name have another mark."""
    script = json.dumps([_ENCODING, video.to_dict()], sort_keys=True)
    return f"{_MARK} {hashlib.sha256(script.encode()).hexdigest()[:32]}"
