"""Estimates of a job before it starts: windows, frames, and seconds and memory from a quick trial."""

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from timechat.answers.tasks import TASKS
from timechat.answers.windows import Window
from timechat.backbones.backbone import WindowCost
from timechat.files.system import peak_memory_bytes
from timechat.pipeline.answering import Answerer
from timechat.pipeline.request import Request
from timechat.pipeline.session import VideoSession

_WINDOWS_OF_REFINED_MOMENT = 3  # one around its middle, or one around each border


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """The work of one request about one video.

    Attributes:
        windows: Number of windows to read.
        done: Number of windows whose answers are in the cache.
        frames: Number of frames of the other windows.
        step: Seconds of video between frames.
        seconds: Approximate wall time; 0 if all windows are in the cache.
        memory_bytes: Approximate peak memory of the process; None if the system does not report it.
        requests: Number of requests to a server; 0 for a model on this machine.
        prompt_tokens: Number of tokens of all prompts to a server; None if it is not known.
        answer_tokens: Usual number of tokens of all answers of a server; None for a model on this machine.
        megabytes_sent: Megabytes that leave this process for a server.
    """

    windows: int
    done: int
    frames: int
    step: float | None
    seconds: float
    memory_bytes: int | None
    requests: int = 0
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    megabytes_sent: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        windows = f"{self.windows} window{'' if self.windows == 1 else 's'}"
        done = f" ({self.done} done before)" if self.done else ""
        interval = "" if self.step is None else f", one every {self.step:.3g} s"
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'}{interval}"
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 1e9:.1f} GB of memory"
        return f"{windows}{done}, {frames}, about {_readable(self.seconds)}{memory}{self._sent}"

    @property
    def _sent(self) -> str:
        if not self.requests:
            return ""
        tokens = "" if self.prompt_tokens is None else f", {self.prompt_tokens} + {self.answer_tokens} tokens"
        return (
            f"; {self.requests} request{'' if self.requests == 1 else 's'}, {self.megabytes_sent:.1f} MB sent{tokens}"
        )

    def price(self, prompt: float, answer: float) -> float | None:
        """Return the price of the tokens at a server; None if their number is not known.

        Args:
            prompt: Price of a million tokens of prompts.
            answer: Price of a million tokens of answers.
        """
        if self.prompt_tokens is None or self.answer_tokens is None:
            return None
        return (self.prompt_tokens * prompt + self.answer_tokens * answer) / 1e6


def estimate_job(answerer: Answerer, request: Request, video: VideoSession) -> JobEstimate:
    """Estimate a request about an open video by a trial on the first window that is not in the cache.

    Where only the best windows are read, their number is approximate, the estimate assumes that the cache holds none of
    them, and the ranking is left out.
    """
    num_read = len(video.windows)
    if not request.retrieval.reads_all(num_read):
        num_read = max(1, math.floor(request.retrieval.read * num_read))
    todo = _open_windows(answerer, request, video)[:num_read]
    num_later = _later_windows(answerer, request, video, num_read) if answerer.backbone.config.is_remote else 0
    first = todo[0] if todo else video.windows[0]
    one = _trial(answerer, request, video, first) if todo or num_later else WindowCost()
    cost = one * len(todo)
    sent = one * (len(todo) + num_later) if one.requests else WindowCost()
    return JobEstimate(
        windows=num_read,
        done=num_read - len(todo),
        frames=round(video.plan.num_frames * len(todo) / len(video.windows)),
        step=video.plan.frame_interval,
        seconds=cost.seconds,
        memory_bytes=peak_memory_bytes(),
        requests=sent.requests,
        prompt_tokens=sent.prompt_tokens if sent.requests else None,
        answer_tokens=sent.answer_tokens if sent.requests else None,
        megabytes_sent=round(sent.num_bytes / 1e6, 3),
    )


def _open_windows(answerer: Answerer, request: Request, video: VideoSession) -> list[Window]:
    """Return the windows whose answers are not in the cache."""
    return [window for window in video.windows if answerer.find_answer(request, video, window) is None]


def _later_windows(answerer: Answerer, request: Request, video: VideoSession, num_read: int) -> int:
    """Return the maximum number of windows that are sent after the first answers, also if those are in the cache.

    Each border of a moment is refined in one more window. Citations need dense captions of all windows; their
    verification needs a further request for each sentence, whose number is not known before.
    """
    refined = 0
    if request.task == "grounding" and video.plan.refines:
        refined = _WINDOWS_OF_REFINED_MOMENT * (num_read if request.moments.find_all else request.moments.top_k)
    cites = request.cite or request.verify
    return refined + (len(_open_windows(answerer, request.for_captions(), video)[:num_read]) if cites else 0)


def _trial(answerer: Answerer, request: Request, video: VideoSession, window: Window) -> WindowCost:
    """Return the work of one window, from decoding it and a trial of the model."""
    began = time.perf_counter()
    frames = video.read(window)
    seconds = time.perf_counter() - began
    cost = answerer.backbone.measure(
        frames,
        window.duration,
        answerer.windows.question(request, window),
        answerer.windows.form(request, window.duration),
        request.decoding,
        TASKS[request.task].typical_tokens,
    )
    return replace(cost, seconds=seconds + cost.seconds)


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
