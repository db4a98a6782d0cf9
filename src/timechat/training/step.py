"""One step: batches → losses → gradients → changed weights."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from timechat.distributed import sum_over_processes, world_size
from timechat.errors import TrainingError
from timechat.training.config import Precision, TrainingRecipe, TrainingRunSettings
from timechat.training.objectives import StepLoss
from timechat.training.parallel import no_gradient_sync
from timechat.training.schedule import num_steps, step_iterations

_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepOutcome:
    """What a step was like, over all processes.

    Attributes:
        loss: Mean loss.
        num_tokens: Tokens that the loss is over.
        num_samples: Samples seen.
        parts: Pieces of the loss, of the first process.
        should_stop: Whether any process was asked to stop.
        grad_norm: Norm of all gradients together, before clipping.
    """

    loss: float
    num_tokens: int
    num_samples: int
    parts: Mapping[str, float]
    should_stop: bool
    grad_norm: float = math.nan


@dataclass
class _Sums:
    """What a step adds up over its batches on this process."""

    loss: float = 0.0
    mean_loss: float = 0.0
    num_tokens: int = 0
    num_samples: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    record_ids: list[str] = field(default_factory=list)

    def add(self, loss: StepLoss, num_samples: int) -> None:
        loss_sum = loss.loss_sum.item()
        self.loss += loss_sum
        self.mean_loss += loss_sum / max(loss.num_tokens, 1)
        self.num_tokens += loss.num_tokens
        self.num_samples += num_samples
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
    """Change the weights once, after as many batches as the step has iterations.

    Args:
        recipe: The run.
        module: An `ObjectiveModule`, wrapped for its processes or not.
        optimizer: Over what learns.
        scaler: Gradient scaler; switched off unless the arithmetic is fp16.
        batches: The iterations' batches; as many are taken as the step needs.
        step: Number of the step, from 0.
        should_stop: Says whether this process was asked to stop; told to all others.

    Raises:
        TrainingError: The loss or the gradients are no numbers, or memory ran out.
    """
    run = recipe.run
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device
    iterations = step_iterations(run, step)
    sums, divisor = _Sums(), 0.0
    optimizer.zero_grad(set_to_none=True)
    for iteration in iterations:
        batch = next(batches)
        sums.record_ids += batch.pop("record_ids", [])
        batch = _to_device(batch, device)
        with _explain_oom(step, batch), no_gradient_sync(module, when=iteration != iterations[-1]):
            with _autocast(run.precision, device):
                loss: StepLoss = module({**batch, "progress": step / num_steps(run)})
            divisor = divisor or _expected_tokens(loss, len(iterations), device)
            scaler.scale(_scaled_loss(run, loss, divisor)).backward()
        sums.add(loss, _num_samples(batch))
    outcome = _reduce_sums(run, sums, len(iterations), should_stop(), device)
    _check_is_finite(outcome.loss, "loss", step, sums)
    scaler.unscale_(optimizer)
    if run.loss_mean == "tokens":
        _rescale(parameters, divisor / max(outcome.num_tokens, 1))
    grad_norm = _clip(parameters, recipe.optimizer.clip_norm)
    if not scaler.is_enabled():  # a scaler leaves out steps whose gradients overflow, and lowers its scale
        _check_is_finite(grad_norm, "norm of the gradients", step, sums)
    scaler.step(optimizer)
    scaler.update()
    return replace(outcome, grad_norm=grad_norm)


def _expected_tokens(loss: StepLoss, num_iterations: int, device: torch.device) -> float:
    """Guess the tokens of the whole step from its first batch, so that the sums stay of a good size in half precision.

    With one iteration this is the number itself.
    """
    [tokens] = sum_over_processes([float(loss.num_tokens)], device)
    return max(tokens * num_iterations, 1.0)


def _scaled_loss(run: TrainingRunSettings, loss: StepLoss, divisor: float) -> Tensor:
    """Return what to take the gradient of; processes' gradients are averaged, so sums need their number."""
    if run.loss_mean == "tokens":
        return loss.loss_sum * (world_size() / divisor)
    mean = loss.loss_sum / max(loss.num_tokens, 1)
    return mean / run.accumulation if run.divide_loss_by_accumulation else mean


def _rescale(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Put the true number of tokens in the place of the guess."""
    if factor != 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def _clip(parameters: Sequence[nn.Parameter], max_norm: float | None) -> float:
    """Clip the gradients, if wanted; return their norm before."""
    if max_norm is None:
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    else:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _reduce_sums(
    run: TrainingRunSettings, sums: _Sums, num_iterations: int, should_stop: bool, device: torch.device
) -> StepOutcome:
    """Put together what the processes saw."""
    local = [sums.loss, sums.mean_loss, float(sums.num_tokens), float(sums.num_samples), float(should_stop)]
    loss, mean_loss, num_tokens, num_samples, stops = sum_over_processes(local, device)
    by_tokens = run.loss_mean == "tokens"
    return StepOutcome(
        loss=loss / max(num_tokens, 1) if by_tokens else mean_loss / (num_iterations * world_size()),
        num_tokens=int(num_tokens),
        num_samples=int(num_samples),
        parts={name: value / num_iterations for name, value in sums.parts.items()},
        should_stop=stops > 0,
    )


def _check_is_finite(value: float, what: str, step: int, sums: _Sums) -> None:
    if math.isfinite(value):
        return
    names = ", ".join(map(str, sums.record_ids)) or "unknown (the batches name none)"
    here = "" if world_size() == 1 else f", of which this process saw a loss of {sums.loss}"
    raise TrainingError(
        f"the {what} of step {step + 1} is {value}{here}; records: {names}. Look at these records (`timechat data "
        "check`), lower optimizer.lr or set optimizer.clip_norm, or compute in run.precision=bf16 or fp32; the run "
        "goes on from its last checkpoint"
    )


@contextmanager
def _explain_oom(step: int, batch: Mapping[str, Any]) -> Iterator[None]:
    """Say what to do where memory runs out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items() if isinstance(value, Tensor))
        raise TrainingError(
            f"out of memory in step {step + 1} with {shapes}; lower run.batch_size (and raise run.accumulation), set "
            "model.gradient_checkpointing=true or run.precision=bf16, take fewer data.num_frames, train from "
            "data.features, or spread the model with run.parallel=fsdp2"
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
