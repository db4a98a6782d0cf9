"""Readers of TVSum: ratings of clips by several annotators, and predicted scores."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.errors import DataError
from timechat.evaluation.readers.rows import (
    InputIssues,
    check_ground_truth,
    last_name,
    read_content,
    read_rows,
    read_scores,
)


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
    """Read the scores of clips by video; None for unreadable scores."""
    content = read_content(path, issues)
    if isinstance(content, list):
        items: Iterator[tuple[Any, Any]] = (
            (row.get("vid"), row.get("pred_saliency_scores", row.get("scores")))
            for row in read_rows(content, path, issues)
        )
    elif isinstance(content, Mapping):
        items = iter(content.items())
    else:
        raise DataError(f"{path}: expected {{video: [score, ...]}}, got {type(content).__name__}")
    return {last_name(video): read_scores(scores, issues) for video, scores in items}
