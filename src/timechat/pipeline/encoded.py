"""Videos as the language model sees them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from timechat.answers.windows import Window
from timechat.video import Frames, VideoSource

Video = VideoSource | Frames
ProgressCallback = Callable[[str, int, int], None]
"""Called with the stage (`"decode"`, `"encode"`, `"windows"`), what is done of it and what there is to do."""


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """A video, or one window of a long one, as the language model sees it; asked as often as you like.

    Attributes:
        video_tokens: `(video tokens, text hidden)`, on the model's device.
        timestamps: `(frames,)` float64 seconds: the true times of the frames that were looked at, those of a window on
            the window's own clock.
        duration: Seconds, of a window on its own clock.
        name: Path or address of the video, None for ready-made frames without one.
        notes: What a reader of the answers should know, such as frames lost to damage.
        model: Name of the model that looked; another one cannot read its tokens.
        window: Where in the video it lies; None for a video that was looked at as one.
        window_number: Number of the window in the plan of its video, from 0; see `Order`.
    """

    video_tokens: Tensor = field(repr=False)
    timestamps: NDArray[np.float64] = field(repr=False)
    duration: float
    name: str | None = None
    notes: tuple[str, ...] = ()
    model: str | None = None
    window: Window | None = None
    window_number: int = 0

    def __post_init__(self) -> None:
        timestamps = np.array(self.timestamps, dtype=np.float64)
        timestamps.setflags(write=False)
        object.__setattr__(self, "timestamps", timestamps)

    @property
    def num_frames(self) -> int:
        """Number of frames that were looked at."""
        return len(self.timestamps)

    @property
    def frame_interval(self) -> float | None:
        """Seconds of the video from frame to frame, on average; None for a single frame."""
        if self.num_frames < 2:
            return None
        pace = self.window.time_scale if self.window else 1.0
        return float(self.timestamps[-1] - self.timestamps[0]) / (self.num_frames - 1) * pace
