"""Training objectives: functions from a model and a batch to a loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from timechat.model.processing import IGNORED_LABEL
from timechat.synthetic.nano import objectives as nano
from timechat.synthetic.nano.temporal import initialize_comparison

Batch = Mapping[str, Any]
MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "pixel_values",
    "vision_states",
    "frame_tokens",
    "qformer_input_ids",
    "qformer_attention_mask",
    "video_sizes",
    "position_ids",
)


@dataclass(frozen=True)
class StepLoss:
    """The loss of one batch.

    Attributes:
        loss_sum: Sum of the loss over `num_tokens`, a scalar with a gradient.
        num_tokens: Divisor for the mean; usually the number of answer tokens.
        parts: Parts of the loss as means, for the log.
    """

    loss_sum: Tensor
    num_tokens: int
    parts: Mapping[str, float] = field(default_factory=dict)


Objective = Callable[[nn.Module, Batch], StepLoss]


def next_token(model: nn.Module, batch: Batch) -> StepLoss:
    """Predict the next token wherever the batch has a label: the original's only loss.

    Args:
        model: A `TimeChatForConditionalGeneration`.
        batch: Inputs of the model, and `labels` `(batch, sequence)`, -100 for tokens without loss.
    """
    targets = batch["labels"][:, 1:]  # (batch, sequence - 1)
    # The head is computed only at positions with a label in the batch; at one position at least, for the gradients.
    places = (targets != IGNORED_LABEL).any(dim=0).nonzero()[:, 0]  # (places,)
    if places.numel() == 0:
        places = torch.zeros(1, dtype=torch.long, device=targets.device)
    targets = targets[:, places]  # (batch, places)
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    logits = model(**inputs, logits_to_keep=places, use_cache=False).logits  # (batch, places, vocab)
    loss_sum = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return StepLoss(loss_sum, int((targets != IGNORED_LABEL).sum()))


def _of_nano(lose: Callable[[Any, Batch], tuple[Tensor, dict[str, float]]]) -> Objective:
    """Make an objective from one of nano, whose losses are means over the samples of a batch."""

    def objective(model: nn.Module, batch: Batch) -> StepLoss:
        loss, parts = lose(model, batch)
        # Heads without a loss in this stage take part with weight 0, because DDP expects a gradient of each.
        heads: nn.Module = getattr(model, HEADS_NAME)
        loss = loss + 0 * torch.stack([parameter.sum() for parameter in heads.parameters()]).sum()
        num_samples = len(next(batch[name] for name in ("input_ids", "pixel_values", "frame_tokens") if name in batch))
        return StepLoss(loss * num_samples, num_samples, parts)

    return objective


OBJECTIVES: dict[str, Objective] = {
    "next_token": next_token,
    "nano_frames": _of_nano(nano.frames),
    "nano_scripts": _of_nano(nano.language),
    "nano_windows": _of_nano(nano.temporal),
    "nano_windows_unguided": _of_nano(partial(nano.temporal, is_guided=False)),
    "nano_films": _of_nano(nano.end_to_end),
}

# Modules that an objective needs in training only, as a function of the model. They are attached as
# `model.training_heads`, trained, saved in checkpoints, passed on from stage to stage, and not exported.
HEADS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "nano_frames": nano.NanoHeads,
    "nano_scripts": nano.NanoHeads,
    "nano_windows": nano.NanoHeads,
    "nano_windows_unguided": nano.NanoHeads,
    "nano_films": nano.NanoHeads,
}
HEADS_NAME = "training_heads"

# Functions that `model.start` names. Each changes the start model of a stage and depends on model and heads only,
# because it runs again when a run is resumed.
INITIALIZERS: dict[str, Callable[[nn.Module], None]] = {"nano_comparing": initialize_comparison}


class ObjectiveModule(nn.Module):
    """A model together with its objective, so that wrappers (DDP, FSDP) see one forward pass."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch) -> StepLoss:
        """Return the loss of a batch."""
        return self._objective(self.model, batch)


def find_objective(name: str) -> Objective:
    """Return the objective of this name.

    Raises:
        ValueError: There is no such objective.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"there is no objective {name!r}; known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
