"""A frame-text encoder from the built-in model's own tokens, for measurements on synthetic videos.

The image Q-Former of nano has one token for each color and one for each shape. A linear layer on the tokens after the
temporal layers reads which actions the color or the shape is doing, and which shape the object of the color has. It is
fitted on synthetic videos of the training split, whose scripts say what happens. A sentence is the color, the shape and
the action that it names; its score in a frame is the sum of the log probabilities of these three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from timechat import Frames, TimeChat
from timechat.backbones.timechat.encoding import encode_frames
from timechat.search.encoder import FloatArray, FrameTextEncoder
from timechat.search.video_vectors import VideoVectors
from timechat.synthetic.nano.clips import frame_times
from timechat.synthetic.nano.frames import draw_clip
from timechat.synthetic.nano.labels import (
    COLOR_NAMES,
    NUM_COLORS,
    NUM_KINDS,
    NUM_ROWS,
    NUM_SHAPES,
    PAIRS,
    row_labels,
    state_labels,
)
from timechat.synthetic.scene import KINDS, SHAPES, write_scene
from timechat.synthetic.wording import ACTIONS
from timechat.video import VideoReader

NUM_ACTS = NUM_ROWS * NUM_KINDS
NUM_PAIRS = NUM_COLORS * NUM_SHAPES
_MAX_FRAMES = 120  # a minute, the length of a window of nano
_PART_FRAMES, _MARGIN = 240, 16  # frames; the temporal layers know a few frames on both sides
_STEPS, _BATCH, _RATE = 400, 512, 3e-3


class NanoEncoder(FrameTextEncoder):
    """Log probabilities of actions and of pairs of color and shape, from nano's tokens.

    Args:
        timechat: The built-in model.
        fps: Frames per second of the videos.
        num_videos: Number of synthetic videos to fit the linear layer on.
        use_actions: Whether the actions count, or only the pairs of color and shape.
    """

    name, licence, fingerprint = "nano's tokens", "as nano", "nano's tokens"
    dimension = sentence_dimension = NUM_ACTS + NUM_PAIRS
    cut_distance = 2.0  # no cuts
    image_size = (96, 96)

    def __init__(self, timechat: TimeChat, *, fps: float = 2.0, num_videos: int = 80, use_actions: bool = True) -> None:
        self._timechat, self.fps, self._use_actions = timechat, fps, use_actions
        self.acts, self.pairs = self._fit(num_videos)

    def encode_frames(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """Encode frames that are `1 / fps` seconds apart."""
        times = np.arange(len(pixels)) / self.fps
        return self._read(self._tokens(Frames(pixels, times, len(pixels) / self.fps)))

    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        """Mark the values of the color, the shape and the action of each sentence."""
        vectors = np.zeros((len(sentences), self.dimension), np.float32)
        for vector, sentence in zip(vectors, sentences, strict=True):
            color, shape, kind = read_query(sentence)
            rows = [row for row in (color, None if shape is None else NUM_COLORS + shape) if row is not None]
            if kind is not None and self._use_actions:
                vector[[row * NUM_KINDS + kind for row in rows]] = 1
            if color is not None and shape is not None:
                vector[NUM_ACTS + color * NUM_SHAPES + shape] = 1
        return vectors

    def evidence(self, frame_vectors: FloatArray, sentence: FloatArray) -> FloatArray:
        """Return the sum of the log probabilities."""
        result: FloatArray = frame_vectors @ sentence
        return result

    def encode_file(self, path: str) -> VideoVectors:
        """Encode a video in parts that overlap by the reach of the temporal layers."""
        times, vectors = [], []
        with VideoReader(path) as reader:
            for part, first, after in _overlapping(
                reader.iterate(fps=self.fps, size=self._timechat.model.config.frame_size, frames_per_part=_PART_FRAMES)
            ):
                vectors.append(self._read(self._tokens(part))[first:after])
                times.append(part.timestamps[first:after])
            duration = reader.duration
        at, values = np.concatenate(times), np.concatenate(vectors).astype(np.float16)
        return VideoVectors(at, values, duration, (), np.zeros(0), np.zeros(0, np.float32))

    @torch.inference_mode()
    def _tokens(self, frames: Frames) -> Tensor:
        """Tokens after the temporal layers, `(frames, NUM_ROWS, width)`."""
        frames = replace(frames, timestamps=frames.timestamps - frames.timestamps[0])
        model = self._timechat.model
        tokens = encode_frames(model, self._timechat.processor, frames)[:, :, :NUM_ROWS]
        temporal = model.video_qformer.temporal
        return tokens[0] if temporal is None else temporal(tokens)[0]

    @torch.inference_mode()
    def _read(self, tokens: Tensor) -> FloatArray:
        acts = F.logsigmoid(self.acts(tokens)).flatten(1)
        pairs = F.logsigmoid(self.pairs(tokens[:, :NUM_COLORS])).flatten(1)
        return torch.cat([acts, pairs], dim=1).float().numpy()

    def _fit(self, num_videos: int) -> tuple[nn.Module, nn.Module]:
        tokens, acts, pairs = [], [], []
        for number in range(num_videos):
            video = write_scene(7000, number, level=1, split="train")
            times = frame_times(video)[:_MAX_FRAMES]
            times = times[:: max(1, round(2 / self.fps))]
            tokens.append(self._tokens(draw_clip(video, times, np.random.default_rng([0, number]))))
            states = torch.from_numpy(state_labels(video, times))
            acts.append(row_labels(states)[..., :NUM_KINDS])
            pairs.append(states[:, PAIRS].unflatten(1, (NUM_COLORS, NUM_SHAPES)))
        every = torch.cat(tokens).float().clone()
        return _logistic(every, torch.cat(acts)), _logistic(every[:, :NUM_COLORS].clone(), torch.cat(pairs))


def _logistic(inputs: Tensor, target: Tensor) -> nn.Module:
    """Fit a linear layer whose sigmoid is the probability of the target."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(inputs.shape[-1], affine=False, momentum=None)
        norm(inputs.flatten(0, 1))
        norm.eval()
        layer = nn.Linear(inputs.shape[-1], target.shape[-1])
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, -3.0)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=_RATE, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            chosen = torch.randint(len(inputs), (_BATCH,))
            logits = layer(norm(inputs[chosen].flatten(0, 1))).unflatten(0, (_BATCH, -1))
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, target[chosen]).backward()
            optimizer.step()
            schedule.step()
    return _Probe(norm, layer).requires_grad_(requires_grad=False)


class _Probe(nn.Module):
    def __init__(self, norm: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = norm, layer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.norm(tokens.float().flatten(0, 1))).unflatten(0, tokens.shape[:2])  # type: ignore[no-any-return]


def _overlapping(parts: Iterator[Frames]) -> Iterator[tuple[Frames, int, int]]:
    """Join each part with the frames around it; also its own first frame and the frame after its last one."""
    before: Frames | None = None
    part = next(parts, None)
    while part is not None:
        after = next(parts, None)
        pieces = [
            *([] if before is None else [(before.pixels[-_MARGIN:], before.timestamps[-_MARGIN:])]),
            (part.pixels, part.timestamps),
            *([] if after is None else [(after.pixels[:_MARGIN], after.timestamps[:_MARGIN])]),
        ]
        first = 0 if before is None else len(pieces[0][0])
        joined = replace(
            part,
            pixels=np.concatenate([pixels for pixels, _ in pieces]),
            timestamps=np.concatenate([times for _, times in pieces]),
        )
        yield joined, first, first + len(part)
        before, part = part, after


def read_query(sentence: str) -> tuple[int | None, int | None, int | None]:
    """Read the first color, the first shape and the action of a sentence, as indices."""
    words = sentence.lower()

    def first(names: Sequence[str]) -> str | None:
        found = re.search(rf"\b({'|'.join(sorted(map(re.escape, names), key=len, reverse=True))})\b", words)
        return found[1] if found else None

    kinds = {
        form.partition("{other}")[0].strip(): kind
        for kind, verbs in ACTIONS.items()
        for verb in verbs
        for form in (verb.bare, verb.finite, verb.ing)
    }
    color, shape, verb = first(COLOR_NAMES), first(SHAPES), first(list(kinds))
    return (
        None if color is None else COLOR_NAMES.index(color),
        None if shape is None else SHAPES.index(shape),
        None if verb is None else KINDS.index(kinds[verb]),
    )
