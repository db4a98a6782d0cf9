"""Dense captioning: SODA_c, CIDEr and METEOR of captions at their times, and of all captions of a video as a paragraph.

SODA_c: Fujita et al., "SODA: Story Oriented Dense Video Captioning Evaluation Framework", 2020. CIDEr: Vedantam et al.,
2015, in the variant CIDEr-D. The metrics follow the scripts that papers on dense captioning use, with their errors
corrected; metrics that keep the errors have separate names that end in `as_published`.
"""

import random
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timechat.errors import missing_extra
from timechat.evaluation.metrics.captioning import THRESHOLDS, caption_iou
from timechat.evaluation.metrics.meteor import combined_statistics, meteor_score

Count = Callable[[Sequence[tuple[str, str]]], NDArray[np.float64]]
"""Function that returns METEOR's statistics of (hypothesis, reference) pairs: `(pairs, 23)`."""

_NOT_LETTERS = re.compile(r"[^a-z]+")


@dataclass(frozen=True, slots=True)
class TokenizedVideo:
    """Tokenised captions of one video with their times.

    Attributes:
        spans: Span of each caption, `(captions, 2)` seconds; start and end in any order.
        captions: Tokens of each caption, joined by spaces.
    """

    spans: NDArray[np.float64]
    captions: tuple[str, ...]

    def in_time_order(self) -> "TokenizedVideo":
        """The same captions, sorted by the earlier end of their spans; the sort is stable."""
        if not self.captions:
            return self
        order = np.argsort(self.spans.min(axis=1), kind="stable")
        return TokenizedVideo(self.spans[order], tuple(self.captions[int(i)] for i in order))


# ----------------------------------------------------------------------------------------------------- SODA_c


def soda_c(ground_truth: TokenizedVideo, predicted: TokenizedVideo, count: Count) -> float:
    """SODA_c of one video with predictions in order of time."""
    ordered = predicted.in_time_order()
    iou = caption_iou(ground_truth.spans, ordered.spans)
    return _soda_f1(iou * _pairwise_meteor(ground_truth, ordered, iou, count))


def soda_c_as_published(ground_truth: TokenizedVideo, predicted: TokenizedVideo, count: Count) -> float:
    """SODA_c as in the original's script, for comparison with papers that use it.

    The script does not sort predictions by time, and sorts their numbers as strings (0, 1, 10, 11, 2, ...). So with
    more than ten predictions it compares the words of one prediction at the time of another.
    """
    iou = caption_iou(ground_truth.spans, predicted.spans)
    order = sorted(range(len(predicted.captions)), key=str)
    where = np.zeros_like(iou)
    where[:, order] = iou
    return _soda_f1(iou * _pairwise_meteor(ground_truth, predicted, where, count)[:, order])


def _pairwise_meteor(
    ground_truth: TokenizedVideo, predicted: TokenizedVideo, where: NDArray[np.float64], count: Count
) -> NDArray[np.float64]:
    """METEOR of events with predictions where `where` is positive, else 0: `(events, predictions)`.

    As in the official script, the event is the hypothesis and the prediction is the reference; METEOR is not
    symmetric.
    """
    scores = np.zeros(where.shape)
    places = np.argwhere(where > 0)
    if len(places):
        pairs = [(ground_truth.captions[i], predicted.captions[j]) for i, j in places]
        scores[tuple(places.T)] = meteor_score(count(pairs))
    return scores


def _soda_f1(gains: NDArray[np.float64]) -> float:
    """F1 of the best order-preserving alignment: its sum divided by the numbers of predictions and of events."""
    events, predictions = gains.shape
    if not events or not predictions:
        return 0.0
    best = np.zeros((events + 1, predictions + 1))
    for i in range(events):
        for j in range(predictions):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + gains[i, j])
    total = float(best[-1, -1])
    precision, recall = total / predictions, total / events
    return 2 * precision * recall / (precision + recall) if total else 0.0


# -------------------------------------------------------------------------------------------- CIDEr and METEOR


def matched_pairs(
    ground_truth: TokenizedVideo, predicted: TokenizedVideo, threshold: float, rng: random.Random
) -> list[tuple[str, str]]:
    """(hypothesis, reference) pairs of one video: every prediction with every event whose IoU reaches the threshold.

    A prediction without such an event is paired with a random word, which matches nothing.
    """
    iou = caption_iou(ground_truth.spans, predicted.spans)
    pairs = []
    for j, caption in enumerate(predicted.captions):
        met = np.flatnonzero(iou[:, j] >= threshold)
        references = [ground_truth.captions[int(i)] for i in met] or [_random_word(rng)]
        pairs += [(caption, reference) for reference in references]
    return pairs


def _random_word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(10, 20)))


def dense_scores(
    ground_truth: TokenizedVideo, predicted: TokenizedVideo, count: Count, *, seed: int = 0
) -> tuple[float, float]:
    """CIDEr and METEOR of one video's captions: means over the IoU thresholds, 0 without predictions.

    CIDEr's document frequencies come from the pairs of this video at this threshold; with a single pair it is 0.
    """
    if not predicted.captions:
        return 0.0, 0.0
    rng = random.Random(seed)
    at = [matched_pairs(ground_truth, predicted, threshold, rng) for threshold in THRESHOLDS]
    ciders = [float(np.mean(cider_scores(pairs))) for pairs in at]
    meteors = [float(meteor_score(combined_statistics(count(pairs)))) for pairs in at]
    return float(np.mean(ciders)), float(np.mean(meteors))


def cider_scores(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """CIDEr-D of (hypothesis, reference) pairs, which form the corpus together: `(pairs,)`, from 0 to 10.

    Raises:
        ModuleNotFoundError: pycocoevalcap is not installed.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
    except ModuleNotFoundError as error:
        raise missing_extra("captions are scored with pycocoevalcap", "eval") from error
    references = {i: [reference] for i, (_, reference) in enumerate(pairs)}
    hypotheses = {i: [hypothesis] for i, (hypothesis, _) in enumerate(pairs)}
    return np.asarray(Cider().compute_score(references, hypotheses)[1], dtype=np.float64)


# -------------------------------------------------------------------------------------------------- paragraphs


def paragraph(captions: Sequence[str]) -> str:
    """All captions of a video as one lower-case text of letters only."""
    return " ".join(_NOT_LETTERS.sub(" ", ". ".join(captions).lower()).split())
