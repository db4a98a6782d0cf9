"""Quantized folders: the plan of their tensors, and the conversion of a folder in floating point."""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timechat.errors import CheckpointError
from timechat.model.configuration import TimeChatConfig
from timechat.model.convert.files import PlannedTensor, TensorInfo, inspect_model_folder, write_shards
from timechat.model.convert.folder import making_folder
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.quantization import (
    Quantization,
    layers_to_quantize,
    quantization_config,
    quantized_class,
    stored_quantization,
)
from timechat.model.quantized_linear import QuantizedLinear

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".index.json")


def quantized_plan(
    tensors: Iterable[PlannedTensor], config: TimeChatConfig, method: Quantization
) -> list[PlannedTensor]:
    """Return the plan of a model with the weights of its linear layers quantized; other tensors stay as they are."""
    with torch.device("meta"):
        layers = layers_to_quantize(TimeChatForConditionalGeneration(config))
    planned = []
    for tensor in tensors:
        name = tensor.name.removesuffix(".weight")
        if tensor.name.endswith(".weight") and name in layers:
            tensor = _quantized(tensor, name, quantized_class(name, layers[name], method))
        planned.append(tensor)
    return planned


def _quantized(tensor: PlannedTensor, layer: str, kind: type[QuantizedLinear]) -> PlannedTensor:
    parts = kind.quantize(torch.empty(tensor.info.shape, device="meta"))
    infos = {f"{layer}.{part}": TensorInfo(tuple(value.shape), value.dtype) for part, value in parts.items()}
    make = partial(_make_quantized, make=tensor.make, dtype=tensor.info.dtype, layer=layer, kind=kind)
    return PlannedTensor(tensor.name, tensor.info, tensor.sources, make, infos)


def _make_quantized(
    *sources: Tensor, make: Callable[..., Any], dtype: torch.dtype, layer: str, kind: type[QuantizedLinear]
) -> dict[str, Tensor]:
    """Make a weight as it would be stored in floating point, and quantize it, so that it is rounded as when loaded."""
    parts = kind.quantize(make(*sources).to(dtype))
    return {f"{layer}.{part}": value for part, value in parts.items()}


def quantize_folder(
    source: Path, out_dir: Path, method: Quantization, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write a quantized copy of a converted folder.

    Args:
        source: Folder in floating point.
        out_dir: Folder to create, complete or not at all.
        method: Format of the linear layers of vision tower and language model.
        progress: Callback with the bytes written so far and the total bytes.

    Returns:
        Number of quantized layers.

    Raises:
        CheckpointError: The folder is quantized already, does not hold the model's weights, or cannot be written.
    """
    config = TimeChatConfig.from_pretrained(source)
    if stored := stored_quantization(getattr(config, "quantization_config", None), source):
        raise CheckpointError(f"{source} is quantized as {stored} already; name the folder that it was made from")
    stored_tensors = [
        PlannedTensor(name, info, ((file, name),), _same)
        for file in inspect_model_folder(source)
        for name, info in file.tensors.items()
    ]
    tensors = quantized_plan(stored_tensors, config, method)
    with making_folder(out_dir) as folder:
        write_shards(folder, tensors, progress)
        config.quantization_config = quantization_config(method)
        config.save_pretrained(folder)
        for path in source.iterdir():
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
            elif not path.name.endswith(_WEIGHT_SUFFIXES) and path.name != "config.json":
                shutil.copy(path, folder)
    return sum(tensor.parts is not None for tensor in tensors)


def _same(tensor: Tensor) -> Tensor:
    return tensor
