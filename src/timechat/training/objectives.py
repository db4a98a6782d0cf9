"""Training objectives: functions from a model and a batch to a loss, with what each of them needs.

`OBJECTIVES` holds those that work with instruction records. A caller hands in a larger mapping to train with others,
such as the objectives of the built-in model (`train_recipe(..., objectives=...)`).
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.training_text import IGNORED_LABEL
from timechat.training.config import TrainingRecipe

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


Loss = Callable[[nn.Module, Batch], StepLoss]
Initializer = Callable[[nn.Module], None]


class BatchSource(Protocol):
    """A source of training batches."""

    def batches(self, first_iteration: int) -> Generator[dict[str, Any], None, None]:
        """Yield batches without end, the same ones from a given iteration on in every call.

        A batch holds the tensors that the objective reads, on the CPU, and may hold `record_ids`, a list of names
        for error messages. With several processes each process yields its own share.
        """


MakeSource = Callable[[TrainingRecipe, TimeChatForConditionalGeneration, TimeChatProcessor], BatchSource]


@dataclass(frozen=True)
class Objective:
    """A loss, and everything that training with it needs.

    Attributes:
        loss: Function from a model and a batch to a loss.
        make_heads: Function from the model to modules that this loss needs during training only. They are attached as
            `model.training_heads`, trained, saved in checkpoints, passed on from stage to stage, and not exported.
        make_source: Function that makes the batches of a stage; None takes the batches of instruction records.
        initializers: Functions that `model.start` of a recipe names. Each changes the model before training, depends
            on nothing but model and heads, and runs again when a run is resumed.
    """

    loss: Loss
    make_heads: Callable[[nn.Module], nn.Module] | None = None
    make_source: MakeSource | None = None
    initializers: Mapping[str, Initializer] = field(default_factory=dict)

    def initializer(self, name: str) -> Initializer:
        """Return the initializer of this name.

        Raises:
            ValueError: The objective has no such initializer.
        """
        if name not in self.initializers:
            known = ", ".join(self.initializers) or "none"
            raise ValueError(f"model.start is {name!r}, but this objective knows {known}; correct it or leave it out")
        return self.initializers[name]


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


OBJECTIVES: Mapping[str, Objective] = {"next_token": Objective(next_token)}
HEADS_NAME = "training_heads"


class ObjectiveModule(nn.Module):
    """A model together with its objective, so that wrappers (DDP, FSDP) see one forward pass."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> StepLoss:
        """Return the loss of a batch."""
        return self._loss(self.model, batch)


def find_objective(name: str, objectives: Mapping[str, Objective] = OBJECTIVES) -> Objective:
    """Return the objective of this name.

    Raises:
        ValueError: There is no such objective.
    """
    if name not in objectives:
        raise ValueError(f"there is no objective {name!r}; known: {', '.join(objectives)}")
    return objectives[name]
