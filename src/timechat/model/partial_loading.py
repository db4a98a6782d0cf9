"""Load a model without the weights of its language model, for which another process writes the answers."""

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.initialization import no_init_weights

from timechat.errors import CheckpointError
from timechat.model.convert.files import inspect_model_folder
from timechat.model.loading import (
    check_dtype,
    check_folder,
    choose_device,
    explain_failed_load,
    find_folder,
    load_options,
)
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.pretrained import quiet_transformers
from timechat.model.processing import TimeChatProcessor
from timechat.model.quantization import load_quantized_weights, stored_quantization

_PARTS = ("frame_encoder", "video_qformer")


def load_without_language_model(
    name: str, *, device: str = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor, torch.dtype]:
    """Load frame encoder and video Q-Former of a model; its language model is on the device `meta`.

    Args:
        name: `"nano"`, a folder, or a hub id.
        device: Torch device, as for `load_model`.
        dtype: Number format, as for `load_model`.

    Returns:
        The network, its processor, and the number format of the language model.

    Raises:
        CheckpointError: The model does not exist or cannot be loaded.
        ValueError: The device is not available, or a name is unknown.
    """
    torch_device, target_dtype = choose_device(device), check_dtype(dtype)
    folder = find_folder(name)
    check_folder(folder)
    with explain_failed_load(folder):
        processor = TimeChatProcessor.from_pretrained(str(folder))
    config = processor.config
    stored = stored_quantization(getattr(config, "quantization_config", None), folder)
    if stored == "int4":
        raise CheckpointError(
            f"{folder} is quantized as int4, which vLLM cannot read; name a folder of int8, or the original folder"
        )
    options = {"dtype": torch.float32} if stored else load_options(processor, torch_device, target_dtype)
    language_dtype: torch.dtype = options["dtype"]
    vision_dtype = torch.float32 if options.get("keep_vision_in_float32") else language_dtype
    with explain_failed_load(folder), quiet_transformers():
        with no_init_weights():
            model = TimeChatForConditionalGeneration(config, quantization=stored, has_language_model=False)
        with suppress(OSError):  # without the file, the end token of the language model's config counts
            model.generation_config = GenerationConfig.from_pretrained(str(folder))
        _load_parts(model, folder)
        if stored:
            load_quantized_weights(model, folder, is_stored=True)
        for part in _PARTS:
            model.get_submodule(part).to(torch_device, vision_dtype)
    return model.eval(), processor, language_dtype


def _load_parts(model: TimeChatForConditionalGeneration, folder: Path) -> None:
    expected = {name for name in model.state_dict() if name.startswith(tuple(f"{part}." for part in _PARTS))}
    tensors: dict[str, Tensor] = {}
    for file in inspect_model_folder(folder):
        with file.reading() as get:
            tensors |= {name: get(name).clone() for name in file.tensors if name in expected}
    if missing := sorted(expected - tensors.keys()):
        raise CheckpointError(
            f"{folder} does not hold this model's weights: missing: {', '.join(missing[:5])} ({len(missing)} in all); "
            "convert or fetch it again"
        )
    model.load_state_dict(tensors, strict=False)
