"""LoRA adapters of original checkpoints: their names, and checks that nothing of them is lost."""

import re
from collections.abc import Mapping
from pathlib import Path

from timechat.errors import CheckpointError
from timechat.model.convert.files import WeightFile

_WEIGHT = re.compile(r"(language_model\..+\.lora_[AB])(?:\.(\w+))?\.weight")
_PART_OF_ADAPTER = re.compile(r"\.(?:lora_\w+|modules_to_save|ia3_l|hada_\w+|oft_\w+)\b")
_PEFT_PREFIX = "base_model.model."


class AdapterNames:
    """The names of the adapter's weights, without the name that PEFT gives to an adapter."""

    def __init__(self) -> None:
        self._names: dict[Path, set[str]] = {}

    def plain(self, name: str, file: WeightFile, key: str) -> str:
        """Return the name of a weight without the adapter's name; other names do not change.

        Args:
            name: Name in `TimeChatForConditionalGeneration`.
            file: File of the weight.
            key: Key of the weight in the file.

        Raises:
            CheckpointError: The weight is a part of an adapter of another kind than LoRA, or of a second adapter.
        """
        if not name.startswith("language_model.") or not _PART_OF_ADAPTER.search(name):
            return name
        match = _WEIGHT.fullmatch(name)
        if match is None:
            kind = "DoRA" if "lora_magnitude_vector" in name else "an adapter of another kind"
            raise CheckpointError(
                f"{file.path}: {key} is a part of {kind}, without which the adapter computes something else; TimeChat "
                "computes plain LoRA only (lora_A and lora_B): merge this adapter into the weights with PEFT first"
            )
        names = self._names.setdefault(file.path, set())
        names.add(match[2] or "default")
        if len(names) > 1:
            raise CheckpointError(
                f"{file.path}: holds several adapters ({', '.join(sorted(names))}); save it again with one of them"
            )
        return f"{match[1]}.weight"


def check_adapter(found: Mapping[str, tuple[WeightFile, str]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that each adapted layer has both matrices, and that they fit the layer.

    Args:
        found: File and key of each weight of the adapter, by its name without an adapter's name.
        expected: Shapes of the model's weights without the adapter.

    Raises:
        CheckpointError: A matrix is missing, or has a shape that does not fit.
    """
    shapes = {name: file.tensors[key].shape for name, (file, key) in found.items()}
    for name, shape in shapes.items():
        file, key = found[name]
        if len(shape) != 2:
            raise CheckpointError(f"{file.path}: {key} has the shape {list(shape)}, expected a matrix")
    for name, shape in shapes.items():
        file, key = found[name]
        layer, _, side = name.removesuffix(".weight").rpartition(".lora_")
        other_side = "B" if side == "A" else "A"
        other = shapes.get(f"{layer}.lora_{other_side}.weight")
        if other is None:
            raise CheckpointError(
                f"{file.path}: the adapter of {layer} has lora_{side}, but no lora_{other_side}; half an adapter "
                "cannot be used: save the checkpoint again, or download it again"
            )
        base = expected.get(f"{layer}.weight")
        if base is None or len(base) != 2:
            raise CheckpointError(
                f"{file.path}: {key} adapts {layer}, but the language model has no such layer; check that --llm names "
                "the language model that this adapter was trained with"
            )
        wanted = (other[1], base[1]) if side == "A" else (base[0], other[0])
        if shape != wanted:
            raise CheckpointError(
                f"{file.path}: {key} has the shape {list(shape)}, expected {list(wanted)} to fit {layer} and the other "
                "half of the adapter; check that the files belong together"
            )


def peft_name(name: str) -> str:
    """Return the name of an adapter's weight in a PEFT folder."""
    return _PEFT_PREFIX + name.removeprefix("language_model.")
