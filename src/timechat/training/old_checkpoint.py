"""Checkpoints of versions 0.1 and 0.2.0: two files, each of which holds the state of all processes."""

import pickle
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from timechat.errors import TrainingError
from timechat.training.checkpoint import Checkpoint, unreadable

_WEIGHTS_FILE, _STATE_FILE = "weights.safetensors", "state.pt"


def is_old(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has the format of versions 0.1 and 0.2.0."""
    return (checkpoint.folder / _WEIGHTS_FILE).exists()


class OldState:
    """The tensors of an old checkpoint, with the names of new ones. Its random state is not used.

    Attributes:
        layouts: Shape and number format of each tensor.
        info: Loss scale and optimizer, as in `info.json` of new checkpoints.
    """

    def __init__(self, checkpoint: Checkpoint, order: list[str]) -> None:
        """Open a checkpoint.

        Args:
            checkpoint: Checkpoint to read.
            order: Names of the parameters of the optimizer, in its order; without them only weights are read.
        """
        with safe_open(checkpoint.folder / _WEIGHTS_FILE, "pt") as file:
            self._tensors = {f"weights.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.info: dict[str, Any] = {"optimizer": None, "numbers": {}, "scaler": {}}
        if order:
            self._read_progress(checkpoint, order)
        self.layouts: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = {
            name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()
        }

    def _read_progress(self, checkpoint: Checkpoint, order: list[str]) -> None:
        path = checkpoint.folder / _STATE_FILE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self.info["scaler"] = state["scaler"]
            for number, values in state["optimizer"]["state"].items():
                for key, value in values.items():
                    if not isinstance(value, Tensor):
                        self.info["numbers"][key] = type(value).__name__
                        value = torch.tensor(value)
                    self._tensors[f"optimizer.{order[number]}.{key}"] = value
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
            raise TrainingError(unreadable(path, checkpoint.folder, error)) from error

    def fill(self, targets: dict[str, Tensor]) -> None:
        """Copy tensors into the targets of the same names; a sharded target gets its part."""
        with torch.no_grad():
            for name, target in targets.items():
                stored = self._tensors[name]
                if isinstance(target, DTensor):
                    mesh, placements = target.device_mesh, target.placements
                    stored = distribute_tensor(stored.to(target.device), mesh, placements, src_data_rank=None)
                target.copy_(stored)
