"""Short answers to questions: equality up to case, articles and punctuation."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NOT_WORDS = re.compile(r"[^\w.\s]|_|(?<!\d)\.|\.(?!\d)")  # decimal points are kept
_TRAILING_ZEROS = re.compile(r"(\.\d*?)0+\b")


def normalize_answer(text: str) -> str:
    """Normalize an answer: lower case, no articles, no punctuation, single spaces; 12.0 becomes 12."""
    text = _ARTICLES.sub(" ", _NOT_WORDS.sub(" ", text.lower()))
    text = _TRAILING_ZEROS.sub(lambda match: match[1].rstrip("."), text)
    return " ".join(text.split())


def answer_hits(
    predicted: Sequence[str | None], ground_truth: Sequence[str], *, exact: bool = False
) -> NDArray[np.float64]:
    """Score answers: 1 for each correct answer, 0 for each wrong or missing one.

    Args:
        predicted: Answer to each question; None if missing.
        ground_truth: Correct answer of each question.
        exact: Whether the texts must be identical.
    """
    if len(predicted) != len(ground_truth):
        raise ValueError(
            f"got {len(predicted)} answers to {len(ground_truth)} questions; give one per question, or None"
        )
    read = str if exact else normalize_answer
    return np.array(
        [
            answer is not None and read(answer) == read(reference)
            for answer, reference in zip(predicted, ground_truth, strict=True)
        ],
        dtype=np.float64,
    )


def majority_answer(ground_truth: Sequence[str]) -> str:
    """The most frequent correct answer, in its first spelling; the first one of equally frequent answers.

    Raises:
        ValueError: There is no answer.
    """
    if not ground_truth:
        raise ValueError("the majority answer needs at least one answer, got none")
    most_common = Counter(map(normalize_answer, ground_truth)).most_common(1)[0][0]
    return next(answer for answer in ground_truth if normalize_answer(answer) == most_common)
