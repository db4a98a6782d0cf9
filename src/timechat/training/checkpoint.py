"""The checkpoints of a run on disk, and files and folders that are written atomically."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from timechat.errors import TrainingError, is_out_of_memory
from timechat.files import atomic_write
from timechat.files.system import flush_to_disk

_FOLDER = "checkpoints"
INFO_FILE = "info.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk.

    Attributes:
        folder: Folder of the checkpoint.
        step: Number of finished steps.
        num_processes: Number of processes of the run.
        metrics: Validation metrics; empty without a validation.
        inputs: SHA-256 of the start weights and of the records, by name; empty for checkpoints of version 0.1.
    """

    folder: Path
    step: int
    num_processes: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


def find_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """Return the complete checkpoints of a run, oldest first.

    Raises:
        TrainingError: The description of a checkpoint is damaged.
    """
    found = []
    for folder in (run_folder / _FOLDER).glob("step-*"):
        if re.fullmatch(r"step-\d+", folder.name) and (folder / INFO_FILE).is_file():
            try:
                info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
                inputs = dict(info.get("inputs", {}))
                found.append(Checkpoint(folder, info["step"], info["num_processes"], dict(info["metrics"]), inputs))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise TrainingError(unreadable(folder / INFO_FILE, folder, error)) from error
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def best_checkpoint(checkpoints: list[Checkpoint], metric: str | None, best_is: str) -> Checkpoint | None:
    """Return the checkpoint with the best metric, the earlier of equals; None if none was validated."""
    validated = [checkpoint for checkpoint in checkpoints if metric in checkpoint.metrics]
    sign = 1 if best_is == "highest" else -1
    return max(validated, key=lambda checkpoint: sign * checkpoint.metrics[metric or ""], default=None)


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after a number of steps."""
    return run_folder / _FOLDER / f"step-{step:07d}"


def prune_checkpoints(run_folder: Path, *, keep: int, metric: str | None, best_is: str) -> None:
    """Remove all checkpoints except the latest ones and the best."""
    checkpoints = find_checkpoints(run_folder)
    best = best_checkpoint(checkpoints, metric, best_is)
    for checkpoint in checkpoints[:-keep]:
        if checkpoint != best:
            shutil.rmtree(checkpoint.folder)


def partial_folder(folder: Path) -> Path:
    """Return where a folder is written before it gets its name; a killed process leaves it behind."""
    return folder.with_name(f".{folder.name}.partial")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder atomically with `write`, also in case of a power failure; an existing folder is replaced."""
    partial = partial_folder(folder)
    replaced = folder.with_name(f".{folder.name}.replaced")
    with explain_failed_write(folder):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            write(partial)
            for path in (*partial.rglob("*"), partial):
                flush_to_disk(path)
            if folder.exists():
                folder.rename(replaced)
            partial.rename(folder)
            flush_to_disk(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        TrainingError: The disk is full or the file cannot be written.
    """
    with explain_failed_write(path), atomic_write(path, is_durable=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def explain_failed_write(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk or of a folder without permission into one that says what to do.

    Raises:
        TrainingError: The file or folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch raises a RuntimeError for a full disk
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{path} cannot be written ({_reason(error)}); free some space or make the folder writable, and run the "
            "same command again: it resumes from the last checkpoint"
        ) from error


def unreadable(path: Path, folder: Path, error: Exception) -> str:
    """Return the message for a damaged file of a checkpoint, with what to do."""
    return f"{path} cannot be read ({_reason(error)}); remove the folder {folder} to continue without this checkpoint"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0].strip()
