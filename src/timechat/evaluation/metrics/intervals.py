"""Bootstrap intervals of means: whole videos are resampled because questions about one video are not independent."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its confidence interval.

    Attributes:
        value: Mean over all items.
        low: Lower end of the interval.
        high: Upper end of the interval.
        items: Number of values.
        groups: Number of videos in the values.
    """

    value: float
    low: float
    high: float
    items: int
    groups: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(
    values: ArrayLike,
    groups: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean over items with a percentile bootstrap interval over groups.

    Args:
        values: Value of each item, `(items,)`.
        groups: Group (video) of each item. Groups are drawn with replacement, each with all its items.
        confidence: Share of the bootstrap means inside the interval.
        resamples: Number of bootstrap resamples.
        seed: Random seed; equal groups and seeds give equal resamples, so metrics of one set are comparable.

    Raises:
        ValueError: There are no values, or values and groups differ in length.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(groups) or not len(numbers):
        raise ValueError(f"give at least one value and one group for each; got {numbers.shape} and {len(groups)}")
    if not np.isfinite(numbers).all():
        raise ValueError("values must be finite numbers; give 0 for what was missed")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence must be in (0, 1) and resamples at least 1, got {confidence} and {resamples}")
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    member = np.array([index[group] for group in groups])
    sums = np.bincount(member, weights=numbers).astype(np.float64)  # (groups,)
    counts = np.bincount(member).astype(np.float64)
    means = _resampled_means(sums, counts, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(numbers.mean()), float(low), float(high), len(numbers), len(index))


def bootstrap_total(
    rows: ArrayLike,
    score: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a score that is a function of sums over items, such as METEOR of a corpus.

    Args:
        rows: Counts of each item, `(items, counts)`; items are drawn with replacement.
        score: Function from sums `(resamples, counts)` to scores `(resamples,)`.
        confidence: Share of the bootstrap scores inside the interval.
        resamples: Number of bootstrap resamples.
        seed: Random seed.

    Returns:
        Lower and upper end of the interval.
    """
    counts = np.asarray(rows, dtype=np.float64)
    pieces = [drawn.astype(np.float64) @ counts for drawn in _drawn_times(len(counts), resamples, seed)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(score(np.concatenate(pieces)), [tail, 1 - tail])
    return float(low), float(high)


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Means over items of bootstrap resamples of groups: `(resamples,)`."""
    pieces = (drawn.astype(np.float64) for drawn in _drawn_times(len(sums), resamples, seed))
    return np.concatenate([(times @ sums) / (times @ counts) for times in pieces])


@lru_cache(maxsize=8)
def _drawn_times(groups: int, resamples: int, seed: int) -> tuple[NDArray[np.uint16], ...]:
    """Number of draws of each group, in chunks `(resamples of a chunk, groups)`; cached for all metrics of a table."""
    rng = np.random.default_rng(seed)
    chances = np.full(groups, 1 / groups)
    at_once = max(1, _WEIGHTS_AT_ONCE // groups)
    return tuple(
        rng.multinomial(groups, chances, size=min(at_once, resamples - first)).astype(np.uint16)
        for first in range(0, resamples, at_once)
    )
