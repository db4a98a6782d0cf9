"""Several conversations about one video in one sequence, so that the model processes the video once.

The result is the same as with one sequence per conversation: the positions of each conversation continue from those of
the video, and a mask hides the conversations from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timechat.model.training_text import IGNORED_LABEL

_PADDING = -1


@dataclass(frozen=True, slots=True)
class TokenizedTurn:
    """A question and its answer as token ids, which follow the shared prefix."""

    question: Sequence[int]
    answer: Sequence[int]


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence: ids, labels, positions, and the conversation of each token (0 for the shared prefix)."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]
    segments: list[int]


def pack_conversations(shared: Sequence[int], conversations: Sequence[TokenizedTurn]) -> Packed:
    """Pack conversations with a shared prefix into one sequence; only answers have labels."""
    ids, labels = list(shared), [IGNORED_LABEL] * len(shared)
    positions, segments = list(range(len(shared))), [0] * len(shared)
    for number, conversation in enumerate(conversations, start=1):
        tokens = [*conversation.question, *conversation.answer]
        ids += tokens
        labels += [*([IGNORED_LABEL] * len(conversation.question)), *conversation.answer]
        positions += range(len(shared), len(shared) + len(tokens))
        segments += [number] * len(tokens)
    return Packed(ids, labels, positions, segments)


def pad_packed(rows: Sequence[Packed], pad_token_id: int) -> dict[str, Tensor]:
    """Stack packed sequences, padded on the right.

    Returns:
        `input_ids`, `labels` and `position_ids` `(batch, sequence)`, and `attention_mask`
        `(batch, 1, sequence, sequence)`, True where a row attends to a column.
    """
    longest = max(len(row.input_ids) for row in rows)

    def stack(lists: Sequence[list[int]], filling: int) -> Tensor:
        return torch.tensor([[*values, *([filling] * (longest - len(values)))] for values in lists])

    return {
        "input_ids": stack([row.input_ids for row in rows], pad_token_id),
        "labels": stack([row.labels for row in rows], IGNORED_LABEL),
        "position_ids": stack([row.position_ids for row in rows], 0),
        "attention_mask": branch_mask(stack([row.segments for row in rows], _PADDING)),
    }


def branch_mask(segments: Tensor) -> Tensor:
    """Return the attention mask: tokens attend to earlier tokens of the shared prefix and of their own conversation.

    Args:
        segments: Conversation of each token, `(batch, sequence)`: 0 for the shared prefix, then 1, 2, ...; -1 for
            padding.

    Returns:
        Mask `(batch, 1, sequence, sequence)` of bool.
    """
    sequence = segments.shape[1]
    rows, columns = segments[:, :, None], segments[:, None, :]
    is_earlier = torch.ones(sequence, sequence, dtype=torch.bool, device=segments.device).tril()
    is_visible = is_earlier & ((columns == 0) | (columns == rows))
    return is_visible[:, None]
