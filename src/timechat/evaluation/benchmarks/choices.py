"""Shared parts of benchmarks with options: the wording, and samples joined with predictions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from timechat.evaluation.metrics.choices import LETTERS
from timechat.evaluation.samples import Prediction, Sample

_BEST_OPTION = (
    "Select the best answer to the following multiple-choice question based on the egocentric video. Respond with only "
    "the letter ({letters}) of the correct option. \nQuestion: {question}\n{options}\nThe best answer is:"
)


def lettered(options: Sequence[str]) -> str:
    """Options with letters, one per line: `(A) a dog`; options that all have their letters (`A. a dog`) are kept."""
    if all(_has_letter(option, letter) for letter, option in zip(LETTERS, options, strict=False)):
        return "\n".join(options)
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))


def _has_letter(option: str, letter: str) -> bool:
    return re.match(rf"\s*(?:\({letter}\)|{letter}[.):])(?:\s|\Z)", option) is not None


def best_option_question(question: str, options: Sequence[str]) -> str:
    """Word a question as the original does for EgoSchema; Video-MME has the same text, with "egocentric video"."""
    letters = list(LETTERS[: len(options)])
    listed = f"{', '.join(letters[:-1])}, or {letters[-1]}"
    return _BEST_OPTION.format(letters=listed, question=question, options=lettered(options))


def text(row: Mapping[str, Any], name: str) -> str:
    """Return a text value of a row.

    Raises:
        KeyError: The row has no such key.
        ValueError: The value is not a text.
    """
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} should be a text, got {value!r}")
    return value


def texts(values: Any, *, count: int | None = None) -> tuple[str, ...]:
    """Options of an annotation row: a list of texts or of numbers.

    Raises:
        ValueError: The value is not such a list, or has fewer than two, more than `LETTERS`, or not `count` options.
    """
    if not isinstance(values, list) or not all(isinstance(value, str | int | float) for value in values):
        raise ValueError(f"expected a list of options, got {values!r}")
    if not 2 <= len(values) <= len(LETTERS) or (count is not None and len(values) != count):
        raise ValueError(f"expected {count or f'2 to {len(LETTERS)}'} options, got {len(values)}")
    return tuple(map(str, values))


def answered(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Iterator[tuple[Sample, Prediction]]:
    """Pair each sample with its prediction, in the order of the samples.

    Raises:
        ValueError: A sample has no prediction.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    for sample in samples:
        if sample.id not in by_id:
            raise ValueError(f"sample {sample.id} has no prediction; pass only samples that were answered")
        yield sample, by_id[sample.id]
