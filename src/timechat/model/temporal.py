"""Frame tokens → frame tokens that know the frames around them: temporal layers, with weights that all tokens share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from timechat.model.configuration import TimeChatConfig

_HIDDEN_RATIO = 2  # hidden size of a layer, relative to the width of a token


class TemporalLayers(nn.Module):
    """Mix each query token of a frame with the same query token of the frames around it.

    All query tokens share the weights, so what is learned about a change over time from one token holds for every other
    token. Layer i reads every `2**i`-th frame, so the number of frames that a token knows doubles with each layer.
    """

    def __init__(self, config: TimeChatConfig) -> None:
        super().__init__()
        width, kernel = config.qformer_config.hidden_size, config.temporal_kernel
        self.layers = nn.ModuleList(TemporalLayer(width, kernel, 1 << i) for i in range(config.temporal_layers))

    def forward(self, query_tokens: Tensor) -> Tensor:
        """Mix query tokens `(batch, frames, queries, hidden)` over time; the result has the same shape."""
        for layer in self.layers:
            query_tokens = layer(query_tokens)
        return query_tokens


class TemporalLayer(nn.Module):
    """A convolution over frames and a linear layer, added to the input."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        """Make the layer.

        Args:
            width: Width of a token.
            kernel: Number of frames that the convolution reads, odd.
            dilation: Distance between these frames.
        """
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(kernel * width, _HIDDEN_RATIO * width)
        self.output = nn.Linear(_HIDDEN_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens `(batch, frames, queries, hidden)`; frames outside the video count as zeros."""
        reach, num_frames = self.kernel // 2 * self.dilation, tokens.shape[1]
        padded = F.pad(self.norm(tokens), (0, 0, 0, 0, reach, reach))
        starts = range(0, 2 * reach + 1, self.dilation)
        around = torch.cat([padded[:, start : start + num_frames] for start in starts], dim=-1)
        return tokens + self.output(F.gelu(self.mix(around)))  # type: ignore[no-any-return]
