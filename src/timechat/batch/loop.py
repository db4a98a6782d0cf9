"""The loop over the rows of a batch in one worker process, with a time limit, attempts and progress."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from timechat.answers.events import format_time
from timechat.batch.manifest import Row, read_manifest
from timechat.batch.pieces import PieceStages
from timechat.batch.results import BatchReport, ResultFolder, check_pyarrow
from timechat.batch.settings import BatchSettings
from timechat.batch.stages import AnswerVideo, Piece, PlanVideo, Stage, read_config
from timechat.batch.worker import Outcome, StoppedError, Worker
from timechat.files import write_json_atomically

_REPORT_SECONDS = 10.0

Videos = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class BatchProgress:
    """Progress of a run.

    Attributes:
        done: Number of rows that were answered in this run.
        failed: Number of rows that failed in this run.
        total: Number of rows that this run has to do.
        windows: Number of windows that were answered in this run.
        video_seconds: Duration of the videos of the answered rows, in seconds.
        seconds: Wall time since the start in seconds.
    """

    done: int = 0
    failed: int = 0
    total: int = 0
    windows: int = 0
    video_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Seconds of video per second of wall time."""
        return self.video_seconds / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds until the end, from the mean time of a row; None before the first row."""
        finished = self.done + self.failed
        return self.seconds / finished * (self.total - finished) if finished else None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {format_time(self.seconds_left)} left"
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{self.done + self.failed} of {self.total} done{failed}, {self.windows} windows, "
            f"{self.video_seconds / 3600:.2f} hours of video, {self.speed:.1f} times real time{left}"
        )


@dataclass(frozen=True)
class BatchPlan:
    """Work of a batch, from the headers of its videos.

    Attributes:
        rows: Number of rows.
        video_seconds: Duration of all readable rows in seconds of video.
        windows: Number of windows.
        pieces: Number of batches of windows.
        unreadable: Errors of rows that cannot be read, by identifier.
    """

    rows: int
    video_seconds: float
    windows: int
    pieces: int
    unreadable: dict[str, str]

    def __str__(self) -> str:
        return (
            f"{self.rows} rows, {self.video_seconds / 3600:.2f} hours of video, {self.windows} windows in "
            f"{self.pieces} batches, {len(self.unreadable)} rows cannot be read"
        )


def run_batch(
    videos: Videos,
    settings: BatchSettings,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[BatchProgress], None] | None = None,
    stage: Stage[Row] | None = None,
    stages: PieceStages | None = None,
    ray: str | None = None,
    actors: int | None = None,
    gpus: float | None = None,
) -> BatchReport:
    """Answer all rows of a manifest that have no result yet, one after the other in a child process, or on Ray.

    A child process is started anew by importing the main module, so a script calls this below
    `if __name__ == "__main__":`.

    Args:
        videos: Videos or manifest, see `read_manifest`.
        settings: Settings.
        should_stop: Function that returns whether to stop; called several times a second.
        on_progress: Callback every ten seconds and at the end.
        stage: Callable that answers a row; None takes `AnswerVideo`.
        stages: Stages that split and answer rows on Ray, instead of `stage`; None takes those of the settings.
        ray: Ray cluster: `"auto"` for that of this machine, `"local"` for processes of this machine, or `HOST:PORT`.
        actors: Number of processes with a model on the cluster; None for one on each GPU, or one without GPUs.
        gpus: Number of GPUs of each of them; None for one if the cluster has GPUs.

    Raises:
        DataError: The manifest is malformed, or the folder holds answers of another recipe.
        CheckpointError: The model cannot be loaded.
    """
    check_pyarrow()
    if ray is not None:
        from timechat.batch.ray_data import answer_rows, check_pool

        check_pool(ray, actors)
    rows = read_manifest(videos, task=settings.task, query=settings.query)
    with ResultFolder(settings.output, settings.recipe()) as folder:
        todo = folder.todo(rows, retry=settings.retry)
        run = _Run(folder, settings, BatchProgress(total=len(todo)), on_progress)
        is_stopped = False
        try:
            if ray is None:
                with Worker(stage or AnswerVideo(settings)) as worker:
                    for row in todo:
                        run.answer(row, worker, should_stop)
            elif todo:
                answered = answer_rows(
                    todo,
                    stages or _stages(settings, stage),
                    address=ray,
                    actors=actors,
                    gpus=gpus,
                    timeout=settings.timeout,
                    should_stop=lambda: should_stop() or run.report(),
                    pieces={row.id: pieces for row in todo if (pieces := folder.pieces(row))},
                    on_piece=run.keep_piece,
                )
                for row, outcome in answered:
                    run.keep(row, outcome)
        except StoppedError:
            is_stopped = True
        run.report(at_once=True)
        progress = run.progress
        return folder.finish(rows, is_stopped=is_stopped, seconds=progress.seconds, answered=progress.done)


def _stages(settings: BatchSettings, stage: Stage[Row] | None) -> PieceStages:
    return PieceStages.of(settings, read_config(settings)) if stage is None else PieceStages(stage)


def plan_batch(
    videos: Videos, settings: BatchSettings, *, should_stop: Callable[[], bool] = lambda: False
) -> BatchPlan:
    """Count the windows of all rows from the headers of the videos; nothing is answered or written."""
    rows = read_manifest(videos, task=settings.task, query=settings.query)
    readable, unreadable = [], {}
    with Worker(PlanVideo(settings, read_config(settings))) as worker:
        for row in rows:
            outcome = worker.run(row, timeout=settings.timeout, should_stop=should_stop)
            if outcome.result is None:
                unreadable[row.id] = outcome.error or ""
            else:
                readable.append(outcome.result)
    return BatchPlan(
        len(rows),
        sum(plan["duration"] for plan in readable),
        sum(plan["windows"] for plan in readable),
        sum(plan["pieces"] for plan in readable),
        unreadable,
    )


class _Run:
    """The rows of one run, and its progress."""

    def __init__(
        self,
        folder: ResultFolder,
        settings: BatchSettings,
        progress: BatchProgress,
        on_progress: Callable[[BatchProgress], None] | None,
    ) -> None:
        self._folder, self._settings, self._on_progress = folder, settings, on_progress
        self.progress = progress
        self._in_pieces: set[str] = set()
        self._began = self._reported = time.monotonic()

    def answer(self, row: Row, worker: Worker, should_stop: Callable[[], bool]) -> None:
        """Answer one row and store its result."""
        outcome = worker.run(
            row,
            lambda: self._folder.pieces(row),
            timeout=self._settings.timeout,
            on_piece=lambda piece: self.keep_piece(row, piece),
            should_stop=lambda: should_stop() or self.report(),
        )
        self.keep(row, outcome)

    def keep(self, row: Row, outcome: Outcome) -> None:
        """Store the outcome of a row, and count its windows if no piece has reported them."""
        failure = {"error_kind": outcome.kind, "error": outcome.error}
        result = failure if outcome.result is None else outcome.result
        self._folder.add(row, "failed" if outcome.result is None else "ok", {**result, "attempts": outcome.attempts})
        progress = self.progress
        if outcome.result is None:
            self.progress = replace(progress, failed=progress.failed + 1)
        else:
            seconds = progress.video_seconds + (outcome.result["duration"] or 0.0)
            windows = progress.windows + (0 if row.id in self._in_pieces else outcome.result["windows"])
            self.progress = replace(progress, done=progress.done + 1, video_seconds=seconds, windows=windows)
        self.report()

    def keep_piece(self, row: Row, piece: Piece) -> None:
        """Store the answers about some windows of a row."""
        self._in_pieces.add(row.id)
        self._folder.add_piece(row, piece)
        self.progress = replace(self.progress, windows=self.progress.windows + len(piece.answers))

    def report(self, *, at_once: bool = False) -> bool:
        """Report the progress if the last report is old; return False, for use in a check whether to stop."""
        now = time.monotonic()
        self.progress = replace(self.progress, seconds=now - self._began)
        if at_once or now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            content = {**asdict(self.progress), "speed": self.progress.speed, "left": self.progress.seconds_left}
            write_json_atomically(self._folder.path / "progress.json", content)
            if self._on_progress is not None:
                self._on_progress(self.progress)
        return False
