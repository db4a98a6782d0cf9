"""Standing queries: a stream is looked at window by window, and what is waited for is told when it happens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timechat.answers.events import Event
from timechat.answers.windows import Window, WindowConfig, temporal_iou
from timechat.pipeline import EncodedVideo, TimeChat, WindowSampling
from timechat.pipeline.encoding import compress_frames, to_window_clock
from timechat.pipeline.window_plan import WindowPlan, plan_windows
from timechat.video import Frames
from timechat.video.images import resize
from timechat.video.live import LiveFrame

DROP_BELOW = 2.0
"""Mean difference of 8-bit pixels, on small pictures, below which a frame counts as the one before."""

_SMALL = 32  # pixels
_SAME_IOU = 0.3  # of the same query in two windows
_DEFAULT_WINDOWS = WindowConfig()


@dataclass(frozen=True, slots=True)
class Detection:
    """Something that was waited for and happened.

    Attributes:
        query: That waited for it.
        event: When it happened, on the stream's clock, with its score.
        window: In which it was seen.
    """

    query: str
    event: Event
    window: Window

    def to_dict(self) -> dict[str, Any]:
        """Ready for a line of JSON."""
        return {
            "query": self.query,
            "start": self.event.start,
            "end": self.event.end,
            "score": self.event.score,
            "window": [self.window.start, self.window.end],
        }


@dataclass(frozen=True, eq=False)
class _ActiveEvent:
    """A frame and what the vision tower made of it."""

    time: float
    states: Tensor


class StreamMonitor:
    """Looks at a stream's frames as they come, in windows that overlap, and asks all queries about each.

    A window is encoded from its frames' own times, as the same window of a file would be. Vision, most of the work, is
    done once a frame, as soon as it is there; the sentences that say when it was are read anew in each window.

    Attributes:
        step: Seconds from frame to frame that are wanted.
        num_windows: Windows that were looked at.
        num_frames: Frames that came.
        num_dropped: Those of them that were so much like the one before that vision was left out.
    """

    def __init__(
        self,
        timechat: TimeChat,
        queries: Sequence[str],
        *,
        window_config: WindowConfig = _DEFAULT_WINDOWS,
        drop_below: float | None = DROP_BELOW,
        threshold: float | None = None,
    ) -> None:
        """Wait for something.

        Args:
            timechat: Who looks.
            queries: What is waited for, in words, at least one.
            window_config: In which windows.
            drop_below: Difference to the last frame that was looked at, see `DROP_BELOW`, under which vision is left
                out; None looks at every frame.
            threshold: Least score of what is told; None takes the model's.
        """
        if not queries or any(not query.strip() for query in queries):
            raise ValueError(f"a watcher needs one or more queries in words, got {list(queries)}")
        self._timechat, self._queries = timechat, tuple(queries)
        self._drop_below, self._threshold = drop_below, threshold
        plan = _streaming_plan(timechat, window_config)
        self._pace, self.step = plan.windows[0].time_scale, plan.frame_interval
        self._length = round((plan.windows[0].end - plan.windows[0].start) / self.step)  # frames
        overlap = plan.windows[0].end - plan.windows[1].start
        self._hop = max(1, self._length - round(overlap / self.step))  # frames
        self._seen: list[_ActiveEvent] = []
        self._first = 0  # number of the first frame that is kept
        self._last_small: NDArray[np.float32] | None = None
        self._told: list[Detection] = []
        self.num_windows = self.num_frames = self.num_dropped = 0

    def watch(self, frames: Iterable[LiveFrame]) -> Iterator[Detection]:
        """Look at frames, one for every `step`, and yield what happens as soon as its window is over."""
        for frame in frames:
            self._process_window(frame)
            if len(self._seen) == self._length:
                yield from self._ask(self._first * self.step, (self._first + self._length) * self.step)
                self._seen = self._seen[self._hop :]
                self._first += self._hop
        if len(self._seen) > self._length - self._hop or (self._seen and not self.num_windows):
            end = max((self._first + len(self._seen)) * self.step, self._seen[-1].time)
            yield from self._ask(self._first * self.step, end)
        self._seen = []

    @torch.inference_mode()
    def _process_window(self, frame: LiveFrame) -> None:
        """Let the vision tower see a frame, unless it is as good as the one before."""
        self.num_frames += 1
        small = resize(frame.pixels, _SMALL, _SMALL).astype(np.float32)
        if self._is_duplicate_frame(small):
            self.num_dropped += 1
            self._seen.append(_ActiveEvent(frame.time, self._seen[-1].states))
            return
        self._last_small = small
        model, processor = self._timechat.model, self._timechat.processor
        pixels = processor.normalize(Frames(frame.pixels[None], np.zeros(1), 0.0))
        self._seen.append(_ActiveEvent(frame.time, model.frame_encoder.vision_states(pixels.to(model.device))))

    def _is_duplicate_frame(self, small: NDArray[np.float32]) -> bool:
        if self._drop_below is None or self._last_small is None or not self._seen:
            return False
        return float(np.abs(small - self._last_small).mean()) < self._drop_below

    def encode_window(self, start: float, end: float) -> EncodedVideo:
        """Encode the frames that are kept as a window of the stream."""
        model, processor = self._timechat.model, self._timechat.processor
        window = Window(start, end, self._pace)
        times = np.array([seen.time for seen in self._seen])
        blank = np.zeros((len(times), 1, 1, 3), np.uint8)
        told = to_window_clock(Frames(blank, times, end), start, self._pace).timestamps
        input_ids, mask = processor.encode_timestamps(told)
        states = torch.cat([seen.states for seen in self._seen])
        with torch.inference_mode():
            tokens = model.get_frame_features(
                None, input_ids[None].to(model.device), mask[None].to(model.device), vision_states=states[None]
            )
            video_tokens = compress_frames(model, tokens)
        return EncodedVideo(video_tokens, told, window.duration, None, (), self._timechat.name, window)

    def _ask(self, start: float, end: float) -> Iterator[Detection]:
        """Ask all queries about the window that is over; what an earlier window has told already is not told again."""
        self.num_windows += 1
        encoded = self.encode_window(start, end)
        assert encoded.window is not None
        self._told = [one for one in self._told if one.event.end >= start]
        for query in self._queries:
            answer = self._timechat.ground(encoded, query, find_all=True, threshold=self._threshold)
            for event in answer.events:
                sighting = Detection(query, event, encoded.window)
                is_new = not any(
                    one.query == query and temporal_iou(one.event, event) >= _SAME_IOU for one in self._told
                )
                self._told.append(sighting)
                if is_new:
                    yield sighting


def _streaming_plan(timechat: TimeChat, window_config: WindowConfig) -> WindowPlan:
    """The plan of a video that goes on, at least for two windows."""
    if window_config.window == 0:
        raise ValueError("a stream has no end that could be waited for; give a window of some seconds")
    config = timechat.model.config
    length = window_config.window or config.window_seconds * (
        1.0 if window_config.step is None else (window_config.step * (config.fps or 1))
    )
    if config.fps is None and window_config.step is not None and window_config.window is None:
        length = window_config.step * config.max_frame_positions
    overlap = length / 6 if window_config.overlap is None else window_config.overlap
    plan = plan_windows(
        config, 2 * length - overlap, replace(window_config, window=length, overlap=overlap), WindowSampling()
    )
    if len(plan.windows) < 2:
        raise ValueError(f"windows of {length:g} s that overlap by {overlap:g} s do not go on; take a smaller overlap")
    return plan
