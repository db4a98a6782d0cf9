"""How sure a model is of what it says about time, from the probabilities of its own tokens.

A moment's score has two parts. *Presence* is the probability that the answer tells of a moment at all: the product over
the tokens that are no times ("The given query happens in" against "does not happen"). *Sharpness* is the geometric
mean of the probabilities of the tokens that write its times. Their product is between 0 and 1, but it is no
probability of being right until it is calibrated: `Calibration` maps its logit by a line that was fitted on films whose truth is known (Platt,
1999).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from timechat.events import Event

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SAME = 1e-6  # seconds
_SURE = 1e-6  # a probability this near to 0 or 1 counts as it


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer: which characters of the text it wrote, and the logarithm of its probability."""

    first: int
    end: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A line through logits: `sigmoid(slope * logit(score) + offset)`.

    Attributes:
        slope: 1 leaves scores as they are, with offset 0.
        offset: Added to the logit.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, score: float) -> float:
        """The calibrated score."""
        if self == Calibration():
            return score
        score = min(max(score, _SURE), 1 - _SURE)
        return 1 / (1 + math.exp(-(self.slope * math.log(score / (1 - score)) + self.offset)))


def presence(tokens: Sequence[Token], text: str) -> float:
    """Probability of an answer without its times, from 0 to 1: of its form."""
    numbers = [match.span() for match in _NUMBER.finditer(text)]
    return math.exp(sum(token.logprob for token in tokens if not _writes(token, numbers)))


def sharpness(tokens: Sequence[Token], numbers: Sequence[tuple[int, int]]) -> float:
    """Geometric mean of the probabilities of the tokens that write numbers, given by their places in the text."""
    logprobs = [token.logprob for token in tokens if _writes(token, numbers)]
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 1.0


def _writes(token: Token, numbers: Sequence[tuple[int, int]]) -> bool:
    return any(token.first < end and first < token.end for first, end in numbers)


def score_events(events: Sequence[Event], text: str, tokens: Sequence[Token]) -> list[Event]:
    """Give each event the sharpness of its times as its score; one whose times are not in the text keeps its own.

    Args:
        events: As they were read from the text, in its order.
        text: The answer.
        tokens: That wrote it.
    """
    numbers = [(float(match[0]), match.span()) for match in _NUMBER.finditer(text)]
    scored, next_number = [], 0
    for event in events:
        places = []
        position = next_number
        for time in (event.start, event.end):
            position = next((i for i in range(position, len(numbers)) if abs(numbers[i][0] - time) < _SAME), -1)
            if position < 0:
                break
            places.append(numbers[position][1])
            position += 1
        if len(places) == 2:
            next_number = position
            event = replace(event, score=sharpness(tokens, places))
        scored.append(event)
    return scored
