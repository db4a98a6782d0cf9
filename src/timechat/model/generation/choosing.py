"""The next token of each of several answers, from the logits of the model and the rules of each answer."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from timechat.answers.tasks import DecodingOptions
from timechat.model.generation.generate import Sampler
from timechat.model.generation.grammar_state import GrammarState
from timechat.model.generation.score_processors import EndsTurn, forbid_end, penalize_repetition


class AnswerRow(Protocol):
    """An answer in a batch that is being written.

    Attributes:
        decoding: Decoding options.
        constraint: Grammar state that masks the tokens; None for an unconstrained answer.
        token_ids: Tokens generated so far, with the end token of a complete answer.
        logprobs: Natural logarithm of the probability of each token under the model, before any constraint.
        is_finished: Whether the answer is complete or has reached its maximum length.
        error: Error of the constraint, which ends the answer; None without error.
        sampler: Sampler that draws the tokens; None until the first drawn token.
        allowed: Log probability of all tokens that the constraint allowed at the place of each token, before the
            constraint; None if it is not recorded.
    """

    decoding: DecodingOptions
    constraint: GrammarState | None
    token_ids: list[int]
    logprobs: list[float]
    is_finished: bool
    error: ValueError | None
    sampler: Sampler | None
    allowed: list[float] | None

    @property
    def tokens_left(self) -> int:
        """Maximum number of tokens that follow the generated ones."""


def choose_tokens(
    rows: Sequence[AnswerRow], logits: Tensor, end_token_ids: Sequence[int], ends_turn: EndsTurn | None = None
) -> None:
    """Choose the next token of each row, and add it and its log probability to the row.

    Args:
        rows: Answers, none of which is finished.
        logits: `(rows, vocab)`.
        end_token_ids: Token ids that end an answer.
        ends_turn: Function that returns whether generated tokens are a whole answer without an end token.
    """
    scores = logits.float()
    logprobs = scores.log_softmax(-1)
    for i, row in enumerate(rows):
        before = scores[i : i + 1]
        try:
            if row.constraint is not None and row.allowed is not None:
                row.allowed.append(row.constraint.allowed_logprob(logprobs[i].cpu().numpy(), row.tokens_left))
            adjusted = _adjust(row, before, end_token_ids)
        except ValueError as error:  # an error of this row's grammar, not of the others
            row.error = error
            continue
        if adjusted is not before:
            scores[i : i + 1] = adjusted
    chosen = scores.argmax(-1)  # (rows,)
    needs_scores = any(row.constraint is not None and not row.decoding.do_sample for row in rows)
    host_scores = scores.cpu().numpy() if needs_scores else None
    for i, row in enumerate(rows):
        if row.error is not None:
            continue
        if row.decoding.do_sample:
            row.sampler = row.sampler or Sampler(row.decoding, scores.device)
            chosen[i] = row.sampler(scores[i : i + 1])
        elif row.constraint is not None:
            assert host_scores is not None
            try:
                chosen[i] = row.constraint.most_likely_token(host_scores[i], row.tokens_left)
            except ValueError as error:
                row.error = error
    chosen_logprobs = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
    for row, token, logprob in zip(rows, chosen.tolist(), chosen_logprobs, strict=True):
        row.token_ids.append(token)
        row.logprobs.append(logprob)
        row.is_finished = token in end_token_ids or len(row.token_ids) >= row.decoding.max_new_tokens
        row.is_finished |= ends_turn is not None and ends_turn(row.token_ids)
        if row.constraint is not None and not row.is_finished and row.error is None:
            try:
                row.constraint.accept_token(token)
            except ValueError as error:
                row.error = error
            row.is_finished = row.constraint.is_finished
        row.is_finished |= row.error is not None


def _adjust(row: AnswerRow, scores: Tensor, end_token_ids: Sequence[int]) -> Tensor:
    """Return the scores `(1, vocab)` from which a row's token is chosen; a greedy grammar is applied later."""
    decoding = row.decoding
    if decoding.repetition_penalty != 1.0:
        written = torch.tensor([row.token_ids], dtype=torch.long, device=scores.device)
        scores = penalize_repetition(scores, written, decoding.repetition_penalty)
    if row.constraint is not None and decoding.do_sample:
        forbidden = torch.from_numpy(~row.constraint.allowed_tokens(row.tokens_left)).to(scores.device)
        scores = scores.masked_fill(forbidden, float("-inf"))
    return forbid_end(scores, end_token_ids) if len(row.token_ids) < decoding.min_new_tokens else scores
