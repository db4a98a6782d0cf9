"""What a job will take, told before it begins: windows, frames, and seconds and memory from a quick trial."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from timechat.answers.events import Task

Result = TypeVar("Result")

TYPICAL_TOKENS: dict[Task, int] = {
    "ask": 64,
    "dense_caption": 200,
    "grounding": 16,
    "highlights": 64,
    "steps": 120,
    "summary": 100,
    "transcribe": 200,
}
"""Tokens of a usual answer about one window; a guess, only for the estimate."""


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What a job will take.

    Attributes:
        windows: Windows of the video.
        done: Windows that were answered before and will be taken over.
        frames: Frames of the windows that are left.
        step: Seconds of the video from frame to frame.
        seconds: Wall time, about; 0 where all is done.
        memory_bytes: Most memory of the process, about.
    """

    windows: int
    done: int
    frames: int
    step: float
    seconds: float
    memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        windows = f"{self.windows} window{'' if self.windows == 1 else 's'}"
        done = f" ({self.done} done before)" if self.done else ""
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'}, one every {self.step:.3g} s"
        memory = f"{self.memory_bytes / 1e9:.1f} GB of memory"
        return f"{windows}{done}, {frames}, about {_readable(self.seconds)}, {memory}"


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Do a piece of work; returns its result and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
