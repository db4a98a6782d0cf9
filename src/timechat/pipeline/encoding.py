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

_FRAMES_PER_BATCH = {"cpu": 8}
_FRAMES_PER_BATCH_ON_GPU = 32


@torch.inference_mode()
def encode_frames(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    frames: Frames,
    progress: Callable[[int, int], None] | None = None,
    *,
    shown_timestamps: ArrayLike | None = None,
    encode: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Encode frames, told the times that they bear, into frame tokens `(1, frames, tokens, hidden)`.

    Args:
        model: In evaluation mode.
        processor: The model's.
        frames: All frames of one video, or of one window.
        progress: Told how many frames are done and how many there are.
        shown_timestamps: `(frames,)` seconds that the frames are told instead of their own, to see what becomes of it.
        encode: Encodes a piece instead of the model's `get_frame_features`, with its arguments.
    """
    encode = encode or model.get_frame_features
    times = frames.timestamps if shown_timestamps is None else np.asarray(shown_timestamps, dtype=np.float64)
    input_ids, attention_mask = processor.encode_timestamps(times)
    at_once = _FRAMES_PER_BATCH.get(model.device.type, _FRAMES_PER_BATCH_ON_GPU)
    tokens = []
    for first in range(0, len(frames), at_once):
        part = slice(first, first + at_once)
        piece = replace(frames, pixels=frames.pixels[part], timestamps=frames.timestamps[part])
        inputs = (processor.normalize(piece), input_ids[part], attention_mask[part])
        tokens.append(encode(*(tensor[None].to(model.device) for tensor in inputs)))
        if progress is not None:
            progress(min(first + at_once, len(frames)), len(frames))
    return torch.cat(tokens, dim=1)


@torch.inference_mode()
def compress_frames(model: TimeChatForConditionalGeneration, frame_tokens: Tensor) -> Tensor:
    """Compress frame tokens, `(1, frames, tokens, hidden)`, into `(video tokens, text hidden)`."""
    return model.video_qformer(frame_tokens)[0]  # type: ignore[no-any-return]


def to_window_clock(frames: Frames, start: float, time_scale: float) -> Frames:
    """The frames of a window with times on its own clock, which starts at `start` seconds of the video."""
    if start == 0 and time_scale == 1:
        return frames
    return replace(frames, timestamps=np.maximum(frames.timestamps - start, 0.0) / time_scale)
