"""Rank of this process and communication between processes; with one process every function is trivial."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

from timechat.system import launched_processes

Item = TypeVar("Item")


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _is_running() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if _is_running() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group of `torchrun`, if there is one: NCCL on CUDA, Gloo elsewhere."""
    if launched_processes() == 1 or _is_running():
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """Return the items of this process: every n-th item."""
    return items[rank() :: world_size()]


def gather(items: Sequence[Item]) -> list[Item]:
    """Return the items of all processes on every process, in the order before `shard`."""
    if world_size() == 1:
        return list(items)
    shares: list[Sequence[Item]] = [[] for _ in range(world_size())]
    distributed.all_gather_object(shares, list(items))
    longest = max(len(share) for share in shares)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]


def sum_over_processes(values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
    """Return sums over all processes on every process, in double precision."""
    if world_size() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return summed.tolist()


def from_first(value: Item) -> Item:
    """Return the value of the first process on every process."""
    if world_size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Wait until all processes have reached this call."""
    if world_size() > 1:
        distributed.barrier()


def _is_running() -> bool:
    return distributed.is_available() and distributed.is_initialized()
