"""Frames and video tokens: which frame of a window each of its video tokens stands for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from timechat.model.configuration import TimeChatConfig


def frames_per_token(config: TimeChatConfig) -> int:
    """Return the number of frames of the part of a window that a video token stands for; 1 in the built-in model.

    Raises:
        ValueError: Windows overlap or leave frames out, or their tokens cannot have equal parts of whole frames.
    """
    size, tokens = config.window_size, config.num_video_query_tokens
    if size == 0 or size != config.stride or size % tokens:
        raise ValueError(
            f"nano's training needs a window_size that equals the stride and is a multiple of num_video_query_tokens, "
            f"got window_size={size}, stride={config.stride} and num_video_query_tokens={tokens}"
        )
    return size // tokens


def token_frames(config: TimeChatConfig, num_frames: int) -> NDArray[np.int64]:
    """Return the frame that each video token of a video stands for, `(tokens,)`.

    This is the frame in the middle of the token's part of the window. The last window may be shorter; tokens after its
    end stand for the last frame.
    """
    each = frames_per_token(config)
    middles = np.arange(config.num_video_tokens(num_frames)) * each + each // 2
    return middles.clip(max=num_frames - 1)


def token_at_frame(frame: int, frames_per_token: int) -> int:
    """Return the first video token that stands for a frame or for a later one."""
    return max(0, -(-(frame - frames_per_token // 2) // frames_per_token))
