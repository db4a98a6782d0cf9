"""The model, the inputs, the clock and the roofline of `perf/gpu.py`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from timechat.model.configuration import TimeChatConfig
from timechat.model.generation.generate import Prompt
from timechat.model.modeling import TimeChatForConditionalGeneration

SENTENCE_TOKENS = 12  # of the time sentence of a frame


@dataclass(frozen=True)
class Shapes:
    """Sizes of the model and of the work.

    Attributes:
        config: Sizes of the model; empty for the published ones.
        frames_at_once: Number of frames in one pass of the vision tower.
        frames: Number of frames of a video.
        text_tokens: Number of text tokens of a prompt.
        new_tokens: Number of tokens of an answer.
        long_prompt: Number of tokens of the prompt of the prefill stage.
        side: Rows and columns of the matrices of the roofline.
        copy_bytes: Size of the copy of the roofline.
        repeats: Number of timed repetitions; the median counts.
    """

    config: dict[str, Any] = field(default_factory=dict)
    frames_at_once: int = 128
    frames: int = 96
    text_tokens: int = 96
    new_tokens: int = 64
    long_prompt: int = 1024
    side: int = 8192
    copy_bytes: int = 2 << 30
    repeats: int = 5


FULL = Shapes()
SMALL = Shapes(
    config={
        "vision_config": {
            "model_type": "instructblip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
        },
        "qformer_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "vocab_size": 100,
        },
        "video_qformer_config": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
        "text_config": {
            "model_type": "llama",
            "vocab_size": 90,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "num_query_tokens": 3,
        "num_video_query_tokens": 4,
        "image_token_id": 90,
    },
    frames_at_once=4,
    frames=8,
    text_tokens=8,
    new_tokens=4,
    long_prompt=24,
    side=64,
    copy_bytes=1 << 16,
    repeats=2,
)


@dataclass(frozen=True)
class Peaks:
    """Roofline of the device."""

    flops_per_second: float
    bytes_per_second: float

    def seconds(self, flops: float, num_bytes: float) -> float:
        """Return the shortest possible time of work with so many FLOPs that reads so many bytes."""
        return max(flops / self.flops_per_second, num_bytes / self.bytes_per_second)


@dataclass(frozen=True)
class Measured:
    """Result of one stage; `error` replaces the values of a stage that failed or was skipped."""

    stage: str
    rate: float | None = None
    unit: str = ""
    seconds: float | None = None
    roofline_seconds: float | None = None
    error: str | None = None

    @property
    def share(self) -> float | None:
        """Share of the roofline that was reached."""
        return None if not self.seconds or self.roofline_seconds is None else self.roofline_seconds / self.seconds


class Bench:
    """The model, its inputs and the clock of one device."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        self.shapes, self.device = shapes, device
        has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
        self.dtype = torch.bfloat16 if has_bfloat16 else torch.float16
        self.peaks = self._measure_peaks()
        self.model = self._make_model()

    # ------------------------------------------------------------------------------------------------- tools

    def timed(self, work: Callable[[], object]) -> float:
        """Return the median seconds of a piece of work, after one repetition that is not timed."""
        work()
        return statistics.median(self.once(work) for _ in range(self.shapes.repeats))

    def once(self, work: Callable[[], object]) -> float:
        """Return the seconds of a piece of work."""
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _measure_peaks(self) -> Peaks:
        side = self.shapes.side
        a, b = (torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        flops = 2 * side**3 / min(self.once(lambda: a @ b) for _ in range(2 + self.shapes.repeats))
        source = torch.zeros(self.shapes.copy_bytes, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        seconds = min(self.once(lambda: target.copy_(source)) for _ in range(2 + self.shapes.repeats))
        return Peaks(flops, 2 * self.shapes.copy_bytes / seconds)

    def _make_model(self) -> TimeChatForConditionalGeneration:
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                model = TimeChatForConditionalGeneration(TimeChatConfig(**self.shapes.config)).eval()
        finally:
            torch.set_default_dtype(before)
        model.generation_config.eos_token_id = 2
        return model.requires_grad_(False)

    def prompt(self, num_tokens: int) -> Prompt:
        """Return a prompt of text and video tokens."""
        config = self.model.config
        num_video = min(config.num_video_tokens(self.shapes.frames), num_tokens - 2)
        text = torch.randint(3, config.text_config.vocab_size, (num_tokens - num_video - 1,)).tolist()
        video = torch.randn(num_video, config.text_config.hidden_size, device=self.device, dtype=self.dtype)
        return Prompt([1, *[config.image_token_id] * num_video, *text], video)

    def pixels(self, num_frames: int) -> Tensor:
        """Return frames, `(1, frames, 3, height, width)`."""
        side = self.model.config.vision_config.image_size
        return torch.randn(1, num_frames, 3, side, side, device=self.device).to(self.dtype)

    def sentences(self) -> tuple[Tensor, Tensor]:
        """Return ids and mask of the time sentences of a video, `(1, frames, tokens)`."""
        shape = (1, self.shapes.frames, SENTENCE_TOKENS)
        ids = torch.randint(1, self.model.config.qformer_config.vocab_size, shape, device=self.device)
        return ids, torch.ones_like(ids)

    @property
    def short_prompt(self) -> int:
        """Number of tokens of the prompt of a question about a video."""
        return self.model.config.num_video_tokens(self.shapes.frames) + self.shapes.text_tokens

    def bytes_per_token(self, num_positions: int, num_rows: int = 1) -> float:
        """Return the bytes that one decode step reads: the weights of the language model and the cached states."""
        config = self.model.config.text_config
        embedding = num_bytes(self.model.get_input_embeddings())  # a step reads one row of it
        states = 2 * config.num_hidden_layers * config.hidden_size * self.dtype.itemsize * num_positions
        return num_bytes(self.model.language_model) - embedding + num_rows * states


def num_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def count_flops(work: Callable[[], object]) -> float:
    """Return the FLOPs of a piece of work, counted while it runs."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
