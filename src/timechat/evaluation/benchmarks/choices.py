"""What benchmarks with options share: their wording, and who answered what."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from timechat.evaluation.metrics.choices import LETTERS
from timechat.evaluation.samples import Prediction, Sample

_BEST_OPTION = (
    "Select the best answer to the following multiple-choice question based on the egocentric video. Respond with only "
    "the letter ({letters}) of the correct option. \nQuestion: {question}\n{options}\nThe best answer is:"
)


def lettered(options: Sequence[str]) -> str:
    """Options a line each: `(A) a dog`."""
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))


def best_option_question(question: str, options: Sequence[str]) -> str:
    """The question as the original words it for EgoSchema and, the egocentric video included, for Video-MME."""
    letters = list(LETTERS[: len(options)])
    listed = f"{', '.join(letters[:-1])}, or {letters[-1]}"
    return _BEST_OPTION.format(letters=listed, question=question, options=lettered(options))


def text(row: Mapping[str, Any], name: str) -> str:
    """A text of a row.

    Raises:
        KeyError: The row has no such key.
        ValueError: It holds something else.
    """
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} should be a text, got {value!r}")
    return value


def texts(values: Any, *, count: int | None = None) -> tuple[str, ...]:
    """Options as annotations give them: a list of texts, or of numbers.

    Raises:
        ValueError: It is something else, or there are fewer than two, more than letters, or not `count`.
    """
    if not isinstance(values, list) or not all(isinstance(value, str | int | float) for value in values):
        raise ValueError(f"expected a list of options, got {values!r}")
    if not 2 <= len(values) <= len(LETTERS) or (count is not None and len(values) != count):
        raise ValueError(f"expected {count or f'2 to {len(LETTERS)}'} options, got {len(values)}")
    return tuple(map(str, values))


def answered(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Iterator[tuple[Sample, Prediction]]:
    """Samples with what was answered to them, in the order of the samples.

    Raises:
        ValueError: A sample has no prediction.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    for sample in samples:
        if sample.id not in by_id:
            raise ValueError(f"sample {sample.id} has no prediction; give those samples only that were asked")
        yield sample, by_id[sample.id]
