"""Restore checkpoints: each process reads its own part of the state, whatever number of processes has written it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from timechat.errors import TrainingError
from timechat.training.checkpoint import INFO_FILE, Checkpoint, unreadable
from timechat.training.distributed import saving_group, world_size
from timechat.training.old_checkpoint import OldState, is_old
from timechat.training.parameters import trained_state
from timechat.training.saving import OPTIMIZER, WEIGHTS

_WEIGHTS, _OPTIMIZER = f"{WEIGHTS}.", f"{OPTIMIZER}."
Layout = tuple[tuple[int, ...], torch.dtype]
"""Shape and number format of a tensor."""


def load_weights(checkpoint: Checkpoint, model: nn.Module, *, alone: bool = False) -> None:
    """Load the weights of a checkpoint into a model, also if it is sharded.

    Args:
        checkpoint: Checkpoint to read.
        model: Model with prepared parameters.
        alone: Whether only this process loads; otherwise all processes must call this.

    Raises:
        TrainingError: The weights do not fit the trained state of this model, or cannot be read.
    """
    ours = {_WEIGHTS + name: tensor.detach() for name, tensor in trained_state(model).items()}
    with _explain(checkpoint):
        state = _open(checkpoint, [], alone)
    theirs = {name: layout for name, layout in state.layouts.items() if name.startswith(_WEIGHTS)}
    if theirs.keys() != ours.keys():
        missing, unexpected = sorted(ours.keys() - theirs.keys())[:3], sorted(theirs.keys() - ours.keys())[:3]
        raise TrainingError(
            f"{checkpoint.folder} does not fit what the recipe trains: missing {missing}, unexpected {unexpected}; "
            "start anew with --fresh"
        )
    for name, tensor in ours.items():
        if theirs[name][0] != tuple(tensor.shape):
            raise TrainingError(
                f"{checkpoint.folder}: {name} has the shape {list(theirs[name][0])}, expected {list(tensor.shape)}; "
                "start anew with --fresh"
            )
    with _explain(checkpoint):
        state.fill(ours)


def load_progress(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> None:
    """Restore optimizer and loss scale from a checkpoint; all processes must call this.

    The settings of the optimizer are those of the recipe.

    Raises:
        TrainingError: The optimizer is another one, or the checkpoint cannot be read.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = {names[parameter]: parameter for group in optimizer.param_groups for parameter in group["params"]}
    with _explain(checkpoint):
        state = _open(checkpoint, list(parameters), alone=False)
    targets: dict[str, Tensor] = {}
    for name, (shape, dtype) in state.layouts.items():
        if name.startswith(_OPTIMIZER):
            parameter = parameters.get(name.removeprefix(_OPTIMIZER).rpartition(".")[0])
            if parameter is None or state.info["optimizer"] not in (type(optimizer).__name__, None):
                raise TrainingError(
                    f"{checkpoint.folder} does not fit the optimizer of the recipe ({name} of "
                    f"{state.info['optimizer']}); restore the recipe's trained parts and optimizer, or start anew with "
                    "--fresh"
                )
            same_shape = shape == tuple(parameter.shape) and shape
            targets[name] = (
                torch.zeros_like(parameter.detach(), dtype=dtype) if same_shape else torch.zeros(shape, dtype=dtype)
            )
    with _explain(checkpoint):
        state.fill(targets)
    for name, tensor in targets.items():
        parameter_name, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
        is_number = key in state.info["numbers"]
        optimizer.state[parameters[parameter_name]][key] = tensor.item() if is_number else tensor
    scaler.load_state_dict(state.info["scaler"])


def read_weights(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names start with a prefix, without it; only this process reads.

    Raises:
        TrainingError: The checkpoint cannot be read.
    """
    start = _WEIGHTS + prefix
    with _explain(checkpoint):
        state = _open(checkpoint, [], alone=True)
        weights = {
            name: torch.empty(shape, dtype=dtype)
            for name, (shape, dtype) in state.layouts.items()
            if name.startswith(start)
        }
        state.fill(weights)
    return {name.removeprefix(start): tensor for name, tensor in weights.items()}


class _Parts:
    """The tensors of a checkpoint that `CheckpointSaver` has written."""

    def __init__(self, checkpoint: Checkpoint, alone: bool) -> None:
        self.info: dict[str, Any] = json.loads((checkpoint.folder / INFO_FILE).read_text(encoding="utf-8"))
        if lost := [name for name in self.info["files"] if not (checkpoint.folder / name).is_file()]:
            raise FileNotFoundError(0, f"{lost[0]} is missing")
        self._reader = HuggingFaceStorageReader(str(checkpoint.folder))
        self._alone = alone or world_size() == 1
        self.layouts: dict[str, Layout] = {
            name: (tuple(stored.size), stored.properties.dtype)
            for name, stored in self._reader.read_metadata().state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }

    def fill(self, targets: dict[str, Tensor]) -> None:
        group = None if self._alone else saving_group()
        load(targets, storage_reader=self._reader, process_group=group, no_dist=self._alone)


def _open(checkpoint: Checkpoint, order: list[str], alone: bool) -> _Parts | OldState:
    return OldState(checkpoint, order) if is_old(checkpoint) else _Parts(checkpoint, alone)


@contextmanager
def _explain(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn the errors of unreadable files into one that says what to do."""
    try:
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise TrainingError(unreadable(checkpoint.folder, checkpoint.folder, error)) from error
