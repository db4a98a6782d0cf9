"""Load a model of `transformers`: its configuration first, then a plan of the memory, then the weights.

No code from a folder is run, and no processor class is used: those of video models need torchvision. The tokenizer and
the image processor of the Pillow backend are enough, because times and placeholders are written here.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from timechat.errors import CheckpointError, DownloadError, is_out_of_memory
from timechat.files.system import available_memory_bytes, total_memory_bytes
from timechat.model.loading import MEMORY_SHARE, check_dtype, choose_device, half_precision
from timechat.model.pretrained import quiet_transformers
from timechat.model.tensor_files import check_is_downloaded

_INDEX = "model.safetensors.index.json"
_SMALL_FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", _INDEX),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt"),
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab*")
_SPARE = 1.15  # memory for pictures and states, as a factor of the weights
_LOADING_ERRORS = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers raises for folders with missing or damaged files, or with values of a wrong type."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class LoadedModel:
    """A model with everything that prompts and pictures need.

    Attributes:
        model: Model with a head, in evaluation mode.
        tokenizer: Tokenizer.
        image_processor: Image processor of the Pillow backend.
        template: Chat template; None for that of the tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    template: str | None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory of a model before it is loaded.

    Attributes:
        dtype: Number format of the weights.
        needed_bytes: Memory of the weights, with some for pictures and states.
        available_bytes: Memory that is free on the device.
    """

    dtype: torch.dtype
    needed_bytes: int
    available_bytes: int


def is_transformers_model(name: str) -> bool:
    """Whether a folder or hub id names a model of `transformers` that reads images; of the hub, config.json is read."""
    try:
        return _class_name(str(_read_config(_config_folder(name), name).get("model_type"))) is not None
    except CheckpointError:
        return False


def read_config(name: str) -> PreTrainedConfig:
    """Read the configuration of a model; of a model of the hub, no other file is downloaded.

    Raises:
        CheckpointError: There is no model of that name, or its configuration cannot be read.
    """
    folder = _config_folder(name)
    _read_config(folder, name)
    with _explained(name):
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)


def load_model_files(name: str, *, device: str = "auto", dtype: str | torch.dtype = "auto") -> LoadedModel:
    """Load a model.

    Args:
        name: Folder or hub id.
        device: Torch device; `"auto"` selects CUDA, else MPS, else the CPU.
        dtype: `"float32"`, `"float16"`, `"bfloat16"` or `"auto"`: half precision on GPUs; on a CPU float32 if it fits
            into the memory of the machine, else bfloat16.

    Raises:
        CheckpointError: The model does not exist, is of another kind, does not fit into memory, or cannot be loaded.
        ValueError: The device is not available, or the dtype is unknown.
    """
    if dtype == "int8":
        raise ValueError("dtype int8 is for TimeChat models, got a model of transformers; take bfloat16 or auto")
    torch_device, target = choose_device(device), check_dtype(dtype)
    config = _read_config(_config_folder(name), name)
    class_name = _class_name(str(config.get("model_type")))
    if class_name is None:
        raise CheckpointError(
            f"{name} is a model of type {config.get('model_type')!r}, which reads no images in transformers; take a "
            "vision language model such as Qwen3-VL, SmolVLM2 or LLaVA-OneVision"
        )
    folder = Path(name) if Path(name).exists() else _fetch(name, _SMALL_FILES)
    plan = _plan(folder, name, config, torch_device, target)
    if not Path(name).exists():
        folder = _fetch(name, _weight_files(folder))
        plan = _plan(folder, name, config, torch_device, target)  # a single file states its size only now
    for path in (folder / file for file in _weight_files(folder)):
        if not path.is_file():
            raise CheckpointError(f"{folder} has no {path.name}; only weights as safetensors files are read")
        check_is_downloaded(path)
    if not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        raise CheckpointError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer.model or vocab.json); fetch it again"
        )
    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        processor = _load_image_processor(folder, str(config["model_type"]))
        placed = {} if torch_device.type == "cpu" else {"device_map": {"": torch_device}}
        auto = AutoModelForImageTextToText if class_name == "image" else AutoModelForMultimodalLM
        with quiet_transformers():
            model, info = auto.from_pretrained(
                str(folder),
                dtype=None if "quantization_config" in config else plan.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **placed,
            )
    if missing := sorted(map(str, info["missing_keys"])):
        raise CheckpointError(
            f"{name} has lost {len(missing)} of its weights, such as {missing[0]}; fetch it again, or take another "
            "version of it"
        )
    return LoadedModel(model.eval(), tokenizer, processor, _read_template(folder))


def plan_memory(weights: int, *, is_stored: bool, device: torch.device, dtype: str | torch.dtype) -> MemoryPlan:
    """Plan the memory of a model.

    Args:
        weights: Number of weights; bytes of the weights if they keep their stored format.
        is_stored: Whether the weights keep their stored format, as quantized ones do.
        device: Device of the model.
        dtype: Number format of the weights, or `"auto"`.
    """
    if isinstance(dtype, torch.dtype):
        chosen = dtype
    elif device.type != "cpu":
        chosen = half_precision(device)
    else:
        fits = weights * torch.float32.itemsize < MEMORY_SHARE * total_memory_bytes()
        chosen = torch.float32 if fits else torch.bfloat16
    needed = weights if is_stored else weights * chosen.itemsize
    return MemoryPlan(chosen, round(needed * _SPARE), _available_bytes(device))


def _plan(
    folder: Path, name: str, config: dict[str, Any], device: torch.device, dtype: str | torch.dtype
) -> MemoryPlan:
    """Plan the memory of a model from its files.

    Raises:
        CheckpointError: The model does not fit.
    """
    count, stored = _count_weights(folder, config)
    is_stored = "quantization_config" in config
    plan = plan_memory(stored if is_stored else count, is_stored=is_stored, device=device, dtype=dtype)
    if plan.needed_bytes > plan.available_bytes:
        smaller = "" if plan.dtype != torch.float32 else "give dtype bfloat16, "
        raise CheckpointError(
            f"{name} needs about {plan.needed_bytes / 1e9:.1f} GB of memory on {device} as "
            f"{str(plan.dtype).removeprefix('torch.')}, and {plan.available_bytes / 1e9:.1f} GB are free; {smaller}"
            "end other programs, take a smaller model, or give the address of a server that runs this one"
        )
    return plan


def _count_weights(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    """Return the number of weights and their bytes: from the headers of the files, else from the index, else 0."""
    count = stored = 0
    paths = [folder / name for name in _weight_files(folder)]
    if all(path.is_file() for path in paths):
        for path in paths:
            for tensor in _read_header(path).values():
                first, last = tensor["data_offsets"]
                count, stored = count + math.prod(tensor["shape"]), stored + last - first
        return count, stored
    if (folder / _INDEX).is_file():
        stored = int(_read_json(folder / _INDEX).get("metadata", {}).get("total_size", 0))
        kind = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        count = stored // (4 if kind == "float32" else 2)
    return count, stored


def _read_header(path: Path) -> dict[str, Any]:
    """Return name, dtype, shape and place of the tensors of a safetensors file."""
    check_is_downloaded(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, path.stat().st_size)))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch it again") from error
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _weight_files(folder: Path) -> list[str]:
    """Return the names of the files of weights."""
    if not (folder / _INDEX).is_file():
        return ["model.safetensors"]
    return sorted({Path(str(file)).name for file in _read_json(folder / _INDEX).get("weight_map", {}).values()})


def _available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return available_memory_bytes()


# ------------------------------------------------------------------------------------------------- small files


def _config_folder(name: str) -> Path:
    """Return the folder with the `config.json` of a model."""
    if Path(name).exists():
        return Path(name)
    return _fetch(name, ("config.json",))


def _fetch(name: str, patterns: tuple[str, ...] | list[str]) -> Path:
    """Return the local copy of a hub repository with the files of some patterns."""
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"there is no model {name!r}; give a folder, or a hub id like owner/name")
    from timechat.model.download import fetch_files  # a local folder needs no hub client

    try:
        return fetch_files(name, patterns)
    except (DownloadError, ValueError) as error:
        raise CheckpointError(f"{name!r} is not a local folder and cannot be downloaded as a model: {error}") from error


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{name} contains no model: it has no config.json; give the folder of a model")
    check_is_downloaded(path)
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it contains no object; fetch it again")
    return content


def _class_name(model_type: str) -> str | None:
    """Return which auto class loads a type of model: `image` or `multimodal`; None for neither."""
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "image"
    return "multimodal" if model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES else None


def _load_image_processor(folder: Path, model_type: str) -> Any:
    """Load the image processor of the Pillow backend."""
    settings: dict[str, Any] = {}
    if (folder / "processor_config.json").is_file():
        settings = _read_json(folder / "processor_config.json").get("image_processor") or {}
    if not settings and (folder / "preprocessor_config.json").is_file():
        settings = _read_json(folder / "preprocessor_config.json")
    if not settings:
        raise CheckpointError(f"{folder} has no preprocessor_config.json, which says how pictures are prepared")
    name = str(settings.get("image_processor_type", "")).removesuffix("Fast")
    name = name if not name or name.endswith("Pil") else f"{name}Pil"
    found = get_image_processor_class_from_name(name) if name else None
    if found is None:
        own = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).get("pil")
        found = get_image_processor_class_from_name(own) if own else None
    if found is None:
        raise CheckpointError(
            f"transformers prepares pictures for {model_type} only with torchvision; take another model, or give the "
            "address of a server that runs this one"
        )
    return found.from_dict(settings)


def _read_template(folder: Path) -> str | None:
    """Return the chat template of the processor, which handles pictures; None for that of the tokenizer."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        template = _read_json(folder / "chat_template.json").get("chat_template")
        return template if isinstance(template, str) else None
    return None


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except _LOADING_ERRORS as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":")
        raise CheckpointError(f"cannot load the model {name!r}: {reason}; fetch it again, or take another") from error
