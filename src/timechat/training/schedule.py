"""Steps, iterations and the learning rate: pure functions of a step's number."""

import math

from timechat.training.config import OptimizerSettings, TrainingRunSettings


def num_steps(run: TrainingRunSettings) -> int:
    """Return how many steps a run has; iterations at its end that fill no step are left out."""
    if run.leftover == "original":
        assert run.epochs is not None
        return run.epochs * _steps_per_epoch(run)
    return run.iters // run.accumulation


def step_iterations(run: TrainingRunSettings, step: int) -> range:
    """Return the iterations whose gradients a step takes.

    With `leftover="original"` the first step of an epoch also takes what the epoch before has left over.
    """
    if run.leftover == "original":
        assert run.iters_per_epoch is not None
        epoch, in_epoch = divmod(step, _steps_per_epoch(run))
        start = epoch * run.iters_per_epoch + in_epoch * run.accumulation
        left_over = run.iters_per_epoch % run.accumulation if epoch and not in_epoch else 0
        return range(start - left_over, start + run.accumulation)
    return range(step * run.accumulation, (step + 1) * run.accumulation)


def learning_rate(optimizer: OptimizerSettings, run: TrainingRunSettings, step: int) -> float:
    """Return the learning rate that a step is taken with."""
    if optimizer.schedule == "original":
        return original_learning_rate(optimizer, run, step_iterations(run, step)[-1])
    warmup = optimizer.warmup_iters / run.accumulation
    if step < warmup:
        return optimizer.warmup_lr + (optimizer.lr - optimizer.warmup_lr) * step / warmup
    if optimizer.schedule == "constant":
        return optimizer.lr
    progress = (step - warmup) / max(num_steps(run) - warmup, 1)
    return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def original_learning_rate(optimizer: OptimizerSettings, run: TrainingRunSettings, iteration: int) -> float:
    """Return the original's learning rate of an iteration.

    Two quirks: the cosine runs over all iterations, so that the rate drops where the warm-up ends; and a warm-up
    that is longer than an epoch starts anew with each.
    """
    assert run.iters_per_epoch is not None
    if iteration < optimizer.warmup_iters:
        in_epoch = iteration % run.iters_per_epoch
        return optimizer.warmup_lr + (optimizer.lr - optimizer.warmup_lr) * in_epoch / max(optimizer.warmup_iters, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * iteration / run.iters))
    return (optimizer.lr - optimizer.min_lr) * cosine + optimizer.min_lr


def _steps_per_epoch(run: TrainingRunSettings) -> int:
    assert run.iters_per_epoch is not None
    return run.iters_per_epoch // run.accumulation
