"""Readers of TVSum: ratings of clips by several annotators, and predicted scores."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timechat.evaluation.readers.rows import (
    InputIssues,
    check_ground_truth,
    check_predictions,
    last_name,
    read_content,
    read_predicted_rows,
    read_rows,
    read_scores,
    video_key,
)

_VIDEO_KEYS = ("vid", "video", "vname")
_EXPECTED = "'pred_saliency_scores': [score, ...], or a plain list of scores"


def read_label_ground_truth(path: Path, issues: InputIssues) -> dict[str, NDArray[np.float64]]:
    """Read the ratings of clips, `(clips, annotators)`, by video.

    Raises:
        DataError: The file has no ratings.
    """
    ground_truth = {}
    for row in read_rows(read_content(path, issues), path, issues):
        try:
            labels = np.array(row["label"], dtype=np.float64)
        except (KeyError, TypeError, ValueError):
            labels = np.zeros(0)
        if labels.ndim != 2 or not labels.size or not np.isfinite(labels).all():
            issues.add("rows of the ground truth have no labels and were skipped")
        else:
            ground_truth[last_name(row.get("vid"))] = labels
    return check_ground_truth(ground_truth, path, '{"vid", "label"} per line')


def read_label_predictions(path: Path, issues: InputIssues) -> dict[str, tuple[float, ...] | None]:
    """Read the scores of clips by the `video_key` of the video; None for unreadable scores.

    Raises:
        DataError: No row names a video, or no row has scores in a known format.
    """
    pairs = read_predicted_rows(read_content(path, issues), path, issues, _VIDEO_KEYS, _EXPECTED)
    predicted: dict[str, tuple[float, ...] | None] = {}
    for video, row in pairs:
        if video is None:
            issues.add("rows name no video and were skipped")
            continue
        scores = row.get("pred_saliency_scores", row.get("scores")) if isinstance(row, Mapping) else row
        if video_key(video) in predicted:
            issues.add("videos are predicted twice; the later row counts")
        predicted[video_key(video)] = read_scores(scores, issues)
    num_usable = sum(scores is not None for scores in predicted.values())
    check_predictions(pairs, num_usable, path, _VIDEO_KEYS, _EXPECTED)
    return predicted
