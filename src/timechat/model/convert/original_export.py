"""TimeChat model → `.pth` of the original, for tools made for the original."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timechat.errors import CheckpointError, is_out_of_memory
from timechat.model import lora as adapter
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.quantization import is_quantized

# Prefix of our name → prefix of the original's name, in the original's order.
_PREFIXES = (
    ("frame_encoder.query_tokens", "query_tokens"),
    ("video_qformer.query_tokens", "video_query_tokens"),
    ("frame_encoder.vision_model.", "visual_encoder."),
    ("frame_encoder.qformer.embeddings.layernorm.", "Qformer.bert.embeddings.LayerNorm."),
    ("frame_encoder.qformer.", "Qformer.bert."),
    ("language_model.", "llama_model."),
    ("video_qformer.projection.", "llama_proj."),
    ("video_qformer.frame_positions.", "video_frame_position_embedding."),
    ("video_qformer.qformer.layernorm.", "video_Qformer.bert.embeddings.LayerNorm."),
    ("video_qformer.qformer.", "video_Qformer.bert."),
)
_VISION_RENAMES = (
    (r"^post_layernorm\.", "ln_vision."),
    (r"^embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"visual_encoder.blocks.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.projection\.", r"visual_encoder.blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.", r"visual_encoder.blocks.\1.attn."),
    (r"^encoder\.layers\.(\d+)\.", r"visual_encoder.blocks.\1."),
)
_VISION = "frame_encoder.vision_model."


def export_original(
    model: TimeChatForConditionalGeneration,
    out: Path,
    *,
    with_vision: bool = False,
    with_language_model: bool = False,
    config: Mapping[str, Any] | None = None,
    epoch: int = 0,
) -> None:
    """Write a model in the checkpoint format of the original's trainer.

    Args:
        model: Model to write.
        out: Path of the `.pth` file, written atomically.
        with_vision: Whether to write the vision tower too, which the original never trains.
        with_language_model: Whether to write the language model itself too, beside its adapter.
        config: Plain values, stored under `config`.
        epoch: Number stored under `epoch`.

    Raises:
        CheckpointError: The disk is full or the file cannot be written.
    """
    state = original_state_dict(model, with_vision=with_vision, with_language_model=with_language_model)
    content = {"model": state, "config": dict(config or {}), "epoch": epoch}
    partial = out.with_name(f".{out.name}.partial")
    try:
        torch.save(content, partial)
        partial.replace(out)
    except (OSError, RuntimeError) as error:  # torch raises a RuntimeError for a full disk
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{out} cannot be written ({reason}); free some space, or name a file on another disk"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def original_state_dict(
    model: TimeChatForConditionalGeneration, *, with_vision: bool = False, with_language_model: bool = False
) -> dict[str, Tensor]:
    """Return the weights that the original trains, in float32, and its buffers, under the original's names.

    Raises:
        CheckpointError: The model is quantized.
    """
    if is_quantized(model):
        raise CheckpointError(
            "a quantized model has no weights for the original's .pth format; name the folder that it was made from"
        )
    kept = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(_VISION):
            is_kept = with_vision
        elif name.startswith("language_model."):
            is_kept = with_language_model or adapter.is_adapter_key(name)
        else:
            is_kept = name.startswith(("frame_encoder.", "video_qformer."))
        if is_kept:
            kept[name] = tensor.detach().cpu().float()
    named: dict[str, Tensor] = {}
    for prefix, _ in _PREFIXES:
        for name in [name for name in kept if name.startswith(prefix)]:
            named.update(_renamed(name, kept.pop(name), has_lora=model.has_lora))
    return dict(_with_buffers(named, model.config.qformer_config.max_position_embeddings))


def _renamed(name: str, tensor: Tensor, *, has_lora: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor under its original name; the fused bias of the vision tower is split in two."""
    if name.startswith(_VISION):
        key = _vision_key(name.removeprefix(_VISION))
        if key.endswith("attn.qkv.bias"):
            # The original has no bias on keys: a constant added to all scores does not change attention.
            q_bias, _, v_bias = tensor.chunk(3)
            yield key.replace("qkv.bias", "q_bias"), q_bias.contiguous()
            yield key.replace("qkv.bias", "v_bias"), v_bias.contiguous()
            return
        yield key, tensor
        return
    prefix, target = next((prefix, target) for prefix, target in _PREFIXES if name.startswith(prefix))
    key = target + name.removeprefix(prefix)
    if prefix == "language_model." and has_lora:
        key = "llama_model.base_model.model." + key.removeprefix("llama_model.").replace(".base_layer.", ".")
    elif "Qformer." in key:
        key = re.sub(r"((?:cross)?attention)\.attention\.", r"\1.self.", key)
    yield key, tensor


def _vision_key(name: str) -> str:
    for pattern, replacement in _VISION_RENAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(
        f"the original has no name for {name} of the vision tower: only EVA ViT-g (InstructBLIP's) can be exported"
    )


def _with_buffers(named: Mapping[str, Tensor], num_positions: int) -> Iterator[tuple[str, Tensor]]:
    """Add the buffers of the original's checkpoints: the text position ids of both Q-Formers."""
    seen = set()
    for key, tensor in named.items():
        qformer = key.partition(".")[0]
        if qformer in ("Qformer", "video_Qformer") and qformer not in seen:
            seen.add(qformer)
            yield f"{qformer}.bert.embeddings.position_ids", torch.arange(num_positions)[None]
        yield key, tensor
