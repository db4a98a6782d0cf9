"""Moments from a curve of scores: shot cuts, smoothing within shots, spans around peaks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 5  # samples
_SHOT_WEIGHT = 0.3  # share of the mean of the shot in a smoothed score
_EQUAL_EVIDENCE = 0.5  # difference of evidence, within a shot, that is no border
_CLEAR_EVIDENCE = 2.0  # evidence, within a shot, from which a frame is never outside: probability 0.88
_LEVEL = 0.3  # height of a span's border between the mean and the peak of the scores


@dataclass(frozen=True)
class ScoredSpan:
    """A moment found in a curve of scores.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
        peak: Highest smoothed score in the span.
        frames: Index of the first frame and of the frame after the last one.
    """

    start: float
    end: float
    peak: float
    frames: tuple[int, int]


def find_cuts(pictures: NDArray[np.floating], distance: float) -> list[int]:
    """Return the frames with which a new shot begins, without the first frame.

    Args:
        pictures: `(frames, dimension)` vectors at unit length, see `FrameTextEncoder.pictures`.
        distance: Cosine distance of neighboring frames above which a cut is assumed.
    """
    distances = 1 - np.einsum("fd,fd->f", pictures[1:], pictures[:-1])
    return [int(index) + 1 for index in np.flatnonzero(distances > distance)]


def smooth_scores(scores: NDArray[np.floating], cuts: Sequence[int]) -> NDArray[np.float64]:
    """Average each score with its neighbors and with its shot.

    Args:
        scores: `(frames,)`.
        cuts: Frames with which a new shot begins.
    """
    values = np.asarray(scores, np.float64)
    if not len(values):
        return values
    padded = np.pad(values, _SMOOTHING // 2, mode="edge")
    near = np.convolve(padded, np.full(_SMOOTHING, 1 / _SMOOTHING), "valid")
    shots = np.searchsorted(np.asarray(cuts), np.arange(len(values)), "right")
    means = np.bincount(shots, values) / np.maximum(np.bincount(shots), 1)
    return _SHOT_WEIGHT * means[shots] + (1 - _SHOT_WEIGHT) * near


def best_spans(
    scores: NDArray[np.floating],
    times: Sequence[float] | NDArray[np.floating],
    cuts: Sequence[int] = (),
    *,
    duration: float | None = None,
    cut_times: Sequence[float] | NDArray[np.floating] | None = None,
    evidence: NDArray[np.floating] | None = None,
    limit: int = 1,
) -> list[ScoredSpan]:
    """Return spans around the highest scores, best first. Spans do not overlap.

    A span is the run of frames around a peak whose smoothed scores are above a level between the mean and the peak of
    the video, and of the frames of the same shot whose evidence is clear or nearly that of the peak: in a video of one
    scene, small differences between its frames are no borders. The borders are in the middle between frames, or at the
    cut between them.

    Args:
        scores: `(frames,)` scores of one video.
        times: `(frames,)` times of the frames in seconds, rising.
        cuts: Frames with which a new shot begins.
        duration: End of the video in seconds. None means one mean frame distance after the last frame.
        cut_times: `(cuts,)` times of the cuts in seconds; None takes the middle between the frames.
        evidence: `(frames,)`, see `FrameTextEncoder.evidence`; None means that only the scores decide.
        limit: Maximum number of spans.

    Raises:
        ValueError: Numbers of scores and times differ, or a score is not a number.
    """
    at = np.asarray(times, np.float64)
    if len(scores) != len(at):
        raise ValueError(f"{len(scores)} scores were given for {len(at)} times; give one score per time")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be numbers, not NaN or infinite")
    if not len(at):
        return []
    smoothed = smooth_scores(scores, cuts)
    borders = _borders(at, duration)
    if cut_times is not None:
        borders[list(cuts)] = cut_times
    mean, top = float(smoothed.mean()), float(smoothed.max())
    shots = np.searchsorted(np.asarray(cuts), np.arange(len(at)), "right")
    strength = None if evidence is None else np.maximum(evidence, smooth_scores(evidence, cuts))
    is_free = np.ones(len(at), bool)
    spans: list[ScoredSpan] = []
    while len(spans) < limit and is_free.any():
        peak = int(np.argmax(np.where(is_free, smoothed, -np.inf)))
        height = float(smoothed[peak])
        if spans and height <= mean + _LEVEL * (top - mean):
            break
        is_inside = smoothed >= mean + _LEVEL * (height - mean)
        if strength is not None:
            needed = min(strength[peak] - _EQUAL_EVIDENCE, _CLEAR_EVIDENCE)
            is_inside |= (shots == shots[peak]) & (strength >= needed)
        is_inside &= is_free
        first, after = _run(is_inside, peak)
        is_free[first:after] = False
        spans.append(ScoredSpan(float(borders[first]), float(borders[after]), height, (first, after)))
    return spans


def _run(is_inside: NDArray[np.bool_], peak: int) -> tuple[int, int]:
    first, after = peak, peak + 1
    while first > 0 and is_inside[first - 1]:
        first -= 1
    while after < len(is_inside) and is_inside[after]:
        after += 1
    return first, after


def _borders(times: NDArray[np.float64], duration: float | None) -> NDArray[np.float64]:
    """Return the `(frames + 1,)` borders of the frames in seconds."""
    step = float(np.diff(times).mean()) if len(times) > 1 else 1.0
    end = float(times[-1]) + step if duration is None else max(duration, float(times[-1]))
    return np.concatenate([[min(0.0, float(times[0]))], (times[1:] + times[:-1]) / 2, [end]])
