"""Batches on Ray Data; the only file that imports Ray.

rows ─▶ a pool of actors, each with a worker process ─▶ results, in any order ─▶ the driver stores them
"""

import json
import logging
import os
import queue
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from timechat.answers.tasks import GREEDY, DecodingOptions
from timechat.answers.windows import WindowConfig
from timechat.batch.manifest import Row, read_row
from timechat.batch.settings import BatchSettings
from timechat.batch.stages import AnswerVideo, Stage
from timechat.batch.worker import Outcome, StopCheck, StoppedError, Worker
from timechat.errors import DataError, TimeChatError, describe_error, missing_extra
from timechat.search.retrieval import Source
from timechat.video.sampling import FrameSampling

try:
    import ray
    import ray.data
except ModuleNotFoundError as error:
    raise missing_extra("--ray needs Ray", "batch") from error

_ACTOR_CPUS = 0.9  # two actors fit beside each other on two CPUs, whose sum Ray would otherwise exceed
_ACTOR_RETRIES = 3  # for an actor that dies; by default Ray repeats its rows without end
_ROUNDS = 3  # rows of a dead machine are given up by Ray before it knows that the machine is dead
_MAX_BLOCKS = 2000  # rows are given to actors in at most so many groups
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_USUAL_WINDOWS = WindowConfig()
_USUAL_FRAMES = FrameSampling()

Dataset = Any  # ray.data.Dataset; Ray is an optional library
ChangeRow = Callable[[dict[str, Any]], dict[str, Any]]


# ---------------------------------------------------------------------------------------------------- the batch


class RowActor:
    """Answers rows in a worker process, which is killed when a video hangs; one actor of the pool."""

    def __init__(self, stage: Stage, timeout: float) -> None:
        self._worker, self._timeout = Worker(stage), timeout

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Answer one row; an error of the model is returned too, because Ray would repeat it."""
        row = Row(**json.loads(item["row"]))
        try:
            outcome = self._worker.run(row, list, timeout=self._timeout)
        except TimeChatError as error:
            return {"id": row.id, "outcome": None, "fatal": describe_error(error)}
        return {"id": row.id, "outcome": json.dumps(asdict(outcome)), "fatal": None}


def answer_rows(
    rows: Sequence[Row],
    stage: Stage,
    *,
    address: str,
    actors: int | None,
    gpus: float | None,
    timeout: float,
    should_stop: StopCheck,
) -> Iterator[tuple[Row, Outcome]]:
    """Answer rows on a Ray cluster; yield them with their outcomes as they come. A row can be missing at the end.

    After a stop, a process that had connected to Ray before finishes the rows that its actors have begun.

    Args:
        rows: Rows.
        stage: Stage that answers a row.
        address: `"auto"` for the cluster of this machine, `"local"` for processes of this machine, or `HOST:PORT`.
        actors: Number of processes with a model; None for one on each GPU, or one without GPUs.
        gpus: Number of GPUs of each; None for one if the cluster has GPUs.
        timeout: Maximum wall time of one row in seconds.
        should_stop: Function that returns whether to stop.

    Raises:
        StoppedError: `should_stop` returned True.
        ValueError: There is no cluster, or it has fewer CPUs or GPUs than the actors need.
        TimeChatError: The model cannot be loaded.
    """
    with _connected(address), _streaming():
        number, gpus = _pool(ray.cluster_resources(), actors, gpus)
        missing = {row.id: row for row in rows}
        for _ in range(_ROUNDS):
            # Machines may have died or come since the last round.
            fitting = _fitting(ray.cluster_resources(), number, gpus)
            if not missing or not fitting:
                return
            items = [{"row": json.dumps(asdict(row))} for row in missing.values()]
            dataset = ray.data.from_items(items, override_num_blocks=min(len(items), _MAX_BLOCKS))
            for result in _results(_mapped(dataset, RowActor, (stage, timeout), fitting, gpus), should_stop):
                if result["fatal"] is not None:
                    raise TimeChatError(result["fatal"])
                if (row := missing.pop(result["id"], None)) is not None:
                    yield row, Outcome(**json.loads(result["outcome"]))


def _mapped(dataset: Dataset, actor: type, arguments: tuple[Any, ...], number: int, gpus: float) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # until 2.64, the limits of restarts have no other place
        return dataset.map(
            actor,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=number),
            num_cpus=_ACTOR_CPUS,
            num_gpus=gpus,
            max_restarts=_ACTOR_RETRIES,
            max_task_retries=_ACTOR_RETRIES,
        )


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
    if number * _ACTOR_CPUS > num_cpus:
        raise ValueError(
            f"{number} actors need {number} CPUs, but the cluster has {num_cpus:g}; give fewer --actors, or add "
            "machines"
        )
    return number, gpus


def _fitting(resources: Mapping[str, float], number: int, gpus: float) -> int:
    """Return how many of the actors fit into the cluster now."""
    by_gpus = resources.get("GPU", 0.0) // gpus if gpus else number
    return int(min(number, resources.get("CPU", 0.0) // _ACTOR_CPUS, by_gpus))


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
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster, unless this process has done so already."""
    if ray.is_initialized():
        yield
        return
    with _own_signals():
        _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        if address != "local":
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
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


# ------------------------------------------------------------------------------------------------ the processor


@dataclass(frozen=True, kw_only=True)
class TimeChatProcessorConfig:
    """Configuration of a processor, in the shape of those of `ray.data.llm`.

    Attributes:
        model_source: Model, as in `TimeChat.from_pretrained`.
        task: Name of the command for rows that name none: `caption`, `ground`, `ask`, ...
        query: Query of rows that have none.
        concurrency: Number of actors.
        num_gpus: Number of GPUs of each actor.
        device: Device of the model.
        dtype: Number format of the weights.
        windows: Options of the windows.
        sampling: Frame options of each window.
        decoding: Decoding options.
        by: What answers `ground`, as in `RetrievalConfig`.
        force: Whether videos outside of the model's domain are answered too.
        timeout: Maximum wall time of one video in seconds.
    """

    model_source: str = "nano"
    task: str = "caption"
    query: str | None = None
    concurrency: int = 1
    num_gpus: float = 0.0
    device: str = "auto"
    dtype: str = "auto"
    windows: WindowConfig = _USUAL_WINDOWS
    sampling: FrameSampling = _USUAL_FRAMES
    decoding: DecodingOptions = GREEDY
    by: Source = "auto"
    force: bool = False
    timeout: float = 3600.0

    def settings(self) -> BatchSettings:
        """Return the settings of the stage."""
        return BatchSettings(
            task=self.task,
            query=self.query,
            output=Path(),
            model=self.model_source,
            device=self.device,
            dtype=self.dtype,
            windows=self.windows,
            sampling=self.sampling,
            decoding=self.decoding,
            by=self.by,
            force=self.force,
            timeout=self.timeout,
        )


class ProcessorActor:
    """Adds `answer` and `error` to rows with the columns of a manifest; one actor of the pool."""

    def __init__(self, stage: Stage, settings: BatchSettings) -> None:
        self._worker, self._settings = Worker(stage), settings

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Answer one row; all its columns are kept."""
        settings = self._settings
        try:
            row = read_row(item, task=settings.task, query=settings.query)
        except (ValueError, DataError) as error:
            return {**item, "answer": None, "error": describe_error(error)}
        outcome = self._worker.run(replace(row, id=row.id or row.video), list, timeout=settings.timeout)
        answer = None if outcome.result is None else json.dumps(outcome.result)
        return {**item, "answer": answer, "error": outcome.error}


def build_processor(
    config: TimeChatProcessorConfig,
    *,
    preprocess: ChangeRow | None = None,
    postprocess: ChangeRow | None = None,
    stage: Stage | None = None,
) -> Callable[[Dataset], Dataset]:
    """Return a function from a dataset of rows with `video`, `query`, ... to a dataset with answers.

    Each row keeps its columns and gets `answer`, the JSON object of the answer as text, and `error`; one of them is
    null. Columns are those of a manifest; others are carried on.

    Args:
        config: Configuration.
        preprocess: Function that changes each row before.
        postprocess: Function that changes each row afterwards.
        stage: Stage that answers a row; None takes `AnswerVideo`.
    """
    settings = config.settings()
    chosen = stage or AnswerVideo(settings)

    def process(dataset: Dataset) -> Dataset:
        dataset = dataset if preprocess is None else dataset.map(preprocess)
        arguments = (chosen, settings)
        dataset = _mapped(dataset, ProcessorActor, arguments, config.concurrency, config.num_gpus)
        return dataset if postprocess is None else dataset.map(postprocess)

    return process
