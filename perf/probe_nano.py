"""Measure how many actions can be read off each layer of nano, and how well it grounds.

    python perf/probe_nano.py                                # the built-in model
    python perf/probe_nano.py out/nano/3-windows             # a stage of a training run, also while it runs
    python perf/probe_nano.py out/nano/4-films --levels 1 2 3 --json probe.json

A probe is one linear layer. It reads the outputs of one layer of the model and says which actions each color and each
shape is doing in a frame. Every layer gets the same videos, the same number of steps and the same context: the frame
itself and `--context` frames before and after it. Probes are fitted on synthetic videos of the training split and
tested on videos of the test split. So a difference between two rows of the table is a difference between two layers: an
action that the video Q-Former shows and the language model does not was lost in the language model.

Columns of the table, for the videos of each level:

- acts: an action of a color or of a shape in a frame, of 160; found (recall), right (precision) and F1.
- kinds: a kind of action in a frame, of 10, whatever does it; F1.

The threshold of a probe is the one with the best F1 on the last fifth of the videos for fitting, which the weights are
not fitted on. With `--hidden 64` a probe has a hidden layer of this size: it shows what a layer of the model could
compute from the outputs. Layers with one token for each color and shape (image Q-Former and temporal layers) have one
probe for all of these tokens. For the other layers the probe has an output for each of the 160 acts, so it needs more
videos: their values still rise with `--fit`, and those for kinds are the safer comparison.

Below the table: grounding on videos of the test split, as in training (`validation_films`), with the share of answers
that hit a different event of the video, and what a random event would give.

Needs about two minutes of one CPU core at the default size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from timechat.answers.prompts import VIDEO_PLACEHOLDER
from timechat.model.loading import load_model
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.synthetic.nano.clips import frame_times
from timechat.synthetic.nano.frames import draw_clip
from timechat.synthetic.nano.labels import NUM_KINDS, NUM_ROWS, row_labels, state_labels
from timechat.synthetic.nano.objectives import NANO_OBJECTIVES
from timechat.synthetic.scene import Level, Split, SyntheticVideo, write_scene
from timechat.synthetic.validation import default_times, draw_validation_video, validate_grounding
from timechat.training.export import drop_heads, load_trained
from timechat.training.objectives import OBJECTIVES
from timechat.training.recipes import RESOLVED_FILE

LEVELS: tuple[Level, ...] = (1, 2, 3)
QUESTION = "When does this happen?"
_MAX_FRAMES = 120  # a minute, the length of a window of nano
_POSITIVE_WEIGHT = 4.0
_BATCH = 512  # frames in a step of a probe
_THRESHOLDS = 60  # number of thresholds that are tried


@dataclass(frozen=True)
class Layer:
    """Outputs of one layer of the model.

    Attributes:
        name: Name of the layer.
        outputs: One tensor per video: `(frames, NUM_ROWS, width)` of a layer with a token for each color and shape,
            `(frames, width)` of a layer with one token for each frame.
    """

    name: str
    outputs: list[Tensor]


@dataclass(frozen=True)
class Score:
    """Precision and recall of a probe."""

    right: float
    found: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.right * self.found / max(self.right + self.found, 1e-9)

    @classmethod
    def of(cls, predicted: Tensor, target: Tensor) -> Score:
        """Compare two masks of the same shape."""
        both = float((predicted & target).sum())
        return cls(both / max(1.0, float(predicted.sum())), both / max(1.0, float(target.sum())))


def load(path: str) -> tuple[TimeChatForConditionalGeneration, TimeChatProcessor]:
    """Load a model, or the latest checkpoint of a training run, in evaluation mode."""
    if (Path(path) / RESOLVED_FILE).is_file():
        _, model, processor = load_trained(Path(path), objectives={**OBJECTIVES, **NANO_OBJECTIVES})
        drop_heads(model)
    else:
        model, processor = load_model(path, device="cpu", dtype="float32")
    if model.config.num_query_tokens != NUM_ROWS or model.config.stride != model.config.num_video_query_tokens:
        raise ValueError(f"{path} is no nano: it has other tokens than one per frame and per color and shape")
    return model.eval(), processor


# ---------------------------------------------------------------------------------------------------- layer outputs


@torch.no_grad()
def read_layers(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, videos: Sequence[SyntheticVideo], seed: int
) -> list[Layer]:
    """Return the outputs of every layer for the first minute of every video."""
    found: dict[str, list[Tensor]] = {}
    for number, video in enumerate(videos):
        clip = draw_clip(video, _times(video), np.random.default_rng([seed, number]))
        inputs = {name: tensor[None] for name, tensor in processor.encode_frames(clip).items()}
        frame_tokens = model.get_frame_features(**inputs)
        found.setdefault("image Q-Former", []).append(frame_tokens[0, :, :NUM_ROWS])
        with _outputs_of(_video_layers(model)) as seen:
            video_tokens = model.video_qformer(frame_tokens)
        for name, outputs in seen.items():
            found.setdefault(name, []).append(_of_frames(outputs, len(clip)))
        found.setdefault("video tokens", []).append(video_tokens[0, : len(clip)])
        for name, states in _language_states(model, processor, clip.timestamps, video_tokens):
            found.setdefault(name, []).append(states[: len(clip)])
    return [Layer(name, outputs) for name, outputs in found.items()]


def _times(video: SyntheticVideo) -> np.ndarray:
    return frame_times(video)[:_MAX_FRAMES]


def _video_layers(model: TimeChatForConditionalGeneration) -> Iterator[tuple[str, nn.Module]]:
    video: Any = model.video_qformer
    for i, layer in enumerate(video.temporal.layers if video.temporal is not None else ()):
        yield f"temporal layer {i + 1}", layer
    for i, layer in enumerate(video.qformer.encoder.layer):
        yield f"video Q-Former layer {i + 1}", layer


@contextmanager
def _outputs_of(layers: Iterator[tuple[str, nn.Module]]) -> Iterator[dict[str, list[Tensor]]]:
    """Context manager that collects the outputs of all calls of layers, by name."""
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda _module, _inputs, output: seen.setdefault(name, []).append(
            output[0] if isinstance(output, tuple) else output
        )

    with ExitStack() as stack:
        for name, layer in layers:
            stack.enter_context(layer.register_forward_hook(hook(name)))
        yield seen


def _of_frames(outputs: Sequence[Tensor], num_frames: int) -> Tensor:
    """Join the outputs of all windows, one per frame; the last window may have more tokens than frames."""
    return torch.cat([output.flatten(0, 1) for output in outputs])[:num_frames]


def _language_states(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, times: np.ndarray, video_tokens: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Yield the states of the video tokens after every layer of the language model, which no question changes."""
    before = processor.render_prompt(times, QUESTION).partition(VIDEO_PLACEHOLDER)[0]
    ids = processor.tokenizer(before).input_ids + [model.config.image_token_id] * video_tokens.shape[1]
    outputs = model.language_model.model(
        inputs_embeds=model.embed_prompt(torch.tensor([ids]), video_tokens), output_hidden_states=True, use_cache=False
    )
    for i, states in enumerate(outputs.hidden_states[1:]):
        yield f"language model layer {i + 1}", states[0, -video_tokens.shape[1] :]


# ---------------------------------------------------------------------------------------------------- probes


def action_labels(video: SyntheticVideo) -> Tensor:
    """Return the current actions of the first minute of a video, bool `(frames, NUM_ROWS, NUM_KINDS)`."""
    return row_labels(torch.from_numpy(state_labels(video, _times(video))))[..., :NUM_KINDS] > 0


def with_context(outputs: Tensor, context: int) -> Tensor:
    """Join the outputs `(frames, ..., width)` of every frame and of the frames around it; the border is repeated."""
    places = torch.arange(len(outputs))
    around = [outputs[(places + i).clamp(0, len(outputs) - 1)] for i in range(-context, context + 1)]
    return torch.cat(around, dim=-1)


class Probe(nn.Module):
    """A linear layer on normalized inputs, or two with a hidden size."""

    def __init__(self, inputs: Tensor, num_outputs: int, hidden: int) -> None:
        super().__init__()
        width, flat = inputs.shape[-1], inputs.flatten(0, -2)
        self.register_buffer("mean", flat.mean(dim=0))
        self.register_buffer("scale", flat.std(dim=0).clamp(min=1e-4))
        head = nn.Linear(hidden or width, num_outputs)
        nn.init.zeros_(head.weight)
        nn.init.constant_(head.bias, -3.0)
        self.read = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), head) if hidden else head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of inputs `(..., width)`."""
        return self.read((inputs - self.mean) / self.scale)  # type: ignore[no-any-return]


def fit(
    inputs: Tensor, target: Tensor, *, steps: int, hidden: int, seed: int, rate: float = 3e-3
) -> Callable[[Tensor], Tensor]:
    """Fit a probe and its threshold; return the function from inputs to predicted masks.

    The last fifth of the frames is for the threshold.

    Args:
        inputs: Inputs `(frames, ..., width)`.
        target: Labels `(frames, ..., outputs)`, bool.
        steps: Number of steps, each of 512 frames.
        hidden: Size of a hidden layer; 0 has none.
        seed: Random seed of the batches and of a hidden layer.
        rate: Highest learning rate.
    """
    num_fitted = len(inputs) * 4 // 5
    inputs, held_out = inputs[:num_fitted], inputs[num_fitted:]
    target, held_out_target = target[:num_fitted], target[num_fitted:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = Probe(inputs, target.shape[-1], hidden)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        labels = target.float()
        weight = torch.where(target, _POSITIVE_WEIGHT, 1.0)
        for _ in range(steps):
            chosen = torch.randint(len(inputs), (_BATCH,))
            loss = F.binary_cross_entropy_with_logits(probe(inputs[chosen]), labels[chosen], weight[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    probe.eval().requires_grad_(requires_grad=False)
    logits = probe(held_out)
    cuts = torch.linspace(-4, 4, _THRESHOLDS)
    best = max(cuts.tolist(), key=lambda cut: Score.of(logits > cut, held_out_target).f1)
    return lambda values: probe(values) > best


@dataclass(frozen=True)
class Reading:
    """What the probes of one layer read in the videos of one level."""

    layer: str
    level: int
    acts: Score
    kinds: Score


def probe_layer(
    layer: Layer,
    fitted: Sequence[SyntheticVideo],
    tested: Sequence[SyntheticVideo],
    *,
    context: int,
    steps: int,
    hidden: int,
    seed: int,
) -> list[Reading]:
    """Fit the probes of a layer on the first videos of its outputs, and test them on the others, level by level."""
    inputs = [with_context(outputs, context) for outputs in layer.outputs]
    has_rows = inputs[0].ndim == 3
    labels = [action_labels(video) for video in fitted]
    own, target = torch.cat(inputs[: len(fitted)]), torch.cat(labels)  # (frames, NUM_ROWS, NUM_KINDS)
    options = {"steps": steps, "hidden": hidden, "seed": seed}
    if has_rows:
        read_acts = fit(own, target, **options)  # type: ignore[arg-type]
        read_kinds = None
    else:
        read_acts = fit(own, target.flatten(1), **options)  # type: ignore[arg-type]
        read_kinds = fit(own, target.any(dim=1), **options)  # type: ignore[arg-type]
    readings = []
    for level in sorted({video.level for video in tested}):
        places = [i for i, video in enumerate(tested) if video.level == level]
        values = torch.cat([inputs[len(fitted) + i] for i in places])
        truth = torch.cat([action_labels(tested[i]) for i in places])
        acts = read_acts(values).view(truth.shape)
        kinds = acts.any(dim=1) if read_kinds is None else read_kinds(values)
        readings.append(Reading(layer.name, level, Score.of(acts, truth), Score.of(kinds, truth.any(dim=1))))
    return readings


def table(readings: Sequence[Reading]) -> str:
    """Return the Markdown table of all readings, one row for each layer and level."""
    lines = ["| layer | level | acts found | acts right | acts F1 | kinds F1 |", "|---|---|---|---|---|---|"]
    for one in readings:
        numbers = (one.acts.found, one.acts.right, one.acts.f1, one.kinds.f1)
        lines.append(f"| {one.layer} | {one.level} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- grounding


def measure_grounding(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, level: Level, num_videos: int, seed: int
) -> dict[str, float]:
    """Return the grounding metrics on videos of the test split of one level."""
    videos = [
        draw_validation_video(
            write_scene(seed, i, level=level, split="test"),
            lambda scene: default_times(scene, model.config),
            size=model.config.vision_config.image_size,
        )
        for i in range(num_videos)
    ]
    return validate_grounding(model, processor, videos)


def draw_scenes(seed: int, count: int, levels: Sequence[Level], split: Split) -> list[SyntheticVideo]:
    """Return the scripts of videos whose levels take turns."""
    return [write_scene(seed, i, level=levels[i % len(levels)], split=split) for i in range(count)]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano", help="model, or folder of a training stage (default: nano)")
    parser.add_argument("--levels", type=int, nargs="+", choices=LEVELS, default=[1], help="levels of the videos")
    parser.add_argument("--fit", type=int, default=80, help="number of videos to fit the probes on")
    parser.add_argument("--test", type=int, default=24, help="number of videos to test the probes on")
    parser.add_argument("--context", type=int, default=2, help="number of frames on each side that a probe reads")
    parser.add_argument("--steps", type=int, default=400, help="number of steps of each probe")
    parser.add_argument("--hidden", type=int, default=0, help="size of a hidden layer of the probes (default: none)")
    parser.add_argument("--grounding", type=int, default=16, help="number of videos of each level for grounding")
    parser.add_argument("--layers", nargs="+", default=[""], help="parts of names of layers (default: all layers)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of videos and probes")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    return parser.parse_args(arguments)


def main() -> None:
    """Print the table."""
    options = parse_arguments()
    model, processor = load(options.model)
    fitted = draw_scenes(options.seed + 7000, options.fit, options.levels, "train")
    tested = draw_scenes(options.seed + 7000, options.test, options.levels, "test")
    layers = read_layers(model, processor, [*fitted, *tested], options.seed)
    sizes = {"context": options.context, "steps": options.steps, "hidden": options.hidden, "seed": options.seed}
    readings = [
        reading
        for layer in layers
        if any(part in layer.name for part in options.layers)
        for reading in probe_layer(layer, fitted, tested, **sizes)
    ]
    print(table(readings))
    grounding = {}
    for level in options.levels if options.grounding else ():
        metrics = grounding[level] = measure_grounding(model, processor, level, options.grounding, options.seed + 7000)
        print(
            f"\nlevel {level}, {options.grounding} videos: R@1 at IoU 0.5 {metrics['r1_iou_0.5']:.3f}, "
            f"at IoU 0.7 {metrics['r1_iou_0.7']:.3f}; on a different event {metrics['other_event']:.3f} "
            f"(asked minus different {metrics['margin_other_event']:.3f}); a random event {metrics['random_event']:.3f}"
        )
    if options.json:
        rows = [
            {"layer": one.layer, "level": one.level, "acts": vars(one.acts), "kinds": vars(one.kinds)}
            for one in readings
        ]
        content = {"model": options.model, "probes": rows, "grounding": grounding}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
