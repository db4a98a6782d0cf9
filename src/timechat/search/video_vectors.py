"""A video as frame vectors: its frames at about one per second, encoded once, and the moments in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from timechat.files.cache import DiskCache, cache_key, file_digest
from timechat.search.encoder import FloatArray, FrameTextEncoder, probability_of
from timechat.search.spans import best_spans, find_cuts
from timechat.video import Frames, ReadPosition, VideoReader, VideoSource
from timechat.video.loading import DEFAULT_TIMEOUT

FRAMES_PER_SECOND = 1.0
"""Rate at which videos are encoded by default."""

VERSION = 1
"""Increased when the same video gives other frames or another content of the files of the cache."""

ProgressCallback = Callable[[str, int, int], None]
"""Called with the stage (`"encode"`), the encoded seconds and the total seconds."""

Part = TypeVar("Part")

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


@dataclass(frozen=True, eq=False)
class EncodedPart:
    """Some frames of a video, encoded.

    Attributes:
        times: `(frames,)` float64 seconds, rising.
        vectors: `(frames, dimension)` float16.
        position: Position behind the last frame, if the reading can be resumed there.
        last_pixels: Digest of the pixels of the last frame.
    """

    times: NDArray[np.float64]
    vectors: NDArray[np.float16]
    position: ReadPosition | None
    last_pixels: str


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
    begun: EncodedPart | None = None,
    keep: Callable[[EncodedPart], object] | None = None,
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
        begun: First frames of the video, which were encoded before; the result is the same as without them.
        keep: Function that takes the frames of each part from which the work can be resumed.
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
    if isinstance(source, Frames):
        result = _join([_encode_part(source, None, encoder, None)], source, np.zeros(0), encoder)
    else:
        result = _encode(source, encoder, fps, timeout, begun, keep, check, progress)
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
    source: VideoSource,
    encoder: FrameTextEncoder,
    fps: float,
    timeout: float,
    begun: EncodedPart | None,
    keep: Callable[[EncodedPart], object] | None,
    check: Callable[[], object] | None,
    progress: ProgressCallback | None,
) -> VideoVectors:
    """Encode the parts of a video one after the other."""
    parts = [] if begun is None else [begun]
    last: Frames | None = None
    with VideoReader(source, timeout=timeout, workers=1, check=check) as reader:
        reading = _read_parts(reader, encoder, fps, None if begun is None else begun.position)
        with closing(_read_ahead(reading)) as ahead:  # its thread ends before the reader is closed
            for last, position in ahead:
                part = _encode_part(last, position, encoder, parts[-1] if parts else None)
                parts.append(part)
                if keep is not None and position is not None:
                    keep(part)
                if progress is not None:
                    total = max(1, round(last.duration))
                    progress("encode", min(total, round(float(last.timestamps[-1]))), total)
            if last is not None:
                return _join(parts, last, reader.keyframe_times, encoder)
    # No frame behind the begun part can be decoded.
    return _encode(source, encoder, fps, timeout, None, None, check, progress)


def _read_parts(
    reader: VideoReader, encoder: FrameTextEncoder, fps: float, after: ReadPosition | None
) -> Iterator[tuple[Frames, ReadPosition | None]]:
    """Yield the frames of each part, and the position behind it if the reading can be resumed there."""
    for part in reader.iterate(fps=fps, size=encoder.image_size, frames_per_part=_FRAMES_PER_PART, after=after):
        yield part, reader.position


def _encode_part(
    frames: Frames, position: ReadPosition | None, encoder: FrameTextEncoder, before: EncodedPart | None
) -> EncodedPart:
    """Encode the frames of a part; a frame that is equal to the frame before has its vector."""
    pixels = frames.pixels
    repeats = np.zeros(len(frames), np.bool_)
    repeats[0] = before is not None and _digest(pixels[0]) == before.last_pixels
    repeats[1:] = [np.array_equal(one, other) for one, other in pairwise(pixels)]
    vectors = encoder.encode_frames(pixels[~repeats]).astype(np.float16)
    if before is not None and repeats[0]:
        vectors = np.concatenate([before.vectors[-1:], vectors])
    rows = np.cumsum(~repeats) - (0 if repeats[0] else 1)
    return EncodedPart(frames.timestamps, vectors[rows], position, _digest(pixels[-1]))


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()


def _join(
    parts: Sequence[EncodedPart], last: Frames, keyframe_times: NDArray[np.float64], encoder: FrameTextEncoder
) -> VideoVectors:
    """Return the content of a video from its parts and the frames of the last one."""
    at, stored = np.concatenate([part.times for part in parts]), np.concatenate([part.vectors for part in parts])
    full = stored.astype(np.float32)
    cuts = find_cuts(encoder.pictures(full), encoder.cut_distance)
    offset = last.source.player_offset if last.source else 0.0
    cut_times = np.array([_cut_time(keyframe_times, at[cut - 1], at[cut]) for cut in cuts], np.float64)
    return VideoVectors(at, stored, last.duration, tuple(cuts), cut_times, encoder.statistics(full), offset, last.notes)


def _cut_time(keyframe_times: NDArray[np.float64], before: float, after: float) -> float:
    """Return the time of a cut between two frames: encoders place a keyframe at most cuts."""
    between = keyframe_times[(keyframe_times > before) & (keyframe_times <= after)]
    return float(between[0]) if len(between) == 1 else (before + after) / 2


def _read_ahead(parts: Iterator[Part]) -> Generator[Part]:
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
