"""The video loader of the plug-in: frames by `load_frames`, with the times at which they are shown."""

from typing import Any

import numpy as np
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader

from timechat.backbones.timechat.vllm_plugin import VIDEO_LOADER
from timechat.video import load_frames

_OPTIONS = ("fps", "max_frames", "start", "end", "timestamps", "size", "interpolation", "sampling")


@VIDEO_LOADER_REGISTRY.register(VIDEO_LOADER)
class TimeChatVideoLoader(VideoLoader):  # type: ignore[misc]
    """Reads a video file on its own clock, also with a variable frame rate, a late start or an edit list."""

    @classmethod
    def load_bytes(cls, data: bytes, num_frames: int = -1, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Decode frames of a video.

        Args:
            data: Content of the file.
            num_frames: Number of frames; -1 leaves it to `fps`.
            kwargs: Options of `load_frames`: `fps`, `max_frames`, `start`, `end`, `timestamps`, `size`,
                `interpolation` and `sampling`.

        Returns:
            Frames `(frames, height, width, 3)` uint8, and a mapping with their `timestamps` and the `duration`, in
            seconds.

        Raises:
            ValueError: An option is unknown, or the video cannot be read.
        """
        if unknown := sorted(kwargs.keys() - {*_OPTIONS}):
            raise ValueError(f"the video options are {', '.join(_OPTIONS)} and num_frames, got {', '.join(unknown)}")
        has_rate = kwargs.get("fps") is not None or kwargs.get("timestamps") is not None
        number = None if num_frames < 0 or has_rate else num_frames
        if isinstance(side := kwargs.get("size"), int):
            kwargs["size"] = (side, side)
        frames = load_frames(data, **{"num_frames": number, **kwargs})
        times = frames.timestamps.tolist()
        return frames.pixels, {"timestamps": times, "duration": frames.duration, "total_num_frames": len(times)}
