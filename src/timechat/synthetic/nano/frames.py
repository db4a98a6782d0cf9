"""Stage one: the vision tower and the image Q-Former learn to see single frames and to read their times."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from timechat.model.frame_encoder import feature_map_size
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.synthetic.nano.attention import AttentionRecorder, attention_loss
from timechat.synthetic.nano.labels import (
    GEOMETRY,
    NUM_COLORS,
    NUM_ROWS,
    NUM_SHAPES,
    NUM_TIMES,
    frame_labels,
    patch_labels,
    time_classes,
    visible_objects,
)
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import TICK, Action, Level, SyntheticVideo, write_scene
from timechat.video import Frames

_WAVES = ((0, 2), (1, 2), (2, 2), (0, 6), (1, 6))  # geometry that is also encoded as waves: index, waves per unit
_NUM_ENCODED = len(GEOMETRY) + 2 * len(_WAVES)
POSITION_DIMS = 14
"""Number of last dimensions of a frame token that stay free for the video Q-Former's code of the frame position."""
_GEOMETRY_GAIN = 0.25
_VARIED_SHARE = 0.25


def compress(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add compression artifacts to images `(frames, height, width, 3)`, of one random quality for all of them."""
    quality = int(rng.integers(40, 96))
    compressed = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=quality)
        compressed.append(np.asarray(Image.open(file)))
    return np.stack(compressed)


def make_frames(pixels: NDArray[np.uint8], times: NDArray[np.float64], rng: np.random.Generator) -> Frames:
    """Make frames of images `(frames, height, width, 3)` at the given times, as if they came from a video file."""
    return Frames.from_images(compress(pixels, rng), times, duration=float(times[-1]) + TICK, size=96)


def draw_clip(video: SyntheticVideo, times: NDArray[np.float64], rng: np.random.Generator) -> Frames:
    """Render the frames of a video at the given times, without a file."""
    return make_frames(draw_frames(video, times), times, rng)


class FrameHeads(nn.Module):
    """Heads that predict labels from single frames; dropped after training."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        width -= POSITION_DIMS
        self.patch = nn.Linear(vision_width, 1 + NUM_COLORS + 1 + NUM_SHAPES + len(GEOMETRY))
        self.colors = nn.Linear(width, 1 + NUM_SHAPES)
        self.shapes = nn.Linear(width, 1 + NUM_COLORS)
        self.geometry = nn.Linear(width, _NUM_ENCODED)
        self.time = nn.Linear(width, NUM_TIMES)
        self.which = nn.Linear(width, NUM_ROWS)

    def read_geometry(self, tokens: Tensor) -> Tensor:
        """Predict `_encode_geometry` from tokens `(..., width - POSITION_DIMS)`.

        The weight vectors have a fixed length, so the geometry is a large part of a token. With a free length,
        positions become small in tokens, and movements between frames are lost for later layers.
        """
        directions = F.normalize(self.geometry.weight, dim=1) * _GEOMETRY_GAIN
        return F.linear(tokens, directions, self.geometry.bias).float()


def _add_variation(video: SyntheticVideo, rng: np.random.Generator) -> SyntheticVideo:
    """Let some objects rotate or change their size all the time, because few frames show these states otherwise."""
    extra = []
    for i, obj in enumerate(video.objects):
        if obj.shows_turning and rng.random() < _VARIED_SHARE:
            extra.append(Action("turns", "spin", i, 0.0, video.duration, period=float(rng.uniform(2.5, 4.5))))
        if rng.random() < _VARIED_SHARE:
            extra.append(Action("swells", "grow" if rng.random() < 0.5 else "shrink", i, 0.0, video.duration))
    return replace(video, actions=(*video.actions, *extra))


def frame_batch(
    processor: TimeChatProcessor,
    seed: int,
    step: int,
    num_videos: int = 16,
    per_video: int = 4,
    levels: Sequence[int] = (1, 1, 1, 2, 2, 3),
) -> dict[str, Tensor]:
    """Render and label frames of many videos, in pairs of neighbors, each with a random time sentence."""
    rng = np.random.default_rng([seed, step])
    grid = feature_map_size(processor.config.vision_config)
    assert grid is not None
    pixels, labels = [], []
    for i in range(num_videos):
        level: Level = levels[int(rng.integers(len(levels)))]  # type: ignore[assignment]
        video = _add_variation(write_scene(seed, step * num_videos + i, level=level), rng)
        # Pairs of sampled frames, because moving objects must be distinguished from those at rest.
        first = rng.choice(
            np.arange(rng.integers(0, 2) * TICK / 2, video.duration - TICK, 2 * TICK), per_video // 2, False
        )
        times = (np.sort(first)[:, None] + [0, TICK]).flatten()
        pixels.append(processor.normalize(draw_clip(video, times, rng)))
        for time in times:
            visible = visible_objects(video, float(time))
            labels.append((*patch_labels(visible, grid, (video.width, video.height)), *frame_labels(visible)))
    num_frames = num_videos * per_video
    shown = (
        np.where(rng.random(num_frames) < 0.6, rng.integers(0, 121, num_frames), rng.integers(0, NUM_TIMES, num_frames))
        * TICK
    )
    ids, mask = processor.encode_timestamps(shown)
    patch_classes, patch_geometry, row_classes, row_geometry = (
        torch.from_numpy(np.stack(rows)) for rows in zip(*labels, strict=True)
    )
    return {
        "pixel_values": torch.cat(pixels),
        "qformer_input_ids": ids,
        "qformer_attention_mask": mask,
        "patch_classes": patch_classes,
        "patch_geometry": patch_geometry,
        "row_classes": row_classes,
        "row_geometry": row_geometry,
        "time_classes": torch.from_numpy(time_classes(shown)),
    }


def frame_loss(
    model: TimeChatForConditionalGeneration, heads: FrameHeads, batch: Mapping[str, Any]
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss of the labels of single frames that patches and queries predict, and its parts."""
    encoder = model.frame_encoder
    states = encoder.vision_states(batch["pixel_values"])
    with AttentionRecorder(layer.crossattention.attention for layer in encoder.qformer.encoder.layer) as recorder:
        tokens = encoder.read_frames(states, batch["qformer_input_ids"], batch["qformer_attention_mask"])
    patches = heads.patch(states).float()
    color, shape, geometry = patches.split([1 + NUM_COLORS, 1 + NUM_SHAPES, len(GEOMETRY)], dim=-1)
    classes = batch["patch_classes"]
    is_object = classes[..., 0] > 0
    weight = torch.where(is_object, 2.0, 0.3)
    patch_loss = sum(
        (F.cross_entropy(logits.flatten(0, 1), classes[..., i].flatten(), reduction="none") * weight.flatten()).sum()
        / weight.sum()
        for i, logits in enumerate((color, shape))
    )
    patch_geometry = F.smooth_l1_loss(geometry[is_object], batch["patch_geometry"][is_object], beta=0.05)
    tokens, rest = tokens.split([tokens.shape[-1] - POSITION_DIMS, POSITION_DIMS], dim=-1)
    rest_loss = rest.float().square().mean()
    which = heads.which(tokens).float()  # (frames, queries and text, rows)
    is_row = torch.eye(which.shape[1], NUM_ROWS, device=which.device).expand_as(which)
    which_loss = F.binary_cross_entropy_with_logits(which, is_row)
    tokens = tokens[:, :NUM_ROWS]
    row_loss, row_geometry, row_parts = _row_losses(heads, tokens, batch)
    supervision, share = _attention_loss(recorder.scores(), classes)
    time_logits = heads.time(tokens.mean(dim=1)).float()
    time_loss = F.cross_entropy(time_logits, batch["time_classes"])
    loss = (
        patch_loss
        + 2 * patch_geometry
        + 3 * row_loss
        + row_geometry
        + supervision
        + 0.5 * time_loss
        + which_loss
        + rest_loss
    )
    with torch.no_grad():
        parts = {
            "patch": float(patch_loss),
            "patch_geo": float(patch_geometry),
            "patch_color": float((color.argmax(-1) == classes[..., 0])[is_object].float().mean()),
            "patch_shape": float((shape.argmax(-1) == classes[..., 1])[is_object].float().mean()),
            **row_parts,
            "looks": share,
            "rest": float(rest_loss),
            "time": float((time_logits.argmax(-1) == batch["time_classes"]).float().mean()),
        }
    return loss, parts


def _row_losses(heads: FrameHeads, tokens: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return losses of class and geometry of each color and shape, and metrics.

    The change of the geometry from frame to frame counts as well, because constant errors do not matter for movements.
    """
    read = torch.cat([heads.colors(tokens[:, :NUM_COLORS]), heads.shapes(tokens[:, NUM_COLORS:])], dim=1).float()
    classes, geometry = batch["row_classes"], batch["row_geometry"]
    known, is_visible = classes != -100, classes >= 0
    row_loss = F.cross_entropy(read[known], classes[known] + 1)
    predicted, target = heads.read_geometry(tokens), _encode_geometry(geometry)
    row_geometry = F.smooth_l1_loss(predicted[is_visible], target[is_visible], beta=0.05)
    lasts = is_visible[0::2] & is_visible[1::2]
    steps, true_steps = (10 * (values[1::2][lasts] - values[0::2][lasts]) for values in (predicted, target))
    row_steps = F.smooth_l1_loss(steps, true_steps, beta=0.1, reduction="sum") / max(1, steps.numel())
    with torch.no_grad():
        error = (predicted[..., : len(GEOMETRY)] - geometry)[is_visible].abs()
        parts = {
            "row": float(row_loss),
            "row_seen": float((read.argmax(-1) - 1 == classes)[is_visible].float().mean()),
            "row_geo": float(row_geometry),
            "row_xy": float(error[:, :2].mean()),
            "row_radius": float(error[:, 2].mean()),
            "row_turn": float(error[:, 4:].mean()),
            "steps": float(row_steps),
        }
    return row_loss, 10 * row_geometry + row_steps, parts


def _encode_geometry(geometry: Tensor) -> Tensor:
    """Return the geometry, and position and size also as waves, in which small changes are large."""
    indices, turns = zip(*_WAVES, strict=True)
    angles = 2 * torch.pi * geometry[..., list(indices)] * geometry.new_tensor(turns)
    return torch.cat([geometry, angles.sin() / 2, angles.cos() / 2], dim=-1)


def _attention_loss(scores: Sequence[Sequence[Tensor]], patch_classes: Tensor) -> tuple[Tensor, float]:
    """Supervise the attention of the query of each color and shape: it should attend to the patches that show it.

    Args:
        scores: Scores `(frames, heads, queries, patches)` of every layer, for one call.
        patch_classes: Classes `(frames, patches, 2)` from `patch_labels`.

    Returns:
        The mean loss, and the share of attention on the right patches.
    """
    color, shape = patch_classes[..., None, :].unbind(dim=-1)  # (frames, patches, 1) each
    names = torch.arange(1, 1 + NUM_COLORS, device=color.device), torch.arange(1, 1 + NUM_SHAPES, device=color.device)
    targets = torch.cat([color == names[0], shape == names[1]], dim=-1).transpose(1, 2)  # (frames, rows, patches)
    frames, rows = targets.any(dim=-1).nonzero(as_tuple=True)
    losses = [attention_loss(layer[frames, :, rows], targets[frames, None, rows]) for (layer,) in scores]
    loss = torch.stack(losses).mean()
    return loss, float(torch.exp(-torch.stack(losses).detach()).mean())
