"""Frames and timestamps → frame tokens: the vision tower and the timestamp-aware image Q-Former."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from transformers import AutoModel, InstructBlipQFormerModel, InstructBlipVisionModel, PreTrainedConfig

from timechat.model.configuration import TimeChatConfig
from timechat.model.packed_linear import PackedLinear

FRAMES_PER_BATCH_ON_CPU = 16
"""Maximum number of frames that a CPU encodes at a time; the activations of more do not fit into its cache."""


class FrameEncoder(nn.Module):
    """Encode each frame together with the sentence that states its timestamp.

    The tower is EVA ViT-g in the published checkpoints; other towers are possible. The feature map of a convolutional
    tower gets a learned embedding of its positions. The image Q-Former is InstructBLIP's, with the time sentence
    instead of the instruction. Unlike InstructBLIP, TimeChat passes on *every* position of the Q-Former, including
    the text positions.

    Attributes:
        frames_per_batch: Maximum number of frames that a tower without training encodes at a time on a CPU. None
            encodes all frames in one pass; processes that share the layers need it, because their videos may differ in
            length.
    """

    def __init__(self, config: TimeChatConfig) -> None:
        super().__init__()
        self.frames_per_batch: int | None = FRAMES_PER_BATCH_ON_CPU
        self.vision_model = _build_vision_model(config.vision_config)
        if config.vision_post_layernorm_eps is not None and hasattr(self.vision_model, "post_layernorm"):
            self.vision_model.post_layernorm.eps = config.vision_post_layernorm_eps  # type: ignore[union-attr]
        if size := feature_map_size(config.vision_config):
            self.map_positions = nn.Parameter(torch.zeros(size * size, config.qformer_config.encoder_hidden_size))
        self.qformer = InstructBlipQFormerModel(config.qformer_config)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode frames, each on its own.

        Args:
            pixel_values: `(frames, 3, height, width)`, normalised.
            input_ids: `(frames, tokens)`, the time sentence of each frame.
            attention_mask: `(frames, tokens)`, 1 for real tokens.

        Returns:
            `(frames, num_query_tokens + tokens, hidden)`: the states of the queries, then of the text.
            Positions of padding are computed and returned as well; the original passes them on too.
        """
        return self.read_frames(self.vision_states(pixel_values), input_ids, attention_mask)

    def read_frames(self, vision_states: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Apply the image Q-Former to the tower's states, `(frames, patches + 1, vision hidden)`; see `forward`."""
        num_frames = vision_states.shape[0]
        query_embeds = self.query_tokens.expand(num_frames, -1, -1)
        query_mask = attention_mask.new_ones(num_frames, query_embeds.shape[1])
        outputs = self.qformer(
            input_ids=input_ids,
            attention_mask=torch.cat([query_mask, attention_mask], dim=1),
            query_embeds=query_embeds,
            encoder_hidden_states=vision_states.to(self.query_tokens.dtype),
        )
        return outputs.last_hidden_state  # type: ignore[no-any-return]

    def vision_states(self, pixel_values: Tensor) -> Tensor:
        """Return the tower's normed states, `(frames, places, hidden)`, for `(frames, 3, height, width)`.

        Places are the patches and the class token, or the positions of a feature map, row by row. A tower that is not
        trained reads some frames at a time on a CPU: activations of a whole video do not fit into its cache.
        """
        dtype = next(self.vision_model.parameters()).dtype
        if self._records_gradients(pixel_values):
            states = self._vision_states(pixel_values, dtype)
        else:
            is_on_cpu = pixel_values.device.type == "cpu"
            batch_size = (self.frames_per_batch if is_on_cpu else None) or max(1, len(pixel_values))
            with torch.no_grad(), PackedLinear() if is_on_cpu else nullcontext():
                batches = [self._vision_states(batch, dtype) for batch in pixel_values.split(batch_size)]
            states = torch.cat(batches) if len(batches) > 1 else batches[0]
        if states.ndim == 4:  # (frames, hidden, height, width)
            states = states.flatten(2).transpose(1, 2) + self.map_positions.to(dtype)  # (frames, places, hidden)
        return states

    def _vision_states(self, pixel_values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the tower's states, `(frames, places, hidden)` or `(frames, hidden, height, width)`."""
        return self.vision_model(pixel_values=pixel_values.to(dtype)).last_hidden_state  # type: ignore[no-any-return]

    def _records_gradients(self, pixel_values: Tensor) -> bool:
        """Return whether the tower is in training mode, with running statistics, or records gradients."""
        if self.vision_model.training:
            return True
        is_needed = pixel_values.requires_grad or any(one.requires_grad for one in self.vision_model.parameters())
        return torch.is_grad_enabled() and is_needed


def feature_map_size(config: PreTrainedConfig) -> int | None:
    """Return the side length of a convolutional tower's feature map; None for a tower that returns a sequence."""
    if config.model_type != "resnet":
        return None
    halvings: int = 1 + len(config.hidden_sizes) + int(config.downsample_in_first_stage)
    return math.ceil(int(config.image_size) / (1 << halvings))


def _build_vision_model(config: PreTrainedConfig) -> nn.Module:
    """Build the tower; `AutoModel` does not know InstructBLIP's vision model."""
    if config.model_type == "instructblip_vision_model":
        return InstructBlipVisionModel(config)  # type: ignore[no-any-return]
    return AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-any-return]
