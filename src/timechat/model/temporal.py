"""Frame tokens → frame tokens that know the frames around them: temporal layers, with weights that all tokens share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from timechat.model.configuration import TimeChatConfig

_HIDDEN_RATIO = 2  # hidden size of a layer, relative to the width of a token


class TemporalLayers(nn.Module):
    """Mix each query token of a frame with the other queries of the frame, and with itself in the frames around it.

    All query tokens share the weights, so what is learned about a change over time from one token holds for every other
    token. Layer i reads every `2**i`-th frame, so the number of frames that a token knows doubles with each layer.
    """

    def __init__(self, config: TimeChatConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TemporalLayer(config, 1 << i) for i in range(config.temporal_layers))

    def forward(self, query_tokens: Tensor) -> Tensor:
        """Mix query tokens `(batch, frames, queries, hidden)`; the result has the same shape."""
        for layer in self.layers:
            query_tokens = layer(query_tokens)
        return query_tokens


class TemporalLayer(nn.Module):
    """Attention between the queries of a frame, then a convolution over frames; both are added to their input."""

    def __init__(self, config: TimeChatConfig, dilation: int) -> None:
        """Make the layer.

        Args:
            config: Config of the model: sizes of the image Q-Former, and the number of frames that the convolution
                reads.
            dilation: Distance between these frames.
        """
        super().__init__()
        width = config.qformer_config.hidden_size
        self.num_heads = config.qformer_config.num_attention_heads
        self.kernel, self.dilation = config.temporal_kernel, dilation
        self.attention_norm = nn.LayerNorm(width)
        self.attention_input = nn.Linear(width, 3 * width)  # queries, keys and values
        self.attention_output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(self.kernel * width, _HIDDEN_RATIO * width)
        self.output = nn.Linear(_HIDDEN_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens `(batch, frames, queries, hidden)`; frames outside the video count as zeros."""
        tokens = tokens + self._attend(self.attention_norm(tokens))
        reach, num_frames = self.kernel // 2 * self.dilation, tokens.shape[1]
        padded = F.pad(self.norm(tokens), (0, 0, 0, 0, reach, reach))
        starts = range(0, 2 * reach + 1, self.dilation)
        around = torch.cat([padded[:, start : start + num_frames] for start in starts], dim=-1)
        return tokens + self.output(F.gelu(self.mix(around)))  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor) -> Tensor:
        """Attend to all queries of the same frame."""
        heads = self.attention_input(tokens).unflatten(-1, (3, self.num_heads, -1)).transpose(2, 4)
        queries, keys, values = heads.unbind(dim=3)  # (batch, frames, heads, queries, head) each
        # Few tokens in each frame: plain products are several times faster on a CPU than fused attention.
        weights = (queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(dim=-1)
        mixed = (weights.to(values.dtype) @ values).transpose(2, 3).flatten(3)
        return self.attention_output(mixed)  # type: ignore[no-any-return]
