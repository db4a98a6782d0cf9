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

_LEVELS: tuple[Level, ...] = (1, 1, 1, 2, 2, 3)
_WAVES = ((0, 2), (1, 2), (2, 2), (0, 6), (1, 6))  # what of the geometry is told as waves as well, and how many to one
_NUM_SHOWN = len(GEOMETRY) + 2 * len(_WAVES)
PLACE_DIMS = 14
"""The last dimensions of a frame token tell nothing: there the video Q-Former writes which frame it is of a window."""
_SHOWN_GAIN = 0.25
_VARIED_SHARE = 0.25


def compressed(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Damage pictures the way a codec does: `(frames, height, width, 3)`, one quality for all of them."""
    quality = int(rng.integers(40, 96))
    damaged = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "jpeg", quality=quality)
        damaged.append(np.asarray(Image.open(file)))
    return np.stack(damaged)


def draw_clip(film: SyntheticVideo, times: NDArray[np.float64], rng: np.random.Generator) -> Frames:
    """Show a film at some times without writing it to a file."""
    pixels = compressed(draw_frames(film, times), rng)
    return Frames.from_images(pixels, times, duration=film.duration, size=96)


class FrameHeads(nn.Module):
    """Read labels off single frames; dropped when training ends."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        width -= PLACE_DIMS
        self.patch = nn.Linear(vision_width, 1 + NUM_COLORS + 1 + NUM_SHAPES + len(GEOMETRY))
        self.colors = nn.Linear(width, 1 + NUM_SHAPES)
        self.shapes = nn.Linear(width, 1 + NUM_COLORS)
        self.geometry = nn.Linear(width, _NUM_SHOWN)
        self.time = nn.Linear(width, NUM_TIMES)
        self.which = nn.Linear(width, NUM_ROWS)

    def read_geometry(self, tokens: Tensor) -> Tensor:
        """Read `_shown_times` off tokens, `(..., width - PLACE_DIMS)`.

        The directions read along have a fixed length: what a token tells is then a large part of it. Where the length
        is free, places become faint in tokens, and movements from frame to frame are lost on whoever reads these.
        """
        directions = F.normalize(self.geometry.weight, dim=1) * _SHOWN_GAIN
        return F.linear(tokens, directions, self.geometry.bias).float()


def _varied(film: SyntheticVideo, rng: np.random.Generator) -> SyntheticVideo:
    """Let some things turn and change their size all along: else few frames show one turned or between its sizes."""
    extra = []
    for i, thing in enumerate(film.objects):
        if thing.shows_turning and rng.random() < _VARIED_SHARE:
            extra.append(Action("turns", "spin", i, 0.0, film.duration, period=float(rng.uniform(2.5, 4.5))))
        if rng.random() < _VARIED_SHARE:
            extra.append(Action("swells", "grow" if rng.random() < 0.5 else "shrink", i, 0.0, film.duration))
    return replace(film, actions=(*film.actions, *extra))


def frame_batch(
    processor: TimeChatProcessor, seed: int, step: int, films: int = 16, per_film: int = 4
) -> dict[str, Tensor]:
    """Draw frames of many films, in pairs of neighbours, each with a random time sentence, and label them."""
    rng = np.random.default_rng([seed, step])
    grid = feature_map_size(processor.config.vision_config)
    assert grid is not None
    pixels, labels = [], []
    for i in range(films):
        film = _varied(write_scene(seed, step * films + i, level=_LEVELS[int(rng.integers(len(_LEVELS)))]), rng)
        # Pairs as a film is sampled: what moves must be told apart from what stands still.
        first = rng.choice(
            np.arange(rng.integers(0, 2) * TICK / 2, film.duration - TICK, 2 * TICK), per_film // 2, False
        )
        times = (np.sort(first)[:, None] + [0, TICK]).flatten()
        pixels.append(processor.normalize(draw_clip(film, times, rng)))
        for time in times:
            seen = visible_objects(film, float(time))
            labels.append((*patch_labels(seen, grid, (film.width, film.height)), *frame_labels(seen)))
    num_frames = films * per_film
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
    """Loss of what patches and queries tell of single frames, a mean, and its pieces."""
    encoder = model.frame_encoder
    states = encoder.vision_states(batch["pixel_values"])
    with AttentionRecorder(layer.crossattention.attention for layer in encoder.qformer.encoder.layer) as watch:
        tokens = encoder.read_frames(states, batch["qformer_input_ids"], batch["qformer_attention_mask"])
    patches = heads.patch(states).float()
    color, shape, geometry = patches.split([1 + NUM_COLORS, 1 + NUM_SHAPES, len(GEOMETRY)], dim=-1)
    classes = batch["patch_classes"]
    is_thing = classes[..., 0] > 0
    weight = torch.where(is_thing, 2.0, 0.3)
    patch_loss = sum(
        (F.cross_entropy(logits.flatten(0, 1), classes[..., i].flatten(), reduction="none") * weight.flatten()).sum()
        / weight.sum()
        for i, logits in enumerate((color, shape))
    )
    patch_geometry = F.smooth_l1_loss(geometry[is_thing], batch["patch_geometry"][is_thing], beta=0.05)
    tokens, rest = tokens.split([tokens.shape[-1] - PLACE_DIMS, PLACE_DIMS], dim=-1)
    quiet = rest.float().square().mean()
    which = heads.which(tokens).float()  # (frames, queries and text, rows)
    is_row = torch.eye(which.shape[1], NUM_ROWS, device=which.device).expand_as(which)
    which_loss = F.binary_cross_entropy_with_logits(which, is_row)
    tokens = tokens[:, :NUM_ROWS]
    row_loss, row_geometry, told = _row_losses(heads, tokens, batch)
    guide, looks = _attention_loss(watch.scores(), classes)
    time_logits = heads.time(tokens.mean(dim=1)).float()
    time_loss = F.cross_entropy(time_logits, batch["time_classes"])
    loss = patch_loss + 2 * patch_geometry + 3 * row_loss + row_geometry + guide + 0.5 * time_loss + which_loss + quiet
    with torch.no_grad():
        parts = {
            "patch": float(patch_loss),
            "patch_geo": float(patch_geometry),
            "patch_color": float((color.argmax(-1) == classes[..., 0])[is_thing].float().mean()),
            "patch_shape": float((shape.argmax(-1) == classes[..., 1])[is_thing].float().mean()),
            **told,
            "looks": looks,
            "rest": float(quiet),
            "time": float((time_logits.argmax(-1) == batch["time_classes"]).float().mean()),
        }
    return loss, parts


def _row_losses(heads: FrameHeads, tokens: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Losses of what was read of each colour and shape, its class and its geometry, and how right it was.

    How the geometry changes from frame to frame counts as well: for who looks for movement, errors that stay are none.
    """
    read = torch.cat([heads.colors(tokens[:, :NUM_COLORS]), heads.shapes(tokens[:, NUM_COLORS:])], dim=1).float()
    classes, geometry = batch["row_classes"], batch["row_geometry"]
    known, there = classes != -100, classes >= 0
    row_loss = F.cross_entropy(read[known], classes[known] + 1)
    told, truth = heads.read_geometry(tokens), _shown_times(geometry)
    row_geometry = F.smooth_l1_loss(told[there], truth[there], beta=0.05)
    lasts = there[0::2] & there[1::2]
    steps, true_steps = (10 * (of[1::2][lasts] - of[0::2][lasts]) for of in (told, truth))
    row_steps = F.smooth_l1_loss(steps, true_steps, beta=0.1, reduction="sum") / max(1, steps.numel())
    with torch.no_grad():
        off = (told[..., : len(GEOMETRY)] - geometry)[there].abs()
        parts = {
            "row": float(row_loss),
            "row_seen": float((read.argmax(-1) - 1 == classes)[there].float().mean()),
            "row_geo": float(row_geometry),
            "row_xy": float(off[:, :2].mean()),
            "row_radius": float(off[:, 2].mean()),
            "row_turn": float(off[:, 4:].mean()),
            "steps": float(row_steps),
        }
    return row_loss, 10 * row_geometry + row_steps, parts


def _shown_times(geometry: Tensor) -> Tensor:
    """What tokens tell of a thing: its geometry, place and size once more as waves in which small steps are large."""
    which, turns = zip(*_WAVES, strict=True)
    angles = 2 * torch.pi * geometry[..., list(which)] * geometry.new_tensor(turns)
    return torch.cat([geometry, angles.sin() / 2, angles.cos() / 2], dim=-1)


def _attention_loss(scores: Sequence[Sequence[Tensor]], patch_classes: Tensor) -> tuple[Tensor, float]:
    """Ask the query of each colour and shape to look at the patches that show it.

    Args:
        scores: `(frames, heads, queries, patches)` of every layer, which ran once.
        patch_classes: `(frames, patches, 2)`, see `patch_labels`.
    """
    color, shape = patch_classes[..., None, :].unbind(dim=-1)  # (frames, patches, 1) each
    names = torch.arange(1, 1 + NUM_COLORS, device=color.device), torch.arange(1, 1 + NUM_SHAPES, device=color.device)
    wanted = torch.cat([color == names[0], shape == names[1]], dim=-1).transpose(1, 2)  # (frames, rows, patches)
    frames, rows = wanted.any(dim=-1).nonzero(as_tuple=True)
    losses = [attention_loss(layer[frames, :, rows], wanted[frames, None, rows]) for (layer,) in scores]
    loss = torch.stack(losses).mean()
    return loss, float(torch.exp(-torch.stack(losses).detach()).mean())
