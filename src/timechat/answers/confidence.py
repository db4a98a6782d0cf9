"""How sure a model is of what it says about time, from the probabilities of its own tokens.

What speaks for a moment is counted in nats, the natural unit of log odds:

- *Sharpness*, the mean logarithm of the probabilities of the tokens that write its times.
- *Presence*, for what was looked for: the logarithm of the probability of an answer that tells of a moment ("The given
  query happens in" against "does not happen"), the product over all its tokens that are no times.
- *Confirmation*, for what was looked for: how much likelier the model tells of it, in the query's words and at the
times
  found, with the video than without (`pipeline.confirming`).
- *Wording*, for captions: the mean logarithm of the probabilities of the tokens that write the words.

A score is `sigmoid(slope * evidence + offset)`. The line is fitted on films whose truth is known (Platt, 1999), so
that of the moments with a score of 0.7 about seven in ten are right; a model without a fit of its own has slope 1 and
offset 0, and its scores say only which moment is surer than another.

Something that is looked for in many windows is rarely in any one of them. So the odds of a moment of grounding are
divided by the number of windows (`apply_window_prior`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from timechat.answers.events import Event

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SAME = 1e-6  # seconds
_SURE = 1e-13  # a probability this near to 0 or 1 counts as it


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer: which characters of the text it wrote, and the logarithm of its probability."""

    first: int
    end: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """From evidence, in nats, to a score: `sigmoid(slope * evidence + offset)`."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, evidence: float) -> float:
        """The score, from 0 to 1."""
        return _sigmoid(self.slope * evidence + self.offset)


UNCALIBRATED = Calibration()


def apply_window_prior(score: float, num_windows: int) -> float:
    """The score of a moment in one of several windows: before looking, each is as likely as the others."""
    score = min(max(score, _SURE), 1 - _SURE)
    return _sigmoid(math.log(score / (1 - score)) - math.log(num_windows)) if num_windows > 1 else score


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """What the tokens of one event say for it, in nats.

    Attributes:
        time_logprob: Of its times.
        caption_logprob: Of its words, from its times up to the next event's.
    """

    time_logprob: float
    caption_logprob: float


def existence_logprob(tokens: Sequence[Token], text: str) -> float:
    """Logarithm of the probability of an answer without its times: of its form."""
    numbers = [match.span() for match in _NUMBER.finditer(text)]
    return sum(token.logprob for token in tokens if not _writes(token, numbers))


def event_logprobs(events: Sequence[Event], text: str, tokens: Sequence[Token]) -> list[TokenEvidence | None]:
    """Find what the tokens of an answer say for each of its events; None for one whose times the text does not hold.

    Args:
        events: As they were read from the text, in its order.
        text: The answer.
        tokens: That wrote it.
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
    """Where in the text the start and the end of each event are written, as `(first, end)` characters."""
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
