"""What a checkpoint holds, read from its files without loading it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from timechat.model import lora as adapter
from timechat.model.configuration import TimeChatConfig
from timechat.model.convert.files import TensorInfo, WeightFile, inspect_model_folder
from timechat.model.convert.write import REPORT_FILE
from timechat.model.loading import NANO, NANO_FOLDER, check_folder

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
        name: In words.
        parameters: Number of them.
        num_bytes: On disk.
        dtypes: Number formats on disk.
    """

    name: str
    parameters: int
    num_bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class ModelSummary:
    """What a checkpoint is.

    Attributes:
        config: Its config.
        parts: From pixels to words.
        is_original: Whether it was converted from the original's files, whose terms then hold.
        is_trained: False for weights that are random.
    """

    config: TimeChatConfig
    parts: tuple[PartSummary, ...]
    is_original: bool
    is_trained: bool


def summarize_model(path: str) -> ModelSummary:
    """Look into a model's files.

    Args:
        path: `"nano"`, or a local folder.

    Raises:
        CheckpointError: There is no converted model.
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
    )


def _parts(tensors: Iterable[tuple[str, TensorInfo]]) -> tuple[PartSummary, ...]:
    found: dict[str, list[TensorInfo]] = {name: [] for name in (*_PARTS.values(), _ADAPTER)}
    for name, info in tensors:
        part = next((part for prefix, part in _PARTS.items() if name.startswith(prefix)), _ADAPTER)
        found[part].append(info)
    return tuple(
        PartSummary(
            part,
            sum(info.num_elements for info in infos),
            sum(info.num_bytes for info in infos),
            tuple(sorted({str(info.dtype).removeprefix("torch.") for info in infos})),
        )
        for part, infos in found.items()
        if infos
    )
