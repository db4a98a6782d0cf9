"""Dense captioning: which events were found, and which of them were described rightly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
_EPSILON = 1e-8  # the original's, against a division by zero


def caption_iou(ground_truth: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """IoU of all events with all predictions, as the dense captioning scripts have it.

    Both ends are put in order first, and 1e-8 is added below the line.

    Args:
        ground_truth: `(events, 2)` seconds.
        predicted: `(predictions, 2)` seconds.

    Returns:
        `(events, predictions)`.
    """
    a = np.sort(np.asarray(ground_truth, dtype=np.float64).reshape(-1, 2), axis=-1)[:, None]
    b = np.sort(np.asarray(predicted, dtype=np.float64).reshape(-1, 2), axis=-1)[None]
    overlap = np.maximum(0.0, np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]))
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    lengths = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0])
    return np.asarray(overlap / (np.minimum(hull, lengths) + _EPSILON), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class DetectionScores:
    """How well the spans of one video were found; the captions are not looked at.

    Attributes:
        precisions: Share of predictions that cover an event, at each IoU threshold.
        recalls: Share of events that a prediction covers, at each IoU threshold.
    """

    precisions: tuple[float, ...]
    recalls: tuple[float, ...]

    @property
    def precision(self) -> float:
        """Mean over the thresholds."""
        return float(np.mean(self.precisions))

    @property
    def recall(self) -> float:
        """Mean over the thresholds."""
        return float(np.mean(self.recalls))

    @property
    def f1(self) -> float:
        """Harmonic mean of the two means; 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def detect(ground_truth: ArrayLike, predicted: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> DetectionScores:
    """Precision and recall of one video's spans.

    A span counts as covered where its IoU with any span of the other side is above the threshold. There is no
    one-to-one matching, as in the original: repeating a prediction costs nothing.

    Args:
        ground_truth: `(events, 2)` seconds, at least one event.
        predicted: `(predictions, 2)` seconds; none at all scores 0.
        thresholds: IoU above which (exclusive) a span counts.

    Raises:
        ValueError: There is no true event.
    """
    iou = caption_iou(ground_truth, predicted)  # (events, predictions)
    if not len(iou):
        raise ValueError("dense captioning needs at least one true event a video, got none")
    if not iou.shape[1]:
        return DetectionScores((0.0,) * len(thresholds), (0.0,) * len(thresholds))
    found, precise = iou.max(axis=1), iou.max(axis=0)
    return DetectionScores(
        precisions=tuple(float((precise > t).mean()) for t in thresholds),
        recalls=tuple(float((found > t).mean()) for t in thresholds),
    )


def detection_scores(videos: Sequence[DetectionScores]) -> dict[str, float]:
    """Precision, recall and F1 over videos, as fractions; F1 is the mean of the videos' own, as in the original.

    Raises:
        ValueError: There is no video.
    """
    if not videos:
        raise ValueError("dense captioning needs at least one video, got none")
    return {name: float(np.mean([getattr(v, name) for v in videos])) for name in ("precision", "recall", "f1")}


def match_events(ground_truth: ArrayLike, predicted: ArrayLike, *, min_iou: float = 0.5) -> list[tuple[int, int]]:
    """Pair events with predictions, the best overlap first, each at most once.

    Args:
        ground_truth: `(events, 2)` seconds.
        predicted: `(predictions, 2)` seconds.
        min_iou: Overlap from which a pair is one.

    Returns:
        Pairs (event, prediction), in the order of the events.
    """
    iou = caption_iou(ground_truth, predicted)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        event, prediction = np.unravel_index(flat, iou.shape)
        if iou[event, prediction] < min_iou:
            break
        if not any(event == i or prediction == j for i, j in pairs):
            pairs.append((int(event), int(prediction)))
    return sorted(pairs)


@dataclass(frozen=True, slots=True)
class Attributes:
    """Object, color and action that a caption names; None for what it does not name.

    Attributes:
        object: Object that acts, such as `"circle"`.
        color: Color of the object.
        action: Action of the object.
    """

    object: str | None
    color: str | None
    action: str | None

    def agrees(self, other: "Attributes") -> dict[str, float]:
        """1 or 0 for `object`, `color` and `action`, and for `all` of them."""
        names = ("object", "color", "action")
        same = {name: float(getattr(self, name) == getattr(other, name)) for name in names}
        return same | {"all": min(same.values())}
