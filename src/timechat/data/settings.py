"""How a record becomes what the model is shown: which frames, which words."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from timechat.answers.prompts import TRAINING_SYSTEM_PROMPT
from timechat.data.records import Record
from timechat.speech import add_transcript
from timechat.video import Frames, FrameSampling, VideoSource, sample_video

Sampling = Literal["random", "uniform"]
VideoLoader = Callable[[Record], VideoSource | Frames]
"""Gives what `load_frames` is to read for a record."""


@dataclass(frozen=True, kw_only=True)
class FrameRateSettings:
    """Number of frames of a video, in YAML files and in headers of features."""

    num_frames: int | None = None
    """Number of frames, spread evenly, unless `fps` is given."""
    fps: float | None = None
    """Frames per second of video, instead of a number of frames."""
    max_frames: int | None = None
    """Maximum number of frames with `fps`."""

    def frame_sampling(self) -> FrameSampling:
        """Return the frame options."""
        return FrameSampling(self.num_frames, self.fps, self.max_frames)


@dataclass(frozen=True, kw_only=True)
class SampleSettings(FrameRateSettings):
    """How a record becomes a sample.

    Attributes:
        num_frames: Number of frames of a video, unless `fps` is given.
        sampling: Where in each of equal intervals a frame is taken: `random`, anywhere; `uniform`, at its start.
            The original's drawing leaves out the last frame of every interval; ours does not.
        augmentation: Random resized crops.
        max_length: Tokens of a conversation; what is longer is cut.
        system: System prompt.
        transcripts: Show what is said in the video before the first question, where the record tells it.
        timeout: Seconds that reading one video may take.
    """

    num_frames: int = 96
    sampling: Sampling = "random"
    augmentation: bool = True
    max_length: int = 2048
    system: str = TRAINING_SYSTEM_PROMPT
    transcripts: bool = False
    timeout: float = 120.0

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling must be one of {', '.join(get_args(Sampling))}, got {self.sampling!r}")
        if self.timeout <= 0:
            raise ValueError(f"timeout must be seconds above 0, got {self.timeout}")


def read_frames(
    record: Record,
    settings: SampleSettings,
    *,
    size: int,
    source: VideoSource | Frames | None = None,
    generator: np.random.Generator | None = None,
) -> Frames:
    """Read the frames of a record, on the clock that it counts by.

    Args:
        record: Which part of which video.
        settings: How many frames, and how long reading may take.
        size: Pixels, of the model's square pictures.
        source: What to read; None opens the file that the record names.
        generator: Draws where in its interval a frame is taken; None takes the start of each.

    Raises:
        VideoError: The video cannot be read.
    """
    frames = sample_video(
        record.video if source is None else source,
        replace(settings.frame_sampling(), start=record.start, end=record.end),
        size=size,
        generator=generator,
        timeout=settings.timeout,
        workers=1,
    )
    if record.clock == "video":
        return frames
    start = record.start or 0.0
    end = min(frames.duration, frames.duration if record.end is None else record.end)
    return replace(frames, timestamps=np.maximum(frames.timestamps - start, 0.0), duration=max(0.0, end - start))


def conversation(record: Record, *, transcripts: bool) -> list[tuple[str, str]]:
    """Return the turns of a record, what is said in the video before the first question if `transcripts`."""
    turns = record.turns
    if transcripts and record.transcript is not None:
        turns[0] = (add_transcript(turns[0][0], record.transcript), turns[0][1])
    return turns
