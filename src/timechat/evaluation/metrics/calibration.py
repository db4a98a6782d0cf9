"""Calibration of scores: accuracy by score, separation of correct and wrong items, and fitted weights of evidence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MOST_STEPS = 100
_CONVERGED = 1e-10


@dataclass(frozen=True, slots=True)
class Bin:
    """Items with similar scores.

    Attributes:
        score: Mean of their scores.
        right: Share of correct items.
        count: Number of items.
    """

    score: float
    right: float
    count: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability diagram: scores compared with the share of correct items.

    Attributes:
        bins: Bins of equal width in the order of their scores; empty bins are omitted.
        error: Expected calibration error: the mean distance of a bin's score from its share, weighted by counts.
    """

    bins: tuple[Bin, ...]
    error: float


def reliability(scores: ArrayLike, is_right: ArrayLike, bins: int = 10) -> Reliability:
    """Compare scores with the share of correct items, bin by bin.

    Args:
        scores: Scores from 0 to 1, `(items,)`.
        is_right: Whether each item is correct, `(items,)`.
        bins: Number of bins of equal width; a score on a border belongs to the upper bin, and 1 to the last bin.

    Raises:
        ValueError: There is no item, or a score is not a probability.
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


def fit_calibration(
    evidence: ArrayLike, is_right: ArrayLike, *, prior_odds: ArrayLike = 0.0
) -> tuple[NDArray[np.float64], float]:
    """Fit a calibration from evidence to probabilities: `sigmoid(evidence . weights + offset + prior_odds)`.

    The fit maximizes the likelihood by Newton's method for the targets of Platt (1999): `(n + 1) / (n + 2)` for the
    `n` correct items and `1 / (m + 2)` for the `m` wrong items instead of 1 and 0. So a maximum exists even if a
    threshold separates them.

    Args:
        evidence: Evidence of each kind for each item, `(items, kinds)`; logits, or other numbers of any scale.
        is_right: Whether each item is correct, `(items,)`; must contain True and False.
        prior_odds: Log odds that are added to those of the evidence, one number or `(items,)`.

    Returns:
        Weights `(kinds,)` and offset.

    Raises:
        ValueError: All items are correct, all are wrong, or all have the same evidence of a kind.
    """
    values, labels = np.asarray(evidence, dtype=np.float64), np.asarray(is_right, dtype=bool)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(f"evidence must be (items, kinds) with one label each, got {values.shape} and {labels.shape}")
    num_right = int(labels.sum())
    if num_right in (0, len(labels)):
        raise ValueError(f"a calibration needs right and wrong items, got {num_right} right ones of {len(labels)}")
    spread, middle = values.std(0), values.mean(0)
    if (spread < 1e-12).any():
        raise ValueError(f"a calibration needs evidence that differs, got {values[0]} only")
    likely, unlikely = (num_right + 1) / (num_right + 2), 1 / (len(labels) - num_right + 2)
    targets = np.asarray(np.where(labels, likely, unlikely), dtype=np.float64)
    columns = np.concatenate([(values - middle) / spread, np.ones((len(values), 1))], axis=1)  # (items, kinds + 1)
    weights, prior = np.zeros(columns.shape[1]), np.asarray(prior_odds, dtype=np.float64)
    for _ in range(_MOST_STEPS):
        chances = _sigmoid(columns @ weights + prior)
        gradient = columns.T @ (chances - targets)
        curvature = (columns * (chances * (1 - chances))[:, None]).T @ columns
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < _CONVERGED:
            break
    fitted = weights[:-1] / spread
    return fitted, float(weights[-1] - fitted @ middle)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=np.float64)


def auroc(scores: ArrayLike, is_right: ArrayLike) -> float:
    """AUROC: probability that a correct item has a higher score than a wrong one; equal scores count as half.

    Raises:
        ValueError: There are no correct or no wrong items.
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
    """Precision and recall of items with a minimum score.

    Attributes:
        threshold: Minimum score of a found item.
        precision: Share of found items that exist; 0 if nothing is found.
        recall: Share of existing items that are found.
    """

    threshold: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def best_threshold(scores: ArrayLike, is_there: ArrayLike) -> Threshold:
    """Find the minimum score of a found item with the best F1; of several, the highest.

    Args:
        scores: Score of each item, `(items,)`.
        is_there: Whether each item exists, `(items,)`; at least one True.

    Raises:
        ValueError: No item exists.
    """
    values, there = _check(scores, is_there)
    if not there.any():
        raise ValueError(f"a threshold needs at least one existing item, got {len(there)} items without one")
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
