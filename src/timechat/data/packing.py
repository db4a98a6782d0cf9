"""Many conversations about one video in one sequence: the video is read once, and none sees the others.

The result is the same as that of as many sequences of one conversation each: positions count on from the video for each
of them, and a mask hides them from one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timechat.model.processing import IGNORED_LABEL

_PADDING = -1


@dataclass(frozen=True, slots=True)
class Conversation:
    """What comes after the shared beginning: a question and its answer, as token ids."""

    question: Sequence[int]
    answer: Sequence[int]


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence: ids, labels, positions, and which conversation each token belongs to (0: the shared beginning)."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]
    segments: list[int]


def pack_conversations(shared: Sequence[int], conversations: Sequence[Conversation]) -> Packed:
    """Write conversations that begin alike one after the other; loss falls on the answers alone."""
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
        `(batch, 1, sequence, sequence)`, True where a row may look at a column.
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
    """Say who may look at whom: back in time, at the shared beginning and at one's own conversation.

    Args:
        segments: `(batch, sequence)`, 0 for the shared beginning, then 1, 2, ...; -1 for padding.

    Returns:
        `(batch, 1, sequence, sequence)` bool.
    """
    sequence = segments.shape[1]
    rows, columns = segments[:, :, None], segments[:, None, :]
    is_earlier = torch.ones(sequence, sequence, dtype=torch.bool, device=segments.device).tril()
    may_look = is_earlier & ((columns == 0) | (columns == rows))
    return may_look[:, None]
