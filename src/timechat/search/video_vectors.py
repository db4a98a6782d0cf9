"""A video as frame vectors: its frames at about one per second, encoded once, and the moments in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from timechat.cache import DiskCache, cache_key, file_digest
from timechat.search.encoder import FloatArray, FrameTextEncoder, probability_of
from timechat.search.spans import best_spans, find_cuts
from timechat.video import Frames, VideoReader, VideoSource
from timechat.video.loading import DEFAULT_TIMEOUT

FRAMES_PER_SECOND = 1.0
"""Rate at which videos are encoded by default."""

VERSION = 1
"""Increased when the same video gives other frames or another content of the files of the cache."""

ProgressCallback = Callable[[str, int, int], None]
"""Called with the stage (`"encode"`), the encoded seconds and the total seconds."""

_FRAMES_PER_PART = 16


@dataclass(frozen=True, eq=False)
class VideoVectors:
    """The frames of one video as vectors of one encoder.

    Attributes:
        times: `(frames,)` float64 seconds, rising.
        vectors: `(frames, dimension)` float16, as they are stored.
        duration: Duration of the video in seconds.
        cuts: Frames with which a new shot begins, without the first frame.
        cut_times: `(cuts,)` float64 seconds; exact if a keyframe is at the cut, otherwise between two frames.
        statistics: Vector of the whole video that `FrameTextEncoder.score` needs.
        player_offset: Seconds by which the clock of players is ahead of the clock of the frames.
        notes: Sentences about the video, such as the number of damaged frames.
    """

    times: NDArray[np.float64]
    vectors: NDArray[np.float16]
    duration: float
    cuts: tuple[int, ...]
    cut_times: NDArray[np.float64]
    statistics: FloatArray
    player_offset: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """A moment that shows a sentence.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
        score: Probability from 0 to 1 that the moment shows the sentence.
    """

    start: float
    end: float
    score: float


def encode_video(
    source: VideoSource | Frames,
    encoder: FrameTextEncoder,
    *,
    fps: float = FRAMES_PER_SECOND,
    cache: DiskCache | None = None,
    digest: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    check: Callable[[], object] | None = None,
    progress: ProgressCallback | None = None,
) -> VideoVectors:
    """Encode frames of a whole video; the memory for pixels does not depend on its length.

    Args:
        source: Video in any form that `load_frames` takes; of `Frames`, all are encoded.
        encoder: Encoder.
        fps: Frames per second of video. Each frame is near its requested time and has its true time.
        cache: Cache in which the result of a file is kept; None for no cache.
        digest: SHA-256 of the file, if it is known.
        timeout: Maximum wall time in seconds for opening the file, and again for each part of 16 frames.
        check: Function called repeatedly; an exception it raises ends the work.
        progress: Progress callback.

    Raises:
        VideoError: The video cannot be read.
    """
    key = None
    if cache is not None and cache.is_on and not isinstance(source, Frames):
        digest = digest or file_digest(source, cache)
        key = digest and cache_key(
            kind="frame vectors", version=VERSION, video=digest, encoder=encoder.fingerprint, fps=fps
        )
    if cache is not None and key and (known := _load(cache, key)) is not None:
        return known
    result = _encode(source, encoder, fps, timeout, check, progress)
    if cache is not None and key:
        cache.put(key, lambda path: _save(path, result))
    return result


def find_spans(
    video: VideoVectors, encoder: FrameTextEncoder, sentence: FloatArray, *, limit: int = 1
) -> list[FoundSpan]:
    """Return the moments of a video that a sentence describes best, the first one by the curve of its scores.

    Args:
        video: Video.
        encoder: Encoder of its vectors.
        sentence: `(sentence_dimension,)`.
        limit: Maximum number of moments; they do not overlap.
    """
    scores, evidence = encoder.compare(video.vectors, sentence, video.statistics)
    spans = best_spans(
        scores,
        video.times,
        video.cuts,
        duration=video.duration,
        cut_times=video.cut_times,
        evidence=evidence,
        limit=limit,
    )
    return [FoundSpan(span.start, span.end, probability_of(evidence[slice(*span.frames)])) for span in spans]


def _encode(
    source: VideoSource | Frames,
    encoder: FrameTextEncoder,
    fps: float,
    timeout: float,
    check: Callable[[], object] | None,
    progress: ProgressCallback | None,
) -> VideoVectors:
    if isinstance(source, Frames):
        return _collect([source], np.zeros(0), encoder, None)
    with VideoReader(source, timeout=timeout, workers=1, check=check) as reader:
        parts = reader.iterate(fps=fps, size=encoder.image_size, frames_per_part=_FRAMES_PER_PART)
        with closing(_read_ahead(parts)) as ahead:  # its thread ends before the reader is closed
            return _collect(ahead, reader.keyframe_times, encoder, progress)


def _collect(
    parts: Iterator[Frames] | Sequence[Frames],
    keyframe_times: NDArray[np.float64],
    encoder: FrameTextEncoder,
    progress: ProgressCallback | None,
) -> VideoVectors:
    """Encode the parts of a video one after the other."""
    times: list[NDArray[np.float64]] = []
    vectors: list[NDArray[np.float16]] = []
    last: Frames | None = None
    for part in parts:
        repeats = _repeats(part, last)
        encoded = encoder.encode_frames(part.pixels[~repeats]).astype(np.float16)
        if repeats[0]:
            encoded = np.concatenate([vectors[-1][-1:], encoded])
        vectors.append(encoded[np.cumsum(~repeats) - (0 if repeats[0] else 1)])
        times.append(part.timestamps)
        last = part
        if progress is not None:
            total = max(1, round(part.duration))
            progress("encode", min(total, round(float(part.timestamps[-1]))), total)
    assert last is not None
    at, stored = np.concatenate(times), np.concatenate(vectors)
    full = stored.astype(np.float32)
    cuts = find_cuts(encoder.pictures(full), encoder.cut_distance)
    offset = last.source.player_offset if last.source else 0.0
    cut_times = np.array([_cut_time(keyframe_times, at[cut - 1], at[cut]) for cut in cuts], np.float64)
    return VideoVectors(at, stored, last.duration, tuple(cuts), cut_times, encoder.statistics(full), offset, last.notes)


def _repeats(part: Frames, before: Frames | None) -> NDArray[np.bool_]:
    """Return which frames of a part are equal to the frame before them, `(frames,)`."""
    is_repeated = np.zeros(len(part), np.bool_)
    is_repeated[0] = before is not None and np.array_equal(part.pixels[0], before.pixels[-1])
    is_repeated[1:] = [np.array_equal(one, other) for one, other in pairwise(part.pixels)]
    return is_repeated


def _cut_time(keyframe_times: NDArray[np.float64], before: float, after: float) -> float:
    """Return the time of a cut between two frames: encoders place a keyframe at most cuts."""
    between = keyframe_times[(keyframe_times > before) & (keyframe_times <= after)]
    return float(between[0]) if len(between) == 1 else (before + after) / 2


def _read_ahead(parts: Iterator[Frames]) -> Generator[Frames]:
    """Yield the parts, each of which is decoded in another thread while the one before is encoded.

    Closing the generator waits for the part that is decoded.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="timechat-decode") as thread:
        future = thread.submit(next, parts, None)
        while (part := future.result()) is not None:
            future = thread.submit(next, parts, None)
            yield part


# ---------------------------------------------------------------------------------------------- files of the cache

_TENSORS = ("times", "vectors", "cuts", "cut_times", "statistics")


def _save(path: str | os.PathLike[str], video: VideoVectors) -> None:
    values = {name: np.asarray(getattr(video, name)) for name in _TENSORS}
    values["scalars"] = np.array([video.duration, video.player_offset])
    save_file(values, path, {str(number): note for number, note in enumerate(video.notes)})


def _load(cache: DiskCache, key: str) -> VideoVectors | None:
    path = cache.get(key)
    if path is None:
        return None
    try:
        values = load_file(path)
        duration, offset = values.pop("scalars").tolist()
        return VideoVectors(
            values["times"],
            values["vectors"],
            duration,
            tuple(values["cuts"].tolist()),
            values["cut_times"],
            values["statistics"],
            offset,
            _notes(path),
        )
    except (OSError, SafetensorError, KeyError, ValueError):  # damaged, or removed by another process
        cache.discard(key)
        return None


def _notes(path: Path) -> tuple[str, ...]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        notes = file.metadata() or {}
    return tuple(notes[number] for number in sorted(notes, key=int))
