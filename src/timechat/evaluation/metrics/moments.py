"""Moments of long videos: the best one against any correct moment, its borders, and all moments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from timechat.evaluation.metrics.grounding import Span, temporal_iou

HIT_IOU = 0.3
"""Minimum IoU (inclusive) of a moment whose borders are compared."""


@dataclass(frozen=True, slots=True)
class MomentFit:
    """Comparison of an answer with its best-matching occurrence.

    Attributes:
        iou: IoU from 0 to 1; 0 without a predicted moment.
        start_error: Distance of the starts in seconds; None below an IoU of `HIT_IOU`.
        end_error: Distance of the ends in seconds; None below an IoU of `HIT_IOU`.
    """

    iou: float
    start_error: float | None = None
    end_error: float | None = None


def fit_moment(predicted: Span | None, ground_truth: ArrayLike) -> MomentFit:
    """Compare a moment with every occurrence of the query.

    Args:
        predicted: Start and end in seconds; None without a predicted moment.
        ground_truth: Occurrences of the query, `(occurrences, 2)` seconds, at least one.

    Raises:
        ValueError: There is no occurrence.
    """
    occurrences = np.asarray(ground_truth, dtype=np.float64).reshape(-1, 2)
    if not len(occurrences):
        raise ValueError("a moment is compared with at least one occurrence, got none")
    if predicted is None:
        return MomentFit(0.0)
    ious = temporal_iou(occurrences, predicted)
    best = int(ious.argmax())
    if ious[best] < HIT_IOU:
        return MomentFit(float(ious[best]))
    start_error, end_error = np.abs(occurrences[best] - predicted)
    return MomentFit(float(ious[best]), float(start_error), float(end_error))


@dataclass(frozen=True, slots=True)
class AllMoments:
    """Matching of all predicted moments with all true moments.

    Attributes:
        is_right: Whether each predicted moment is correct.
        is_found: Whether each true moment was found.
    """

    is_right: tuple[bool, ...]
    is_found: tuple[bool, ...]


def match_moments(predicted: Sequence[Span], ground_truth: ArrayLike, *, min_iou: float = 0.5) -> AllMoments:
    """Pair moments with occurrences one-to-one, in descending order of IoU; a duplicate prediction counts as wrong.

    Args:
        predicted: Start and end of each predicted moment, in seconds.
        ground_truth: Occurrences of the query, `(occurrences, 2)` seconds; empty if it never happens.
        min_iou: Minimum IoU (inclusive) of a pair.
    """
    occurrences = np.asarray(ground_truth, dtype=np.float64).reshape(-1, 2)
    spans = np.asarray(predicted, dtype=np.float64).reshape(-1, 2)
    iou = temporal_iou(spans[:, None], occurrences[None]).reshape(len(spans), len(occurrences))
    is_right, is_found = [False] * len(spans), [False] * len(occurrences)
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(occurrences))
        if iou[i, j] < min_iou:
            break
        if not is_right[i] and not is_found[j]:
            is_right[i] = is_found[j] = True
    return AllMoments(tuple(is_right), tuple(is_found))
