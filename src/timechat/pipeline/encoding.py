"""Frames → frame tokens, a few frames at a time → video tokens."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.video import Frames

_FRAMES_AT_ONCE = {"cpu": 8}
_FRAMES_AT_ONCE_ELSEWHERE = 32


@torch.inference_mode()
def encode_frames(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    frames: Frames,
    progress: Callable[[int, int], None] | None = None,
    *,
    told: ArrayLike | None = None,
    look: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Encode frames, told the times that they bear, into frame tokens `(1, frames, tokens, hidden)`.

    Args:
        model: In evaluation mode.
        processor: The model's.
        frames: All frames of one video, or of one window.
        progress: Told how many frames are done and how many there are.
        told: `(frames,)` seconds that the frames are told instead of their own, to see what becomes of it.
        look: Encodes a piece instead of the model's `get_frame_features`, with its arguments.
    """
    look = look or model.get_frame_features
    times = frames.timestamps if told is None else np.asarray(told, dtype=np.float64)
    input_ids, attention_mask = processor.encode_timestamps(times)
    at_once = _FRAMES_AT_ONCE.get(model.device.type, _FRAMES_AT_ONCE_ELSEWHERE)
    tokens = []
    for first in range(0, len(frames), at_once):
        part = slice(first, first + at_once)
        piece = replace(frames, pixels=frames.pixels[part], timestamps=frames.timestamps[part])
        inputs = (processor.normalize(piece), input_ids[part], attention_mask[part])
        tokens.append(look(*(tensor[None].to(model.device) for tensor in inputs)))
        if progress is not None:
            progress(min(first + at_once, len(frames)), len(frames))
    return torch.cat(tokens, dim=1)


@torch.inference_mode()
def compress_frames(model: TimeChatForConditionalGeneration, frame_tokens: Tensor) -> Tensor:
    """Compress frame tokens, `(1, frames, tokens, hidden)`, into `(video tokens, text hidden)`."""
    return model.video_qformer(frame_tokens)[0]  # type: ignore[no-any-return]


def on_clock(frames: Frames, start: float, pace: float) -> Frames:
    """The frames of a window with times on its own clock, which starts at `start` seconds of the video."""
    if start == 0 and pace == 1:
        return frames
    return replace(frames, timestamps=np.maximum(frames.timestamps - start, 0.0) / pace)
