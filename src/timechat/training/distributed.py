"""Rank of this process and communication between processes; with one process every function is trivial."""

import platform
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from timechat.errors import TrainingError
from timechat.files.system import launched_processes

_POLL_SECONDS = 0.05
_SHARED_FOLDER_SECONDS = 10.0  # network file systems show a new file to other machines after some seconds
# The saving group of each default group. Threads of a group that lives until Python ends abort the process, so the keys
# are weak: `destroy_process_group` ends both.
_saving_groups: WeakKeyDictionary[distributed.ProcessGroup, distributed.ProcessGroup] = WeakKeyDictionary()
_FAILED_EXCHANGES = ("timed out", "timeout", "connection closed by peer", "connection reset by peer")

Item = TypeVar("Item")


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _is_running() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if _is_running() else 1


@contextmanager
def process_group(device: torch.device, timeout: float) -> Iterator[None]:
    """Join the process group of `torchrun`, if there is one: NCCL for CUDA, Gloo for everything on CPUs.

    Args:
        device: Device of the computation.
        timeout: Maximum time in seconds that a process waits for the others.

    Raises:
        TrainingError: The other processes do not answer in time, or have ended.
    """
    if launched_processes() == 1 or _is_running():
        yield
        return
    limit = timedelta(seconds=timeout)
    with _explain_lost_processes(timeout):
        store, number, size = next(rendezvous("env://", timeout=limit))
        store = PrefixStore(agree_on_prefix(store, number, size, timeout), store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=number, world_size=size, timeout=limit)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def agree_on_prefix(store: Store, number: int, size: int, timeout: float) -> str:
    """Return the same prefix in all processes of this start, which no earlier start has had.

    The store of `torchrun` survives a restart (`--max-restarts`), with the addresses of processes that have ended. The
    number of restarts is no prefix, as each machine counts its own. So each process writes a random word, and the first
    one answers every word with its own.

    Args:
        store: Store of all processes.
        number: Rank of this process.
        size: Number of processes.
        timeout: Maximum time in seconds to wait for the other processes.

    Raises:
        TrainingError: Not all processes started in time.
    """
    deadline, word = time.monotonic() + timeout, secrets.token_hex(8)
    if number:
        store.set(f"word/{number}", word)
        store.wait([f"answer/{word}"], timedelta(seconds=timeout))
        prefix = store.get(f"answer/{word}").decode()
        store.set(f"joined/{prefix}/{number}", "")
        return prefix
    missing, answered = set(range(1, size)), set()
    while missing:
        for other in sorted(missing):
            if store.check([f"word/{other}"]):
                their_word = store.get(f"word/{other}").decode()
                if their_word not in answered:  # an earlier start may have left a word, which no process waits for
                    store.set(f"answer/{their_word}", word)
                    answered.add(their_word)
            if store.check([f"joined/{word}/{other}"]):
                missing.remove(other)
        if time.monotonic() > deadline:
            raise TrainingError(
                f"{len(missing)} of {size} processes did not start within {timeout:g} seconds; check the logs of their "
                "machines, or raise run.collective_timeout"
            )
        if missing:
            time.sleep(_POLL_SECONDS)
    return word


def check_shared_folder(folder: Path, seconds: float = _SHARED_FOLDER_SECONDS) -> None:
    """Check that all processes see the same folder: each looks for a file that the first process writes there.

    Args:
        folder: Folder of the run.
        seconds: Maximum time in seconds to wait for the file.

    Raises:
        TrainingError: A process does not see the file.
    """
    if world_size() == 1:
        return

    def write() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f".{secrets.token_hex(8)}.unfinished"
        path.touch()
        return path.name

    name = on_first(write)
    deadline = time.monotonic() + seconds
    while not (found := (folder / name).exists()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    lost = [report for report in gather([f"{platform.node()}: {folder.absolute()}" if not found else ""]) if report]
    on_first((folder / name).unlink)
    if lost:
        raise TrainingError(
            f"run.output must be a folder that all machines share, but {len(lost)} of {world_size()} processes do not "
            f"see the files of the first one ({lost[0]}); give such a folder with --output"
        )


def on_first(function: Callable[[], Item]) -> Item:
    """Return the result of a function that only the first process calls; its error is raised in every process."""
    if world_size() == 1:
        return function()
    outcome: tuple[Item | None, Exception | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (function(), None)
        except Exception as error:
            outcome = (None, error)
    value, failure = from_first(outcome)
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


def saving_group() -> distributed.ProcessGroup | None:
    """Return the group in which checkpoints are saved and read, by Gloo and beside training; all must call this."""
    default = distributed.group.WORLD if _is_running() else None
    if default is None:
        return None
    if default not in _saving_groups:
        _saving_groups[default] = distributed.new_group(backend="gloo")
    return _saving_groups[default]


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


@contextmanager
def _explain_lost_processes(timeout: float) -> Iterator[None]:
    """Turn the errors of an exchange that fails into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not any(sign in text for sign in _FAILED_EXCHANGES):
            raise
        raise TrainingError(
            f"another process has ended, or did not answer within {timeout:g} seconds (run.collective_timeout); see "
            "the errors of the other processes, and run the same command again: it resumes from the last checkpoint"
        ) from error
