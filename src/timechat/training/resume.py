"""Rules for resuming a run: who may write to its folder, and what may differ from the earlier call."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from timechat.config import save_recipe
from timechat.errors import TrainingError
from timechat.files import UNFINISHED_PATTERN
from timechat.files.system import lock_file
from timechat.training.checkpoint import Checkpoint, find_checkpoints
from timechat.training.config import TrainingRecipe
from timechat.training.distributed import on_first, rank, world_size
from timechat.training.recipes import RESOLVED_FILE, differences, load_resolved, with_global_batch

CHANGES_FILE = "recipe-changes.jsonl"
FINISHED_FILE = "finished.json"
_LOCK_FILE = "run.lock"
_ACCEPT = "resume with --accept-changed-recipe, which records the change"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the lock belongs to the first process and ends with it.

    Raises:
        TrainingError: Another run uses the folder.
    """
    with ExitStack() as stack:
        on_first(lambda: _lock(folder, stack))
        yield


def _lock(folder: Path, stack: ExitStack) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK_FILE
    file = stack.enter_context(path.open("a", encoding="utf-8"))
    if not lock_file(file):
        raise TrainingError(
            f"{path} is locked: another run trains in {folder}; wait until it ends or stop it, or give another "
            "folder with --output"
        )
    stack.callback(_remove_lock, path)


def _remove_lock(path: Path) -> None:
    with suppress(OSError):  # Windows keeps a file that is open
        path.unlink(missing_ok=True)


def prepare_folder(folder: Path, recipe: TrainingRecipe, *, accept_changes: bool) -> None:
    """Save the recipe in the folder of its run, and check an existing run: it must have this recipe.

    Args:
        folder: Folder of the run.
        recipe: Recipe of this call.
        accept_changes: Whether another recipe is accepted; its changes are recorded in the folder.

    Raises:
        TrainingError: The folder holds a run of another recipe, or other files.
    """
    on_first(lambda: _prepare_folder(folder, recipe, accept_changes))


def _prepare_folder(folder: Path, recipe: TrainingRecipe, accept_changes: bool) -> None:
    resolved = folder / RESOLVED_FILE
    changes: list[str] = []
    checkpoint = next(reversed(find_checkpoints(folder)), None)
    if resolved.exists():
        # A checkpoint of version 0.1 has no hashes, so the paths must be equal.
        has_hashes = checkpoint is None or bool(checkpoint.inputs)
        num_processes = world_size() if checkpoint is None else checkpoint.num_processes
        earlier = with_global_batch(load_resolved(resolved), num_processes)
        changes = differences(recipe, earlier, paths_count=not has_hashes)
        if changes and not accept_changes:
            size = earlier.run.global_batch_size
            is_batch = any(change.startswith("run.global_batch_size") for change in changes)
            hint = f"set run.global_batch_size={size}, as {num_processes} processes had, " if is_batch else ""
            raise TrainingError(
                f"{folder} holds a run of another recipe ({'; '.join(changes[:5])}); {hint}{_ACCEPT}, start anew with "
                "--fresh, or give another folder with --output"
            )
    elif any(path.name != _LOCK_FILE for path in folder.iterdir()) if folder.is_dir() else False:
        raise TrainingError(f"{folder} is not empty and holds no training run; give another folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if changes:
        record_changes(folder, checkpoint, changes)
        (folder / FINISHED_FILE).unlink(missing_ok=True)  # more steps may be left
    save_recipe(recipe, resolved)


def check_inputs(folder: Path, checkpoint: Checkpoint, inputs: Mapping[str, str], *, accept_changes: bool) -> None:
    """Check that a run is resumed with the records and start weights with which its checkpoint was made.

    Args:
        folder: Folder of the run.
        checkpoint: Checkpoint to resume from.
        inputs: SHA-256 of each input, by its name in messages.
        accept_changes: Whether other inputs are accepted; they are recorded in the folder.

    Raises:
        TrainingError: An input has changed.
    """
    changed = [name for name, digest in inputs.items() if checkpoint.inputs.get(name, digest) != digest]
    if not changed:
        return
    if not accept_changes:
        raise TrainingError(
            f"the {' and the '.join(changed)} of {folder} have changed since its checkpoint {checkpoint.folder}; "
            f"restore them, {_ACCEPT}, or start anew with --fresh"
        )
    if rank() == 0:
        record_changes(folder, checkpoint, [f"{name}: {checkpoint.inputs[name]} → {inputs[name]}" for name in changed])


def record_changes(folder: Path, checkpoint: Checkpoint | None, changes: Sequence[str]) -> None:
    """Append accepted changes to a JSON Lines file in the folder of the run, with the step of the checkpoint."""
    line = {"step": 0 if checkpoint is None else checkpoint.step, "changes": list(changes)}
    with (folder / CHANGES_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Remove the incomplete files and folders that a killed run has left."""
    for place in (folder, folder / "checkpoints"):
        for path in place.glob(".*") if place.is_dir() else ():
            if path.name.endswith((".partial", ".replaced")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif UNFINISHED_PATTERN.fullmatch(path.name):
                path.unlink()
