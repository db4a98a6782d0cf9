"""Films, short and long → a folder: an H.264 file each, `records.jsonl` and `truth.jsonl`."""

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

from timechat.files import atomic_write
from timechat.synthetic.long import LongSyntheticVideo, write_long_scene
from timechat.synthetic.long_records import long_records
from timechat.synthetic.records import SyntheticRecord, synthetic_records
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import Level, Part, Split, SyntheticVideo, write_scene

RECORDS_FILE = "records.jsonl"
TRUTH_FILE = "truth.jsonl"
VIDEOS_FOLDER = "videos"
_CHUNK = 64  # frames that are held in memory at once
_QUALITY = 24  # x264's constant rate factor
_ENCODING = 1  # counts up when the files of the same film change

_MIX: tuple[Part, ...] = (*("standard",) * 8, "unseen_pairs", "longer")


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """Which films to draw.

    Attributes:
        clips: How many.
        seed: Of the set; two sets of the same seed begin with the same films.
        level: 1 is easy, 3 is hard.
        split: Films of one seed differ between the two.
        part: One part for all films, or `"mixed"`: of ten films of the test split eight are standard, one has an
            unseen pair and one is longer. None is mixed for testing and standard for training.
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
            raise ValueError(f"part {self.part!r} is kept for testing; give split='test'")
        self.film(0)  # says what else is wrong

    def film(self, index: int) -> SyntheticVideo:
        """Write the script of one film of the set, from 0."""
        part = self.part or ("mixed" if self.split == "test" else "standard")
        chosen = _MIX[index % len(_MIX)] if part == "mixed" else part
        return write_scene(self.seed, index, level=self.level, split=self.split, part=chosen)


@dataclass(frozen=True, slots=True)
class LongSet:
    """Which long films to draw.

    Attributes:
        clips: How many.
        seed: Of the set; two sets of the same seed and length begin with the same films.
        minutes: Length of each.
        level: Of their scenes: 1 is easy, 3 is hard.
        split: Films of one seed differ between the two.
        part: `"standard"` or, for testing, `"unseen_pairs"`; None is standard.
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
            raise ValueError("long films are of one part, standard or unseen_pairs, got 'mixed'")
        self.film(0)  # says what else is wrong

    def film(self, index: int) -> LongSyntheticVideo:
        """Write the script of one long film of the set, from 0."""
        assert self.part != "mixed"
        part = self.part or "standard"
        return write_long_scene(self.seed, index, minutes=self.minutes, level=self.level, split=self.split, part=part)


@dataclass(frozen=True, slots=True)
class RenderReport:
    """What was done: how many films were drawn, how many were there already, and how many records were written."""

    drawn: int
    kept: int
    records: int


def render_videos(
    films: SyntheticSet | LongSet,
    out: str | Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RenderReport:
    """Draw films into a folder and write what can be asked about them.

    A film whose file is there and whole is kept. The records are written last, so a folder that has them has all
    their films; they do not depend on the number of workers, nor on what was kept.

    Args:
        films: Which.
        out: The folder, made if need be.
        workers: Processes; None takes as many as there are cores for this process.
        progress: Told how many films are done and how many there are.

    Raises:
        ValueError: There is no such number of workers.
        NotADirectoryError: `out` is a file.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"the number of workers must be at least 1, got {workers}")
    out = Path(out)
    (out / VIDEOS_FOLDER).mkdir(parents=True, exist_ok=True)
    num_workers = min(workers or _num_cores(), films.clips)
    was_drawn = 0
    for done, is_new in enumerate(_render_all(films, out, num_workers), start=1):
        was_drawn += is_new
        if progress is not None:
            progress(done, films.clips)
    return RenderReport(was_drawn, films.clips - was_drawn, write_records(films, out))


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_records(films: SyntheticSet | LongSet, out: Path) -> int:
    """Write `records.jsonl` and `truth.jsonl` of films; returns the number of records."""
    count = 0
    with _lines(out / RECORDS_FILE) as records, _lines(out / TRUTH_FILE) as truth:
        for index in range(films.clips):
            film = films.film(index)
            of_film = _records(film)
            for record in of_film:
                records.write(_line(record.to_dict()))
            truth.write(_line({"video": of_film[0].video, **film.to_dict()}))
            count += len(of_film)
    return count


def _records(film: SyntheticVideo | LongSyntheticVideo) -> list[SyntheticRecord]:
    return long_records(film) if isinstance(film, LongSyntheticVideo) else synthetic_records(film)


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


@contextmanager
def _lines(path: Path) -> Iterator[IO[str]]:
    with atomic_write(path) as unfinished, unfinished.open("x", encoding="utf-8", newline="") as file:
        yield file


# --------------------------------------------------------------------------------------------------- workers


def _render_all(films: SyntheticSet | LongSet, out: Path, num_workers: int) -> Iterator[bool]:
    """Draw every film that is not there; tells of each, in order, whether it had to be drawn."""
    if num_workers == 1:
        for index in range(films.clips):
            yield _render_one(films, index, out)
        return
    # Spawned, not forked: the caller may run threads. Each worker imports only what drawing needs.
    context = get_context("spawn")
    is_over = context.Event()
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker, initargs=(is_over,))
    try:
        for future in [pool.submit(_render_unless_stopped, films, index, out) for index in range(films.clips)]:
            yield future.result()
    finally:
        is_over.set()
        pool.shutdown(cancel_futures=True)  # waits for the films that are being drawn


_is_over: list[Event] = []  # of this worker, told by the main process


def _start_worker(is_over: Event) -> None:
    """Leave Ctrl-C to the main process, and end when that ends in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _is_over.append(is_over)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _render_unless_stopped(films: SyntheticSet | LongSet, index: int, out: Path) -> bool:
    """Draw a film, but none of those that the pool hands out in advance when nobody wants them any more."""
    return not _is_over[0].is_set() and _render_one(films, index, out)


def _render_one(films: SyntheticSet | LongSet, index: int, out: Path) -> bool:
    film = films.film(index)
    path = out / VIDEOS_FOLDER / f"{film.id}.mp4"
    if is_rendered(film, path):
        return False
    write_video(film, path)
    return True


# ---------------------------------------------------------------------------------------------------- videos


def num_frames(film: SyntheticVideo | LongSyntheticVideo) -> int:
    """Frames of a film's file."""
    return round(film.duration * film.fps)  # of a chain, the sum of its films': they last whole seconds


def is_rendered(film: SyntheticVideo | LongSyntheticVideo, path: Path) -> bool:
    """Whether a file is there that holds just this film, all of it."""
    if not path.is_file():
        return False
    try:
        with av.open(str(path)) as container:
            is_same = container.metadata.get("comment") == _fingerprint(film)
            return is_same and container.streams.video[0].frames == num_frames(film)
    except (FFmpegError, IndexError):
        return False  # damaged: it is drawn again


def write_video(film: SyntheticVideo | LongSyntheticVideo, path: Path) -> None:
    """Draw a film into an H.264 MP4 file, which takes its place only when it is whole."""
    with atomic_write(path) as unfinished:
        _encode(film, unfinished)


def _encode(film: SyntheticVideo | LongSyntheticVideo, path: Path) -> None:
    group = max(1, round(film.keyframe_seconds * film.fps))
    has_b_frames = random.Random(f"{film.id} file").random() < 0.5
    options = {
        "preset": "veryfast",
        "crf": str(_QUALITY),
        "g": str(group),
        "bf": "2" if has_b_frames else "0",
        "threads": "1",  # as many processes as there are cores work side by side
    }
    if isinstance(film, LongSyntheticVideo):
        # x264's macroblock tree gives other bytes from run to run, for the same picture and settings. Short films
        # keep it, so that a file of theirs is what it always was.
        options["x264-params"] = "no-mbtree=1"
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = _fingerprint(film)
        stream = container.add_stream("libx264", rate=film.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        for number, pixels in enumerate(_frames(film)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _frames(film: SyntheticVideo | LongSyntheticVideo) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    if isinstance(film, LongSyntheticVideo):
        for scene in film.parts:
            yield from _frames(scene)
        return
    total = num_frames(film)
    for first in range(0, total, _CHUNK):
        yield from draw_frames(film, np.arange(first, min(first + _CHUNK, total)) / film.fps)


def _fingerprint(film: SyntheticVideo | LongSyntheticVideo) -> str:
    """What tells a film's file from one of another script, such as an older program wrote under the same name."""
    script = json.dumps([_ENCODING, film.to_dict()], sort_keys=True)
    return f"timechat film {hashlib.sha256(script.encode()).hexdigest()[:32]}"
