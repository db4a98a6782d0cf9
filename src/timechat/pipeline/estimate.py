"""Estimates of a job before it starts: windows, frames, and seconds and memory from a quick trial."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from timechat.answers.tasks import TASKS, DecodingOptions
from timechat.answers.windows import Window
from timechat.pipeline.answering import Answerer
from timechat.pipeline.request import Request
from timechat.pipeline.session import EncodedVideo, VideoSession, compress_frames, encode_frames
from timechat.system import peak_memory_bytes

Result = TypeVar("Result")

_TRIAL_FRAMES = 8
_TRIAL_TOKENS = 16


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
    """

    windows: int
    done: int
    frames: int
    step: float | None
    seconds: float
    memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        windows = f"{self.windows} window{'' if self.windows == 1 else 's'}"
        done = f" ({self.done} done before)" if self.done else ""
        interval = "" if self.step is None else f", one every {self.step:.3g} s"
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'}{interval}"
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 1e9:.1f} GB of memory"
        return f"{windows}{done}, {frames}, about {_readable(self.seconds)}{memory}"


@torch.inference_mode()
def estimate_job(answerer: Answerer, request: Request, video: VideoSession) -> JobEstimate:
    """Estimate a request about an open video by a trial on the first window that is not in the cache.

    Where only the best windows are read, their number is approximate, the estimate assumes that the cache holds none of
    them, and the ranking is left out.
    """
    num_read = len(video.windows)
    if not request.retrieval.reads_all(num_read):
        num_read = max(1, math.floor(request.retrieval.read * num_read))
    open_windows = [window for window in video.windows if answerer.find_answer(request, video, window) is None]
    todo = open_windows[:num_read]
    seconds = _trial(answerer, request, video, todo[0]) * len(todo) if todo else 0.0
    return JobEstimate(
        windows=num_read,
        done=num_read - len(todo),
        frames=round(video.plan.num_frames * len(todo) / len(video.windows)),
        step=video.plan.frame_interval,
        seconds=seconds,
        memory_bytes=peak_memory_bytes(),
    )


def _trial(answerer: Answerer, request: Request, video: VideoSession, window: Window) -> float:
    """Seconds for one window, from decoding it, encoding a few of its frames and writing the start of an answer."""
    model = answerer.model
    frames, decode = _timed(partial(video.read, window))
    few = replace(frames, pixels=frames.pixels[:_TRIAL_FRAMES], timestamps=frames.timestamps[:_TRIAL_FRAMES])
    tokens, encode = _timed(partial(encode_frames, model, answerer.processor, few))
    tokens = tokens.repeat(1, -(-len(frames) // len(few)), 1, 1)[:, : len(frames)]
    timestamps = frames.timestamps - frames.timestamps[0]
    encoded = EncodedVideo(compress_frames(model, tokens), timestamps, window.duration)
    trial = replace(
        request, decoding=DecodingOptions(max_new_tokens=_TRIAL_TOKENS, num_beams=request.decoding.num_beams)
    )
    (output,), answer = _timed(lambda: answerer.generate([trial], [encoded]))
    usual = min(TASKS[request.task].typical_tokens, request.decoding.max_new_tokens)
    # The prompt takes about the time of one more token; the answer of the trial may have ended early.
    return decode + encode * len(frames) / len(few) + answer * (usual + 1) / (len(output.token_ids) + 1)


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Do a piece of work; return its result and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began
