"""Telling attention where to look: a loss on the weights of some heads, which the layers themselves do not keep."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor


class AttentionRecorder:
    """Remembers, while it is entered, what Q-Former attention compares, so that its scores can be computed again."""

    def __init__(self, attentions: Iterable[Any]) -> None:
        """Watch attention modules that have `query`, `key`, `num_attention_heads` and `scaling`."""
        self._attentions = list(attentions)
        self._seen: dict[tuple[int, str], list[Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        for number, attention in enumerate(self._attentions):
            for side in ("query", "key"):
                self._hooks.append(getattr(attention, side).register_forward_hook(self._remember(number, side)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def scores(self) -> list[list[Tensor]]:
        """`(batch, heads, queries, keys)` of every module and every time that it ran, before the softmax."""
        return [
            [
                _scores(attention, queries, keys)
                for queries, keys in zip(self._seen[number, "query"], self._seen[number, "key"], strict=True)
            ]
            for number, attention in enumerate(self._attentions)
        ]

    def _remember(self, number: int, side: str) -> Any:
        seen = self._seen[number, side] = []

        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            seen.append(output)

        return hook


def _scores(attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
    heads = attention.num_attention_heads
    queries, keys = (states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (queries, keys))
    scores: Tensor = (queries @ keys.transpose(-1, -2)).float() * attention.scaling
    return scores


def attention_loss(scores: Tensor, target: Tensor) -> Tensor:
    """How far attention is from looking only where it should: the negative logarithm of its share there.

    Args:
        scores: `(..., keys)`, before the softmax.
        target: `(..., keys)` of bool, where to look; at least one key in each row.

    Returns:
        `(...)`.
    """
    return torch.logsumexp(scores, dim=-1) - torch.logsumexp(scores.masked_fill(~target, float("-inf")), dim=-1)
