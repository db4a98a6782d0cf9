"""Dense captioning: detection of events, and correctness of the attributes in their captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
_EPSILON = 1e-8  # from the original, against division by zero


def caption_iou(ground_truth: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """IoU of all events with all predictions, as in the original's dense captioning scripts.

    Start and end are sorted first, and 1e-8 is added to the denominator.

    Args:
        ground_truth: Spans of the events, `(events, 2)` seconds.
        predicted: Predicted spans, `(predictions, 2)` seconds.

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
    """Detection scores of the spans of one video; captions are ignored.

    Attributes:
        precisions: Share of predictions that cover an event, for each IoU threshold.
        recalls: Share of events that a prediction covers, for each IoU threshold.
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
        """Harmonic mean of the two means; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def detect(ground_truth: ArrayLike, predicted: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> DetectionScores:
    """Precision and recall of one video's spans.

    A span counts as covered if its IoU with any span of the other side is above the threshold. As in the original,
    there is no one-to-one matching: a repeated prediction has no penalty.

    Args:
        ground_truth: Spans of the events, `(events, 2)` seconds, at least one event.
        predicted: Predicted spans, `(predictions, 2)` seconds; without predictions the score is 0.
        thresholds: Minimum IoU (exclusive) of a covered span.

    Raises:
        ValueError: There is no true event.
    """
    iou = caption_iou(ground_truth, predicted)  # (events, predictions)
    if not len(iou):
        raise ValueError("dense captioning needs at least one true event per video, got none")
    if not iou.shape[1]:
        return DetectionScores((0.0,) * len(thresholds), (0.0,) * len(thresholds))
    found, precise = iou.max(axis=1), iou.max(axis=0)
    return DetectionScores(
        precisions=tuple(float((precise > t).mean()) for t in thresholds),
        recalls=tuple(float((found > t).mean()) for t in thresholds),
    )


def detection_scores(videos: Sequence[DetectionScores]) -> dict[str, float]:
    """Precision, recall and F1 over videos, as fractions; F1 is the mean over videos, as in the original.

    Raises:
        ValueError: There is no video.
    """
    if not videos:
        raise ValueError("dense captioning needs at least one video, got none")
    return {name: float(np.mean([getattr(v, name) for v in videos])) for name in ("precision", "recall", "f1")}


def match_events(ground_truth: ArrayLike, predicted: ArrayLike, *, min_iou: float = 0.5) -> list[tuple[int, int]]:
    """Pair events with predictions one-to-one, in descending order of IoU.

    Args:
        ground_truth: Spans of the events, `(events, 2)` seconds.
        predicted: Predicted spans, `(predictions, 2)` seconds.
        min_iou: Minimum IoU (inclusive) of a pair.

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
    """Object, color and action in a caption; None for a missing attribute.

    Attributes:
        object: Object of the action, such as `"circle"`.
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
