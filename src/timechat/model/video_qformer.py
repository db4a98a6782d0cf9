"""Frame tokens → video tokens: the sliding video Q-Former, and the optional temporal layers in front of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Blip2QFormerModel

from timechat.model.configuration import TimeChatConfig

_HIDDEN_RATIO = 2  # hidden size of a temporal layer, relative to the width of a token


class SlidingVideoQFormer(nn.Module):
    """Compress each window of frames into a fixed number of tokens of the language model's width.

    The number of tokens grows with the length of the video: `num_video_query_tokens` per window (section 3.2 of the
    TimeChat paper, arXiv:2312.02051).
    """

    def __init__(self, config: TimeChatConfig) -> None:
        super().__init__()
        self.config = config
        hidden_size = config.video_qformer_config.hidden_size
        self.temporal = TemporalLayers(config) if config.temporal_layers else None
        self.frame_positions = nn.Embedding(config.max_frame_positions, config.qformer_config.hidden_size)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_video_query_tokens, hidden_size))
        self.qformer = Blip2QFormerModel(config.video_qformer_config)
        self.projection = nn.Linear(hidden_size, config.text_config.hidden_size)

    def forward(self, frame_tokens: Tensor) -> Tensor:
        """Compress frame tokens into video tokens, one window of frames at a time.

        Args:
            frame_tokens: `(batch, frames, tokens, hidden)`, every frame real. Frame positions restart after
                `max_frame_positions` frames, so a video may have any number of them.

        Returns:
            `(batch, windows * num_video_query_tokens, text hidden)`, windows in time order.
        """
        num_frames = frame_tokens.shape[1]
        if self.temporal is not None:
            queries, text = frame_tokens.tensor_split([self.config.num_query_tokens], dim=2)
            queries = self.temporal(queries.to(self.query_tokens.dtype))
            frame_tokens = torch.cat([queries, text.to(queries.dtype)], dim=2)
        positions = torch.arange(num_frames, device=frame_tokens.device) % self.config.max_frame_positions
        position_embeds = self.frame_positions(positions)[:, None]  # (frames, 1, hidden)
        frame_tokens = frame_tokens.to(position_embeds.dtype) + position_embeds
        size = self.config.window_size or num_frames
        starts = self.config.window_starts(num_frames)
        complete = [frame_tokens[:, start : start + size] for start in starts if start + size <= num_frames]
        shorter = [frame_tokens[:, start:] for start in starts if start + size > num_frames]
        video_tokens = []
        if complete:  # equal lengths: one batch
            windows = torch.stack(complete, dim=1).flatten(0, 1)  # (batch * windows, frames, tokens, hidden)
            video_tokens.append(self._compress(windows).unflatten(0, (-1, len(complete))).flatten(1, 2))
        video_tokens += [self._compress(window) for window in shorter]
        return torch.cat(video_tokens, dim=1)  # (batch, windows * num_video_query_tokens, text hidden)

    def _compress(self, window: Tensor) -> Tensor:
        """Turn windows, `(windows, frames, tokens, hidden)`, into `(windows, num_video_query_tokens, text hidden)`."""
        outputs = self.qformer(
            query_embeds=self.query_tokens.expand(window.shape[0], -1, -1),
            encoder_hidden_states=window.flatten(1, 2),  # (batch, frames * tokens, hidden)
        )
        return self.projection(outputs.last_hidden_state)  # type: ignore[no-any-return]


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
