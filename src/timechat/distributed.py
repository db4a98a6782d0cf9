"""Which of several processes this is, and what they tell each other; nothing to it on one process."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _is_running() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return distributed.get_world_size() if _is_running() else 1


def local_rank() -> int:
    """Return the number of this process on its machine, as `torchrun` says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_processes() -> int:
    """Return how many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """Return the number of this process among those that `torchrun` has started, from 0; 0 without it."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` has started, if it has: NCCL on CUDA, Gloo elsewhere."""
    if launched_processes() == 1 or _is_running():
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """Return this process's share of items: every n-th."""
    return items[rank() :: world_size()]


def gather(items: Sequence[Item]) -> list[Item]:
    """Return the items of all processes, in the order that `shard` took them from; on every process."""
    if world_size() == 1:
        return list(items)
    shares: list[Sequence[Item]] = [[] for _ in range(world_size())]
    distributed.all_gather_object(shares, list(items))
    longest = max(len(share) for share in shares)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]


def sum_over_processes(values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
    """Add numbers up over all processes, in double precision; on every process."""
    if world_size() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return summed.tolist()


def from_first(value: Item) -> Item:
    """Return the first process's value on every process."""
    if world_size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if world_size() > 1:
        distributed.barrier()


def _is_running() -> bool:
    return distributed.is_available() and distributed.is_initialized()
