"""Settings of training samples: frames and text of a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from timechat.answers.prompts import TRAINING_SYSTEM_PROMPT
from timechat.data.records import Record
from timechat.speech import add_transcript
from timechat.video import Frames, FrameSampling, FrameSize, VideoSource, sample_video
from timechat.video.loading import SINGLE_FRAME_NOTE

if TYPE_CHECKING:
    from timechat.model.processing import TimeChatProcessor

_DEFAULT_MAX_LENGTH = 2048  # as in the original; models of tests have fewer positions, and their samples are short
Sampling = Literal["random", "uniform"]
VideoLoader = Callable[[Record], VideoSource | Frames]
"""Function that returns the input of `load_frames` for a record."""


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
    """Settings for making a sample from a record.

    Attributes:
        num_frames: Number of frames per video, unless `fps` is given.
        sampling: Position of the frame in each of equal intervals: `random`, anywhere; `uniform`, at its start. The
            original never samples the last frame of an interval; this implementation does.
        augmentation: Whether to use random resized crops.
        max_length: Maximum number of tokens of a conversation; longer ones are truncated.
        system: System prompt.
        transcripts: Whether to put the transcript of the video, if known, before the first question.
        timeout: Maximum time to read one video, in seconds.
    """

    num_frames: int = 96
    sampling: Sampling = "random"
    augmentation: bool = True
    max_length: int = _DEFAULT_MAX_LENGTH
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


def check_max_length(settings: SampleSettings, processor: TimeChatProcessor) -> None:
    """Refuse conversations that are longer than the language model reads.

    Raises:
        ValueError: `max_length` is more than `max_position_embeddings` of the language model.
    """
    limit = getattr(processor.config.text_config, "max_position_embeddings", None)
    if limit is not None and settings.max_length > max(limit, _DEFAULT_MAX_LENGTH):
        raise ValueError(
            f"max_length is {settings.max_length} tokens, but the language model reads {limit} (its "
            "max_position_embeddings); lower it, or convert the checkpoint with more positions and with "
            "rope_parameters that scale them (docs/training.md#longer-conversations)"
        )


def read_frames(
    record: Record,
    settings: SampleSettings,
    *,
    size: FrameSize,
    source: VideoSource | Frames | None = None,
    generator: np.random.Generator | None = None,
) -> Frames:
    """Read the frames of a record, with times on the clock of the record.

    A still image is one frame at 0 s, as in answers, without a note about it.

    Args:
        record: Record of a video, a part of it, or an image.
        settings: Sampling settings and time limit.
        size: Size of the frames, and the filter that resizes them.
        source: Input to read; None opens the file of the record.
        generator: Random number generator for the position of a frame in its interval; None takes the start of each.

    Raises:
        VideoError: The video cannot be read.
    """
    sampling = FrameSampling(1) if record.is_image else settings.frame_sampling()
    frames = sample_video(
        record.video if source is None else source,
        replace(sampling, start=record.start, end=record.end),
        size=size,
        generator=None if record.is_image else generator,
        timeout=settings.timeout,
        workers=1,
    )
    if record.is_image:
        return replace(frames, notes=tuple(note for note in frames.notes if note != SINGLE_FRAME_NOTE))
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
