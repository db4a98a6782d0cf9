"""Attention supervision: a loss on the attention weights of some heads, which the layers do not keep."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor


class AttentionRecorder:
    """Context manager that records queries and keys of Q-Former attention, from which its scores are computed again."""

    def __init__(self, attentions: Iterable[Any]) -> None:
        """Record attention modules that have `query`, `key`, `num_attention_heads` and `scaling`."""
        self._attentions = list(attentions)
        self._recorded: dict[tuple[int, str], list[Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        """Start recording."""
        for number, attention in enumerate(self._attentions):
            for side in ("query", "key"):
                self._hooks.append(getattr(attention, side).register_forward_hook(self._record(number, side)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop recording."""
        for hook in self._hooks:
            hook.remove()

    def scores(self) -> list[list[Tensor]]:
        """Return scores before the softmax, `(batch, heads, queries, keys)`, of every module and every call."""
        return [
            [
                _scores(attention, queries, keys)
                for queries, keys in zip(self._recorded[number, "query"], self._recorded[number, "key"], strict=True)
            ]
            for number, attention in enumerate(self._attentions)
        ]

    def _record(self, number: int, side: str) -> Any:
        recorded = self._recorded[number, side] = []

        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            recorded.append(output)

        return hook


def _scores(attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
    heads = attention.num_attention_heads
    queries, keys = (states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (queries, keys))
    scores: Tensor = (queries @ keys.transpose(-1, -2)).float() * attention.scaling
    return scores


def attention_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Return the negative logarithm of the share of attention on the target keys.

    Args:
        scores: Scores before the softmax, `(..., keys)`.
        target: Target keys, bool `(..., keys)`; at least one key in each row.

    Returns:
        Losses `(...)`.
    """
    return torch.logsumexp(scores, dim=-1) - torch.logsumexp(scores.masked_fill(~target, float("-inf")), dim=-1)
