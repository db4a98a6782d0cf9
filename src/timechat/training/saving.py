"""Save checkpoints by `torch.distributed.checkpoint`: each process writes its own part, as a safetensors file.

The state is never whole in one process. Nothing is pickled, so a checkpoint can be read without running code of it.
"""

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future as ConcurrentFuture
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from timechat.files.system import flush_to_disk
from timechat.model.tensor_files import save_tensors
from timechat.training.checkpoint import (
    INFO_FILE,
    checkpoint_folder,
    explain_failed_write,
    partial_folder,
    prune_checkpoints,
)
from timechat.training.config import TrainingRunSettings
from timechat.training.distributed import rank, saving_group, wait_for_all, world_size
from timechat.training.parameters import trained_state

WEIGHTS, OPTIMIZER = "weights", "optimizer"
"""Start of the names of the tensors in a checkpoint: `weights.NAME` and `optimizer.NAME.STATE`."""
_PART = "part-{number:05d}-of-{count:05d}.safetensors"
# `torch.distributed.checkpoint.HuggingFaceStorageReader` reads these files. The keys are those of its format.
_SHARDS, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class CheckpointSaver:
    """Saves the checkpoints of a run, one at a time, and removes the older ones."""

    def __init__(self, folder: Path, run: TrainingRunSettings, inputs: Mapping[str, str], device: torch.device) -> None:
        """Prepare to save.

        Args:
            folder: Folder of the run.
            run: Settings that say which checkpoints are kept.
            inputs: SHA-256 of the start weights and of the records, by name.
            device: Device of the computation.
        """
        self._folder, self._run, self._inputs = folder, run, dict(inputs)
        self._in_background = device.type == "cuda" if run.save_in_background is None else run.save_in_background
        self._writing: tuple[Path, ConcurrentFuture[Any]] | None = None

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        metrics: Mapping[str, float],
    ) -> None:
        """Save a checkpoint; all processes take part. An earlier one is finished first.

        A killed process leaves at most a folder whose name starts with a dot.
        """
        self.wait()
        state, numbers = _state(model, optimizer)
        info = {
            "step": step,
            "num_processes": world_size(),
            "metrics": dict(metrics),
            "inputs": self._inputs,
            "scaler": scaler.state_dict(),
            "optimizer": type(optimizer).__name__,
            "numbers": numbers,
        }
        target = checkpoint_folder(self._folder, step)
        writer = _StateWriter(target, info)
        alone = world_size() == 1
        with _explain(target):
            if self._in_background:
                started = async_save(state, storage_writer=writer, process_group=saving_group(), no_dist=alone)
                self._writing = (target, started)  # type: ignore[assignment]
                return
            save(state, storage_writer=writer, process_group=saving_group(), no_dist=alone)
        self._prune()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            TrainingError: It could not be written.
        """
        if self._writing is not None:
            target, writing = self._writing
            self._writing = None
            with _explain(target):
                writing.result()
            self._prune()

    def _prune(self) -> None:
        run = self._run
        if rank() == 0:
            prune_checkpoints(self._folder, keep=run.keep_checkpoints, metric=run.best_metric, best_is=run.best_is)
        wait_for_all()


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Return the tensors of a checkpoint, and the types of optimizer states that are Python numbers."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    weights, states, numbers = {}, {}, {}
    for name, tensor in trained_state(model).items():
        is_buffer = not isinstance(tensor, nn.Parameter)
        weights[name] = _as_first(tensor) if is_buffer and world_size() > 1 else tensor.detach()
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if not isinstance(value, Tensor):
                numbers[key] = type(value).__name__
                value = torch.tensor(value)
            states[f"{names[parameter]}.{key}"] = value
    return {WEIGHTS: weights, OPTIMIZER: states}, numbers


def _as_first(buffer: Tensor) -> Tensor:
    """Return the running statistics of the first process, which the others take up in the next step."""
    copy = buffer.clone()
    distributed.broadcast(copy, 0)
    return copy


class _StateWriter(StorageWriter):
    """Writes the parts of a checkpoint into a partial folder, which the first process renames at the end."""

    def __init__(self, folder: Path, info: Mapping[str, Any]) -> None:
        self._folder, self._info = folder, info
        self._partial = partial_folder(folder)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: a writer saves one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Do nothing: the first process makes the folder when it knows all plans."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan of this process."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Make the folder and name the file of each process."""
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return [
            dataclasses.replace(plan, storage_data=_PART.format(number=number, count=len(plans)))
            for number, plan in enumerate(plans, start=1)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the tensors of this process."""
        tensors, shards = {}, {}
        for item in plan.items:
            name = item.index.fqn
            tensors[name] = planner.resolve_data(item).detach().cpu().contiguous()  # type: ignore[union-attr]
            offset = item.index.offset
            shards[name] = {_OFFSETS: [0] * tensors[name].ndim if offset is None else list(offset)}
        if tensors:
            path = self._partial / plan.storage_data
            save_tensors(tensors, path, metadata={"format": "pt", _SHARDS: json.dumps(shards)})
            flush_to_disk(path)
        written: Future[list[WriteResult]] = Future()
        written.set_result([WriteResult(item.index, 0, plan.storage_data) for item in plan.items])
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:  # noqa: ARG002
        """Give the complete folder its name, when all processes have written."""
        files = sorted({result.storage_data for written in results for result in written})
        info = self._partial / INFO_FILE
        info.write_text(json.dumps({**self._info, "files": files}, indent=2), encoding="utf-8")
        flush_to_disk(info)
        flush_to_disk(self._partial)
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._partial.rename(self._folder)
        flush_to_disk(self._folder.parent)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        """Accept any folder."""
        return True


@contextmanager
def _explain(folder: Path) -> Iterator[None]:
    """Turn the errors of all processes into one that says what to do, and remove what is incomplete."""
    try:
        with explain_failed_write(folder):
            try:
                yield
            except CheckpointException as error:
                raise next(iter(error.failures.values()))[0] from None
    except BaseException:
        if rank() == 0:
            shutil.rmtree(partial_folder(folder), ignore_errors=True)
        raise
