"""Frames of a window as frame tokens, and frame tokens as video tokens."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from timechat.model.frame_encoder import FRAMES_PER_BATCH_ON_CPU
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.video import Frames

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
    """Encode frames, each with the sentence that states its time, into frame tokens `(1, frames, tokens, hidden)`.

    Args:
        model: Network in evaluation mode.
        processor: Processor of the model.
        frames: All frames of one video or one window.
        progress: Callback for the number of encoded frames and the number of all frames.
        shown_timestamps: `(frames,)` seconds that the sentences state instead of the frames' own times, for ablations.
        encode: Function that encodes one batch instead of the model's `get_frame_features`, with the same arguments.
    """
    encode = encode or model.get_frame_features
    times = frames.timestamps if shown_timestamps is None else np.asarray(shown_timestamps, dtype=np.float64)
    input_ids, attention_mask = processor.encode_timestamps(times)
    batch_size = FRAMES_PER_BATCH_ON_CPU if model.device.type == "cpu" else _FRAMES_PER_BATCH_ON_GPU
    tokens = []
    for first in range(0, len(frames), batch_size):
        part = slice(first, first + batch_size)
        batch = replace(frames, pixels=frames.pixels[part], timestamps=frames.timestamps[part])
        inputs = (processor.normalize(batch), input_ids[part], attention_mask[part])
        tokens.append(encode(*(tensor[None].to(model.device) for tensor in inputs)))
        if progress is not None:
            progress(min(first + batch_size, len(frames)), len(frames))
    return torch.cat(tokens, dim=1)


@torch.inference_mode()
def compress_frames(model: TimeChatForConditionalGeneration, frame_tokens: Tensor) -> Tensor:
    """Compress frame tokens, `(1, frames, tokens, hidden)`, into video tokens `(video tokens, text hidden)`."""
    return model.video_qformer(frame_tokens)[0]  # type: ignore[no-any-return]
