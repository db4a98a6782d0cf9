"""Steps, iterations and the learning rate: pure functions of a step's number."""

import math

from timechat.training.config import OptimizerSettings, TrainingRunSettings


def num_steps(run: TrainingRunSettings) -> int:
    """Return the number of steps of a run, without an incomplete step at its end."""
    if run.leftover == "original":
        assert run.epochs is not None
        return run.epochs * _steps_per_epoch(run)
    return run.iters // run.accumulation


def step_iterations(run: TrainingRunSettings, step: int) -> range:
    """Return the iterations whose gradients a step uses.

    With `leftover="original"`, the first step of an epoch also uses the leftover iterations of the epoch before.
    """
    if run.leftover == "original":
        assert run.iters_per_epoch is not None
        epoch, in_epoch = divmod(step, _steps_per_epoch(run))
        start = epoch * run.iters_per_epoch + in_epoch * run.accumulation
        left_over = run.iters_per_epoch % run.accumulation if epoch and not in_epoch else 0
        return range(start - left_over, start + run.accumulation)
    return range(step * run.accumulation, (step + 1) * run.accumulation)


def learning_rate(optimizer: OptimizerSettings, run: TrainingRunSettings, step: int) -> float:
    """Return the learning rate of a step."""
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
    """Return the learning rate of an iteration in the original.

    It has two quirks. The cosine covers all iterations, so the rate drops where the warm-up ends. And a warm-up that is
    longer than an epoch restarts in each epoch.
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
