"""Objectives of the stages of nano's training, which callers of `timechat.training` hand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from timechat.synthetic.nano.attention import AttentionRecorder
from timechat.synthetic.nano.frames import FrameHeads, frame_loss
from timechat.synthetic.nano.language import AnswerHeads, actions_loss, answer_loss, motion_loss, script_loss
from timechat.synthetic.nano.source import make_source
from timechat.synthetic.nano.temporal import initialize_comparison, window_attention_loss
from timechat.training.objectives import HEADS_NAME, Objective, StepLoss

_MOTION_WEIGHT = 10.0
_ACTIONS_WEIGHT = 10.0


class NanoHeads(nn.Module):
    """All heads that are used in training only and dropped afterwards."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.frames = FrameHeads(config.qformer_config.encoder_hidden_size, config.qformer_config.hidden_size)
        self.answers = AnswerHeads(
            config.text_config.hidden_size,
            config.video_qformer_config.hidden_size,
            config.video_qformer_config.num_hidden_layers,
        )


def frames(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Learn to see single frames and to read their times."""
    return frame_loss(model, model.training_heads.frames, batch)


def language(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Learn to answer from label scripts, without pixels and Q-Formers."""
    heads = model.training_heads.answers
    answer, helps, parts = answer_loss(model, heads, heads.script(batch["states"], batch["times"]), batch)
    return answer + helps, parts


def temporal(model: Any, batch: Mapping[str, Any], *, is_guided: bool = True) -> tuple[Tensor, dict[str, float]]:
    """Learn to encode the scripts of videos in video tokens, and positions and movements of objects.

    Args:
        model: Model with its heads.
        batch: Frame tokens and labels.
        is_guided: Whether to supervise attention. This takes a third of the time; a model whose attention is correct
            already does not need it.
    """
    heads = model.training_heads.answers
    layers = model.video_qformer.qformer.encoder.layer
    seen: list[list[Tensor]] = [[] for _ in layers]  # states of every layer, in the order of the video tokens
    across = AttentionRecorder(layer.crossattention.attention for layer in layers)
    between = AttentionRecorder(layer.attention.attention for layer in layers[1:])
    with ExitStack() as stack:
        for watch in (across, between) if is_guided else ():
            stack.enter_context(watch)
        for layer, states in zip(layers, seen, strict=True):
            stack.enter_context(layer.register_forward_hook(_remember(states)))
        features = model.batch_video_features(frame_tokens=batch["frame_tokens"], video_sizes=batch["video_sizes"])
    hidden_states = [torch.cat(states) for states in seen]
    script, script_parts = script_loss(heads, features, batch)
    motion, motion_parts = motion_loss(heads, hidden_states[0], batch)
    acts, action_parts = actions_loss(heads, hidden_states, batch)
    loss, parts = (
        script + _MOTION_WEIGHT * motion + _ACTIONS_WEIGHT * acts,
        {**script_parts, **motion_parts, **action_parts},
    )
    if is_guided:
        guide, looks = window_attention_loss(model.config, across, between, batch["video_sizes"])
        loss, parts = loss + guide, {**parts, "looks": looks}
    return loss, parts


def _remember(states: list[Tensor]) -> Callable[[Any, Any, Any], None]:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output).flatten(0, -2))

    return hook


def end_to_end(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Learn to answer about videos, and to encode their scripts in video tokens with a decreasing weight."""
    heads = model.training_heads.answers
    features = model.batch_video_features(frame_tokens=batch["frame_tokens"], video_sizes=batch["video_sizes"])
    script, script_parts = script_loss(heads, features, batch)
    answer, helps, parts = answer_loss(model, heads, features, batch)
    help_share = max(0.1, 1 - batch["progress"])
    return answer + help_share * (script + helps), {**script_parts, **parts}


def _objective(lose: Callable[[Any, Mapping[str, Any]], tuple[Tensor, dict[str, float]]]) -> Objective:
    """Make an objective of a loss that is a mean over the samples of a batch."""

    def loss(model: nn.Module, batch: Mapping[str, Any]) -> StepLoss:
        mean, parts = lose(model, batch)
        # Heads that this stage does not need take part all the same: several processes expect a gradient of each.
        heads: nn.Module = getattr(model, HEADS_NAME)
        mean = mean + 0 * torch.stack([parameter.sum() for parameter in heads.parameters()]).sum()
        num_samples = len(next(batch[name] for name in ("input_ids", "pixel_values", "frame_tokens") if name in batch))
        return StepLoss(mean * num_samples, num_samples, parts)

    return Objective(loss, NanoHeads, make_source, {"nano_comparing": initialize_comparison})


NANO_OBJECTIVES: Mapping[str, Objective] = {
    "nano_frames": _objective(frames),
    "nano_scripts": _objective(language),
    "nano_windows": _objective(temporal),
    "nano_windows_unguided": _objective(partial(temporal, is_guided=False)),
    "nano_films": _objective(end_to_end),
}
