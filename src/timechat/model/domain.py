"""A test whether frames are of the kind that a model was trained on.

The features are the mean and the standard deviation, over frames and queries, of the tokens of the image Q-Former. A
linear rule on them was fitted on both kinds of videos (`perf/fit_domain.py`). It stands in the configuration of the
model (`TimeChatConfig.domain`); a model without it is not tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DOMAIN_KEYS = ("description", "weights", "offset")
"""Keys of `TimeChatConfig.domain`: the videos that the model was trained on, in words, and the linear rule."""

CHUNK_FRAMES = 20
"""Number of frames that are tested together: 10 s of nano's two frames per second."""


def domain_features(frame_tokens: Tensor) -> Tensor:
    """Return the features of frames, `(2 * hidden,)` float32.

    Args:
        frame_tokens: Output of the image Q-Former, `(frames, queries, hidden)`.
    """
    import torch

    tokens = frame_tokens.flatten(0, 1).float()
    return torch.cat([tokens.mean(0), tokens.std(0, correction=0)])


def domain_chunks(frame_tokens: Tensor) -> list[Tensor]:
    """Divide the tokens of frames, `(frames, queries, hidden)`, into chunks of about `CHUNK_FRAMES` frames."""
    count = max(1, round(len(frame_tokens) / CHUNK_FRAMES))
    return list(frame_tokens.tensor_split(count))


def is_outside_domain(domain: dict[str, Any], frame_tokens: Tensor) -> bool:
    """Return whether at least half of the chunks of the frames are unlike the videos that the model was trained on.

    Args:
        domain: `TimeChatConfig.domain`.
        frame_tokens: Output of the image Q-Former, `(frames, queries, hidden)`.
    """
    import torch

    features = torch.stack([domain_features(chunk) for chunk in domain_chunks(frame_tokens)]).cpu()
    outside = features @ torch.tensor(domain["weights"]) + domain["offset"] > 0
    return 2 * int(outside.sum()) >= len(outside)


def outside_domain_notes(domain: dict[str, Any] | None, frame_tokens: Tensor) -> tuple[str, ...]:
    """Return the note of an answer about frames that are outside of the domain of the model; no note otherwise."""
    return () if domain is None or not is_outside_domain(domain, frame_tokens) else (_note(domain),)


def is_outside_by_notes(domain: dict[str, Any] | None, notes: Iterable[str]) -> bool:
    """Return whether the notes about frames say that the frames are outside of the domain of the model."""
    return domain is not None and _note(domain) in notes


def _note(domain: dict[str, Any]) -> str:
    return (
        "this video is unlike the videos that the model was trained on "
        f"({domain['description']}): the answer is a guess"
    )


def read_limits(folder: Path) -> tuple[str, ...]:
    """Return the sentence about the limits of the model in a folder, without loading it; none if it states none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no model folder: loading it gives the error
        return ()
    return domain_limits(config.get("domain") if isinstance(config, dict) else None)


def domain_limits(domain: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the sentence about the limits of the model, for its description; none for a model without a domain."""
    if domain is None:
        return ()
    return (f"trained only on {domain['description']}: answers about other videos are guesses",)
