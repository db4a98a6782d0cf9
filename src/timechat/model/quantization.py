"""Which layers of a model have int8 or int4 weights, how a config says so, and how they are read from disk."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor, nn

from timechat.errors import CheckpointError
from timechat.files.system import return_freed_memory
from timechat.model.convert.files import inspect_model_folder
from timechat.model.quantized_linear import GROUP, Int4Linear, Int8Linear, QuantizedLinear

Quantization = Literal["int8", "int4"]
"""Formats that a folder can be written in; `BITSANDBYTES` are for loading only."""
METHODS: tuple[Quantization, ...] = get_args(Quantization)
BITSANDBYTES = ("bnb8", "bnb4")

_VISION = "frame_encoder.vision_model"
_LANGUAGE_MODEL = "language_model"
_INT4_METHOD = "timechat-int4"
_TRIM_BYTES = 256 << 20


def check_quantize(quantize: str) -> None:
    """Refuse a name that is no quantization.

    Raises:
        ValueError: The name is unknown.
    """
    if quantize not in (*METHODS, *BITSANDBYTES):
        raise ValueError(f"quantize must be {', '.join(METHODS)}, {' or '.join(BITSANDBYTES)}, got {quantize!r}")


def bitsandbytes_config(quantize: str) -> Any:
    """Return the `quantization_config` of `transformers` for `bnb8` or `bnb4`: the language model without its head.

    Raises:
        ValueError: The package is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"quantize {quantize} needs the package bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    kept = ["frame_encoder", "video_qformer", "lm_head"]
    if quantize == "bnb8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16", llm_int8_skip_modules=kept
    )


# ── the config of a folder ──────────────────────────────────────────────────────────────────────────────────────


def stored_quantization(values: object, name: object) -> Quantization | None:
    """Return the format that the `quantization_config` of a folder names, None without one.

    Args:
        values: Value of `quantization_config` in `config.json`, or None.
        name: Name of the folder in messages.

    Raises:
        CheckpointError: The weights have a format that TimeChat does not read.
    """
    if values is None:
        return None
    for method in METHODS:
        if values == quantization_config(method):
            return method
    found = values.get("quant_method") if isinstance(values, Mapping) else values
    raise CheckpointError(
        f"{name} is quantized in a format that TimeChat does not read ({found}); convert the original again with "
        "`timechat convert --quantize int8` or int4"
    )


def quantization_config(method: Quantization) -> dict[str, Any]:
    """Return the `quantization_config` of a folder: that of `compressed-tensors` for int8, a layout of vLLM."""
    if method == "int4":
        return {"quant_method": _INT4_METHOD, "format": "blocks-of-64-rows", "group_size": GROUP, "vision": "int8"}
    common = {"num_bits": 8, "type": "int", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": common | {"strategy": "channel", "dynamic": False},
                "input_activations": common | {"strategy": "token", "dynamic": True},
            }
        },
        "ignore": [
            "re:.*lm_head$",
            "re:^frame_encoder\\.qformer\\..*",
            "re:^video_qformer\\..*",
        ],
    }


# ── the layers of a model ───────────────────────────────────────────────────────────────────────────────────────


def quantized_class(name: str, layer: nn.Linear, method: Quantization) -> type[QuantizedLinear]:
    """Return the class that a layer of a model becomes: int4 only in the language model, where its sizes allow it."""
    in_language_model = name.startswith(f"{_LANGUAGE_MODEL}.")
    if method == "int4" and in_language_model and Int4Linear.fits(layer.in_features, layer.out_features):
        return Int4Linear
    return Int8Linear


def layers_to_quantize(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of vision tower and language model by name, without the head of the language model.

    The head stays in floating point on disk, as vLLM expects it.
    """
    head = model.get_submodule(_LANGUAGE_MODEL).get_output_embeddings()  # type: ignore[operator]
    return {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not head and name.startswith((f"{_VISION}.", f"{_LANGUAGE_MODEL}."))
    }


def replace_layers(model: nn.Module, method: Quantization) -> None:
    """Replace the layers to quantize by quantized layers without weights, which `load_quantized_weights` reads."""
    for name, layer in layers_to_quantize(model).items():
        parent, _, child = name.rpartition(".")
        new = quantized_class(name, layer, method)(layer.in_features, layer.out_features, layer.bias)
        setattr(model.get_submodule(parent), child, new)


def quantize_layer(layer: nn.Linear) -> Int8Linear:
    """Return the int8 form of a layer, and free its weight even if the layer is still referenced."""
    new = Int8Linear(layer.in_features, layer.out_features, layer.bias)
    with torch.no_grad():
        new.set_weights(Int8Linear.quantize(layer.weight))
    layer.weight = None  # type: ignore[assignment]
    return new


def is_quantized(model: nn.Module) -> bool:
    """Return whether a model has int8 or int4 layers."""
    return any(isinstance(module, QuantizedLinear) for module in model.modules())


# ── reading from disk ───────────────────────────────────────────────────────────────────────────────────────────


def weight_keys(model: nn.Module, *, is_stored: bool) -> set[str]:
    """Return the keys of the files that `load_quantized_weights` reads.

    Args:
        model: Model with quantized layers.
        is_stored: Whether the files hold quantized weights, and not floating point numbers.
    """
    return {
        f"{name}.{part}"
        for name, layer in _quantized_layers(model)
        for part in (layer.parts if is_stored else ("weight",))
    }


@torch.no_grad()
def load_quantized_weights(model: nn.Module, folder: Path, *, is_stored: bool) -> None:
    """Read the weights of the quantized layers, one layer at a time, and quantize the head of the language model.

    int4 weights of a quantized folder are mapped into memory. Other weights are read without mapping, so that no copy
    in floating point stays in memory.

    Args:
        model: Model whose other weights are loaded.
        folder: Folder of the model.
        is_stored: Whether the files hold quantized weights, and not floating point numbers.

    Raises:
        CheckpointError: A weight is missing or has another shape.
    """
    files = {name: file.path for file in inspect_model_folder(folder) for name in file.tensors}
    freed = 0
    head = model.get_submodule(_LANGUAGE_MODEL).get_output_embeddings()  # type: ignore[operator]
    has_language_model = not head.weight.is_meta
    for name, layer in _quantized_layers(model):
        if not has_language_model and name.startswith(f"{_LANGUAGE_MODEL}."):
            continue
        parts = layer.parts if is_stored else ("weight",)
        maps = is_stored and isinstance(layer, Int4Linear)
        try:
            tensors = {part: _read(files[f"{name}.{part}"], f"{name}.{part}", maps=maps) for part in parts}
            if not is_stored:
                if tensors["weight"].shape != (expected := (layer.out_features, layer.in_features)):
                    raise ValueError(f"weight has the shape {list(tensors['weight'].shape)}, expected {list(expected)}")
                tensors = layer.quantize(tensors["weight"])
            layer.set_weights(tensors)
        except KeyError as error:
            raise CheckpointError(
                f"{folder} does not hold this model's weights: missing: {error.args[0]}; convert or fetch it again"
            ) from error
        except ValueError as error:
            raise CheckpointError(f"{folder}: {name}: {error}; convert or fetch it again") from error
        freed += layer.in_features * layer.out_features
        if freed > _TRIM_BYTES:
            return_freed_memory()
            freed = 0
    language_model: Any = model.get_submodule(_LANGUAGE_MODEL)
    if type(head) is nn.Linear and has_language_model:
        language_model.set_output_embeddings(quantize_layer(head))
    return_freed_memory()


def _quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantizedLinear))


def _read(path: Path, key: str, *, maps: bool) -> Tensor:
    with safe_open(path, framework="pt", backend="mmap" if maps else "pread") as file:
        return file.get_tensor(key)  # type: ignore[no-any-return]
