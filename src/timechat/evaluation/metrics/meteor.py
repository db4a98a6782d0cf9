"""METEOR 1.5 for English: from the statistics of a pair to its score.

Denkowski and Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language", 2014. The
statistics come from the official program (`timechat.evaluation.metrics.java`), or, under a separate metric name, from
exact and stem matches only (`timechat.evaluation.metrics.exact_stem`).

The statistics of a pair, in this order: the lengths of hypothesis and reference; the number of function words in each;
for each of the matchers exact, stem, synonym and paraphrase, the matched content words in the hypothesis and in the
reference, then the matched function words in both; the number of chunks of the matches; and all matched words of each.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # weights of exact, stem, synonym and paraphrase matches


def combined_statistics(statistics: ArrayLike) -> NDArray[np.float64]:
    """Add up the statistics of pairs as in the official aggregate: pairs that match completely have no chunks.

    Args:
        statistics: Statistics of the pairs, `(pairs, 23)`.

    Returns:
        `(23,)`.
    """
    counts = np.array(statistics, dtype=np.float64).reshape(-1, 23)
    counts[_are_whole(counts), 20] = 0
    return np.asarray(counts.sum(axis=0), dtype=np.float64)


def meteor_score(statistics: ArrayLike) -> NDArray[np.float64]:
    """Score pairs, or sets of pairs whose statistics were added up by `combined_statistics`.

    Args:
        statistics: Statistics, `(..., 23)`.

    Returns:
        `(...)`, from 0 to 1; 0 without matches.
    """
    counts = np.asarray(statistics, dtype=np.float64)
    lengths, function_words = counts[..., 0:2], counts[..., 2:4]
    matches = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 4)  # (..., matcher, content and function of each side)
    chunks, matched = counts[..., 20], counts[..., 21:23]
    content, function = matches[..., 0:2], matches[..., 2:4]
    found = ((_DELTA * content + (1 - _DELTA) * function) * _WEIGHTS[:, None]).sum(axis=-2)  # (..., side)
    total = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(found / total, -1, 0)
        f_mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        fragments = np.where(_are_whole(counts), 0.0, chunks / (matched.sum(axis=-1) / 2))
        score = f_mean * (1 - _GAMMA * fragments**_BETA)
    return np.asarray(np.where(np.isfinite(score), np.maximum(score, 0.0), 0.0), dtype=np.float64)


def _are_whole(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each pair matches completely in one chunk."""
    return np.asarray((counts[..., 21:23] == counts[..., 0:2]).all(axis=-1) & (counts[..., 20] == 1))
