"""TimeChatForConditionalGeneration: frame encoder + sliding video Q-Former + language model."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    Cache,
    GenerationMixin,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from timechat.model.configuration import TimeChatConfig
from timechat.model.frame_encoder import FrameEncoder
from timechat.model.pretrained import TimeChatPreTrainedModel
from timechat.model.quantization import Quantization, replace_layers
from timechat.model.video_qformer import SlidingVideoQFormer

_VIDEO_INPUTS = (
    "pixel_values",
    "vision_states",
    "frame_tokens",
    "qformer_input_ids",
    "qformer_attention_mask",
    "video_sizes",
)


class TimeChatForConditionalGeneration(TimeChatPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language model that reads a video as time-aware video tokens.

    `input_ids` contain the placeholder `config.image_token_id` for every video token,
    `config.num_video_tokens(frames)` times per video; `TimeChatProcessor` writes them.
    """

    def __init__(
        self,
        config: TimeChatConfig,
        *,
        keep_vision_in_float32: bool = False,
        quantization: Quantization | None = None,
        has_language_model: bool = True,
    ) -> None:
        """Build the model.

        Args:
            config: Config of the model.
            keep_vision_in_float32: Whether `from_pretrained(dtype=...)` applies to the language model only. Useful
                on CPUs with slow half precision if a large language model must still fit into memory.
            quantization: Format of the linear layers of vision tower and language model, which are then empty until
                `from_pretrained` reads them; None for layers in floating point.
            has_language_model: Whether the language model has weights. Without them it is on the device `meta`: another
                process runs it.
        """
        super().__init__(config)
        if keep_vision_in_float32:
            self._keep_in_fp32_modules_strict = ["frame_encoder", "video_qformer"]
        self.frame_encoder = FrameEncoder(config)
        self.video_qformer = SlidingVideoQFormer(config)
        with nullcontext() if has_language_model else torch.device("meta"):
            self.language_model = AutoModelForCausalLM.from_config(config.text_config, trust_remote_code=False)
        if quantization is not None:
            replace_layers(self, quantization)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's embedding layer."""
        return self.language_model.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding layer."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()  # type: ignore[no-any-return]

    def get_frame_features(
        self,
        pixel_values: Tensor | None,
        qformer_input_ids: Tensor,
        qformer_attention_mask: Tensor,
        *,
        vision_states: Tensor | None = None,
    ) -> Tensor:
        """Encode each frame on its own, so that a video can be encoded in parts of any size.

        Args:
            pixel_values: `(batch, frames, 3, height, width)`, or None if `vision_states` are given.
            qformer_input_ids: `(batch, frames, tokens)`, ids of the time sentence of each frame.
            qformer_attention_mask: `(batch, frames, tokens)`.
            vision_states: `(batch, frames, places, vision hidden)`, output of the vision tower.

        Returns:
            `(batch, frames, num_query_tokens + tokens, Q-Former hidden)`.
        """
        frames = pixel_values if vision_states is None else vision_states
        if frames is None or (pixel_values is not None and vision_states is not None):
            raise ValueError("give either pixel_values or vision_states: exactly one of them")
        batch, num_frames = frames.shape[:2]
        if qformer_input_ids.shape[:2] != (batch, num_frames):
            raise ValueError(
                f"{'pixel_values' if vision_states is None else 'vision_states'} hold {num_frames} frames of {batch} "
                f"videos, but qformer_input_ids have the shape {tuple(qformer_input_ids.shape)}; expected ({batch}, "
                f"{num_frames}, tokens)"
            )
        encode = self.frame_encoder if vision_states is None else self.frame_encoder.read_frames
        frame_tokens = encode(
            frames.flatten(0, 1), qformer_input_ids.flatten(0, 1), qformer_attention_mask.flatten(0, 1)
        )
        return frame_tokens.unflatten(0, (batch, num_frames))  # type: ignore[no-any-return]

    def get_video_features(
        self,
        pixel_values: Tensor | None,
        qformer_input_ids: Tensor,
        qformer_attention_mask: Tensor,
        *,
        vision_states: Tensor | None = None,
    ) -> Tensor:
        """Encode videos of equal length into video tokens.

        Args:
            pixel_values: `(batch, frames, 3, height, width)`, or None if `vision_states` are given.
            qformer_input_ids: `(batch, frames, tokens)`, ids of the time sentence of each frame. Padding is
                masked inside the image Q-Former, but its states are passed on, as in the original: results depend
                on the length of the padding. The processor pads per video.
            qformer_attention_mask: `(batch, frames, tokens)`.
            vision_states: `(batch, frames, places, vision hidden)`, output of the vision tower.

        Returns:
            `(batch, windows * num_video_query_tokens, text hidden size)`.
        """
        frame_tokens = self.get_frame_features(
            pixel_values, qformer_input_ids, qformer_attention_mask, vision_states=vision_states
        )
        return self.video_qformer(frame_tokens)  # type: ignore[no-any-return]

    def embed_prompt(self, input_ids: Tensor, video_features: Tensor) -> Tensor:
        """Return the embeddings of a prompt, with the video tokens in place of their placeholders.

        Args:
            input_ids: `(batch, sequence)` with `config.image_token_id` as the placeholder of each video token.
            video_features: `(..., text hidden)`, one vector per placeholder, in order.

        Returns:
            `(batch, sequence, text hidden)`.
        """
        is_video = input_ids == self.config.image_token_id
        video_features = video_features.flatten(0, -2)  # (video tokens, text hidden)
        if (width := self.config.text_config.hidden_size) != video_features.shape[-1]:
            raise ValueError(
                f"video tokens are {video_features.shape[-1]} wide, the language model is {width} wide; encode the "
                "video with this model"
            )
        if (num_placeholders := int(is_video.sum())) != video_features.shape[0]:
            raise ValueError(
                f"the prompt has {num_placeholders} placeholders for video tokens, but the video has "
                f"{video_features.shape[0]} video tokens; let TimeChatProcessor write the prompt for the same frames"
            )
        # In the original, the placeholder id has no row in the embeddings.
        inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_video, 0))
        video_features = video_features.to(inputs_embeds.device, inputs_embeds.dtype)
        return inputs_embeds.masked_scatter(is_video[..., None], video_features)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        video_sizes: Tensor | None = None,
        vision_states: Tensor | None = None,
        frame_tokens: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute the logits of the next token at each position and, with `labels`, the loss.

        Args:
            input_ids: `(batch, sequence)`, or None if `inputs_embeds` are given.
            attention_mask: `(batch, sequence)`, 0 for padding on either side; or `(batch, 1, sequence, sequence)`,
                True for visible positions, together with `position_ids`.
            pixel_values: `(batch, frames, 3, height, width)`, padded to the longest video of the batch.
            qformer_input_ids: `(batch, frames, tokens)`.
            qformer_attention_mask: `(batch, frames, tokens)`.
            video_sizes: `(batch, 2)`, number of real frames and prompt tokens of each video, so that each video is
                encoded as if it were alone. None uses the tensors without cutting them.
            vision_states: `(batch, frames, places, vision hidden)` in place of `pixel_values`: output of the vision
                tower.
            frame_tokens: `(batch, frames, num_query_tokens + tokens, Q-Former hidden)` in place of `pixel_values`
                and their time sentences: output of `get_frame_features`.
            inputs_embeds: `(batch, sequence, text hidden)` in place of all inputs above except the mask.
            position_ids: `(batch, sequence)`; by default the index among the real positions.
            past_key_values: Cache of the language model.
            labels: `(batch, sequence)`, -100 for positions without loss.
            **kwargs: Passed to the language model (`use_cache`, `logits_to_keep`, ...).

        Returns:
            The output of the language model.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds: exactly one of them")
        given = [tensor for tensor in (pixel_values, vision_states, frame_tokens) if tensor is not None]
        if len(given) > 1:
            raise ValueError("give one of pixel_values, vision_states and frame_tokens: they represent the same video")
        if given:
            sentences = (qformer_input_ids, qformer_attention_mask)
            if input_ids is None or (frame_tokens is None and any(ids is None for ids in sentences)):
                raise ValueError(
                    "pixel_values need input_ids, qformer_input_ids and qformer_attention_mask too; TimeChatProcessor "
                    "returns all four"
                )
            video_features = self.batch_video_features(
                pixel_values=pixel_values,
                vision_states=vision_states,
                frame_tokens=frame_tokens,
                qformer_input_ids=qformer_input_ids,
                qformer_attention_mask=qformer_attention_mask,
                video_sizes=video_sizes,
            )
            inputs_embeds = self.embed_prompt(input_ids, video_features)
            input_ids = None
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask.long()
        if position_ids is None and attention_mask is not None and past_key_values is None:
            position_ids = (attention_mask.cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
        return self.language_model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            **kwargs,
        )

    def batch_video_features(
        self,
        *,
        pixel_values: Tensor | None = None,
        vision_states: Tensor | None = None,
        frame_tokens: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        video_sizes: Tensor | None = None,
    ) -> Tensor:
        """Encode videos of different lengths, each as if it were alone; arguments as in `forward`.

        Returns:
            `(video tokens of all videos, text hidden)`.
        """

        def cut(tensor: Tensor | None, i: int, *sizes: int) -> Tensor | None:
            return None if tensor is None else tensor[(slice(i, i + 1), *map(slice, sizes))]

        def encode(i: int, frames: int, tokens: int) -> Tensor:
            if frame_tokens is not None:
                tokens += self.config.num_query_tokens
                return self.video_qformer(frame_tokens[i : i + 1, :frames, :tokens])[0]  # type: ignore[no-any-return]
            ids, mask = cut(qformer_input_ids, i, frames, tokens), cut(qformer_attention_mask, i, frames, tokens)
            assert ids is not None
            assert mask is not None
            states = cut(vision_states, i, frames)
            return self.get_video_features(cut(pixel_values, i, frames), ids, mask, vision_states=states)[0]

        if video_sizes is not None:
            return torch.cat([encode(i, *size) for i, size in enumerate(video_sizes.tolist())])
        if frame_tokens is not None:
            return self.video_qformer(frame_tokens).flatten(0, 1)  # type: ignore[no-any-return]
        assert qformer_input_ids is not None
        assert qformer_attention_mask is not None
        return self.get_video_features(
            pixel_values, qformer_input_ids, qformer_attention_mask, vision_states=vision_states
        ).flatten(0, 1)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pass the video in the first step only: afterwards its states are in the cache."""
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs = {key: value for key, value in kwargs.items() if key not in _VIDEO_INPUTS}
        return super().prepare_inputs_for_generation(  # type: ignore[no-any-return]
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )


AutoConfig.register("timechat", TimeChatConfig, exist_ok=True)
for _auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto_class.register(TimeChatConfig, TimeChatForConditionalGeneration, exist_ok=True)
