"""Repetition penalty and minimum length: they change the choice of a token, never the reported probabilities."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from timechat.answers.tasks import DecodingOptions

EndsTurn = Callable[[Sequence[int]], bool]


def score_processors(
    decoding: DecodingOptions,
    end_token_ids: Sequence[int],
    constraint: LogitsProcessor | None = None,
    ends_turn: EndsTurn | None = None,
) -> list[LogitsProcessor]:
    """Return the logits processors of `generate` for decoding options, in the order in which they must run.

    Args:
        decoding: Decoding options with the repetition penalty and the minimum length.
        end_token_ids: Token ids that end an answer.
        constraint: Logits processor that applies the grammars of the answers.
        ends_turn: Function that returns whether generated tokens are a whole answer without an end token.
    """
    processors = []
    if decoding.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))
    if constraint is not None:
        processors.append(constraint)
    if decoding.min_new_tokens:
        processors.append(_MinNewTokens(decoding.min_new_tokens, end_token_ids))
    if ends_turn is not None and end_token_ids:
        processors.append(_EndOfTurn(ends_turn, end_token_ids[0]))
    return processors


def penalize_repetition(scores: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
    """Return scores `(rows, vocab)` with a penalty on the tokens that an answer has already.

    The tokens of the prompt do not count: as in the original, the prompt consists of embeddings.

    Args:
        scores: `(rows, vocab)`.
        token_ids: `(rows, generated)`, the generated tokens.
        penalty: Penalty of `transformers`: positive scores are divided by it, negative ones multiplied.
    """
    penalized: Tensor = RepetitionPenaltyLogitsProcessor(float(penalty))(token_ids, scores)
    return penalized


def forbid_end(scores: Tensor, end_token_ids: Sequence[int]) -> Tensor:
    """Return scores `(rows, vocab)` without the end tokens; a row in which only they are possible is unchanged.

    So a grammar has priority over the minimum length: its answer ends where nothing else may follow.
    """
    rest = scores.index_fill(1, scores.new_tensor(list(end_token_ids)).long(), float("-inf"))
    return scores.where(rest.isneginf().all(-1, keepdim=True), rest)


class _EndOfTurn(LogitsProcessor):  # type: ignore[misc]
    """Ends an answer with the end token where it ends without one."""

    def __init__(self, ends_turn: EndsTurn, end_token_id: int) -> None:
        self._ends_turn, self._end_token_id = ends_turn, end_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change scores `(rows, vocab)`; `input_ids` `(rows, generated)` holds only the generated tokens."""
        is_end = scores.new_tensor([self._ends_turn(ids) for ids in input_ids.tolist()]).bool()
        end = torch.full_like(scores, float("-inf"))
        end[:, self._end_token_id] = 0
        return end.where(is_end[:, None], scores)


class _MinNewTokens(LogitsProcessor):  # type: ignore[misc]
    """Forbids the end of an answer before its minimum length."""

    def __init__(self, min_new_tokens: int, end_token_ids: Sequence[int]) -> None:
        self._min_new_tokens, self._end_token_ids = min_new_tokens, end_token_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change scores `(rows, vocab)`; `input_ids` `(rows, generated)` holds only the generated tokens."""
        return forbid_end(scores, self._end_token_ids) if input_ids.shape[1] < self._min_new_tokens else scores
