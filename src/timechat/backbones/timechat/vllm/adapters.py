"""LoRA adapters that requests name: their folders, and checks before the engine reads them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.backbones.timechat.vllm.folder import weights_digest
from timechat.errors import CheckpointError
from timechat.model import lora
from timechat.model.convert.files import WeightFile, inspect_model_folder

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM knows
_SIDE = re.compile(r"base_model\.model\.(model\.layers\.\d+\..+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter of the language model.

    Attributes:
        name: Name by which requests choose it.
        path: PEFT folder.
        rank: Rank of its matrices.
        targets: Names of the linear layers that it changes, such as `q_proj`.
        scale: Strength: the factor of its product.
        digest: SHA-256 of its weights.
    """

    name: str
    path: Path
    rank: int
    targets: frozenset[str]
    scale: float
    digest: str

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that answers depend on, for cache keys."""
        return {"weights": self.digest, "lora_scale": self.scale}


def read_adapter(name: str, path: Path, language_model: Path) -> Adapter:
    """Inspect the PEFT folder of an adapter, as `run.export: [adapter]` of a training writes it.

    vLLM leaves out what does not fit, or fails in the middle of a request, so everything is checked here.

    Args:
        name: Name by which requests choose it.
        path: PEFT folder.
        language_model: Folder of the exported language model.

    Raises:
        CheckpointError: The adapter is incomplete, is no plain LoRA, or belongs to another language model.
    """
    settings = path / lora.CONFIG_FILE
    lora.check_settings(settings)
    weights = WeightFile.inspect(path / lora.WEIGHTS_FILE)
    config = json.loads(settings.read_text(encoding="utf-8"))
    rank, strength = int(config["r"]), float(config["lora_alpha"])
    if rank > _RANKS[-1]:
        raise CheckpointError(f"{settings}: r is {rank}, but vLLM reads adapters up to rank {_RANKS[-1]}")
    shapes = {name: info.shape for file in inspect_model_folder(language_model) for name, info in file.tensors.items()}
    modules = set()
    for key, info in weights.tensors.items():
        side = _SIDE.fullmatch(key)
        shape = shapes.get(f"{side[1]}.weight", ()) if side else ()
        if side is None or len(shape) != 2:
            raise CheckpointError(f"{weights.path}: {key} changes no linear layer of this language model's blocks")
        expected = (rank, shape[1]) if side[2] == "A" else (shape[0], rank)
        if info.shape != expected:
            raise CheckpointError(
                f"{weights.path}: {key} has the shape {info.shape}, the language model needs {expected}; name an "
                "adapter that was trained with this model"
            )
        modules.add(side[1])
    if not modules or len(weights.tensors) != 2 * len(modules):
        raise CheckpointError(f"{weights.path} does not hold lora_A and lora_B of each layer; fetch it again")
    targets = frozenset(module.rpartition(".")[2] for module in modules)
    return Adapter(name, path, rank, targets, strength / rank, weights_digest([weights]))


def engine_arguments(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """Return the arguments of `AsyncEngineArgs` with which vLLM holds all adapters at once.

    The embedding is not among the layers, because vLLM's layer for it fails with prompt embeddings.
    """
    if not adapters:
        return {}
    rank = max(adapter.rank for adapter in adapters.values())
    return {
        "enable_lora": True,
        # One place stays empty: on a CPU, vLLM 0.32 lets requests without an adapter use the last place in a batch
        # with others (vllm-project/vllm#48421).
        "max_loras": len(adapters) + 1,
        "max_lora_rank": next(known for known in _RANKS if known >= rank),
        "lora_target_modules": sorted(frozenset[str]().union(*(adapter.targets for adapter in adapters.values()))),
    }
