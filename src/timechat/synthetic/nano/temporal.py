"""Stage three: the video Q-Former, which has to compare frames to detect actions.

From a random start it did not learn this in 900 steps. Every layer adds to a token, so earlier content becomes
relatively smaller, and a movement between frames is a small difference of large values. Therefore its weights are
initialized for comparison: heads of the first layer fetch the geometry of each object one second before and one second
after, and write down the difference. Everything else is learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from timechat.model.configuration import TimeChatConfig
from timechat.model.video_qformer import SlidingVideoQFormer
from timechat.synthetic.nano.attention import AttentionRecorder
from timechat.synthetic.nano.frames import POSITION_DIMS, FrameHeads
from timechat.synthetic.nano.labels import NUM_ROWS

FRAME_OFFSETS = ((-2, 2), (0, -1), (1, -4))
"""Target frames of the cross attention of each layer, relative to the frame of the video token: of the first half of
the heads, and of the second half."""
TOKEN_OFFSETS = (-1, 1, -2, 2, -1, 1, -3, 3, -1, 1, -2, 2, -1, 1, -4, 4)
"""Target tokens of the heads of attention between video tokens, relative to the own token."""
_AMPLITUDE = 3.0  # amplitude of the code of a frame position; frame tokens have a standard deviation of 1.25
_SHARPNESS = 0.75  # sharpness of the initial attention of video tokens to a frame
_FREE = 4  # dimensions of each row in video tokens that stay free for the code of frame positions
_DIFFERENCE_GAIN = 2.0  # gain of differences between frames
_RESIDUAL_GAIN = 0.05  # initial gain of the outputs of layers


@torch.no_grad()
def initialize_positions(video: SlidingVideoQFormer) -> None:
    """Initialize the attention of each video token to the frames of `FRAME_OFFSETS`.

    Otherwise these have to be found among all tokens of a window, and nothing else is learned for hundreds of steps.
    """
    frames: Any = video.frame_positions.weight
    num_frames, width = frames.shape
    # Waves with a whole number of periods in a window: their sum is large for the frame itself only.
    turns = 2 * torch.pi / num_frames * torch.arange(1, num_frames // 2)  # radians per frame
    angles = torch.arange(num_frames)[:, None] * turns
    code = _AMPLITUDE * torch.cat([angles.sin(), angles.cos()], dim=1)  # (frames, size of the code)
    size = code.shape[1]
    hidden = video.query_tokens.shape[-1]
    assert size == POSITION_DIMS
    in_frames = torch.eye(width)[-size:]
    block = hidden // NUM_ROWS
    free = [i for i in range(hidden) if i % block >= block - _FREE][:size]
    in_tokens = torch.eye(hidden)[free]
    frames.copy_(code @ in_frames)
    video.query_tokens.normal_(std=0.02)
    video.query_tokens[0] += code @ in_tokens
    for layer, offsets in zip(video.qformer.encoder.layer, FRAME_OFFSETS, strict=True):
        attention = layer.crossattention.attention
        for number in range(attention.num_attention_heads):
            rows = _head_rows(attention, number)
            for side in (attention.query, attention.key):
                side.weight[rows] = 0
                side.bias[rows] = 0
            attention.key.weight[rows][:size] = in_frames * _SHARPNESS
            attention.query.weight[rows][:size] = (
                _shift_matrix(turns, offsets[number // NUM_ROWS]) @ in_tokens * _SHARPNESS
            )
    for number, layer in enumerate(video.qformer.encoder.layer):
        layer.attention.output.dense.weight *= _RESIDUAL_GAIN
        layer.output_query.dense.weight *= _RESIDUAL_GAIN
        if number:
            layer.crossattention.output.dense.weight *= _RESIDUAL_GAIN


def _head_rows(attention: Any, head: int) -> slice:
    size = attention.attention_head_size
    return slice(head * size, (head + 1) * size)


def _shift_matrix(turns: Tensor, num_frames: int) -> Tensor:
    """Return the matrix that maps the code of a frame position to that of a position some frames later."""
    sin, cos = (turns * num_frames).sin().diag(), (turns * num_frames).cos().diag()
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])


@torch.no_grad()
def initialize_comparison(model: Any) -> None:
    """Initialize the heads of the video Q-Former to compare frames, from the heads of the stage before.

    Each head attends to the token of one color or shape, which `FrameHeads.which` detects. The heads of the first layer
    fetch the geometry that `FrameHeads` predicts, and their output layer writes down the difference between two frames
    and their mean. The recipe freezes these two. Otherwise the first hundred steps of training would add large values
    to the identity weights, and the small differences would be lost.
    """
    heads: FrameHeads = model.training_heads.frames
    num_dims = heads.geometry.in_features  # dimensions of a token without the code of frame positions
    layers = model.video_qformer.qformer.encoder.layer
    for layer in layers:
        attention = layer.crossattention.attention
        attention.value.weight[:, num_dims:] = 0
        for number in range(attention.num_attention_heads):
            last = _head_rows(attention, number).stop - 1
            attention.key.weight[last, :num_dims] = heads.which.weight[number % NUM_ROWS]
            attention.key.bias[last] = heads.which.bias[number % NUM_ROWS]
            attention.query.weight[last] = 0
            attention.query.bias[last] = 1 / attention.scaling
    cross = layers[0].crossattention
    geometry = F.normalize(heads.geometry.weight, dim=1)
    output = cross.output.dense.weight
    output.zero_()
    cross.attention.value.bias.zero_()
    cross.output.dense.bias.zero_()
    for row in range(NUM_ROWS):
        first, second = _head_rows(cross.attention, row), _head_rows(cross.attention, NUM_ROWS + row)
        size = first.stop - first.start
        for rows in (first, second):
            cross.attention.value.weight[rows, :num_dims] = geometry[:size]
        identity = torch.eye(size)
        output[2 * size * row :][:size, first] = -_DIFFERENCE_GAIN * identity
        output[2 * size * row :][:size, second] = _DIFFERENCE_GAIN * identity
        output[2 * size * row + size :][: size - _FREE, first] = identity[:-_FREE] / 2
        output[2 * size * row + size :][: size - _FREE, second] = identity[:-_FREE] / 2


def window_attention_loss(
    config: TimeChatConfig, across: AttentionRecorder, between: AttentionRecorder, video_sizes: Tensor
) -> tuple[Tensor, float]:
    """Supervise the attention of the video Q-Former: each head should attend to one token.

    The target of a head of cross attention is one query token of the image Q-Former in one frame of `FRAME_OFFSETS`.
    The target of a head of attention between video tokens, from the second layer on, is one of `TOKEN_OFFSETS`.

    Args:
        config: Configuration of the model.
        across: Recorded cross attention of all layers.
        between: Recorded attention between video tokens of all layers but the first.
        video_sizes: Number of frames and of text tokens of each video, `(videos, 2)`, in the order of the calls.

    Returns:
        The mean loss, and the share of attention on the targets.
    """
    size = config.window_size
    lengths = []  # number of frames of every window
    for num_frames in video_sizes[:, 0].tolist():
        lengths += [size] * (num_frames >= size) + [num_frames % size] * (num_frames % size > 0)
    losses = []
    for layer, runs in enumerate(across.scores()):
        for length, scores in zip(lengths, runs, strict=True):
            heads, queries, keys = scores.shape[1:]
            own = torch.arange(queries).clamp(max=length - 1)
            offsets = torch.tensor(FRAME_OFFSETS[layer]).repeat_interleave(NUM_ROWS)
            frames = (own[None, :] + offsets[:, None]).clamp(0, length - 1)  # (heads, queries)
            targets = frames * (keys // length) + torch.arange(heads)[:, None] % NUM_ROWS
            losses.append(_cross_entropy(scores, targets))
    for runs in between.scores():
        for scores in runs:
            heads, queries = scores.shape[1:3]
            offsets = torch.tensor([TOKEN_OFFSETS[head % len(TOKEN_OFFSETS)] for head in range(heads)])
            targets = (torch.arange(queries)[None, :] + offsets[:, None]).clamp(0, queries - 1)
            losses.append(_cross_entropy(scores, targets))
    loss = torch.cat(losses).mean()
    return loss, float(torch.exp(-torch.cat(losses).detach()).mean())


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the losses of scores `(batch, heads, queries, keys)` and targets `(heads, queries)`, flat."""
    targets = targets.to(scores.device).expand(scores.shape[0], -1, -1)
    return F.cross_entropy(scores.flatten(0, 2), targets.flatten(), reduction="none")
