"""Where questions are answered: one model, one question at a time, the videos of the last questions still open."""

import asyncio
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from timechat.answers.events import Answer
from timechat.serving.mcp.tools import ToolRequest

if TYPE_CHECKING:
    from timechat.pipeline import TimeChat, VideoSession

_MIN_PROGRESS_STEP = 0.01  # between two reports about frames, which come by the hundred
_OPEN_VIDEOS = 4  # each keeps some hundred kilobytes a window, and a file


class Cancelled(Exception):  # noqa: N818 - nothing is wrong
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class ProgressUpdate:
    """How far a question is.

    Attributes:
        done: Rises from 0 to `total`.
        total: Opening the video is 1, and each pass over its windows another.
        message: The same for people.
    """

    done: float
    total: float
    message: str


class ProgressTracker:
    """Turns what the pipeline reports, anew for every window and every pass, into one number that only rises."""

    def __init__(self, passes: int, tell: Callable[[ProgressUpdate], object], stop: threading.Event) -> None:
        self._passes, self._tell, self._stop = passes, tell, stop
        self._begun = 0  # passes
        self._windows = 1  # of the video
        self._seen = 0.0  # windows of this pass that have been looked at
        self._answered = 0  # and those that have been asked about
        self._last = -1.0

    def say(self, message: str) -> None:
        """Tell what is done before the first pass."""
        self._report(0.0, message)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take what the pipeline reports: windows that are answered, or frames of one window that are encoded.

        Raises:
            Stopped: Nobody waits for the answer.
        """
        if stage == "windows":
            if done < self._answered or not self._begun:
                self._begun = min(self._begun + 1, self._passes)
                self._seen = 0.0
            self._windows, self._answered, self._seen = total, done, max(self._seen, done)
            self._report(self._done, f"{done} of {total} windows")
        elif stage == "encode":
            window = math.floor(self._seen) if self._seen < self._windows else self._windows - 1
            self._seen = window + done / total
            self._report(self._done, f"looking at window {window + 1} of {self._windows}", least=_MIN_PROGRESS_STEP)

    @property
    def _done(self) -> float:
        """Looking at a window and asking about it count alike."""
        return self._begun + (self._seen + self._answered) / (2 * self._windows)

    def _report(self, done: float, message: str, least: float = 0.0) -> None:
        if self._stop.is_set():
            raise Cancelled
        if done > self._last + least:
            self._last = done
            self._tell(ProgressUpdate(done, 1.0 + self._passes, message))


@dataclass(frozen=True)
class _VideoKey:
    """A part of a file as it is now: a file that has changed since is another one."""

    path: Path
    changed_ns: int
    num_bytes: int
    start: float | None
    end: float | None

    @classmethod
    def of(cls, path: Path, job: ToolRequest) -> "_VideoKey":
        status = path.stat()
        return cls(path, status.st_mtime_ns, status.st_size, job.start, job.end)


class Worker:
    """Answers questions one after the other, on a thread of its own that alone touches the model; close it afterwards.

    The model is loaded for the first question. What was made of a video stays in memory while the video is among the
    last few that were asked about, and on disk where there is a cache.
    """

    def __init__(self, load: "Callable[[], TimeChat]") -> None:
        """Set up.

        Args:
            load: Gives the model.
        """
        self._load = load
        self._timechat: TimeChat | None = None
        self._open: OrderedDict[_VideoKey, VideoSession] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="timechat-mcp")
        self._stops: set[threading.Event] = set()

    def load(self) -> "TimeChat":
        """Load the model now, where that was not done before."""
        if self._timechat is None:
            self._timechat = self._load()
        return self._timechat

    async def answer(self, job: ToolRequest, path: Path, tell: Callable[[ProgressUpdate], object]) -> Answer:
        """Answer a question; cancelled, it ends with the frames or answers at hand, and the next question begins then.

        Args:
            job: The question.
            path: The video's file.
            tell: Told how far the work is, on the thread of the desk.
        """
        stop = threading.Event()
        self._stops.add(stop)
        try:
            return await asyncio.wrap_future(
                self._thread.submit(self._answer, job, path, ProgressTracker(job.num_passes, tell, stop))
            )
        finally:
            stop.set()
            self._stops.discard(stop)

    def close(self) -> None:
        """Stop what is being answered, and let go of the videos."""
        for stop in self._stops:
            stop.set()
        self._thread.shutdown(cancel_futures=True)
        while self._open:
            self._open.popitem()[1].close()

    def _answer(self, job: ToolRequest, path: Path, steps: ProgressTracker) -> Answer:
        from timechat.pipeline import MomentSelection, Request

        steps.say("loading the model" if self._timechat is None else "opening the video")
        timechat = self.load()
        video = self._opened(timechat, job, path)
        before = dict(video.timings)
        moments = MomentSelection(job.top_k, job.find_all, job.threshold)
        request = Request(job.task, job.query, job.history, moments=moments, cite=job.cite)
        answer = timechat.run(request, video, progress=steps)
        timings = {stage: round(seconds - before[stage], 3) for stage, seconds in video.timings.items()}
        return replace(answer, video=job.video, timings=timings)

    def _opened(self, timechat: "TimeChat", job: ToolRequest, path: Path) -> "VideoSession":
        """The part of the video that is asked about."""
        from timechat.pipeline import FrameSampling

        place = _VideoKey.of(path, job)
        video = self._open.pop(place, None)
        if video is None:
            video = timechat.open(path, sampling=FrameSampling(start=job.start, end=job.end), keep_in_memory=True)
        self._open[place] = video
        while len(self._open) > _OPEN_VIDEOS:
            self._open.popitem(last=False)[1].close()
        return video
