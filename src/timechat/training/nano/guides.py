"""Telling attention where to look: a loss on the weights of some heads, which the layers themselves do not keep."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from timechat.model.configuration import TimeChatConfig

FRAMES_ASIDE = (0, -1, 1)
"""Frames from a video token's own at which the cross attention of each layer of the video Q-Former looks."""
TOKENS_ASIDE = (-1, 1, -2, 2, -1, 1, -3, 3, -1, 1, -2, 2, -1, 1, -4, 4)
"""Video tokens from its own at which the heads of attention between them look."""


class AttentionWatch:
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


def looks_away(scores: Tensor, wanted: Tensor) -> Tensor:
    """How far attention is from looking only where it should: the negative logarithm of its share there.

    Args:
        scores: `(..., keys)`, before the softmax.
        wanted: `(..., keys)` of bool, where to look; at least one key in each row.

    Returns:
        `(...)`.
    """
    return torch.logsumexp(scores, dim=-1) - torch.logsumexp(scores.masked_fill(~wanted, float("-inf")), dim=-1)


def window_guide_loss(
    config: TimeChatConfig, across: AttentionWatch, between: AttentionWatch, video_sizes: Tensor
) -> tuple[Tensor, float]:
    """Ask the heads of the video Q-Former to look at single tokens of single frames.

    Each head of cross attention gets one query of the image Q-Former, all heads of a layer the same frame; each head
    of attention between video tokens, from the second layer on, the same neighbour always.

    Args:
        config: Of the model.
        across: Watched cross attention, of all layers.
        between: Watched attention between video tokens, of all layers but the first.
        video_sizes: `(videos, 2)`, frames and text tokens of each: the videos in the order in which they ran.

    Returns:
        The loss, and the share of the attention that was where it should be.
    """
    size = config.window_size
    lengths = []  # frames of the windows of every run
    for num_frames in video_sizes[:, 0].tolist():
        lengths += [size] * (num_frames >= size) + [num_frames % size] * (num_frames % size > 0)
    losses = []
    for layer, runs in enumerate(across.scores()):
        for length, scores in zip(lengths, runs, strict=True):
            heads, queries, keys = scores.shape[1:]
            frames = (torch.arange(queries).clamp(max=length - 1) + FRAMES_ASIDE[layer]).clamp(0, length - 1)
            wanted = frames[None, :] * (keys // length) + torch.arange(heads)[:, None]  # (heads, queries)
            losses.append(_cross_entropy(scores, wanted))
    for runs in between.scores():
        for scores in runs:
            heads, queries = scores.shape[1:3]
            aside = torch.tensor([TOKENS_ASIDE[head % len(TOKENS_ASIDE)] for head in range(heads)])
            wanted = (torch.arange(queries)[None, :] + aside[:, None]).clamp(0, queries - 1)
            losses.append(_cross_entropy(scores, wanted))
    loss = torch.cat(losses).mean()
    return loss, float(torch.exp(-torch.cat(losses).detach()).mean())


def _cross_entropy(scores: Tensor, wanted: Tensor) -> Tensor:
    """`(batch, heads, queries, keys)` and `(heads, queries)` → losses, flat."""
    targets = wanted.to(scores.device).expand(scores.shape[0], -1, -1)
    return F.cross_entropy(scores.flatten(0, 2), targets.flatten(), reduction="none")
