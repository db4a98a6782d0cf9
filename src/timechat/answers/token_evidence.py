"""What the probabilities of the tokens of one answer say for its events.

A constrained answer can be unlikely as a whole, although the model prefers it to every other answer of its form. So the
probability of a token is divided by that of all tokens that the form allowed at its place, where a backbone tells it
(`Token.allowed`). TimeChat's own calibration was fitted on the probabilities before any constraint.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from timechat.answers.events import Event
from timechat.answers.times import DIGITS, seconds_of

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SAME = 1e-6  # seconds


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer: the range of characters that it wrote, and its log probability.

    Attributes:
        first: Place of its first character.
        end: Place after its last character.
        logprob: Natural logarithm of its probability under the model, before any constraint.
        allowed: Natural logarithm of the probability of all tokens that the form allowed at its place; None if it is
            not known.
    """

    first: int
    end: int
    logprob: float
    allowed: float | None = None

    @property
    def form_logprob(self) -> float:
        """Log probability of the token among those that the form allowed; among all tokens if these are not known."""
        return self.logprob if self.allowed is None else min(0.0, self.logprob - self.allowed)


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """Evidence of the tokens of one event, in nats.

    Attributes:
        time_logprob: Mean log probability of the tokens of its times.
        caption_logprob: Mean log probability of the tokens of its words, up to the times of the next event.
        end: Place in the text after its times.
    """

    time_logprob: float
    caption_logprob: float
    end: int = 0


def existence_logprob(tokens: Sequence[Token], text: str, end: int | None = None) -> float | None:
    """Return the log probability of the tokens of an answer that are no times, up to a place in the text.

    None if there is no such token.
    """
    numbers = [match.span() for match in _NUMBER.finditer(text)]
    words = [token for token in tokens if not _writes(token, numbers) and (end is None or token.first < end)]
    return sum(token.form_logprob for token in words) if words else None


def event_logprobs(events: Sequence[Event], text: str, tokens: Sequence[Token]) -> list[TokenEvidence | None]:
    """Return the evidence of the tokens for each event of an answer; None for an event whose times are not in the text.

    Args:
        events: Events of the text in their order.
        text: Text of the answer.
        tokens: Tokens that wrote the text.
    """
    heads = _find_times(events, text)
    heads = [None if head is None else sorted(head) for head in heads]
    starts = [head[0][0] for head in heads if head] + [len(text)]
    found: list[TokenEvidence | None] = []
    for head in heads:
        if head is None:
            found.append(None)
            continue
        end = next(start for start in starts if start > head[0][0])
        own = [token for token in tokens if head[0][0] < token.end and token.first < end]
        times = [token.form_logprob for token in own if _writes(token, head)]
        words = [token.form_logprob for token in own if not _writes(token, head)]
        found.append(TokenEvidence(_mean(times), _mean(words), max(place[1] for place in head)))
    return found


def _find_times(events: Sequence[Event], text: str) -> list[list[tuple[int, int]] | None]:
    """Character ranges `(first, end)` of start and end of each event in the text; None if they are not there.

    The ends of an event may stand in either order, and as clock times (`1:12`).
    """
    plain = [(float(match[0]), match.span()) for match in _NUMBER.finditer(text)]
    clock = [(seconds_of(match[0]), match.span()) for match in DIGITS.finditer(text)] if ":" in text else []
    heads: list[list[tuple[int, int]] | None] = []
    position = 0
    for event in events:
        orders = ((event.start, event.end), (event.end, event.start))
        tries = (_find_in_order(times, numbers, position) for numbers in (plain, clock) for times in orders)
        heads.append(next((head for head in tries if head), None))
        if head := heads[-1]:
            position = head[-1][1]
    return heads


def _find_in_order(
    times: Sequence[float], numbers: Sequence[tuple[float, tuple[int, int]]], position: int
) -> list[tuple[int, int]]:
    """Character ranges of times that follow each other in a text from a place on; empty if one is not there."""
    found: list[tuple[int, int]] = []
    for time in times:
        places = (place for value, place in numbers if place[0] >= position and abs(value - time) < _SAME)
        place = next(places, None)
        if place is None:
            return []
        found.append(place)
        position = place[1]
    return found


def _writes(token: Token, places: Sequence[tuple[int, int]]) -> bool:
    return any(token.first < end and first < token.end for first, end in places)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
