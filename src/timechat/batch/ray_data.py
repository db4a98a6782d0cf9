"""Batches on Ray Data; the only file that imports Ray.

rows ─▶ tasks that plan ─▶ tasks that decode ─▶ a pool of actors with the model ─▶ results in any order ─▶ the driver
        each with a worker process, see `Worker`           └─ PieceBoard ─┘
        with `read` below 1: plan ─▶ a pool of actors with the encoder, which choose windows ─▶ decode
"""

import json
import logging
import os
import pickle
import queue
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from timechat.batch.board import PieceBoard
from timechat.batch.items import Item, RankActor, decode_piece, hide_main, make_item, plan_row
from timechat.batch.manifest import Row
from timechat.batch.pieces import MergeTask, PieceStages, PieceTask
from timechat.batch.stages import Piece, Stage
from timechat.batch.worker import Outcome, StopCheck, StoppedError, Worker
from timechat.errors import TimeChatError, describe_error, missing_extra
from timechat.files.system import num_cores

try:
    import ray
    import ray.data
    import ray.exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    raise missing_extra("--ray needs Ray", "batch") from error

# Logical CPUs of one process. They differ, as Ray would otherwise do the work of two stages in one process; and actors
# that hold all CPUs would leave none for the other stages, for which Ray would wait for ever.
_PLAN_CPUS, _RANK_CPUS, _DECODE_CPUS, _ACTOR_CPUS = 0.05, 0.04, 0.1, 0.8
_TASK_RETRIES = 3  # for a process that dies with its machine
_ACTOR_RETRIES = 3  # for an actor that dies; by default Ray repeats its rows without end
_ROUNDS = 3  # rows of a dead machine are given up by Ray before it knows that the machine is dead
_MAX_BLOCKS = 2000  # rows are given to actors in at most so many groups
_POLL_SECONDS = 0.2
_PIECES_SECONDS = 1.0  # between two messages to the process that holds the pieces
_CONNECT_SECONDS = 5.0

Dataset = Any  # ray.data.Dataset; Ray is an optional library


# ---------------------------------------------------------------------------------------------------- the batch


class RowActor:
    """Answers rows and pieces in a worker process, which is killed when a video hangs; one actor of the pool."""

    def __init__(self, stage: Stage[Any], timeout: float, folder: str, board: Any) -> None:
        hide_main()
        self._run = partial(Worker(stage, folder).run, timeout=timeout)
        self._board = board

    def __call__(self, item: Item) -> Item:
        """Answer one item; an error of the model is returned too, because Ray would repeat it."""
        if item["outcome"]:
            self._ask("finish", item["id"])
            return {**item, "task": b""}
        if item["fatal"]:
            return item
        task = pickle.loads(item["task"])
        try:
            return make_item(item["id"], outcome=self._answer(task))
        except TimeChatError as error:
            return make_item(item["id"], fatal=describe_error(error))

    def _answer(self, task: PieceTask) -> Outcome | None:
        """Return the result of the row; None if other pieces are missing, or another process has it."""
        row = task.row
        if not task.num_pieces:
            return self._run(row)
        if task.num_pieces == 1:
            outcome = self._run(task)
            return self._run(row) if outcome.result and outcome.result.get("is_searched") else outcome
        start = task.windows[0].start if task.windows else -1.0
        state = self._ask("begin", row.id, task.windows)
        if state.is_over:
            return None
        found: dict[str, Any] = {"answers": (), "seconds": {}, "total": 0, "is_outside": state.is_outside}
        if not state.is_known:
            outcome = self._run(replace(task, is_outside=state.is_outside))
            if outcome.result is None:
                self._ask("finish", row.id)
                return outcome
            found = outcome.result
            if found.get("is_searched"):
                return self._run(row) if self._ask("claim", row.id, start) else None
        piece = Piece(found["answers"], found["total"])
        added = self._ask("add", row.id, start, piece, found["seconds"], found["is_outside"])
        if added is None:
            return None
        answers, seconds = added
        return self._run(MergeTask(row, task.index, answers, seconds, task.chosen))

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._board, method).remote(*arguments))


def answer_rows(
    rows: Sequence[Row],
    stages: PieceStages,
    *,
    address: str,
    actors: int | None,
    gpus: float | None,
    timeout: float,
    should_stop: StopCheck,
    pieces: Mapping[str, Sequence[Piece]] = MappingProxyType({}),
    on_piece: Callable[[Row, Piece], None] = lambda *_: None,
) -> Iterator[tuple[Row, Outcome]]:
    """Answer rows on a Ray cluster; yield them with their outcomes as they come. A row can be missing at the end.

    After a stop, a process that had connected to Ray before finishes the rows that its actors have begun.

    Args:
        rows: Rows.
        stages: Stages that split and answer rows.
        address: `"auto"` for the cluster of this machine, `"local"` for processes of this machine, or `HOST:PORT`.
        actors: Number of processes with a model; None for one on each GPU, or one without GPUs.
        gpus: Number of GPUs of each; None for one if the cluster has GPUs.
        timeout: Maximum wall time of one row, or of one piece, in seconds.
        should_stop: Function that returns whether to stop.
        pieces: Answers of an earlier, interrupted run, by the identifiers of the rows.
        on_piece: Callback for the answers about each further piece of a video with several pieces.

    Raises:
        StoppedError: `should_stop` returned True.
        ValueError: There is no cluster, or it has fewer CPUs or GPUs than the actors need.
        TimeChatError: The model cannot be loaded.
    """
    with connected(address):
        number, gpus = choose_pool(actors, gpus)
        board = _start_board(pieces)

        missing, kept = {row.id: row for row in rows}, time.monotonic()

        def keep_pieces() -> None:
            for row_id, piece in ray.get(board.take.remote()):
                if row_id in missing:
                    on_piece(missing[row_id], piece)

        def check() -> bool:
            nonlocal kept
            if (now := time.monotonic()) - kept >= _PIECES_SECONDS:
                kept = now
                keep_pieces()
            return should_stop()

        def begin_round(fitting: int) -> Dataset:
            ray.get(board.begin_round.remote())
            dataset = _pieces(list(missing.values()), stages, timeout, pieces, fitting)
            return map_actors(dataset, RowActor, (stages.answer, timeout, str(Path.cwd()), board), fitting, gpus)

        try:
            for result in run_rounds(missing, begin_round, number, gpus, check):
                if result["outcome"] and result["id"] in missing:
                    keep_pieces()
                    row = missing.pop(result["id"])
                    board.forget.remote(row.id)
                    yield row, Outcome(**json.loads(result["outcome"]))
        finally:
            with suppress(ray.exceptions.RayError):
                keep_pieces()
                ray.kill(board)


def _start_board(pieces: Mapping[str, Sequence[Piece]]) -> Any:
    """Start the process that holds the answers about pieces, on this machine, so that it ends with the command only."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(PieceBoard).options(num_cpus=0, scheduling_strategy=here).remote(pieces)


def _pieces(
    rows: Sequence[Row], stages: PieceStages, timeout: float, pieces: Mapping[str, Sequence[Piece]], actors: int
) -> Dataset:
    """Return the items of rows: their pieces, with frames if a stage decodes them."""
    if stages.plan is None:
        return items_dataset([make_item(row.id, PieceTask(row)) for row in rows])
    folder = str(Path.cwd())  # paths are relative to it, and a cluster can have another
    items = [
        {"row": json.dumps(asdict(row)), "pieces": json.dumps([piece.to_dict() for piece in pieces.get(row.id, ())])}
        for row in rows
    ]
    tasks = ray.data.TaskPoolStrategy(size=max(1, int(ray.cluster_resources().get("CPU", 1))))
    options = {"compute": tasks, "max_retries": _TASK_RETRIES}
    dataset = items_dataset(items)
    with _without_deprecations():
        dataset = dataset.flat_map(plan_row, fn_args=(stages.plan, timeout, folder), num_cpus=_PLAN_CPUS, **options)
        if stages.rank is not None:
            # Ranking decodes whole videos: it takes the CPUs that the actors with the model leave.
            number = max(1, int(ray.cluster_resources().get("CPU", 1)) - actors)
            pool = _pool_options((stages.rank, timeout, folder), number)
            dataset = dataset.flat_map(RankActor, num_cpus=_RANK_CPUS, **pool)
        if stages.decode is None:
            return dataset
        return dataset.map(decode_piece, fn_args=(stages.decode, timeout, folder), num_cpus=_DECODE_CPUS, **options)


def items_dataset(items: Sequence[Item]) -> Dataset:
    """Return a dataset that gives items to processes one by one, or a few at a time if there are many."""
    return ray.data.from_items(items, override_num_blocks=min(len(items), _MAX_BLOCKS))


def run_rounds(
    missing: Sized, begin_round: Callable[[int], Dataset], number: int, gpus: float, should_stop: StopCheck
) -> Iterator[Item]:
    """Yield the items of a dataset, and of another one while something is missing: a machine may have died.

    Args:
        missing: What has no result yet; the caller removes what has one.
        begin_round: Function from a number of actors to the dataset of what is missing.
        number: Number of actors.
        gpus: Number of GPUs of each.
        should_stop: Function that returns whether to stop.

    Raises:
        StoppedError: `should_stop` returned True.
        TimeChatError: An actor cannot work at all.
    """
    for _ in range(_ROUNDS):
        fitting = _fitting(ray.cluster_resources(), number, gpus)  # machines may have come or gone
        if not missing or not fitting:
            return
        for result in _results(begin_round(fitting), should_stop):
            if result["fatal"]:
                raise TimeChatError(result["fatal"])
            yield result


def map_actors(dataset: Dataset, actor: type, arguments: tuple[Any, ...], number: int, gpus: float) -> Dataset:
    """Map the rows of a dataset by a pool of actors, which are started again when they die."""
    with _without_deprecations():
        return dataset.map(actor, num_cpus=_ACTOR_CPUS, num_gpus=gpus, **_pool_options(arguments, number))


def _pool_options(arguments: tuple[Any, ...], number: int) -> dict[str, Any]:
    return {
        "fn_constructor_args": arguments,
        "compute": ray.data.ActorPoolStrategy(size=number),
        "max_restarts": _ACTOR_RETRIES,
        "max_task_retries": _ACTOR_RETRIES,
    }


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hide that the limits of retries will be given in another way: until Ray 2.64, they have no other place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def check_pool(address: str, actors: int | None) -> None:
    """Refuse a pool that does not fit on this machine, before Ray takes its seconds to start.

    Raises:
        ValueError: This machine has fewer CPUs than the actors need.
    """
    if address == "local" and not ray.is_initialized():
        _pool({"CPU": num_cores()}, actors, 0.0)


def choose_pool(actors: int | None, gpus: float | None) -> tuple[int, float]:
    """Return the number of actors and the GPUs of each; see `answer_rows`."""
    return _pool(ray.cluster_resources(), actors, gpus)


def _pool(resources: Mapping[str, float], actors: int | None, gpus: float | None) -> tuple[int, float]:
    """Return the number of actors and the GPUs of each; refuse a pool that would wait for ever."""
    num_gpus, num_cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    gpus = (1.0 if num_gpus else 0.0) if gpus is None else gpus
    number = actors or (max(1, int(num_gpus / gpus)) if gpus else 1)
    if number * gpus > num_gpus:
        raise ValueError(
            f"{number} actors with {gpus:g} GPUs each need {number * gpus:g} GPUs, but the cluster has {num_gpus:g}; "
            "give fewer --actors, or a smaller --gpus"
        )
    if number > num_cpus or number * (_ACTOR_CPUS + _RANK_CPUS) + _PLAN_CPUS + _DECODE_CPUS > num_cpus:
        raise ValueError(
            f"{number} actors need {number} CPUs, but the cluster has {num_cpus:g}; give fewer --actors, or add "
            "machines"
        )
    return number, gpus


def _fitting(resources: Mapping[str, float], number: int, gpus: float) -> int:
    """Return how many of the actors fit into the cluster now."""
    by_gpus = resources.get("GPU", 0.0) // gpus if gpus else number
    return int(min(number, resources.get("CPU", 0.0), by_gpus))


def _results(dataset: Dataset, should_stop: StopCheck) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dataset; they are computed in another thread, so that a stop is noticed."""
    found: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()

    def read() -> None:
        try:
            # `iter_rows` holds a row back until the next one is there.
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for result in table.to_pylist():
                    found.put(result)
            found.put(None)
        except Exception as error:
            found.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        if should_stop():
            raise StoppedError
        try:
            result = found.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if result is None:
            return
        if isinstance(result, Exception):
            raise TimeChatError(f"Ray Data ended with an error: {describe_error(result)}") from result
        yield result


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, unless this process has done so already, and set the options of datasets."""
    if ray.is_initialized():
        with _streaming():
            yield
        return
    with _own_signals():
        _connect(address)
    try:
        with _streaming():
            yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    options: dict[str, Any] = {}
    try:
        if address == "local":
            options = {"include_dashboard": False}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about this machine is sent
        else:
            _check_answering(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--ray {address}: no cluster answers ({describe_error(error)}); start one with `ray start --head`, "
            "or give --ray local"
        ) from error


def _check_answering(address: str) -> None:
    """Raise an error if no cluster listens; Ray itself waits minutes for a cluster that has ended.

    Raises:
        OSError: The address does not answer.
        ValueError: It is no address.
    """
    if address == "auto":
        file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
        address = os.environ.get("RAY_ADDRESS") or (file.read_text(encoding="utf-8").strip() if file.is_file() else "")
        if not address:
            raise ConnectionError("no cluster runs on this machine")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"expected auto, local or HOST:PORT, got {address!r}")
    with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
        pass


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of this process, of which Ray replaces one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _streaming() -> Iterator[None]:
    """Let every result leave its actor at once, and an actor that dies for good cost only its rows."""
    context = ray.data.DataContext.get_current()
    names = ("target_max_block_size", "max_errored_blocks", "enable_progress_bars")
    before = {name: getattr(context, name) for name in names}
    for name, value in zip(names, (1, -1, False), strict=True):
        setattr(context, name, value)
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # A stage may have fewer pieces than the cluster has CPUs.
            warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks", category=UserWarning)
            yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
