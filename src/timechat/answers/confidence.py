"""Scores of moments from the probabilities of the tokens of an answer.

The evidence for a moment is counted in nats, the natural unit of log odds:

- *Time*: the mean log probability of the tokens that write its times.
- *Existence*, for grounding: the log probability of an answer that names a moment ("The given query happens in" against
  "does not happen"), the sum over all its tokens that are no times.
- *Verification*, for grounding: how much more likely the query is as the caption of the moment with the video than with
  a blank one (`pipeline.answering`).
- *Caption*, for captions: the mean log probability of the tokens that write the words.

A score is `sigmoid(slope * evidence + offset)`. The line is fitted on videos with known events (Platt, 1999), so that
about seven of ten moments with a score of 0.7 are correct. A model without a fit has slope 1 and offset 0; its scores
only rank the moments.

A query that is looked for in many windows is rarely in any one of them. So the odds of a grounding moment are divided
by the number of windows (`apply_window_prior`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from timechat.answers.events import Event

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SAME = 1e-6  # seconds
_MIN_PROBABILITY = 1e-13  # probabilities are clipped to this distance from 0 and 1


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer: the range of characters that it wrote, and its log probability."""

    first: int
    end: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Function from evidence in nats to a score: `sigmoid(slope * evidence + offset)`."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, evidence: float) -> float:
        """Return the score, from 0 to 1."""
        return _sigmoid(self.slope * evidence + self.offset)


UNCALIBRATED = Calibration()


def apply_window_prior(score: float, num_windows: int) -> float:
    """Return the score of a moment in one of several windows, which are equally likely a priori."""
    score = min(max(score, _MIN_PROBABILITY), 1 - _MIN_PROBABILITY)
    return _sigmoid(math.log(score / (1 - score)) - math.log(num_windows)) if num_windows > 1 else score


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """Evidence of the tokens of one event, in nats.

    Attributes:
        time_logprob: Mean log probability of the tokens of its times.
        caption_logprob: Mean log probability of the tokens of its words, up to the times of the next event.
    """

    time_logprob: float
    caption_logprob: float


def existence_logprob(tokens: Sequence[Token], text: str) -> float:
    """Return the log probability of the tokens of an answer that are no times."""
    numbers = [match.span() for match in _NUMBER.finditer(text)]
    return sum(token.logprob for token in tokens if not _writes(token, numbers))


def event_logprobs(events: Sequence[Event], text: str, tokens: Sequence[Token]) -> list[TokenEvidence | None]:
    """Return the evidence of the tokens for each event of an answer; None for an event whose times are not in the text.

    Args:
        events: Events of the text in their order.
        text: Text of the answer.
        tokens: Tokens that wrote the text.
    """
    heads = _find_times(events, text)
    starts = [head[0][0] for head in heads if head] + [len(text)]
    found: list[TokenEvidence | None] = []
    for head in heads:
        if head is None:
            found.append(None)
            continue
        end = next(start for start in starts if start > head[0][0])
        own = [token for token in tokens if head[0][0] < token.end and token.first < end]
        times = [token.logprob for token in own if _writes(token, head)]
        words = [token.logprob for token in own if not _writes(token, head)]
        found.append(TokenEvidence(_mean(times), _mean(words)))
    return found


def _find_times(events: Sequence[Event], text: str) -> list[list[tuple[int, int]] | None]:
    """Character ranges `(first, end)` of start and end of each event in the text; None if they are not there."""
    numbers = [(float(match[0]), match.span()) for match in _NUMBER.finditer(text)]
    heads: list[list[tuple[int, int]] | None] = []
    position = 0
    for event in events:
        head, at = [], position
        for time in (event.start, event.end):
            at = next((i for i in range(at, len(numbers)) if abs(numbers[i][0] - time) < _SAME), len(numbers))
            head += [numbers[at][1]] if at < len(numbers) else []
            at += 1
        heads.append(head if len(head) == 2 else None)
        position = at if len(head) == 2 else position
    return heads


def _writes(token: Token, places: Sequence[tuple[int, int]]) -> bool:
    return any(token.first < end and first < token.end for first, end in places)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
