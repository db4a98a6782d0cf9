"""Short answers to questions: right where they say the same, up to case, articles and punctuation."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NOT_WORDS = re.compile(r"[^\w.\s]|_|(?<!\d)\.|\.(?!\d)")  # a decimal point stays
_TRAILING_ZEROS = re.compile(r"(\.\d*?)0+\b")


def normalize_answer(text: str) -> str:
    """An answer in lower case, without articles, punctuation and superfluous blanks; 12.0 is 12."""
    text = _ARTICLES.sub(" ", _NOT_WORDS.sub(" ", text.lower()))
    text = _TRAILING_ZEROS.sub(lambda match: match[1].rstrip("."), text)
    return " ".join(text.split())


def answer_hits(
    predicted: Sequence[str | None], ground_truth: Sequence[str], *, exact: bool = False
) -> NDArray[np.float64]:
    """1 for each right answer, 0 for each wrong or missing one.

    Args:
        predicted: Answer to each question, None where there is none.
        ground_truth: The right answers.
        exact: Whether the texts must agree to the letter.
    """
    if len(predicted) != len(ground_truth):
        raise ValueError(f"got {len(predicted)} answers to {len(ground_truth)} questions; give one a question, or None")
    read = str if exact else normalize_answer
    return np.array(
        [
            answer is not None and read(answer) == read(reference)
            for answer, reference in zip(predicted, ground_truth, strict=True)
        ],
        dtype=np.float64,
    )


def majority_answer(ground_truth: Sequence[str]) -> str:
    """The most frequent right answer, as first written; the one that comes first of equals.

    Raises:
        ValueError: There is none.
    """
    if not ground_truth:
        raise ValueError("the majority answer needs at least one answer, got none")
    most_common = Counter(map(normalize_answer, ground_truth)).most_common(1)[0][0]
    return next(answer for answer in ground_truth if normalize_answer(answer) == most_common)
