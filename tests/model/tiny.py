"""A very small random model, independent of the recorded tokenizers, for tests of behaviour."""

import numpy as np
import torch

from timechat.model.configuration import TimeChatConfig
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.video import Frames


def tiny_config(**changes) -> TimeChatConfig:
    sizes = {
        "vision_config": {
            "model_type": "instructblip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "initializer_range": 0.02,
        },
        "qformer_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "vocab_size": 100,
        },
        "video_qformer_config": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
        "text_config": {
            "model_type": "llama",
            "vocab_size": 90,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 512,
        },
        "num_query_tokens": 3,
        "num_video_query_tokens": 4,
        "window_size": 4,
        "stride": 4,
        "max_frame_positions": 12,
        "image_token_id": 90,
    }
    return TimeChatConfig(**(sizes | changes))


def tiny_model(**changes) -> TimeChatForConditionalGeneration:
    torch.manual_seed(0)
    model = TimeChatForConditionalGeneration(tiny_config(**changes)).eval()
    with torch.no_grad():  # the default initialisation is too close to zero to show differences
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model


def video_inputs(num_frames: int, num_tokens: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(1, num_frames, 3, 28, 28, generator=generator),
        "qformer_input_ids": torch.randint(1, 100, (1, num_frames, num_tokens), generator=generator),
        "qformer_attention_mask": torch.ones(1, num_frames, num_tokens, dtype=torch.long),
    }


def made_frames(num_frames: int = 8, size: int = 28, seed: int = 0, seconds: float = 10.0) -> Frames:
    pixels = np.random.default_rng(seed).integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8)
    return Frames(pixels=pixels, timestamps=np.arange(num_frames) * seconds / num_frames, duration=seconds)
