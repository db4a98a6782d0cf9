"""How probably each frame of a video shows what a query describes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from timechat.search.encoder import FrameTextEncoder, sigmoid
from timechat.search.video_vectors import VideoVectors

MAX_POINTS = 500
"""Maximum number of points of a curve."""


@dataclass(frozen=True)
class ScoreCurve:
    """Probabilities that the frames of one video match a query.

    Attributes:
        times: Times of the frames in seconds, rising.
        scores: Probability of each frame from 0 to 1.
        threshold: Probability from which a moment counts as found.
    """

    times: tuple[float, ...]
    scores: tuple[float, ...]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as the JSON of `POST /v1/search/curve`."""
        return {
            "times": [round(time, 3) for time in self.times],
            "scores": [round(score, 4) for score in self.scores],
            "threshold": self.threshold,
        }


def score_curve(
    video: VideoVectors, encoder: FrameTextEncoder, words: str, *, max_points: int = MAX_POINTS
) -> ScoreCurve:
    """Return the curve of a video; it has no points if the encoder does not know the language of the words.

    Args:
        video: Video.
        encoder: Encoder of its vectors.
        words: Description of what to see.
        max_points: Maximum number of points. A longer video has the highest probability of each run of frames.
    """
    threshold = encoder.found_threshold
    if not encoder.knows(words) or not len(video.times):
        return ScoreCurve((), (), threshold)
    evidence = encoder.evidence(video.vectors.astype(np.float32), encoder.encode_sentence(words))
    starts = np.arange(0, len(evidence), math.ceil(len(evidence) / max_points))
    scores = sigmoid(np.maximum.reduceat(evidence, starts))
    return ScoreCurve(tuple(video.times[starts].tolist()), tuple(scores.tolist()), threshold)
