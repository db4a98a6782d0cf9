"""Objectives of the stages of nano's training, which callers of `timechat.training` hand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from timechat.synthetic.nano.attention import AttentionRecorder
from timechat.synthetic.nano.frames import FrameHeads, frame_loss
from timechat.synthetic.nano.language import AnswerHeads, answer_loss, script_loss
from timechat.synthetic.nano.source import make_source
from timechat.synthetic.nano.temporal import ActionHeads, actions_loss, window_attention_loss
from timechat.training.objectives import HEADS_NAME, Objective, StepLoss


class NanoHeads(nn.Module):
    """All heads that are used in training only and dropped afterwards."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.frames = FrameHeads(config.qformer_config.encoder_hidden_size, config.qformer_config.hidden_size)
        self.actions = ActionHeads(config.qformer_config.hidden_size, config.temporal_layers)
        self.answers = AnswerHeads(config.text_config.hidden_size)


def frames(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Learn to see single frames and to read their times."""
    return frame_loss(model, model.training_heads.frames, batch)


def language(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Learn to answer from label scripts, without pixels and Q-Formers."""
    heads = model.training_heads.answers
    answer, helps, parts = answer_loss(model, heads, heads.script(batch["states"], batch["times"]), batch)
    return answer + helps, parts


def temporal(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Learn to recognize the actions of each object, and to encode the scripts of videos in video tokens."""
    video = model.video_qformer
    tokens: list[list[Tensor]] = [[] for _ in video.temporal.layers]  # of every layer, video by video
    across = AttentionRecorder(layer.crossattention.attention for layer in video.qformer.encoder.layer)
    with ExitStack() as stack:
        stack.enter_context(across)
        for layer, seen in zip(video.temporal.layers, tokens, strict=True):
            stack.enter_context(layer.register_forward_hook(_remember(seen)))
        features = model.batch_video_features(frame_tokens=batch["frame_tokens"], video_sizes=batch["video_sizes"])
    of_layers = [torch.cat(seen) for seen in tokens]  # (frames of all videos, rows, width) each
    acts, action_parts = actions_loss(model.training_heads.actions, of_layers, batch["frame_states"])
    script, script_parts = script_loss(model.training_heads.answers, features, batch)
    guide, share = window_attention_loss(model.config, across, batch["video_sizes"])
    return script + acts + guide, {**script_parts, **action_parts, "looks": share}


def _remember(seen: list[Tensor]) -> Callable[[Any, Any, Any], None]:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
        seen.append(output.flatten(0, 1))

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

    return Objective(loss, NanoHeads, make_source)


NANO_OBJECTIVES: Mapping[str, Objective] = {
    "nano_frames": _objective(frames),
    "nano_scripts": _objective(language),
    "nano_windows": _objective(temporal),
    "nano_films": _objective(end_to_end),
}
