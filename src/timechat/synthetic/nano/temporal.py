"""Stage three: the video Q-Former, which has to compare frames with one another to see what happens in them.

Left to itself it had not learned that in 900 steps: every layer that reads a token and adds to it makes what was
read before fainter, and a movement from frame to frame is a small difference between large things. So it starts as a
machine that compares: heads of its first layer fetch where each thing was a second ago and where it will be in a
second, and the difference is written down. Everything else is learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from timechat.model.configuration import TimeChatConfig
from timechat.model.video_qformer import SlidingVideoQFormer
from timechat.synthetic.nano.attention import AttentionRecorder
from timechat.synthetic.nano.frames import PLACE_DIMS, FrameHeads
from timechat.synthetic.nano.labels import NUM_ROWS

FRAMES_ASIDE = ((-2, 2), (0, -1), (1, -4))
"""Frames from a video token's own at which the cross attention of each layer looks: half of its heads, the others."""
TOKENS_ASIDE = (-1, 1, -2, 2, -1, 1, -3, 3, -1, 1, -2, 2, -1, 1, -4, 4)
"""Video tokens from its own at which the heads of attention between them look."""
_LOUDNESS = 3.0  # amplitude of the code of a frame's place, beside a deviation of 1.25 in frame tokens
_NEARNESS = 0.75  # how closely video tokens start by looking at a frame
_FREE = 4  # of the dimensions that a row has in video tokens, left to the code of places
_MAGNIFIED = 2.0  # differences between frames over what frames tell
_FAINT = 0.05  # how much of what a layer makes is added to what it read, at the start


@torch.no_grad()
def initialize_positions(video: SlidingVideoQFormer) -> None:
    """Let each video token start by looking at the frames of `FRAMES_ASIDE`.

    Where these have to be found among all tokens of a window first, nothing else is learned for hundreds of steps.
    """
    frames: Any = video.frame_positions.weight
    num_frames, width = frames.shape
    # Waves that a window holds a whole number of: their sum is large for a frame itself, and for no other.
    turns = 2 * torch.pi / num_frames * torch.arange(1, num_frames // 2)  # radians a frame
    angles = torch.arange(num_frames)[:, None] * turns
    code = _LOUDNESS * torch.cat([angles.sin(), angles.cos()], dim=1)  # (frames, size of the code)
    size = code.shape[1]
    hidden = video.query_tokens.shape[-1]
    assert size == PLACE_DIMS
    in_frames = torch.eye(width)[-size:]
    block = hidden // NUM_ROWS
    free = [i for i in range(hidden) if i % block >= block - _FREE][:size]
    in_tokens = torch.eye(hidden)[free]
    frames.copy_(code @ in_frames)
    video.query_tokens.normal_(std=0.02)
    video.query_tokens[0] += code @ in_tokens
    for layer, asides in zip(video.qformer.encoder.layer, FRAMES_ASIDE, strict=True):
        attention = layer.crossattention.attention
        for number in range(attention.num_attention_heads):
            rows = _rows_of(attention, number)
            for side in (attention.query, attention.key):
                side.weight[rows] = 0
                side.bias[rows] = 0
            attention.key.weight[rows][:size] = in_frames * _NEARNESS
            attention.query.weight[rows][:size] = _turned(turns, asides[number // NUM_ROWS]) @ in_tokens * _NEARNESS
    for number, layer in enumerate(video.qformer.encoder.layer):
        layer.attention.output.dense.weight *= _FAINT
        layer.output_query.dense.weight *= _FAINT
        if number:
            layer.crossattention.output.dense.weight *= _FAINT


def _rows_of(attention: Any, head: int) -> slice:
    size = attention.attention_head_size
    return slice(head * size, (head + 1) * size)


def _turned(turns: Tensor, num_frames: int) -> Tensor:
    """Matrix that takes the code of a place to that of the place some frames later."""
    sin, cos = (turns * num_frames).sin().diag(), (turns * num_frames).cos().diag()
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])


@torch.no_grad()
def initialize_comparison(model: Any) -> None:
    """Let the heads of the video Q-Former start from what the stage before has learned to tell, and compare frames.

    Each head looks at the token of one colour or shape, as `FrameHeads.which` knows it. Those of the first layer
    fetch the geometry that `FrameHeads` reads off it, and their output layer writes down the difference between two
    frames, and their mean. The recipe leaves these two out of what learns: in a hundred steps the first rush of
    learning would have made the small differences drown in what else the same weights then carry.
    """
    told: FrameHeads = model.training_heads.frames
    told_dims = told.geometry.in_features  # of a token; the others are left to places
    layers = model.video_qformer.qformer.encoder.layer
    for layer in layers:
        attention = layer.crossattention.attention
        attention.value.weight[:, told_dims:] = 0
        for number in range(attention.num_attention_heads):
            last = _rows_of(attention, number).stop - 1
            attention.key.weight[last, :told_dims] = told.which.weight[number % NUM_ROWS]
            attention.key.bias[last] = told.which.bias[number % NUM_ROWS]
            attention.query.weight[last] = 0
            attention.query.bias[last] = 1 / attention.scaling
    cross = layers[0].crossattention
    geometry = F.normalize(told.geometry.weight, dim=1)
    output = cross.output.dense.weight
    output.zero_()
    cross.attention.value.bias.zero_()
    cross.output.dense.bias.zero_()
    for row in range(NUM_ROWS):
        one, other = _rows_of(cross.attention, row), _rows_of(cross.attention, NUM_ROWS + row)
        size = one.stop - one.start
        for rows in (one, other):
            cross.attention.value.weight[rows, :told_dims] = geometry[:size]
        same = torch.eye(size)
        output[2 * size * row :][:size, one] = -_MAGNIFIED * same
        output[2 * size * row :][:size, other] = _MAGNIFIED * same
        output[2 * size * row + size :][: size - _FREE, one] = same[:-_FREE] / 2
        output[2 * size * row + size :][: size - _FREE, other] = same[:-_FREE] / 2


def window_attention_loss(
    config: TimeChatConfig, across: AttentionRecorder, between: AttentionRecorder, video_sizes: Tensor
) -> tuple[Tensor, float]:
    """Ask the heads of the video Q-Former to look at single tokens of single frames.

    Each head of cross attention gets one query of the image Q-Former in one frame, see `FRAMES_ASIDE`; each head of
    attention between video tokens, from the second layer on, the same neighbour always.

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
            own = torch.arange(queries).clamp(max=length - 1)
            aside = torch.tensor(FRAMES_ASIDE[layer]).repeat_interleave(NUM_ROWS)
            frames = (own[None, :] + aside[:, None]).clamp(0, length - 1)  # (heads, queries)
            wanted = frames * (keys // length) + torch.arange(heads)[:, None] % NUM_ROWS
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
