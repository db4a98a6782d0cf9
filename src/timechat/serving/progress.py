"""Progress of a request, as one number that only rises."""

import math
from collections.abc import Callable
from dataclasses import dataclass

_MIN_STEP = 0.01  # minimum distance between two reports about frames, which come by the hundred


@dataclass(frozen=True)
class ProgressUpdate:
    """Progress of a request.

    Attributes:
        stage: `start`, or the stage of the pipeline: `encode` or `windows`.
        done: Number that rises from 0 to `total`.
        total: 1 for opening the video, plus 1 for each pass over its windows.
        message: Description for people.
    """

    stage: str
    done: float
    total: float
    message: str


class ProgressTracker:
    """Turns the progress of the pipeline, which restarts for each window and each pass, into rising updates."""

    def __init__(self, num_passes: int, report: Callable[[ProgressUpdate], object]) -> None:
        """Start at 0.

        Args:
            num_passes: Number of passes over the windows.
            report: Function that receives each update, in the thread of the pipeline.
        """
        self._num_passes, self._report = num_passes, report
        self._num_begun = 0  # passes
        self._num_windows = 1
        self._num_encoded = 0.0  # windows of this pass
        self._num_answered = 0
        self._last = -1.0

    def start(self, message: str) -> None:
        """Report what happens before the first pass."""
        self._update("start", 0.0, message)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take a progress report of the pipeline: answered windows, or encoded frames of one window."""
        if stage == "windows":
            if done < self._num_answered or not self._num_begun:
                self._num_begun = min(self._num_begun + 1, self._num_passes)
                self._num_encoded = 0.0
            self._num_windows, self._num_answered = total, done
            self._num_encoded = max(self._num_encoded, done)
            self._update(stage, self._done, f"{done} of {total} windows")
        elif stage == "encode":
            window = math.floor(self._num_encoded) if self._num_encoded < self._num_windows else self._num_windows - 1
            self._num_encoded = window + done / total
            message = f"looking at window {window + 1} of {self._num_windows}"
            self._update(stage, self._done, message, min_step=_MIN_STEP)

    @property
    def _done(self) -> float:
        """Encoding a window and answering about it count alike."""
        return self._num_begun + (self._num_encoded + self._num_answered) / (2 * self._num_windows)

    def _update(self, stage: str, done: float, message: str, min_step: float = 0.0) -> None:
        if done > self._last + min_step:
            self._last = done
            self._report(ProgressUpdate(stage, done, 1.0 + self._num_passes, message))
