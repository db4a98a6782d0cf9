"""Settings of training samples: frames and text of a record."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from timechat.answers.prompts import TRAINING_SYSTEM_PROMPT
from timechat.data.records import Record
from timechat.speech import add_transcript
from timechat.video import Frames, VideoSource, load_frames

Sampling = Literal["random", "uniform"]
VideoLoader = Callable[[Record], VideoSource | Frames]
"""Function that returns the input of `load_frames` for a record."""


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Settings for making a sample from a record.

    Attributes:
        num_frames: Number of frames per video, unless `fps` is given.
        fps: Frames per second of video, instead of `num_frames`.
        max_frames: Maximum number of frames per video with `fps`.
        sampling: Position of the frame in each of equal intervals: `random`, anywhere; `uniform`, at its start. The
            original never samples the last frame of an interval; this implementation does.
        augmentation: Whether to use random resized crops.
        max_length: Maximum number of tokens of a conversation; longer ones are truncated.
        system: System prompt.
        transcripts: Whether to put the transcript of the video, if known, before the first question.
        timeout: Maximum time to read one video, in seconds.
    """

    num_frames: int = 96
    fps: float | None = None
    max_frames: int | None = None
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
    """Read the frames of a record, with times on the clock of the record.

    Args:
        record: Record of a video or a part of it.
        settings: Sampling settings and time limit.
        size: Side of the square frames, in pixels.
        source: Input to read; None opens the file of the record.
        generator: Random number generator for the position of a frame in its interval; None takes the start of each.

    Raises:
        VideoError: The video cannot be read.
    """
    frames = load_frames(
        record.video if source is None else source,
        num_frames=settings.num_frames,
        fps=settings.fps,
        max_frames=settings.max_frames,
        start=record.start,
        end=record.end,
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
    """Return the turns of a record, with the transcript before the first question if `transcripts` is set."""
    turns = record.turns
    if transcripts and record.transcript is not None:
        turns[0] = (add_transcript(turns[0][0], record.transcript), turns[0][1])
    return turns
