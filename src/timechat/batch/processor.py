"""A processor of Ray datasets in the shape of those of `ray.data.llm`: rows in, the same with answers out."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timechat.answers.tasks import GREEDY, DecodingOptions
from timechat.answers.windows import WindowConfig
from timechat.batch.manifest import Row, read_row
from timechat.batch.settings import BatchSettings
from timechat.batch.stages import AnswerVideo, Stage
from timechat.batch.worker import Worker
from timechat.errors import DataError, describe_error
from timechat.search.encoder import BUILT_IN
from timechat.search.retrieval import DEFAULT_READ, Source
from timechat.video.sampling import FrameSampling

_USUAL_WINDOWS = WindowConfig()
_USUAL_FRAMES = FrameSampling()

Dataset = Any  # ray.data.Dataset; Ray is an optional library
ChangeRow = Callable[[dict[str, Any]], dict[str, Any]]


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
        read: Maximum share of a long video that the model reads for `ask` and `ground`, as in `RetrievalConfig`.
        encoder: Frame-text encoder that ranks windows and searches, as in `load_encoder`.
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
    read: float = DEFAULT_READ
    encoder: str = BUILT_IN
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
            read=self.read,
            encoder=self.encoder,
            force=self.force,
            timeout=self.timeout,
        )


class ProcessorActor:
    """Adds `answer` and `error` to rows with the columns of a manifest; one actor of the pool."""

    def __init__(self, stage: Stage[Row], settings: BatchSettings, folder: str) -> None:
        from timechat.batch.items import hide_main

        hide_main()
        self._worker, self._settings = Worker(stage, folder), settings

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
    stage: Stage[Row] | None = None,
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
    from timechat.batch.ray_data import map_actors

    settings = config.settings()
    chosen = stage or AnswerVideo(settings)

    def process(dataset: Dataset) -> Dataset:
        dataset = dataset if preprocess is None else dataset.map(preprocess)
        arguments = (chosen, settings, str(Path.cwd()))
        dataset = map_actors(dataset, ProcessorActor, arguments, config.concurrency, config.num_gpus)
        return dataset if postprocess is None else dataset.map(postprocess)

    return process
