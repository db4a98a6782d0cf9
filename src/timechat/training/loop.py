"""The training loop."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from timechat.errors import TrainingError
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.training.checkpoint import (
    Checkpoint,
    best_checkpoint,
    find_checkpoints,
)
from timechat.training.config import TrainingRecipe, TrainingRunSettings
from timechat.training.distributed import on_first, rank
from timechat.training.logs import RunLog, progress_bar
from timechat.training.objectives import OBJECTIVES, BatchSource, Objective, ObjectiveModule, find_objective
from timechat.training.parallel import parallelize
from timechat.training.parameters import build_optimizer, set_learning_rate, set_training_mode, trainable
from timechat.training.restoring import load_progress, load_weights
from timechat.training.resume import check_inputs
from timechat.training.saving import CheckpointSaver
from timechat.training.schedule import learning_rate, num_steps, step_iterations
from timechat.training.step import StepOutcome, take_step

Validate = Callable[[TimeChatForConditionalGeneration, int], Mapping[str, float]]


def train(
    recipe: TrainingRecipe,
    model: TimeChatForConditionalGeneration,
    source: BatchSource,
    folder: Path,
    device: torch.device,
    *,
    objectives: Mapping[str, Objective] = OBJECTIVES,
    validate: Validate | None = None,
    inputs: Mapping[str, str] | None = None,
    accept_changes: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train a model by a recipe, and resume from the latest checkpoint in `folder` if there is one.

    Args:
        recipe: Recipe of the run.
        model: Model with prepared parameters (`prepare_parameters`).
        source: Source of batches.
        folder: Folder for checkpoints and logs.
        device: Device of the computation.
        objectives: Known objectives by name.
        validate: Function of the model and the number of finished steps, called every `run.validate_every` steps on
            every process; returns metrics by name.
        inputs: SHA-256 of the start weights and of the records, by name, which checkpoints store.
        accept_changes: Whether to resume although an input has changed; the change is recorded.
        should_stop: Callback after every step; True saves a checkpoint and ends the call.

    Returns:
        Whether the run is finished; False if it was stopped.

    Raises:
        TrainingError: The loss is not finite, memory ran out, or the checkpoint does not fit.
    """
    run, total = recipe.run, num_steps(recipe.run)
    if run.validate_every is not None and validate is None:
        raise ValueError("run.validate_every is set, but there is no validation; set it to null")
    checkpoint = next(reversed(on_first(lambda: find_checkpoints(folder))), None)
    if checkpoint:
        if checkpoint.step > total:
            raise TrainingError(
                f"{checkpoint.folder} has {checkpoint.step} steps, more than the {total} steps of the recipe; give "
                "more steps (run.steps, or run.epochs), or start anew with --fresh"
            )
        check_inputs(folder, checkpoint, inputs or {}, accept_changes=accept_changes)
    module = parallelize(ObjectiveModule(model, find_objective(recipe.objective, objectives).loss), run, device)
    optimizer = build_optimizer(trainable(model).items(), recipe.optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
    first_step = 0
    if checkpoint:
        load_weights(checkpoint, model)
        load_progress(checkpoint, model, optimizer, scaler)
        first_step = checkpoint.step
    saver = CheckpointSaver(folder, run, inputs or {}, device)
    if first_step == total:
        return True
    set_training_mode(model)
    with ExitStack() as stack:
        log = stack.enter_context(closing(RunLog(folder, recipe, first_step=first_step))) if rank() == 0 else None
        batches = stack.enter_context(closing(source.batches(step_iterations(run, first_step).start)))
        bar = stack.enter_context(progress_bar(recipe.name, done=first_step, total=total, shown=rank() == 0))
        for step in range(first_step, total):
            started, done = time.perf_counter(), step + 1
            rate = set_learning_rate(optimizer, learning_rate(recipe.optimizer, run, step))
            outcome = take_step(recipe, module, optimizer, scaler, batches, step, should_stop=should_stop)
            if log and (done % run.log_every == 0 or done == total):
                _log_step(log, done, rate, outcome, time.perf_counter() - started)
            bar.move(done, f"loss {outcome.loss:.4f}  lr {rate:.2e}")
            metrics = _validate(validate, model, run, done, log)
            if run.best_metric is not None and metrics:
                saver.wait()  # the checkpoint that is written may be the best so far
            is_last = done == total or outcome.should_stop
            if is_last or done % run.save_every == 0 or _is_best(folder, run, metrics):
                saver.save(done, model, optimizer, scaler, metrics)
            if outcome.should_stop:
                break
        saver.wait()
    return done == total


def _log_step(log: RunLog, step: int, rate: float, outcome: StepOutcome, seconds: float) -> None:
    values = {
        "loss": outcome.loss,
        "lr": rate,
        "grad_norm": outcome.grad_norm,
        "samples_per_second": outcome.num_samples / seconds,
        **outcome.parts,
    }
    # Log the exact loss, for comparing runs.
    log.step(step, values, loss_hex=outcome.loss.hex(), num_tokens=outcome.num_tokens, seconds=round(seconds, 4))


def _validate(
    validate: Validate | None,
    model: TimeChatForConditionalGeneration,
    run: TrainingRunSettings,
    step: int,
    log: RunLog | None,
) -> Mapping[str, float]:
    """Validate if this step requires it, without an effect on training."""
    if validate is None or run.validate_every is None or step % run.validate_every:
        return {}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        model.eval()
        metrics = validate(model, step)
        set_training_mode(model)
    if run.best_metric is not None and run.best_metric not in metrics:
        raise ValueError(
            f"run.best_metric is {run.best_metric}, but validation gives {', '.join(metrics) or 'nothing'}"
        )
    if log:
        log.validation(step, metrics)
    return metrics


def _is_best(folder: Path, run: TrainingRunSettings, metrics: Mapping[str, float]) -> bool:
    """Return whether a validation is the best so far, as the first process decides."""
    if run.best_metric is None or not metrics:
        return False
    return on_first(lambda: _beats(find_checkpoints(folder), run, metrics[run.best_metric or ""]))


def _beats(checkpoints: list[Checkpoint], run: TrainingRunSettings, value: float) -> bool:
    """Return whether a metric is better than those of all checkpoints."""
    best = best_checkpoint(checkpoints, run.best_metric, run.best_is)
    if best is None:
        return True
    difference = value - best.metrics[run.best_metric or ""]
    return difference > 0 if run.best_is == "highest" else difference < 0
