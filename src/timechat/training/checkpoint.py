"""Checkpoints: the complete state to resume a run exactly, written atomically."""

import json
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from timechat.errors import TrainingError, is_out_of_memory
from timechat.files import atomic_write
from timechat.model.tensor_files import save_tensors
from timechat.system import flush_to_disk
from timechat.training.distributed import gather, rank, wait_for_all, world_size
from timechat.training.parameters import trained_state

_FOLDER = "checkpoints"
WEIGHTS_FILE = "weights.safetensors"
_STATE, _INFO = "state.pt", "info.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk.

    Attributes:
        folder: Folder of the checkpoint.
        step: Number of finished steps.
        num_processes: Number of processes of the run.
        metrics: Validation metrics; empty without a validation.
        inputs: SHA-256 of the start weights and of the records, by name; empty for checkpoints of version 0.1.
    """

    folder: Path
    step: int
    num_processes: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


def find_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """Return the complete checkpoints of a run, oldest first.

    Raises:
        TrainingError: The description of a checkpoint is damaged.
    """
    found = []
    for folder in (run_folder / _FOLDER).glob("step-*"):
        if re.fullmatch(r"step-\d+", folder.name) and (folder / _INFO).is_file():
            try:
                info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
                inputs = dict(info.get("inputs", {}))
                found.append(Checkpoint(folder, info["step"], info["num_processes"], dict(info["metrics"]), inputs))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise TrainingError(_unreadable(folder / _INFO, folder, error)) from error
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def best_checkpoint(checkpoints: list[Checkpoint], metric: str | None, best_is: str) -> Checkpoint | None:
    """Return the checkpoint with the best metric, the earlier of equals; None if none was validated."""
    validated = [checkpoint for checkpoint in checkpoints if metric in checkpoint.metrics]
    sign = 1 if best_is == "highest" else -1
    return max(validated, key=lambda checkpoint: sign * checkpoint.metrics[metric or ""], default=None)


def save_checkpoint(
    run_folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    metrics: Mapping[str, float],
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint of the trained state; all processes take part, the first one writes.

    A killed process leaves at most a folder whose name starts with a dot.
    """
    weights = {name: whole(tensor.detach()) for name, tensor in trained_state(model).items()}
    state = {
        "optimizer": _map_tensors(optimizer.state_dict(), whole),
        "scaler": scaler.state_dict(),
        "random": gather([_random_state()]),
    }
    if rank() == 0:
        folder = run_folder / _FOLDER / f"step-{step:07d}"
        info = {"step": step, "num_processes": world_size(), "metrics": dict(metrics), "inputs": dict(inputs or {})}

        def write(partial: Path) -> None:
            save_tensors({name: tensor.contiguous() for name, tensor in weights.items()}, partial / WEIGHTS_FILE)
            torch.save(state, partial / _STATE)
            (partial / _INFO).write_text(json.dumps(info, indent=2), encoding="utf-8")

        write_folder(folder, write)
    wait_for_all()


def prune_checkpoints(run_folder: Path, *, keep: int, metric: str | None, best_is: str) -> None:
    """Remove all checkpoints except the latest ones and the best."""
    if rank() == 0:
        checkpoints = find_checkpoints(run_folder)
        best = best_checkpoint(checkpoints, metric, best_is)
        for checkpoint in checkpoints[:-keep]:
            if checkpoint != best:
                shutil.rmtree(checkpoint.folder)
    wait_for_all()


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Load the weights of a checkpoint into a model that is not sharded yet.

    Raises:
        TrainingError: The weights do not fit the trained state of this model, or cannot be read.
    """
    path = checkpoint.folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(_unreadable(path, checkpoint.folder, error)) from error
    ours = trained_state(model)
    if weights.keys() != ours.keys():
        raise TrainingError(
            f"{path} does not fit what the recipe trains: missing {sorted(ours.keys() - weights.keys())[:3]}, "
            f"unexpected {sorted(weights.keys() - ours.keys())[:3]}; start anew with --fresh"
        )
    with torch.no_grad():
        for name, tensor in ours.items():
            if tensor.shape != weights[name].shape:
                raise TrainingError(
                    f"{path}: {name} has the shape {list(weights[name].shape)}, expected {list(tensor.shape)}; "
                    "start anew with --fresh"
                )
            tensor.copy_(weights[name])


def load_progress(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Restore optimizer, loss scale and random state from a checkpoint.

    Raises:
        TrainingError: The number of processes differs, or the file cannot be read.
    """
    if checkpoint.num_processes != world_size():
        raise TrainingError(
            f"{checkpoint.folder} was written by {checkpoint.num_processes} processes and cannot be resumed by "
            f"{world_size()}; use the same number, or start anew with --fresh"
        )
    path = checkpoint.folder / _STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved, scale, random_state = state["optimizer"], state["scaler"], state["random"][rank()]
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise TrainingError(_unreadable(path, checkpoint.folder, error)) from error
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(_spread_like_parameters(saved, optimizer))
    except (ValueError, LookupError) as error:
        raise TrainingError(
            f"{path} does not fit the optimizer of the recipe ({error}); restore the recipe's trained parts and "
            "optimizer, or start anew with --fresh"
        ) from error
    for group, ours in zip(optimizer.param_groups, settings, strict=True):
        group.update(ours)  # the state also holds the settings of the earlier call, but the recipe decides
    scaler.load_state_dict(scale)
    _set_random_state(random_state)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU, gathered from all processes if it is sharded; all processes must call this."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.cpu()


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder atomically with `write`, also in case of a power failure; an existing folder is replaced."""
    partial = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    with explain_failed_write(folder):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            write(partial)
            for path in (*partial.rglob("*"), partial):
                flush_to_disk(path)
            if folder.exists():
                folder.rename(replaced)
            partial.rename(folder)
            flush_to_disk(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        TrainingError: The disk is full or the file cannot be written.
    """
    with explain_failed_write(path), atomic_write(path, is_durable=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def explain_failed_write(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk or of a folder without permission into one that says what to do.

    Raises:
        TrainingError: The file or folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch raises a RuntimeError for a full disk
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{path} cannot be written ({_reason(error)}); free some space or make the folder writable, and run the "
            "same command again: it resumes from the last checkpoint"
        ) from error


def _unreadable(path: Path, folder: Path, error: Exception) -> str:
    return f"{path} cannot be read ({_reason(error)}); remove the folder {folder} to continue without this checkpoint"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0].strip()


def _random_state() -> dict[str, Any]:
    state = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_tensors(item, function) for item in value]
    return value


def _spread_like_parameters(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Give each process its part of the optimizer state if parameters are sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def spread(number: int, tensor: Tensor) -> Tensor:
        parameter = parameters[number]
        if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
            return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
        return tensor

    per_parameter = {
        number: {
            key: spread(number, value) if isinstance(value, Tensor) and value.ndim else value
            for key, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": per_parameter}
