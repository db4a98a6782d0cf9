"""One optimizer step: losses of batches, gradients, update of the weights."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from timechat.errors import TrainingError, is_out_of_memory
from timechat.training.config import Precision, TrainingRecipe, TrainingRunSettings
from timechat.training.distributed import rank, sum_over_processes, world_size
from timechat.training.objectives import StepLoss
from timechat.training.parallel import no_gradient_sync
from timechat.training.schedule import num_steps, step_iterations

_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepOutcome:
    """Result of a step, over all processes.

    Attributes:
        loss: Mean loss.
        num_tokens: Number of tokens with loss.
        num_samples: Number of samples.
        parts: Parts of the loss on the first process.
        should_stop: Whether a process received a stop signal.
        grad_norm: Norm of all gradients before clipping.
    """

    loss: float
    num_tokens: int
    num_samples: int
    parts: Mapping[str, float]
    should_stop: bool
    grad_norm: float = math.nan


@dataclass
class _Sums:
    """Sums over the batches of a step on this process."""

    loss: float = 0.0
    mean_loss: float = 0.0
    num_tokens: int = 0
    num_samples: int = 0
    num_batches: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    record_ids: list[str] = field(default_factory=list)

    def add(self, loss: StepLoss, num_samples: int) -> None:
        loss_sum = loss.loss_sum.item()
        self.loss += loss_sum
        self.mean_loss += loss_sum / max(loss.num_tokens, 1)
        self.num_tokens += loss.num_tokens
        self.num_samples += num_samples
        self.num_batches += 1
        for name, value in loss.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value


def take_step(
    recipe: TrainingRecipe,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batches: Iterator[dict[str, Any]],
    step: int,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> StepOutcome:
    """Take one optimizer step over all batches of the step.

    Args:
        recipe: Recipe of the run.
        module: `ObjectiveModule`, possibly wrapped for several processes.
        optimizer: Optimizer of the trained parameters.
        scaler: Loss scaler; enabled for fp16 only.
        batches: Iterator of batches, one per iteration.
        step: Number of the step, from 0.
        should_stop: Callback that returns whether this process received a stop signal; shared with all processes.

    Raises:
        TrainingError: The loss or the gradients are not finite, or memory ran out.
    """
    run = recipe.run
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device
    iterations = step_iterations(run, step)
    _seed(run.seed, step)
    sums, divisor = _Sums(), 0.0
    optimizer.zero_grad(set_to_none=True)
    for iteration in iterations:
        batch = next(batches)
        sums.record_ids += batch.pop("record_ids", [])
        micro_batches = _split(batch, run.micro_batch_size)
        for number, micro_batch in enumerate(micro_batches, start=1):
            batch = _to_device(micro_batch, device)
            is_last = iteration == iterations[-1] and number == len(micro_batches)
            with _explain_oom(step, batch), no_gradient_sync(module, when=not is_last):
                with _autocast(run.precision, device):
                    loss: StepLoss = module({**batch, "progress": step / num_steps(run)})
                divisor = divisor or _expected_tokens(loss, len(iterations) * len(micro_batches), device)
                scaler.scale(_scaled_loss(run, loss, divisor, len(micro_batches))).backward()
            sums.add(loss, _num_samples(batch))
    outcome = _reduce_sums(run, sums, should_stop(), device)
    _check_is_finite(outcome.loss, "loss", step, sums)
    scaler.unscale_(optimizer)
    if run.loss_mean == "tokens":
        _rescale(parameters, divisor / max(outcome.num_tokens, 1))
    grad_norm = _clip(parameters, recipe.optimizer.clip_norm)
    if not scaler.is_enabled():  # a scaler skips steps with overflowing gradients and lowers its scale
        _check_is_finite(grad_norm, "norm of the gradients", step, sums)
    with _explain_oom(step, batch):
        scaler.step(optimizer)  # its first call allocates the state of the optimizer
    scaler.update()
    return replace(outcome, grad_norm=grad_norm)


def _seed(seed: int, step: int) -> None:
    """Set the random seeds of a step, so that its dropout does not depend on earlier steps and interruptions."""
    number = int(np.random.SeedSequence([seed, step, rank()]).generate_state(1, np.uint64)[0])
    torch.manual_seed(number)
    random.seed(number)


def _expected_tokens(loss: StepLoss, num_batches: int, device: torch.device) -> float:
    """Estimate the number of tokens of the step from its first batch, to keep sums in the range of half precision.

    With one batch the number is exact.
    """
    [tokens] = sum_over_processes([float(loss.num_tokens)], device)
    return max(tokens * num_batches, 1.0)


def _split(batch: dict[str, Any], size: int | None) -> list[dict[str, Any]]:
    """Divide a batch into micro-batches of at most `size` samples."""
    num_samples = _num_samples(batch)
    if size is None or num_samples <= size:
        return [batch]
    return [
        {
            name: value[start : start + size] if isinstance(value, Tensor) and len(value) == num_samples else value
            for name, value in batch.items()
        }
        for start in range(0, num_samples, size)
    ]


def _scaled_loss(run: TrainingRunSettings, loss: StepLoss, divisor: float, num_micro_batches: int) -> Tensor:
    """Return the loss for the gradients; these are averaged over processes, so sums are scaled by their number."""
    if run.loss_mean == "tokens":
        return loss.loss_sum * (world_size() / divisor)
    mean = loss.loss_sum / max(loss.num_tokens, 1) / num_micro_batches
    return mean / run.accumulation if run.divide_loss_by_accumulation else mean


def _rescale(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Correct the gradients from the estimated to the true number of tokens."""
    if factor != 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def _clip(parameters: Sequence[nn.Parameter], max_norm: float | None) -> float:
    """Clip the gradients if `max_norm` is given; return their norm before."""
    if max_norm is None:
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    else:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _reduce_sums(run: TrainingRunSettings, sums: _Sums, should_stop: bool, device: torch.device) -> StepOutcome:
    """Combine the sums of all processes."""
    local = [sums.loss, sums.mean_loss, float(sums.num_tokens), float(sums.num_samples), float(should_stop)]
    loss, mean_loss, num_tokens, num_samples, stops = sum_over_processes(local, device)
    by_tokens = run.loss_mean == "tokens"
    return StepOutcome(
        loss=loss / max(num_tokens, 1) if by_tokens else mean_loss / (sums.num_batches * world_size()),
        num_tokens=int(num_tokens),
        num_samples=int(num_samples),
        parts={name: value / sums.num_batches for name, value in sums.parts.items()},
        should_stop=stops > 0,
    )


def _check_is_finite(value: float, what: str, step: int, sums: _Sums) -> None:
    if math.isfinite(value):
        return
    names = ", ".join(map(str, sums.record_ids)) or "unknown (the batches name none)"
    here = "" if world_size() == 1 else f"; this process has a loss sum of {sums.loss}"
    raise TrainingError(
        f"the {what} of step {step + 1} is {value}{here}; records: {names}. Check these records (`timechat data "
        "check`). Or lower optimizer.lr, set optimizer.clip_norm, or compute in run.precision=bf16 or fp32, and resume "
        "from the last checkpoint with --accept-changed-recipe"
    )


@contextmanager
def _explain_oom(step: int, batch: Mapping[str, Any]) -> Iterator[None]:
    """Turn an out-of-memory error into one that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items() if isinstance(value, Tensor))
        raise TrainingError(
            f"out of memory in step {step + 1} with {shapes}; set model.gradient_checkpointing=true, or "
            "run.parallel=fsdp2 with several processes, and resume. Or set run.micro_batch_size=1, lower "
            "data.num_frames, or set run.precision=bf16, and resume with --accept-changed-recipe. Or start "
            "anew with data.features"
        ) from error


def _autocast(precision: Precision, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, _FORMATS[precision], enabled=precision != "fp32")


def _to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _num_samples(batch: Mapping[str, Any]) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, Tensor))
