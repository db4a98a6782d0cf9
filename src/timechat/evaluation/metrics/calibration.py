"""How far scores tell the truth: how often they are right, how they part right from wrong, and a line to mend them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SURE = 1e-6  # a probability this near to 0 or 1 counts as it
_MOST_STEPS = 100
_CONVERGED = 1e-10


@dataclass(frozen=True, slots=True)
class Bin:
    """Some items of like scores.

    Attributes:
        score: Mean of their scores.
        right: Share of them that is right.
        count: Number of items.
    """

    score: float
    right: float
    count: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """What scores promise and what they keep.

    Attributes:
        bins: Equally wide bins in the order of their scores; empty ones are left out.
        error: Expected calibration error: the mean distance of a bin's score from its share, weighted by counts.
    """

    bins: tuple[Bin, ...]
    error: float


def reliability(scores: ArrayLike, is_right: ArrayLike, bins: int = 10) -> Reliability:
    """Compare scores with how often they are right, bin by bin.

    Args:
        scores: `(items,)`, from 0 to 1.
        is_right: `(items,)`.
        bins: Number of bins of equal width; a score on a border belongs to the upper bin, 1 to the last.

    Raises:
        ValueError: There is no item, or a score is no probability.
    """
    values, labels = _check(scores, is_right)
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"scores must be from 0 to 1, got {values.min()} to {values.max()}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    member = np.minimum((values * bins).astype(int), bins - 1)
    filled = [
        Bin(float(values[member == i].mean()), float(labels[member == i].mean()), int((member == i).sum()))
        for i in np.unique(member)
    ]
    error = sum(one.count * abs(one.score - one.right) for one in filled) / len(values)
    return Reliability(tuple(filled), float(error))


def logit(scores: ArrayLike) -> NDArray[np.float64]:
    """Logits of probabilities; those nearer than 1e-6 to 0 or 1 are taken as 1e-6 away."""
    values = np.asarray(scores, dtype=np.float64).clip(_SURE, 1 - _SURE)
    return np.asarray(np.log(values / (1 - values)), dtype=np.float64)


def fit_calibration(logits: ArrayLike, is_right: ArrayLike) -> tuple[float, float]:
    """Fit the line that makes probabilities of logits: `sigmoid(slope * logit + offset)`.

    It is the line of most likelihood, by Newton's steps, for the targets of Platt (1999): `(n + 1) / (n + 2)` of the
    `n` right ones and `1 / (m + 2)` of the `m` wrong ones instead of 1 and 0, so that there is one even where a
    threshold parts them.

    Args:
        logits: `(items,)`; of scores from 0 to 1, see `logit`.
        is_right: `(items,)`, some True and some False.

    Returns:
        Slope and offset.

    Raises:
        ValueError: All items are right, all are wrong, or all have one score.
    """
    values, labels = _check(logits, is_right)
    num_right = int(labels.sum())
    if num_right in (0, len(labels)):
        raise ValueError(f"a calibration needs right and wrong items, got {num_right} right ones of {len(labels)}")
    spread, middle = float(values.std()), float(values.mean())
    if spread < 1e-12:
        raise ValueError(f"a calibration needs scores that differ, got {values[0]} only")
    likely, unlikely = (num_right + 1) / (num_right + 2), 1 / (len(labels) - num_right + 2)
    targets = np.asarray(np.where(labels, likely, unlikely), dtype=np.float64)
    columns = np.stack([(values - middle) / spread, np.ones_like(values)], axis=1)  # (items, 2)
    weights = np.zeros(2)
    for _ in range(_MOST_STEPS):
        chances = _sigmoid(columns @ weights)
        gradient = columns.T @ (chances - targets)
        curvature = (columns * (chances * (1 - chances))[:, None]).T @ columns
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < _CONVERGED:
            break
    slope = float(weights[0]) / spread
    return slope, float(weights[1]) - slope * middle


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=np.float64)


def calibrated(logits: ArrayLike, slope: float, offset: float) -> NDArray[np.float64]:
    """Probabilities of logits by a line that was fitted."""
    return _sigmoid(slope * np.asarray(logits, dtype=np.float64) + offset)


def auroc(scores: ArrayLike, is_right: ArrayLike) -> float:
    """Chance that a right item has a higher score than a wrong one; equal scores count as half.

    Raises:
        ValueError: There are not both right and wrong items.
    """
    values, labels = _check(scores, is_right)
    if labels.all() or not labels.any():
        raise ValueError(f"an AUROC needs right and wrong items, got {int(labels.sum())} right ones of {len(labels)}")
    of_wrong = np.sort(values[~labels])
    below = np.searchsorted(of_wrong, values[labels], side="left")
    not_above = np.searchsorted(of_wrong, values[labels], side="right")
    return float((below + not_above).mean() / 2 / len(of_wrong))


@dataclass(frozen=True, slots=True)
class Threshold:
    """What counts as found from a score on.

    Attributes:
        threshold: The least score.
        precision: Share of what is found that is there; 0 where nothing is found.
        recall: Share of what is there that is found.
    """

    threshold: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def best_threshold(scores: ArrayLike, is_there: ArrayLike) -> Threshold:
    """The score from which on to say "found" for the best F1; of several the highest.

    Args:
        scores: `(items,)`.
        is_there: `(items,)`, at least one True.

    Raises:
        ValueError: Nothing is there.
    """
    values, there = _check(scores, is_there)
    if not there.any():
        raise ValueError(f"a threshold needs something that is there, got {len(there)} items without")
    choices = []
    for threshold in np.unique(values)[::-1]:
        found = values >= threshold
        num_right = int((found & there).sum())
        choices.append(Threshold(float(threshold), num_right / int(found.sum()), num_right / int(there.sum())))
    return max(choices, key=lambda choice: choice.f1)


def _check(scores: ArrayLike, is_right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(is_right, dtype=bool)
    if values.ndim != 1 or values.shape != labels.shape or not len(values):
        raise ValueError(f"give at least one score and whether each is right, got {values.shape} and {labels.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite numbers")
    return values, labels
