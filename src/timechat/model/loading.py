"""A model by its name: built in, in a folder, or on a hub; on a device and in a number format that suit it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from timechat.errors import CheckpointError, DownloadError
from timechat.model.configuration import TimeChatConfig
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.quantization import quantize_linear_layers

NANO = "nano"
NANO_FOLDER = Path(__file__).parents[1] / "weights" / NANO
_FORMATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SHARE_OF_MEMORY = 0.7  # of the machine's, that float32 weights may take


def load_model(
    name: str, *, device: str = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    """Load a model and its processor.

    Args:
        name: `"nano"`, a folder, or a hub id.
        device: As torch names it; `"auto"` takes CUDA, else MPS, else the CPU.
        dtype: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` (CPU only) or `"auto"`: half precision on GPUs; on a
            CPU float32 where it fits, else bfloat16 for the language model, and for vision too where the
            processor has instructions for it. With int8 a repeated question may be answered in other words, since
            inputs are rounded by their largest value, and the cache changes what is read together.

    Raises:
        CheckpointError: There is no such model, or it cannot be loaded.
        ValueError: The device is not there, or the format is unknown.
    """
    target = _choose_device(device)
    wanted = _check_format(dtype, target)
    model, processor = _load_folder(find_folder(name), target, wanted)
    if wanted == "int8":
        quantize_linear_layers(model.frame_encoder.vision_model)
        quantize_linear_layers(model.language_model)
    return model, processor


def find_folder(name: str) -> Path:
    """Return the folder of a model: the built-in one's, a local one, or the copy of a hub repository.

    Raises:
        CheckpointError: There is no model of that name.
    """
    if name == NANO:
        return NANO_FOLDER
    return Path(name) if Path(name).exists() else _fetch(name)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no converted model.

    Raises:
        CheckpointError: It has no config, or that of another kind of model.
    """
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except FileNotFoundError:
        kind = "nothing: it has no config.json"
    except (OSError, ValueError, AttributeError) as error:
        kind = f"a config.json that cannot be read ({error})"
    if kind != TimeChatConfig.model_type:
        raise CheckpointError(
            f"{folder} is no converted TimeChat model but holds {kind}; make one with `timechat convert --from "
            "CKPT_DIR OUT_DIR` and name OUT_DIR"
        )


def _load_folder(
    folder: Path, device: torch.device, wanted: str | torch.dtype
) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    check_folder(folder)
    try:
        processor = TimeChatProcessor.from_pretrained(str(folder))
        options = _load_options(processor, device, wanted)
        # Never a pickle, whatever lies in the folder.
        model = TimeChatForConditionalGeneration.from_pretrained(str(folder), use_safetensors=True, **options)
        return model, processor
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"cannot load the model {str(folder)!r}: {reason}; convert or fetch it again") from error


def _fetch(name: str) -> Path:
    """Return the local copy of a hub repository, fetched if need be."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise CheckpointError(
            f"there is no model {name!r}; give nano, a folder made by `timechat convert`, or a hub id like owner/name"
        )
    from timechat.model.download import fetch_model

    try:
        return fetch_model(name)
    except (DownloadError, ValueError) as error:
        raise CheckpointError(f"{name!r} is no folder here and cannot be downloaded as a model: {error}") from error


def _choose_device(device: str) -> torch.device:
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device must be auto, cuda, mps, cpu or the like, got {device!r}") from error
        try:
            torch.ones(1, device=chosen).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {device!r} cannot be computed on here: this machine or torch lacks it; use cpu or auto"
            ) from error
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _check_format(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    """Return `"auto"`, `"int8"` or a torch dtype."""
    wanted = _FORMATS.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if wanted not in ("auto", "int8", *_FORMATS.values()):
        raise ValueError(f"dtype must be auto, {', '.join(_FORMATS)} or int8, got {dtype!r}")
    if wanted == "int8" and device.type != "cpu":
        raise ValueError(f"dtype int8 is for CPUs, got device {device}; use auto, bfloat16 or float16 there")
    return wanted


def _load_options(processor: TimeChatProcessor, device: torch.device, wanted: str | torch.dtype) -> dict[str, Any]:
    """Return how `from_pretrained` is to load the weights."""
    if wanted == "int8":
        return {"dtype": torch.bfloat16, "keep_vision_in_float32": True}
    if device.type == "cpu":
        return _cpu_formats(processor) if wanted == "auto" else {"dtype": wanted}
    if wanted == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        wanted = torch.bfloat16 if has_bfloat16 else torch.float16
    return {"dtype": wanted, "device_map": {"": device}}


def _cpu_formats(processor: TimeChatProcessor) -> dict[str, Any]:
    """Choose by the machine alone, so that the same machine gives the same answer every time."""
    with torch.device("meta"):
        shell = TimeChatForConditionalGeneration(processor.config)
    needed = sum(parameter.numel() for parameter in shell.parameters()) * torch.float32.itemsize
    if needed < _SHARE_OF_MEMORY * _memory_bytes():
        return {"dtype": torch.float32}
    return {"dtype": torch.bfloat16, "keep_vision_in_float32": not _has_bfloat16_instructions()}


def _has_bfloat16_instructions() -> bool:
    """Say whether this processor has instructions for bfloat16; without them it is several times slower."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def _memory_bytes() -> int:
    """Return the memory of the machine; a lot where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 62
