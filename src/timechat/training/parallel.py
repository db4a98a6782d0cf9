"""Parallel training: wrap one model for several processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from timechat.files.system import launched_processes, local_processes, local_rank
from timechat.model.frame_encoder import FrameEncoder
from timechat.training.config import TrainingRunSettings
from timechat.training.distributed import rank, sum_over_processes, world_size
from timechat.training.objectives import ObjectiveModule


def choose_device(run: TrainingRunSettings) -> torch.device:
    """Return the device of this process.

    Raises:
        ValueError: Several processes were started for a recipe of one process.
    """
    if run.parallel == "none" and launched_processes() > 1:
        raise ValueError(
            f"torchrun started {launched_processes()} processes, but run.parallel is none; set run.parallel=ddp, "
            "fsdp2 or hsdp"
        )
    if run.device != "auto":
        return torch.device(run.device)
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def parallelize(module: ObjectiveModule, run: TrainingRunSettings, device: torch.device) -> nn.Module:
    """Move a model to its device and wrap it for several processes."""
    if run.is_sharded and world_size() > 1:
        return _shard(module, run, device)
    module.to(device)
    if run.parallel == "ddp" and world_size() > 1:
        return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
    return module


@contextmanager
def no_gradient_sync(module: nn.Module, *, when: bool) -> Iterator[None]:
    """Skip the gradient exchange between processes, for all but the last batch of a step."""
    if isinstance(module, DistributedDataParallel) and when:
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not when)
        yield
    else:
        yield


def _shard(module: ObjectiveModule, run: TrainingRunSettings, device: torch.device) -> nn.Module:
    """Shard the parameters over the processes, one group per layer (FSDP2).

    Processes whose model is on the meta device get their parts from the first one.
    """
    is_empty = any(parameter.is_meta for parameter in module.parameters())
    module.to("meta" if is_empty else device)  # new adapters and heads are on the CPU
    shares = sum_over_processes([float(is_empty)])[0] > 0
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()} if shares else {}
    mesh = _mesh(run, device)
    half = torch.bfloat16 if run.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    for part in module.modules():
        if isinstance(part, FrameEncoder):
            part.frames_per_batch = None  # every process must call a sharded layer equally often
        if isinstance(part, nn.ModuleList):
            for layer in part:
                if any(True for _ in layer.parameters()):
                    fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    if shares:
        if is_empty:
            module.to_empty(device=device)
        _scatter(module, weights, device)
    return module


@torch.no_grad()
def _scatter(module: nn.Module, weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Give each process its parts of the first process's weights, one tensor at a time."""
    for name, parameter in module.named_parameters():
        assert isinstance(parameter, DTensor)
        if rank() == 0:
            whole = weights[name].to(device)
        else:
            whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        part = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=0)
        parameter.to_local().copy_(part.to_local())
    for buffer in module.buffers():
        distributed.broadcast(buffer, 0)


def _mesh(run: TrainingRunSettings, device: torch.device) -> DeviceMesh:
    """Return all processes as one row, or for HSDP as one row for each copy of the model.

    Raises:
        ValueError: The processes cannot be divided into rows.
    """
    if run.parallel != "hsdp":
        return init_device_mesh(device.type, (world_size(),))
    size = run.shard_size or local_processes()
    if world_size() % size:
        raise ValueError(
            f"run.parallel=hsdp needs a multiple of {size} processes, got {world_size()}; start equally many on each "
            "machine, or set run.shard_size"
        )
    return init_device_mesh(device.type, (world_size() // size, size), mesh_dim_names=("copy", "shard"))
