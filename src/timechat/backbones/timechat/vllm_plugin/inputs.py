"""Videos and prompts of vLLM's requests as the inputs of the model."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from timechat.answers.prompts import VIDEO_PLACEHOLDER
from timechat.model.configuration import TimeChatConfig
from timechat.model.processing import TimeChatProcessor
from timechat.video import Frames

TENSORS = ("pixel_values", "qformer_input_ids", "qformer_attention_mask")
"""Tensors of a video; the first dimension of each is the frames."""


@cache
def load_processor(folder: str) -> TimeChatProcessor:
    """Load the processor of a folder once."""
    processor: TimeChatProcessor = TimeChatProcessor.from_pretrained(folder)
    return processor


class TimeChatInfo(BaseProcessingInfo):  # type: ignore[misc]
    """Limits of the inputs: one video per prompt."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return the maximum number of videos of a prompt."""
        return {"video": 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:  # noqa: ARG002
        """Return the maximum number of video tokens of a video."""
        return {"video": self.config.num_video_tokens(self.max_frames(seq_len))}

    def get_data_parser(self) -> MultiModalDataParser:
        """Return the parser of videos, which keeps the times of the loader."""
        return MultiModalDataParser(video_needs_metadata=True)

    @property
    def config(self) -> TimeChatConfig:
        """Configuration of the model."""
        config: TimeChatConfig = self.get_hf_config()
        return config

    @property
    def processor(self) -> TimeChatProcessor:
        """Processor of the model's folder."""
        return load_processor(self.model_id)

    def max_frames(self, seq_len: int) -> int:
        """Return the maximum number of frames of a video, whose tokens fit into a prompt of `seq_len` tokens."""
        config = self.config
        windows = max(1, seq_len // config.num_video_query_tokens)
        limit = config.max_frames or config.max_frame_positions
        return limit if config.window_size == 0 else min(limit, windows * config.stride)


class TimeChatDummyInputs(BaseDummyInputsBuilder[TimeChatInfo]):  # type: ignore[misc]
    """Gray videos, with which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return a prompt for a number of videos."""
        return VIDEO_PLACEHOLDER * mm_counts.get("video", 0)

    def get_dummy_mm_data(
        self,
        seq_len: int,
        mm_counts: Mapping[str, int],
        mm_options: Mapping[str, MultiModalDummyOptions],  # noqa: ARG002 - the sizes are those of the model
    ) -> dict[str, Any]:
        """Return videos of the maximum number of frames."""
        size, number = self.info.config.frame_size, self.info.max_frames(seq_len)
        pixels = np.full((number, size.height, size.width, 3), 128, np.uint8)
        times = {"timestamps": [float(i) for i in range(number)], "duration": float(number)}
        return {"video": [(pixels, times)] * mm_counts.get("video", 0)}


class TimeChatInputs(BaseMultiModalProcessor[TimeChatInfo]):  # type: ignore[misc]
    """Makes tensors of videos, and puts the places of their tokens into prompts."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        videos: Any = hf_data.get("videos") or []
        given: Any = hf_kwargs.get("timestamps")
        encoded = []
        for pixels, metadata in videos:
            times = metadata["timestamps"] if given is None else given
            frames = Frames(np.asarray(pixels), np.asarray(times, np.float64), metadata["duration"])
            encoded.append(self.info.processor.encode_frames(frames))
        return BatchFeature({name: [video[name] for video in encoded] for name in TENSORS} if encoded else {})

    def _get_mm_fields_config(
        self,
        hf_inputs: BatchFeature,  # noqa: ARG002
        hf_processor_mm_kwargs: Mapping[str, object],  # noqa: ARG002
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched("video") for name in TENSORS}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,  # noqa: ARG002
        hf_processor_mm_kwargs: Mapping[str, object],  # noqa: ARG002
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.config

        def places(index: int) -> list[int]:
            ids = out_mm_kwargs["video"][index]["qformer_input_ids"].data
            assert isinstance(ids, torch.Tensor)
            return [config.image_token_id] * config.num_video_tokens(len(ids))

        return [PromptReplacement(modality="video", target=[config.image_token_id], replacement=places)]
