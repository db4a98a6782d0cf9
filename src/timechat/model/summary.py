"""Summary of a checkpoint, read from its files without loading the weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from timechat.model import NANO, NANO_FOLDER
from timechat.model import lora as adapter
from timechat.model.configuration import TimeChatConfig
from timechat.model.convert.files import TensorInfo, WeightFile, inspect_model_folder
from timechat.model.convert.write import REPORT_FILE
from timechat.model.loading import check_folder
from timechat.model.quantization import stored_quantization

_PARTS = {
    "frame_encoder.vision_model.": "vision tower",
    "frame_encoder.": "image Q-Former",
    "video_qformer.": "video Q-Former",
    "language_model.": "language model",
}
_ADAPTER = "LoRA adapter"


@dataclass(frozen=True)
class PartSummary:
    """One part of a model.

    Attributes:
        name: Name of the part, such as `vision tower`.
        parameters: Number of parameters.
        num_bytes: Size on disk.
        dtypes: Dtypes on disk.
    """

    name: str
    parameters: int
    num_bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class ModelSummary:
    """Summary of a checkpoint.

    Attributes:
        config: Config of the model.
        parts: Parts of the model, from the vision tower to the language model.
        is_original: Whether it was converted from the original's files, whose licence then applies.
        is_trained: False for random weights.
        quantization: `"int8"` or `"int4"` if the linear layers are stored quantized, else None.
    """

    config: TimeChatConfig
    parts: tuple[PartSummary, ...]
    is_original: bool
    is_trained: bool
    quantization: str | None


def summarize_model(path: str) -> ModelSummary:
    """Summarise the files of a model.

    Args:
        path: `"nano"`, or a local folder.

    Raises:
        CheckpointError: The folder contains no converted model.
    """
    folder = NANO_FOLDER if path == NANO else Path(path)
    check_folder(folder)
    files = inspect_model_folder(folder)
    adapter_file = folder / adapter.ADAPTER_FOLDER / adapter.WEIGHTS_FILE
    if adapter_file.is_file():
        files.append(WeightFile.inspect(adapter_file))
    config = TimeChatConfig.from_pretrained(folder)
    return ModelSummary(
        config,
        _parts((name, info) for file in files for name, info in file.tensors.items()),
        is_original=(folder / REPORT_FILE).is_file(),
        is_trained=config.is_trained,
        quantization=stored_quantization(getattr(config, "quantization_config", None), folder),
    )


def _parts(tensors: Iterable[tuple[str, TensorInfo]]) -> tuple[PartSummary, ...]:
    found: dict[str, list[tuple[int, TensorInfo]]] = {name: [] for name in (*_PARTS.values(), _ADAPTER)}
    for name, info in tensors:
        part = next((part for prefix, part in _PARTS.items() if name.startswith(prefix)), _ADAPTER)
        found[part].append((_num_parameters(name, info), info))
    return tuple(
        PartSummary(
            part,
            sum(count for count, _ in infos),
            sum(info.num_bytes for _, info in infos),
            tuple(sorted({str(info.dtype).removeprefix("torch.") for _, info in infos})),
        )
        for part, infos in found.items()
        if infos
    )


def _num_parameters(name: str, info: TensorInfo) -> int:
    """Return the number of parameters that a stored tensor holds: two per byte in int4, none in scales."""
    if name.endswith(".weight_scale"):
        return 0
    return info.num_elements * (2 if name.endswith(".weight_packed") else 1)
