"""Load a model by name (built-in, folder or hub id) with a suitable device and dtype."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.initialization import no_init_weights

from timechat.errors import CheckpointError, DownloadError, is_out_of_memory
from timechat.files.system import keep_freed_memory, total_memory_bytes
from timechat.model import NANO, NANO_FOLDER
from timechat.model.configuration import TimeChatConfig
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.quantization import METHODS, bitsandbytes_config, check_quantize, stored_quantization
from timechat.model.tensor_files import check_is_downloaded

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MEMORY_SHARE = 0.7
"""Share of the machine's memory that float32 weights may use."""

_ONE_THREAD_PARAMETERS = 20_000_000  # with fewer parameters, several threads are slower than one


def load_model(
    name: str, *, device: str = "auto", dtype: str | torch.dtype = "auto", quantize: str | None = None
) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    """Load a model and its processor.

    Args:
        name: `"nano"`, a folder, or a hub id.
        device: Torch device; `"auto"` selects CUDA, else MPS, else the CPU.
        dtype: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` (CPU only) or `"auto"`: half precision on GPUs; on a
            CPU float32 if it fits into memory, else bfloat16 for the language model, and for vision too if the
            processor has instructions for it. `"int8"` is short for `quantize="int8"`.
        quantize: Format to which weights are rounded while they are read. `"int8"` and `"int4"` are for CPUs: the
            linear layers of vision tower and language model, the former always in int8; other weights are float32.
            `"bnb8"` and `"bnb4"` use the package bitsandbytes for the language model. None keeps the format of the
            folder, which may be quantized.

    Raises:
        CheckpointError: The model does not exist or cannot be loaded.
        ValueError: The device is not available, a name is unknown, or the options contradict each other.
    """
    torch_device = choose_device(device)
    if dtype == "int8":
        if quantize not in (None, "int8"):
            raise ValueError(f"dtype int8 and quantize {quantize} contradict each other; leave dtype out")
        dtype, quantize = "auto", "int8"
    target_dtype = check_dtype(dtype)
    if quantize is not None:
        check_quantize(quantize)
    loaded = _load_folder(find_folder(name), torch_device, target_dtype, quantize)
    if torch_device.type == "cpu":
        keep_freed_memory()
    return loaded


def load_processor(name: str) -> TimeChatProcessor:
    """Load the processor of a model without its weights.

    Raises:
        CheckpointError: The model does not exist, or its files are damaged.
    """
    folder = find_folder(name)
    check_folder(folder)
    with explain_failed_load(folder):
        return TimeChatProcessor.from_pretrained(str(folder))  # type: ignore[no-any-return]


def find_folder(name: str) -> Path:
    """Return the folder of a model: built-in, local, or the local copy of a hub repository.

    Raises:
        CheckpointError: There is no model with this name.
    """
    if name == NANO:
        return NANO_FOLDER
    return Path(name) if Path(name).exists() else _fetch(name)


def load_config(name: str) -> TimeChatConfig:
    """Load the configuration of a model alone; of a model of the hub, no other file is downloaded.

    Raises:
        CheckpointError: There is no model with this name.
    """
    folder = NANO_FOLDER if name == NANO else Path(name) if Path(name).exists() else _fetch_config(name)
    check_folder(folder, name)
    return TimeChatConfig.from_pretrained(folder)  # type: ignore[no-any-return]


def check_folder(folder: Path, name: str | None = None) -> None:
    """Refuse a folder that does not contain a converted model.

    Args:
        folder: Folder of the model.
        name: Name of the model in messages; None takes the folder.

    Raises:
        CheckpointError: The folder has no config, the config of another kind of model, or git-lfs pointers.
    """
    for path in (folder / "config.json", *folder.glob("*.safetensors")):
        if path.is_file():
            check_is_downloaded(path)
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        kind = "nothing: it has no config.json"
    except (OSError, ValueError, AttributeError) as error:
        kind = f"a config.json that cannot be read ({error})"
    if kind != TimeChatConfig.model_type:
        raise CheckpointError(
            f"{name or folder} is not a converted TimeChat model, it contains {kind}; make one with "
            "`timechat convert --from CKPT_DIR OUT_DIR` and name OUT_DIR"
        )


def _load_folder(
    folder: Path, device: torch.device, target_dtype: str | torch.dtype, quantize: str | None
) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    check_folder(folder)
    with explain_failed_load(folder):
        processor = TimeChatProcessor.from_pretrained(str(folder))
    config = getattr(processor.config, "quantization_config", None)
    stored = None if config is None else stored_quantization(config, folder)
    if quantize in METHODS or stored:
        options = _quantized_options(quantize, stored, device, target_dtype)
    else:
        options = load_options(processor, device, target_dtype)
        if quantize is not None:
            options["quantization_config"] = bitsandbytes_config(quantize)
    with explain_failed_load(folder):
        # Never a pickle, even if the folder contains one.
        model = TimeChatForConditionalGeneration.from_pretrained(str(folder), use_safetensors=True, **options)
        return model, processor


def needs_one_thread(model: TimeChatForConditionalGeneration) -> bool:
    """Return whether a model is too small for several threads."""
    return int(model.num_parameters()) < _ONE_THREAD_PARAMETERS


@contextmanager
def explain_failed_load(folder: Path) -> Iterator[None]:
    """Convert the errors of a folder that cannot be read to a `CheckpointError`; errors of memory stay."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"cannot load the model {str(folder)!r}: {reason}; convert or fetch it again") from error


def _fetch(name: str) -> Path:
    """Return the local copy of a hub repository; its `config.json` is checked before other files are downloaded."""
    check_folder(_fetch_config(name), name)
    from timechat.model.download import fetch_model

    return _explained(name, fetch_model)


def _fetch_config(name: str) -> Path:
    """Return the folder of the local copy of a hub repository's `config.json`."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise CheckpointError(
            f"there is no model {name!r}; give nano, a folder made by `timechat convert`, or a hub id like owner/name"
        )
    from timechat.model.download import fetch_config  # a local folder needs no hub client

    return _explained(name, fetch_config)


def _explained(name: str, fetch: Callable[[str], Path]) -> Path:
    try:
        return fetch(name)
    except (DownloadError, ValueError) as error:
        raise CheckpointError(f"{name!r} is not a local folder and cannot be downloaded as a model: {error}") from error


def choose_device(device: str) -> torch.device:
    """Return the device of a name; `"auto"` selects CUDA, else MPS, else the CPU.

    Raises:
        ValueError: The device is not available.
    """
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device must be a torch device such as auto, cuda, mps or cpu, got {device!r}") from error
        try:
            torch.ones(1, device=chosen).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"device {device!r} is not available: this machine or this torch build lacks it; use cpu or auto"
            ) from error
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def check_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """Return `"auto"` or a torch dtype."""
    target_dtype = _DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if target_dtype not in ("auto", *_DTYPES.values()):
        raise ValueError(f"dtype must be auto, {', '.join(_DTYPES)} or int8, got {dtype!r}")
    return target_dtype


def _quantized_options(
    quantize: str | None, stored: str | None, device: torch.device, target_dtype: str | torch.dtype
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for int8 and int4."""
    method = quantize or stored
    if stored and quantize not in (None, stored):
        raise ValueError(f"the model is quantized as {stored} already: leave quantize {quantize} out")
    if device.type != "cpu":
        raise ValueError(f"quantize {method} is for CPUs, got device {device}; take bnb8 or bnb4 there, or no quantize")
    if target_dtype not in ("auto", torch.float32):
        raise ValueError(f"quantize {method} computes in float32, got dtype {target_dtype}; leave dtype out")
    return {"quantization": method}


def load_options(processor: TimeChatProcessor, device: torch.device, target_dtype: str | torch.dtype) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a device and dtype."""
    if device.type == "cpu":
        return _cpu_dtypes(processor) if target_dtype == "auto" else {"dtype": target_dtype}
    if target_dtype == "auto":
        target_dtype = half_precision(device)
    return {"dtype": target_dtype, "device_map": {"": device}}


def half_precision(device: torch.device) -> torch.dtype:
    """Return the half precision of a GPU: bfloat16 where it has instructions for it, else float16."""
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float16


def _cpu_dtypes(processor: TimeChatProcessor) -> dict[str, Any]:
    """Choose dtypes by the total memory of the machine, so that one machine always gives the same answers."""
    with no_init_weights(), torch.device("meta"):
        shell = TimeChatForConditionalGeneration(processor.config)
    needed = sum(parameter.numel() for parameter in shell.parameters()) * torch.float32.itemsize
    if needed < MEMORY_SHARE * total_memory_bytes():
        return {"dtype": torch.float32}
    return {"dtype": torch.bfloat16, "keep_vision_in_float32": not _has_bfloat16_instructions()}


def _has_bfloat16_instructions() -> bool:
    """Return whether this processor has bfloat16 instructions; without them bfloat16 is several times slower."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
