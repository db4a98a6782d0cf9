"""TimeChat's network as a model class of vLLM: our frame encoder and video Q-Former, a language model of vLLM."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from timechat.answers.prompts import VIDEO_PLACEHOLDER
from timechat.backbones.timechat.vllm_plugin.inputs import TENSORS, TimeChatDummyInputs, TimeChatInfo, TimeChatInputs
from timechat.model.configuration import TimeChatConfig
from timechat.model.frame_encoder import FrameEncoder
from timechat.model.video_qformer import SlidingVideoQFormer


@MULTIMODAL_REGISTRY.register_processor(TimeChatInputs, info=TimeChatInfo, dummy_inputs=TimeChatDummyInputs)
class TimeChatForVLLM(nn.Module, SupportsMultiModal):  # type: ignore[misc]
    """A language model of vLLM that reads a video as time-aware video tokens."""

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:  # noqa: ARG003
        """Return the text that stands for a video in a prompt."""
        if modality.startswith("video"):
            return VIDEO_PLACEHOLDER
        raise ValueError(f"TimeChat reads videos, got an input of the kind {modality}")

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build the model without weights.

        Raises:
            ValueError: The folder is quantized, or its LoRA adapter is not merged.
        """
        super().__init__()
        config: TimeChatConfig = vllm_config.model_config.hf_config
        if config.has_lora:
            raise ValueError(
                f"{vllm_config.model_config.model} has a LoRA adapter, which this plug-in does not read; convert it "
                "again with --merge, or use `timechat serve --engine vllm`"
            )
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError(
                f"{vllm_config.model_config.model} is quantized, which this plug-in does not read; give the folder in "
                "floating point, or use `timechat serve --engine vllm`"
            )
        self.config = config
        with self._mark_tower_model(vllm_config, "video"):  # type: ignore[operator]
            self.frame_encoder = FrameEncoder(config)
            self.video_qformer = SlidingVideoQFormer(config)
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=[MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.text_config.model_type]],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """Return the video tokens of each video, `(tokens, text hidden)`.

        Args:
            kwargs: For each name of `TENSORS`, a tensor for each video.
        """
        if kwargs.get(TENSORS[0]) is None:
            return []
        dtype = self.video_qformer.query_tokens.dtype
        videos = zip(*(kwargs[name] for name in TENSORS), strict=True)
        return [
            self.video_qformer(self.frame_encoder(pixels.to(dtype), ids, mask)[None])[0] for pixels, ids, mask in videos
        ]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> Any:
        """Run the language model; the video tokens are in the embeddings."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits of the last states."""
        return self.language_model.compute_logits(hidden_states)  # type: ignore[no-any-return]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Read the weights of a folder of TimeChat as they are."""
        loaded: set[str] = AutoWeightsLoader(self).load_weights(weights)
        return loaded
