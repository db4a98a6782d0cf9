"""Logs of a run: always JSON Lines; optionally TensorBoard, Weights & Biases and a plot."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from timechat.errors import TrainingError, missing_extra
from timechat.training.checkpoint import explain_failed_write, write_file
from timechat.training.config import TrainingRecipe

LOG_FILE = "log.jsonl"
PLOT_FILE = "loss.png"


class _Sink(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class RunLog:
    """The log of one run, on its first process."""

    def __init__(self, folder: Path, recipe: TrainingRecipe, *, first_step: int) -> None:
        """Open the log; remove lines of an interrupted run after its last checkpoint."""
        self._path = folder / LOG_FILE
        kept = [line for line in read_log(folder) if line["step"] <= first_step]
        write_file(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._sinks: list[_Sink] = []
        if recipe.run.tensorboard:
            self._sinks.append(_TensorBoard(folder / "tensorboard", first_step))
        if recipe.run.wandb:
            self._sinks.append(_WeightsAndBiases(recipe, folder))

    def step(self, step: int, values: Mapping[str, float], **more: Any) -> None:
        """Write the numbers of a step; `more` goes into the JSON line only."""
        self._line({"step": step, **values, **more})
        for sink in self._sinks:
            sink.write(step, values)

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a validation after a step."""
        self._line({"step": step, "validation": dict(metrics)})
        for sink in self._sinks:
            sink.write(step, {f"validation/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        """Close all outputs."""
        self._file.close()
        for sink in self._sinks:
            sink.close()

    def _line(self, content: Mapping[str, Any]) -> None:
        with explain_failed_write(self._path):
            self._file.write(json.dumps(content) + "\n")
            self._file.flush()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, without an incomplete last line.

    Raises:
        TrainingError: Another line is damaged.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    read = []
    for number, line in enumerate(lines[:-1], 1):  # text after the last line break is an incomplete line
        try:
            read.append(json.loads(line) | {})
        except (ValueError, TypeError) as error:
            raise TrainingError(f"{path}:{number} is damaged ({error}); remove this line from the file") from error
    return read


def plot_losses(folder: Path, out: Path) -> None:
    """Plot the loss, raw and smoothed, the learning rate, and the validation metrics.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise missing_extra("the loss plot needs matplotlib", "train") from None

    lines = read_log(folder)
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if "validation" in line]
    figure = Figure(figsize=(9, 6 if not checks else 8), layout="constrained")
    axes = figure.subplots(3 if checks else 2, sharex=True, height_ratios=[3, 1, 2] if checks else [3, 1])
    numbers = [line["step"] for line in steps]
    losses = [line["loss"] for line in steps]
    axes[0].plot(numbers, losses, color="0.8", linewidth=0.8, label="each step")
    axes[0].plot(numbers, _smoothed(losses), color="C0", label="smoothed")
    axes[0].set_ylabel("loss")
    axes[0].legend()
    axes[1].plot(numbers, [line["lr"] for line in steps], color="C1")
    axes[1].set_ylabel("learning rate")
    for name in dict.fromkeys(name for line in checks for name in line["validation"]):
        found = [(line["step"], line["validation"][name]) for line in checks if name in line["validation"]]
        axes[2].plot(*zip(*found, strict=True), marker="o", markersize=3, label=name)
    if checks:
        axes[2].set_ylabel("validation")
        axes[2].legend(fontsize="small")
    axes[-1].set_xlabel("step")
    figure.savefig(out, dpi=120)


def _smoothed(values: list[float], *, weight: float = 0.95) -> list[float]:
    """Return the exponential moving average, without bias at its start."""
    smoothed, mean, norm = [], 0.0, 0.0
    for value in values:
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        smoothed.append(mean / norm)
    return smoothed


@contextmanager
def progress_bar(description: str, *, done: int, total: int, shown: bool) -> Iterator["StepBar"]:
    """Show the finished steps and the remaining time, on a terminal only."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        yield StepBar(progress, progress.add_task(description, total=total, completed=done, status=""))


class StepBar:
    """The progress bar of a run."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    def move(self, step: int, status: str) -> None:
        """Show the number of finished steps."""
        self._progress.update(self._task, completed=step, status=status)


class _TensorBoard:
    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            need = "run.tensorboard needs tensorboard, or set run.tensorboard=false"
            raise missing_extra(need, "train") from None
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, recipe: TrainingRecipe, folder: Path) -> None:
        try:
            import wandb
        except ModuleNotFoundError:
            raise missing_extra("run.wandb needs wandb", "wandb") from None
        from timechat.config import plain

        # The name of the folder is the id of the run, so that a resumed run continues there.
        run_id = "-".join(folder.resolve().parts[-2:])
        self._run = wandb.init(
            project=recipe.run.wandb, name=recipe.name, id=run_id, resume="allow", config=plain(recipe)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
