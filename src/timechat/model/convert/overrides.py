"""Settings of `timechat convert --config`: checks, and how they override the values read from the files."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    Blip2QFormerConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    PreTrainedConfig,
)

from timechat.errors import CheckpointError
from timechat.model.configuration import TimeChatConfig

_SUB_CONFIGS = {
    "vision_config": InstructBlipVisionConfig,
    "qformer_config": InstructBlipQFormerConfig,
    "video_qformer_config": Blip2QFormerConfig,
}
_OLD_SETTINGS = {"torch_dtype", "rope_theta", "rope_scaling"}  # of config files before transformers 5
_AT_LEAST_ONE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "image_size",
    "patch_size",
    "vocab_size",
    "max_position_embeddings",
    "cross_attention_frequency",
)
# Errors that configs and modules raise for impossible settings.
MISFITS = (StrictDataclassError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


def check_overrides(overrides: Mapping[str, Any], text_config: PreTrainedConfig) -> None:
    """Refuse unknown settings, which would otherwise be stored without any effect."""
    _check_names(overrides, TimeChatConfig, "")
    for part in (*_SUB_CONFIGS, "text_config"):
        if part not in overrides:
            continue
        settings = overrides[part]
        if not isinstance(settings, Mapping):
            raise CheckpointError(
                f'{part} must be an object like {{"num_attention_heads": 12}}, got {settings!r}; correct it in --config'
            )
        _check_names(settings, _config_class(settings, _SUB_CONFIGS.get(part, type(text_config)), part), part + ".")
        for name in _AT_LEAST_ONE:
            if isinstance(value := settings.get(name), int | float) and value < 1:
                raise CheckpointError(f"{part}.{name} must be at least 1, got {value}; correct it in --config")


def _config_class(settings: Mapping[str, Any], usual: type[PreTrainedConfig], part: str) -> type[PreTrainedConfig]:
    model_type = settings.get("model_type", usual.model_type)
    if model_type == usual.model_type:
        return usual
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise CheckpointError(f"{part}.model_type {model_type!r} is unknown to transformers; correct it in --config")
    return CONFIG_MAPPING[model_type]  # type: ignore[no-any-return]


def _check_names(settings: Mapping[str, Any], config_class: type[PreTrainedConfig], prefix: str) -> None:
    known = {*PreTrainedConfig().to_dict(), *config_class.attribute_map, *_OLD_SETTINGS, "model_type"}
    known |= {item.name for item in fields(config_class)} if is_dataclass(config_class) else {*config_class().to_dict()}
    for name in settings:
        if name not in known:
            close = " or ".join(prefix + match for match in get_close_matches(name, sorted(known)))
            hint = f"did you mean {close}?" if close else f"expected settings of {config_class.__name__}"
            raise CheckpointError(f"{prefix}{name} is not a setting: {hint} Correct it in --config")


def last_line(error: Exception) -> str:
    """Return the last line of an error message, without the lines that transformers adds before it."""
    if isinstance(error, KeyError):
        return f"{error} is unknown to transformers"
    lines = str(error.args[0] if error.args else error).splitlines() or [type(error).__name__]
    return re.sub(r"^\s*(TypeError|ValueError): ", "", lines[-1]).strip()


def apply_overrides(read: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values read from the files with the overrides applied, part by part."""
    return _merged(read, _with_rope_parameters(overrides))


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged


def _with_rope_parameters(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """Move an old-style `rope_theta` of the language model to its place in current configs."""
    text = dict(overrides.get("text_config") or {})
    if "rope_theta" not in text:
        return overrides
    text["rope_parameters"] = {**(text.get("rope_parameters") or {}), "rope_theta": text.pop("rope_theta")}
    return {**overrides, "text_config": text}
