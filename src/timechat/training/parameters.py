"""Trained and frozen parameters, and the optimizer of the trained ones."""

from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from timechat.model import lora as adapter
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.training.config import LoraSettings, OptimizerSettings, TrainedModelSettings
from timechat.training.objectives import HEADS_NAME

# Prefixes of parameter names for each part. Stage 2 of the original trains all but `vision` and `language_model`.
PARTS = {
    "vision": ("frame_encoder.vision_model.", "frame_encoder.map_positions"),
    "image_qformer": ("frame_encoder.query_tokens", "frame_encoder.qformer."),
    "video_qformer": ("video_qformer.query_tokens", "video_qformer.frame_positions.", "video_qformer.qformer."),
    "temporal": ("video_qformer.temporal.",),
    "projection": ("video_qformer.projection.",),
    "lora": ("language_model.",),
    "language_model": ("language_model.",),
}

_FROZEN_NAMES = "frozen_names"  # attribute of a prepared model: names of parameters that only `model.freeze` excludes


def prepare_parameters(model: TimeChatForConditionalGeneration, settings: TrainedModelSettings) -> None:
    """Attach the adapter, freeze parameters and set number formats, in place.

    Raises:
        ValueError: A part has no parameters, `freeze` matches no parameter, or the adapter of the checkpoint has a
            different rank.
    """
    if "lora" in settings.train:
        _prepare_lora(model, settings.lora)
    frozen_dtype = getattr(torch, settings.language_model_dtype)
    matched: set[str] = set()
    frozen: set[str] = set()
    for name, parameter in model.named_parameters():
        parts = [part for part in settings.train if _belongs(name, part)]
        freezing = [beginning for beginning in settings.freeze if name.startswith(beginning)]
        matched.update(parts, freezing)
        could_learn = bool(parts) or name.startswith(f"{HEADS_NAME}.")
        if could_learn and freezing:
            frozen.add(name)
        parameter.requires_grad_(could_learn and not freezing)
        is_frozen_language = name.startswith("language_model.") and not parameter.requires_grad
        parameter.data = parameter.data.to(frozen_dtype if is_frozen_language else torch.float32)
    if missing := [part for part in settings.train if part not in matched]:
        raise ValueError(
            f"model.train names {', '.join(missing)}, but the model has no such parameters; give any of "
            f"{', '.join(PARTS)}, or the start of parameter names"
        )
    if missing := [beginning for beginning in settings.freeze if beginning not in matched]:
        raise ValueError(f"model.freeze names {', '.join(missing)}, but no parameter name starts with it")
    setattr(model, _FROZEN_NAMES, frozenset(frozen))
    if settings.gradient_checkpointing:
        language_model: Any = model.language_model
        name = "activation_checkpointing_enable"  # transformers before 5.20 has the other name only
        getattr(language_model, name if hasattr(language_model, name) else "gradient_checkpointing_enable")(
            {"use_reentrant": False}
        )


def set_training_mode(model: TimeChatForConditionalGeneration) -> None:
    """Enable dropout in trained parts and disable it in frozen ones."""
    model.train()
    encoder, compressor = model.frame_encoder, model.video_qformer
    for part in (encoder.vision_model, encoder.qformer, compressor.qformer, model.language_model):
        part.train(any(parameter.requires_grad for parameter in part.parameters()))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return all tensors in which a run may differ from its start checkpoint, by name.

    These are the trained parameters, the running statistics of trained batch norms, and parameters in `model.freeze`,
    which `model.start` or the heads of another run may have changed at the start.
    """
    state: dict[str, Tensor] = dict(trainable(model))
    frozen: frozenset[str] = getattr(model, _FROZEN_NAMES, frozenset())
    state |= {name: parameter for name, parameter in model.named_parameters() if name in frozen}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and any(parameter.requires_grad for parameter in module.parameters()):
            state |= {f"{name}.{key}": buffer for key, buffer in module.named_buffers(recurse=False)}
    return state


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Make AdamW with two groups: with and without weight decay."""
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in parameters:
        (decaying if decays(name, parameter) else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    make = _eight_bit_adamw() if settings.eight_bit else torch.optim.AdamW
    optimizer: torch.optim.Optimizer = make(
        [group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, eps=settings.eps
    )
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """Set the learning rate of all groups and return it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies; the original decides by these parts of names."""
    return parameter.ndim >= 2 and not any(piece in name for piece in ("bias", "ln", "bn"))


def _belongs(name: str, part: str) -> bool:
    if not name.startswith(PARTS.get(part, (part,))):
        return False
    is_lora = adapter.is_adapter_key(name)
    return is_lora if part == "lora" else not is_lora if part == "language_model" else True


def _prepare_lora(model: TimeChatForConditionalGeneration, settings: LoraSettings) -> None:
    """Make a new adapter, or check that of the checkpoint."""
    if not model.has_lora:
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.targets,
            bias="none",
            task_type="CAUSAL_LM",
        )
        adapter.attach_adapter(model.language_model, config)
    rank = model.language_model.timechat_lora_config.r
    if rank != settings.rank:
        raise ValueError(
            f"model.lora.rank is {settings.rank}, but the adapter of the checkpoint has rank {rank}; set "
            f"model.lora.rank={rank}, or merge the adapter first (`timechat convert --merge`)"
        )
    _set_lora_dropout(model.language_model, settings.dropout)
    model.config.lora_alpha = settings.alpha
    model.set_lora_scale()


def _set_lora_dropout(language_model: nn.Module, dropout: float) -> None:
    language_model.timechat_lora_config.lora_dropout = dropout  # type: ignore[union-attr]
    for module in language_model.modules():
        if isinstance(module, LoraLayer):
            for name in module.lora_dropout:
                module.lora_dropout[name] = nn.Dropout(dropout) if dropout else nn.Identity()


def _eight_bit_adamw() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ModuleNotFoundError(
            "optimizer.eight_bit needs bitsandbytes: pip install bitsandbytes, or set optimizer.eight_bit=false"
        ) from None
    return AdamW8bit
