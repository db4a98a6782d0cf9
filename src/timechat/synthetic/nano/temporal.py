"""Stage three: the temporal layers recognize the actions of each object, and the video Q-Former writes them down.

The object of each color and of each shape has its own query token in every frame. The temporal layers apply the same
weights to all of these tokens, so an action that is learned from one object is known for all. The video Q-Former only
gathers the tokens of one frame: each of its heads attends to one color or shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from timechat.model.configuration import TimeChatConfig
from timechat.model.video_qformer import SlidingVideoQFormer
from timechat.synthetic.nano.attention import AttentionRecorder
from timechat.synthetic.nano.frames import POSITION_DIMS
from timechat.synthetic.nano.labels import NUM_ROW_STATES, NUM_ROWS, row_labels
from timechat.synthetic.nano.tokens import token_frames

_AMPLITUDE = 3.0  # amplitude of the code of a frame position; frame tokens have a standard deviation of 1.25
_SHARPNESS = 0.75  # sharpness of the initial attention of video tokens to a frame
_FREE = 4  # dimensions of each row in video tokens that stay free for the code of frame positions
_RESIDUAL_GAIN = 0.05  # initial gain of the outputs of layers
_POSITIVE_WEIGHT = 4.0  # weight of labels that are 1; far more are 0
_NUM_AVERAGED = 30  # the mean loss over the labels of a row is multiplied by their number


class ActionHeads(nn.Module):
    """Heads that predict the actions of the object of a token from the outputs of the temporal layers.

    All tokens share them, like the layers. They are dropped after training.
    """

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, NUM_ROW_STATES) for _ in range(num_layers))
        for head in self.layers:
            assert isinstance(head, nn.Linear)
            nn.init.constant_(head.bias, -4.0)

    def forward(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Predict logits `(frames, NUM_ROWS, NUM_ROW_STATES)` from the tokens of each layer."""
        return [head(states).float() for head, states in zip(self.layers, tokens, strict=True)]


def actions_loss(heads: ActionHeads, tokens: Sequence[Tensor], states: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of the actions of each object, predicted from every temporal layer, and its parts.

    Args:
        heads: Heads of the layers.
        tokens: Query tokens of all frames after each layer, `(frames, NUM_ROWS, width)`.
        states: `state_labels` of all frames, `(frames, NUM_STATES)`.
    """
    target = row_labels(states)
    weight = torch.where(target > 0, _POSITIVE_WEIGHT, 1.0)
    logits = heads(tokens)
    losses = [F.binary_cross_entropy_with_logits(one, target, weight=weight) for one in logits]
    with torch.no_grad():
        found, present = logits[-1] > 0, target > 0
        both = (found & present).sum()
        parts = {
            "rows": float(losses[-1]),
            "rows_precision": float(both / found.sum().clamp(min=1)),
            "rows_recall": float(both / present.sum().clamp(min=1)),
        }
    return _NUM_AVERAGED * torch.stack(losses).mean(), parts


@torch.no_grad()
def initialize_positions(video: SlidingVideoQFormer) -> None:
    """Initialize the attention of each video token to its own frame.

    Otherwise this has to be found among all tokens of a window, and nothing else is learned for hundreds of steps.
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
    for number, layer in enumerate(video.qformer.encoder.layer):
        attention = layer.crossattention.attention
        for head in range(attention.num_attention_heads):
            rows = slice(head * attention.attention_head_size, (head + 1) * attention.attention_head_size)
            for side, code_dims in ((attention.key, in_frames), (attention.query, in_tokens)):
                side.weight[rows] = 0
                side.bias[rows] = 0
                side.weight[rows][:size] = code_dims * _SHARPNESS
        attention.value.weight[:, -size:] = 0
        layer.crossattention.output.dense.weight[free] = 0
        layer.attention.output.dense.weight *= _RESIDUAL_GAIN
        layer.output_query.dense.weight *= _RESIDUAL_GAIN
        if number:
            layer.crossattention.output.dense.weight *= _RESIDUAL_GAIN


def window_attention_loss(
    config: TimeChatConfig, across: AttentionRecorder, video_sizes: Tensor
) -> tuple[Tensor, float]:
    """Supervise the cross attention of the video Q-Former: each head should attend to one token of its own frame.

    The own frame of a video token is that of `token_frames`.

    Args:
        config: Configuration of the model.
        across: Recorded cross attention of all layers.
        video_sizes: Number of frames and of text tokens of each video, `(videos, 2)`, in the order of the calls.

    Returns:
        The mean loss, and the share of attention on the targets.
    """
    size = config.window_size
    lengths = []  # number of frames of every call
    for num_frames in video_sizes[:, 0].tolist():
        lengths += [size] * (num_frames >= size) + [num_frames % size] * (num_frames % size > 0)
    losses = []
    for runs in across.scores():
        for length, scores in zip(lengths, runs, strict=True):
            heads, _, keys = scores.shape[1:]
            frames = torch.from_numpy(token_frames(config, length))[None, :]
            targets = frames * (keys // length) + torch.arange(heads)[:, None] % NUM_ROWS  # (heads, queries)
            targets = targets.to(scores.device).expand(scores.shape[0], -1, -1)
            losses.append(F.cross_entropy(scores.flatten(0, 2), targets.flatten(), reduction="none"))
    loss = torch.cat(losses).mean()
    return loss, float(torch.exp(-torch.cat(losses).detach()).mean())
