"""Run a recipe: train and export its stages in sequence; finished stages are skipped."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from timechat.errors import TrainingError
from timechat.files.system import keep_freed_memory
from timechat.model import NANO
from timechat.model.fingerprint import tensors_fingerprint
from timechat.model.loading import load_config
from timechat.model.processing import TimeChatProcessor
from timechat.model.tensor_files import save_tensors
from timechat.training.checkpoint import Checkpoint, explain_failed_write, find_checkpoints, write_file
from timechat.training.config import TrainingRecipe
from timechat.training.data import InstructionBatches
from timechat.training.data import make_source as make_instruction_source
from timechat.training.distributed import check_shared_folder, on_first, process_group, rank, world_size
from timechat.training.export import (
    INTERPOLATION,
    MODEL_FOLDER,
    MakeModel,
    build_start,
    chosen_checkpoint,
    export_run,
    keep_interpolation,
    load_start,
    training_processor,
)
from timechat.training.logs import PLOT_FILE, plot_losses
from timechat.training.loop import Validate, train
from timechat.training.objectives import HEADS_NAME, OBJECTIVES, BatchSource, MakeSource, Objective, find_objective
from timechat.training.parallel import choose_device
from timechat.training.recipes import RESOLVED_FILE, with_global_batch
from timechat.training.restoring import read_weights
from timechat.training.resume import CHANGES_FILE, FINISHED_FILE, prepare_folder, run_lock

MakeValidate = Callable[[TrainingRecipe, TimeChatProcessor], Validate | None]

HEADS_FILE = "heads.safetensors"
_STALE_FILES = (
    "checkpoints",
    "tensorboard",
    "model",
    "adapter",
    "original.pth",
    "log.jsonl",
    "lost-records-*.jsonl",
    PLOT_FILE,
    FINISHED_FILE,
    CHANGES_FILE,
    HEADS_FILE,
    RESOLVED_FILE,
)


def train_recipe(
    stages: Sequence[TrainingRecipe],
    make_source: MakeSource = make_instruction_source,
    *,
    objectives: Mapping[str, Objective] = OBJECTIVES,
    make_validate: MakeValidate = lambda _recipe, _processor: None,
    make_model: MakeModel = load_start,
    fresh: bool = False,
    accept_changes: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[str], None] = lambda _text: None,
) -> bool:
    """Train the stages of a recipe, and resume where an earlier call stopped.

    Args:
        stages: Stages from `read_recipe`. A stage starts from the export of the stage before.
        make_source: Function that makes the batches of a stage, on every process, unless its
            objective has its own.
        objectives: Known objectives by name.
        make_validate: Function that makes the validation of a stage, on every process.
        make_model: Function that loads the start model of a stage.
        fresh: Whether to remove the files of earlier calls from the folders of the stages and start anew.
        accept_changes: Whether to resume a run although its recipe, records or start weights have changed; the changes
            are recorded in `recipe-changes.jsonl` of its folder.
        should_stop: Callback after every step; True saves a checkpoint and ends the call.
        report: Callback for status messages, on the first process.

    Returns:
        Whether all stages are finished; False if the call was stopped.

    Raises:
        TrainingError: A folder holds a run of another recipe, or training cannot continue.
        CheckpointError: The start model cannot be loaded.
    """
    device = choose_device(stages[0].run)
    if device.type == "cpu":
        keep_freed_memory()
    with process_group(device, stages[0].run.collective_timeout):
        report = report if rank() == 0 else lambda _text: None
        before: Path | None = None
        stages = [with_global_batch(stage, world_size()) for stage in stages]
        check_shared_folder(Path(stages[0].run.output))
        with ExitStack() as locks:
            locks.enter_context(run_lock(Path(stages[0].run.output)))
            if fresh:
                on_first(partial(_clear, [Path(recipe.run.output) for recipe in stages]))
            for recipe in stages:
                if before is not None:
                    recipe = replace(recipe, model=replace(recipe.model, checkpoint=str(before / MODEL_FOLDER)))
                folder = Path(recipe.run.output)
                if before is not None:
                    locks.enter_context(run_lock(folder))
                prepare_folder(folder, recipe, accept_changes=accept_changes)
                if on_first((folder / FINISHED_FILE).exists):
                    report(f"{folder}: already finished")
                elif not _train_stage(
                    recipe,
                    folder,
                    before,
                    device,
                    make_source,
                    objectives,
                    make_validate,
                    make_model,
                    accept_changes,
                    should_stop,
                    report,
                ):
                    report(f"{folder}: stopped; the same command resumes")
                    return False
                before = folder
        return True


def _train_stage(
    recipe: TrainingRecipe,
    folder: Path,
    before: Path | None,
    device: torch.device,
    make_source: MakeSource,
    objectives: Mapping[str, Objective],
    make_validate: MakeValidate,
    make_model: MakeModel,
    accept_changes: bool,
    should_stop: Callable[[], bool],
    report: Callable[[str], None],
) -> bool:
    objective = find_objective(recipe.objective, objectives)
    initialize = None if recipe.model.start is None else objective.initializer(recipe.model.start)
    torch.manual_seed(recipe.run.seed)  # fresh adapters and heads are the same on every process
    make = load_start if before else make_model
    gets_weights = make is load_start and rank() > 0 and _can_start_without_weights(recipe, objective)
    start = partial(load_start, without_weights=True) if gets_weights else make
    model, processor = build_start(recipe, start, objectives=objectives)
    if before is not None:
        _load_heads(model, before / HEADS_FILE)
    elif recipe.model.heads is not None:
        if not Path(recipe.model.heads).is_file():
            raise TrainingError(f"model.heads names {recipe.model.heads}, but there is no such file")
        _load_heads(model, Path(recipe.model.heads))
    if initialize is not None:
        initialize(model)
    if checkpoints := on_first(lambda: find_checkpoints(folder)):
        keep_interpolation(checkpoints[-1], model, processor)
    source = (objective.make_source or make_source)(recipe, model, training_processor(processor, recipe.model))
    validate = make_validate(recipe, processor)
    report(f"{folder}: training")
    inputs = on_first(partial(_hash_inputs, model, source))
    inputs[INTERPOLATION] = processor.config.frame_interpolation
    if not train(
        recipe,
        model,
        source,
        folder,
        device,
        objectives=objectives,
        validate=validate,
        inputs=inputs,
        accept_changes=accept_changes,
        should_stop=should_stop,
    ):
        return False
    del model, source, validate
    on_first(lambda: _finish(recipe, folder, load_start if before else make_model, objectives))
    report(f"{folder}: finished")
    return True


def _can_start_without_weights(recipe: TrainingRecipe, objective: Objective) -> bool:
    """Return whether the first process can give the others their parts of the weights: none of them computes before."""
    computes = objective.make_source is not None or recipe.model.start is not None or recipe.data.features is not None
    is_folder = recipe.model.checkpoint == NANO or Path(recipe.model.checkpoint).is_dir()
    if computes or not recipe.run.is_sharded or not is_folder:
        return False
    config = load_config(recipe.model.checkpoint)
    return not (config.has_lora or getattr(config.text_config, "tie_word_embeddings", False))


def _hash_inputs(model: nn.Module, source: BatchSource) -> dict[str, str]:
    """Return the SHA-256 of the start weights, and that of the records if the source has records."""
    inputs = {"start weights": tensors_fingerprint(model.state_dict())}
    if isinstance(source, InstructionBatches):
        inputs["records"] = source.fingerprint
    return inputs


def _finish(recipe: TrainingRecipe, folder: Path, make_model: MakeModel, objectives: Mapping[str, Objective]) -> None:
    """Export the model, save the heads for the next stage, plot the losses, and mark the stage as finished."""
    checkpoint = chosen_checkpoint(folder, recipe)
    export_run(folder, make_model, objectives=objectives)
    _save_heads(checkpoint, folder)
    if recipe.run.plot:
        plot_losses(folder, folder / PLOT_FILE)
    write_file(folder / FINISHED_FILE, json.dumps({"step": checkpoint.step, "metrics": dict(checkpoint.metrics)}))


def _clear(folders: Sequence[Path]) -> None:
    """Remove the files of runs, and nothing else."""
    for folder in folders:
        if (folder / RESOLVED_FILE).exists():
            for path in (path for name in _STALE_FILES for path in folder.glob(name)):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _save_heads(checkpoint: Checkpoint, folder: Path) -> None:
    """Save the weights of the heads, which are not exported, for the next stage."""
    prefix = f"{HEADS_NAME}."
    if heads := read_weights(checkpoint, prefix):
        with explain_failed_write(folder / HEADS_FILE):
            save_tensors(heads, folder / HEADS_FILE)


def _load_heads(model: nn.Module, path: Path) -> None:
    """Load the weights of heads with equal names and shapes from the stage before."""
    heads = getattr(model, HEADS_NAME, None)
    if heads is None or not path.is_file():
        return
    ours = heads.state_dict()
    known = {
        name: tensor for name, tensor in load_file(path).items() if name in ours and ours[name].shape == tensor.shape
    }
    heads.load_state_dict(known, strict=False)
