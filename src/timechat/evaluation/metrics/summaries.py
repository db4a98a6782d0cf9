"""Video summaries by the usual rule for TVSum: mAP of the five clips with the highest scores.

Song et al., "TVSum: Summarizing Web Videos Using Titles", 2015; the rule is that of UMT (Liu et al., 2022).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_TOP = 5


def top_5_average_precision(scores: Sequence[float], labels: ArrayLike) -> float:
    """Mean over annotators of the average precision of a video's five clips with the highest scores.

    A clip is correct for an annotator whose rating of it is above the lower median of this annotator's ratings.
    Precision starts at 1, recall is relative to the five clips, and the area uses the trapezoidal rule.

    Args:
        scores: Score of each clip; scores past the labels are ignored, and the first of equal scores counts.
        labels: Rating of each clip by each annotator, `(clips, annotators)`.

    Returns:
        Average precision from 0 to 1; an annotator without a correct clip among the five adds 0.
    """
    rated = np.asarray(labels, dtype=np.float64)
    if rated.ndim != 2 or not rated.size:
        raise ValueError(f"labels must be (clips, annotators), got shape {rated.shape}")
    given = np.asarray(scores[: len(rated)], dtype=np.float64)
    best = np.argsort(-given, kind="stable")[:_TOP]
    medians = np.sort(rated, axis=0)[(len(rated) - 1) // 2]
    is_right = (rated > medians)[best]  # (5, annotators)
    return float(np.mean([_area(column) for column in is_right.T])) if len(best) else 0.0


def _area(is_right: ArrayLike) -> float:
    hits = np.cumsum(np.asarray(is_right, dtype=np.float64))
    if not len(hits) or not hits[-1]:
        return 0.0
    recall = np.concatenate([[0.0], hits / hits[-1]])
    precision = np.concatenate([[1.0], hits / np.arange(1, len(hits) + 1)])
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())
