"""Very small random models of five families of `transformers`, in memory or as folders that any program can load."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from timechat.backbones.transformers.backbone import TransformersBackbone
from timechat.backbones.transformers.families import QWEN3_IMAGES
from timechat.backbones.transformers.loading import LoadedModel
from timechat.video import Frames

CONTROL_WORDS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>", "<image>", "<video>", "<fake_token_around_image>", "<global-img>"),
    *("<end_of_utterance>", "<start_of_image>", "<image_soft_token>", "<end_of_image>"),
    *("<|image>", "<image|>", "<|begin_of_image|>", "<|end_of_image|>", "<img>", "</img>"),
)
_SENTENCES = (
    "The event happens in 12.3 - 45.6 seconds. The given query does not happen in the video.",
    "0.0 - 9.0 seconds, A man sits on a chair.  9.0 - 20.1 seconds, He opens the door and goes out.",
    'Frame at 12.3 seconds: <7.8 seconds> [{"start": 1.0, "end": 2.0, "caption": "A man sits."}] 00:12.3',
    "You are a helpful assistant. Find the visual event described by the sentence, with its start and end times.",
)
_QWEN_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
_SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 4096,
}
_SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, **more}}


def _qwen3_vl() -> dict[str, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 48,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    return {
        "model_type": "qwen3_vl",
        "vision_config": vision,
        "text_config": _TEXT | _rope(mrope_section=[2, 2, 2], mrope_interleaved=True),
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }


def _qwen2_5_vl() -> dict[str, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 48,
        "window_size": 32,
        "fullatt_block_indexes": [1],
    }
    return _qwen3_vl() | {
        "model_type": "qwen2_5_vl",
        "vision_config": vision,
        "text_config": _TEXT | _rope(mrope_section=[2, 2, 2]),
    }


def _smolvlm() -> dict[str, Any]:
    return {
        "model_type": "smolvlm",
        "vision_config": _SIGLIP,
        "text_config": {"model_type": "llama", **_TEXT, **_rope()},
        "scale_factor": 2,
        "image_token_id": "<image>",
    }


def _llava_onevision() -> dict[str, Any]:
    return {
        "model_type": "llava_onevision",
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **_SIGLIP},
        "text_config": {"model_type": "qwen2", **_TEXT, **_rope()},
        "image_token_id": "<image>",
        "video_token_id": "<video>",
        "image_grid_pinpoints": [[32, 32]],
    }


def _gemma3() -> dict[str, Any]:
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    both = {kind: {"rope_type": "default", "rope_theta": 10_000.0} for kind in ("sliding_attention", "full_attention")}
    return {
        "model_type": "gemma3",
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **_SIGLIP},
        "text_config": {"model_type": "gemma3_text", **_TEXT, **layers, "rope_parameters": both},
        "mm_tokens_per_image": 4,
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    }


def _qwen3_5() -> dict[str, Any]:
    vision = {key: value for key, value in _qwen3_vl()["vision_config"].items() if key != "deepstack_visual_indexes"}
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    }
    rope = _rope(mrope_section=[2, 2, 2], mrope_interleaved=True, partial_rotary_factor=1.0)
    return _qwen3_vl() | {
        "model_type": "qwen3_5",
        "vision_config": vision,
        "text_config": _TEXT | linear | rope,
    }


def _internvl() -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "vision_config": _SIGLIP | {"image_size": [32, 32], "patch_size": [8, 8]},
        "text_config": {"model_type": "qwen2", **_TEXT, **_rope()},
        "image_token_id": "<image>",
        "image_seq_length": 4,
    }


def _llava() -> dict[str, Any]:
    return {
        "model_type": "llava",
        "vision_config": {"model_type": "clip_vision_model", **_SIGLIP},
        "text_config": {"model_type": "llama", **_TEXT, **_rope()},
        "image_token_index": "<image>",
        "image_seq_length": 16,
    }


def _glm4v() -> dict[str, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 48,
        "image_size": 32,
    }
    return _qwen2_5_vl() | {
        "model_type": "glm4v",
        "vision_config": vision,
        "text_config": _TEXT | _rope(mrope_section=[2, 2, 2]),
    }


def _gemma4() -> dict[str, Any]:
    return {
        "model_type": "gemma4",
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 8,
        },
        "text_config": _gemma3()["text_config"]
        | {"model_type": "gemma4_text", "global_head_dim": 12, "hidden_size_per_layer_input": 8},
        "image_token_id": "<image_soft_token>",
    }


_CONFIGS: dict[str, tuple[Callable[[], dict[str, Any]], str, str]] = {
    "qwen3_vl": (_qwen3_vl, "Qwen2VLImageProcessorPil", _QWEN_TEMPLATE),
    "qwen2_5_vl": (_qwen2_5_vl, "Qwen2VLImageProcessorPil", _QWEN_TEMPLATE),
    "smolvlm": (_smolvlm, "SmolVLMImageProcessorPil", _SMOL_TEMPLATE),
    "llava_onevision": (_llava_onevision, "LlavaOnevisionImageProcessorPil", _LLAVA_TEMPLATE),
    "gemma3": (_gemma3, "Gemma3ImageProcessorPil", _QWEN_TEMPLATE),
    "qwen3_5": (_qwen3_5, "Qwen2VLImageProcessorPil", _QWEN_TEMPLATE),
    "internvl": (_internvl, "GotOcr2ImageProcessorPil", _QWEN_TEMPLATE),
    "llava": (_llava, "LlavaImageProcessorPil", _LLAVA_TEMPLATE),
    "glm4v": (_glm4v, "Glm4vImageProcessorPil", _QWEN_TEMPLATE),
    "gemma4": (_gemma4, "Gemma4ImageProcessorPil", _QWEN_TEMPLATE),
}
FAMILY_NAMES = ("qwen3_vl", "qwen3_vl-images", "qwen2_5_vl", "smolvlm", "llava_onevision")
"""The families that every test of the contract is about."""
UNCROPPABLE = ("gemma3", "qwen3_5")
"""Families with layers whose states cannot be cut to a prefix."""
OTHERS = ("internvl", "glm4v", "gemma4", "llava")
"""Families with few tests; the last one has no entry in the table."""


@cache
def _backend() -> str:
    backend = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(_SENTENCES * 3, trainer)
    return backend.to_str()


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer of about 400 words with the control words of all families."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(word, special=True, normalized=False) for word in CONTROL_WORDS]}
    )
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in ("<think>", "</think>")])
    return tokenizer


def tiny_template(model_type: str) -> str:
    """The chat template of a type of model."""
    return _CONFIGS[model_type][2]


def tiny_loaded(model_type: str, *, seed: int = 0, text: Mapping[str, Any] | None = None) -> LoadedModel:
    """A random model of a type, with its tokenizer and image processor; `text` changes its `text_config`."""
    make, processor_name, template = _CONFIGS[model_type]
    tokenizer = tiny_tokenizer()
    settings = make()
    for name, value in settings.items():
        if isinstance(value, str) and name != "model_type":
            settings[name] = tokenizer.convert_tokens_to_ids(value)
    end = tokenizer.convert_tokens_to_ids("<end_of_utterance>" if model_type == "smolvlm" else "<|im_end|>")
    ends = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    settings["text_config"] = settings["text_config"] | {"vocab_size": len(tokenizer), **ends} | dict(text or {})
    config = AutoConfig.for_model(**settings)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():  # the default initialisation is too close to zero to show differences
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.generation_config = GenerationConfig(**ends)
    processor = get_image_processor_class_from_name(processor_name)
    sizes = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2} if model_type[:3] in ("qwe", "glm") else {}
    sizes |= {"patch_size": 8} if model_type == "gemma4" else {}
    return LoadedModel(model, tokenizer, processor(**sizes), template)


def tiny_backbone(name: str, *, seed: int = 0) -> TransformersBackbone:
    """A backbone of a random model; `qwen3_vl-images` is a Qwen3-VL that reads frames as images."""
    loaded = tiny_loaded(name.removesuffix("-images"), seed=seed)
    return TransformersBackbone(loaded, f"tiny-{name}", family=QWEN3_IMAGES if name.endswith("-images") else None)


def save_tiny(model_type: str, folder: Path, *, seed: int = 0, text: Mapping[str, Any] | None = None) -> Path:
    """Write a random model as a folder, as the hub has it: weights, tokenizer, image processor, chat template."""
    loaded = tiny_loaded(model_type, seed=seed, text=text)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.chat_template = loaded.template
    loaded.tokenizer.save_pretrained(folder)
    loaded.image_processor.save_pretrained(folder)
    if "qwen3" in model_type:  # what other programs read, which need torchvision
        video = {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"shortest_edge": 4096, "longest_edge": 25_165_824},
            "patch_size": 8,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video), encoding="utf-8")
        tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        tokenizer_config["processor_class"] = "Qwen3VLProcessor"
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    return folder


def tiny_frames(times: Sequence[float], *, seed: int = 0, size: tuple[int, int] = (32, 48)) -> Frames:
    """Frames of noise at some times."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(times), *size, 3), dtype=np.uint8)
    return Frames(pixels, np.asarray(times, float), float(times[-1]) + 1.0)
