"""A small model with random weights and, like the original, a vision transformer, for tests of code around a model."""

import torch
from transformers import GenerationConfig

from timechat.answers.prompts import VIDEO_PLACEHOLDER
from timechat.model.configuration import TimeChatConfig
from timechat.model.loading import NANO_FOLDER
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor

_SEED = 0


def build_random_nano() -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    """Build the model and its processor, with the tokenizers of the built-in model; the result is always the same."""
    nano = TimeChatProcessor.from_pretrained(str(NANO_FOLDER))
    tokenizer, qformer_tokenizer = nano.tokenizer, nano.qformer_tokenizer
    config = TimeChatConfig(
        vision_config={
            "model_type": "instructblip_vision_model",
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 56,
            "initializer_range": 0.02,
        },
        qformer_config=_QFORMER_SIZES
        | {"vocab_size": len(qformer_tokenizer), "num_hidden_layers": 4, "max_position_embeddings": 64},
        video_qformer_config=_QFORMER_SIZES,
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer) - 1,  # as in the original, the placeholder has no row
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
        },
        num_query_tokens=8,
        num_video_query_tokens=8,
        is_trained=False,
        image_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = TimeChatForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model, TimeChatProcessor(tokenizer, qformer_tokenizer, config)


_QFORMER_SIZES = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}
