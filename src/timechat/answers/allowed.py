"""The probability of what a form allows, from the alternatives that a server lists for each token.

A server lists the most likely tokens at a place. The sum over those that the form allows is a lower bound of the
probability of all allowed tokens, so that a score is never too low because of it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from timechat.answers.forms import AnswerForm, FormCursor
from timechat.answers.token_evidence import Token

Alternative = tuple[str, float]
"""Text of a token, and the natural logarithm of its probability."""


def allowed_logprob(
    alternatives: Iterable[Alternative], chosen: Alternative, is_allowed: Callable[[str], bool]
) -> float | None:
    """Return the log probability of all known tokens that the form allows at a place.

    Args:
        alternatives: The most likely tokens; the chosen one may be among them.
        chosen: The token that was written.
        is_allowed: Function that tells whether the form allows a text at this place.

    Returns:
        Natural logarithm of the sum of the probabilities, the chosen token included; None without alternatives.
    """
    listed = list(alternatives)
    if not listed:
        return None
    others = [logprob for text, logprob in listed if not _is_same((text, logprob), chosen) and is_allowed(text)]
    highest = max([chosen[1], *others])
    return min(0.0, highest + math.log(sum(math.exp(logprob - highest) for logprob in (chosen[1], *others))))


def _is_same(listed: Alternative, chosen: Alternative) -> bool:
    """Whether a listed token is the chosen one, whose text may lack the blank at the start of the answer."""
    return listed[0] == chosen[0] or (listed[0].strip() == chosen[0].strip() and listed[1] == chosen[1])


def with_allowed(
    text: str,
    tokens: Sequence[Token],
    alternatives: Sequence[Sequence[Alternative]],
    form: AnswerForm,
    *,
    as_json: bool = False,
) -> tuple[Token, ...]:
    """Return the tokens of an answer with the log probability of what the form allowed at the place of each.

    Tokens behind a text that does not have the form stay as they are.

    Args:
        text: Text of the answer.
        tokens: Tokens that wrote it.
        alternatives: For each token, the most likely tokens at its place.
        form: Form that the server kept.
        as_json: Whether the server kept the schema, not the regular expression.
    """

    cursor = form.cursor(as_json=as_json)
    completed: list[Token] = []
    at = 0
    for token, listed in zip(tokens, alternatives, strict=True):
        if cursor is None or not cursor.advance(text[at : token.first]):
            return (*completed, *tokens[len(completed) :])
        at = max(at, token.first)
        allows = cursor.allows if at else partial(_allows_first, cursor)
        allowed = allowed_logprob(listed, (text[token.first : token.end], token.logprob), allows)
        completed.append(replace(token, allowed=allowed))
    return tuple(completed)


def _allows_first(cursor: FormCursor, text: str) -> bool:
    """Whether a text may be the start of an answer, which can begin with blanks."""
    return cursor.allows(text.lstrip())
