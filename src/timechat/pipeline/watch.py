"""Detection of queries in a stream, window by window."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timechat.answers.events import AnsweredBy, Event
from timechat.answers.windows import Window, WindowConfig, temporal_iou
from timechat.backbones.backbone import EncodedVideo
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.model.domain import is_outside_by_notes
from timechat.pipeline.request import WindowPlan, plan_windows
from timechat.pipeline.retrieving import shared_encoder
from timechat.pipeline.session import to_window_clock
from timechat.pipeline.timechat import TimeChat
from timechat.pipeline.watch_search import StreamSearch
from timechat.search.retrieval import RetrievalConfig
from timechat.video import Frames, FrameSampling
from timechat.video.frames import FrameSize, resize
from timechat.video.live import LiveFrame

DROP_BELOW = 2.0
"""Mean difference of 8-bit pixels, in reduced frames, below which a frame counts as a duplicate of the one before."""

_REDUCED_SIZE = FrameSize(32, 32, "bicubic")
_SAME_IOU = 0.3  # temporal IoU above which detections of a query in two windows are the same
_ANY_OVERLAP = 1e-9  # the same for detections of the search, whose spans may be longer than a window
_DEFAULT_WINDOWS = WindowConfig()
_BY_MODEL = RetrievalConfig()


@dataclass(frozen=True, slots=True)
class Detection:
    """A query that happened in the stream.

    Attributes:
        query: Query that was detected.
        event: Start, end and score, on the stream's clock.
        window: Window in which it was detected.
        by: What detected it.
    """

    query: str
    event: Event
    window: Window
    by: AnsweredBy = "model"

    def to_dict(self) -> dict[str, Any]:
        """Return the detection, ready for a line of JSON."""
        return {
            "query": self.query,
            "start": self.event.start,
            "end": self.event.end,
            "score": self.event.score,
            "window": [self.window.start, self.window.end],
            "by": self.by,
        }


@dataclass(frozen=True, eq=False)
class _EncodedFrame:
    """The time of a frame, and its states from the vision tower.

    The states are the picture itself for a model that encodes whole windows, and None if only the search reads the
    stream.
    """

    time: float
    states: Any


class StreamMonitor:
    """Divides the frames of a stream into overlapping windows and looks for all queries in each.

    A window is encoded with the times of its own frames, like the same window of a file. The vision tower, which is
    most of the work, runs once for each frame when it arrives; the sentences with the frame times are encoded again in
    each window.

    A window that is unlike the videos that the model was trained on can be searched by a frame-text encoder instead
    (`RetrievalConfig.by`). A moment that continues into the next window is then reported once.

    Attributes:
        search_size: Size in pixels of the frames for the search; None if there is no search.
        step: Seconds between the frames that `watch` takes.
        notes: Sentences about the windows so far, such as that the stream is unlike the model's training videos.
        num_windows: Number of windows that were answered.
        num_frames: Number of frames that arrived.
        num_dropped: Number of frames for which the vision tower did not run, as duplicates of the frame before.
    """

    def __init__(
        self,
        timechat: TimeChat,
        queries: Sequence[str],
        *,
        windows: WindowConfig = _DEFAULT_WINDOWS,
        drop_below: float | None = DROP_BELOW,
        threshold: float | None = None,
        retrieval: RetrievalConfig = _BY_MODEL,
    ) -> None:
        """Make a monitor.

        Args:
            timechat: Model.
            queries: Descriptions of what to detect, at least one.
            windows: Options of the windows.
            drop_below: Difference to the frame before, see `DROP_BELOW`, below which a frame is a duplicate; None
                encodes every frame.
            threshold: Minimum score of a detection; None takes the model's, or the encoder's.
            retrieval: What detects: the model, the search, or the search in windows outside of the model's domain.
        """
        if not queries or any(not query.strip() for query in queries):
            raise ValueError(f"a monitor needs one or more queries in words, got {list(queries)}")
        self._timechat, self._queries = timechat, tuple(queries)
        self._drop_below, self._threshold = drop_below, threshold
        plan = _streaming_plan(timechat, windows)
        assert plan.frame_interval is not None
        self._time_scale, self.step = plan.windows[0].time_scale, plan.frame_interval
        self._length = round((plan.windows[0].end - plan.windows[0].start) / self.step)  # frames
        overlap = plan.windows[0].end - plan.windows[1].start
        self._hop = max(1, self._length - round(overlap / self.step))  # frames
        self._seen: list[_EncodedFrame] = []
        self._first = 0  # number of the first frame that is kept
        self._last_small: NDArray[np.float32] | None = None
        self._recent: list[Detection] = []
        self._by, self._search = retrieval.by, None
        if self._by == "search" or (self._by == "auto" and timechat.backbone.config.domain is not None):
            encoder = shared_encoder(retrieval.encoder)
            self._search = StreamSearch(encoder, self._queries, frame_interval=self.step, threshold=threshold)
        self.search_size = None if self._search is None else self._search.encoder.image_size
        self.notes: tuple[str, ...] = ()
        self.num_windows = self.num_frames = self.num_dropped = 0

    def watch(self, frames: Iterable[LiveFrame]) -> Iterator[Detection]:
        """Process frames, one for every `step` seconds, and yield the detections of each complete window."""
        for frame in frames:
            self._add_frame(frame)
            if len(self._seen) == self._length:
                yield from self._ask(self._first * self.step, (self._first + self._length) * self.step)
                self._seen = self._seen[self._hop :]
                self._first += self._hop
                if self._search is not None:
                    self._search.drop_before(self._first)
        if len(self._seen) > self._length - self._hop or (self._seen and not self.num_windows):
            end = max((self._first + len(self._seen)) * self.step, self._seen[-1].time)
            yield from self._ask(self._first * self.step, end)
        self._seen = []

    def _add_frame(self, frame: LiveFrame) -> None:
        """Encode a frame with the vision tower, unless it is a duplicate of the one before."""
        if self._search is not None:
            self._search.add_frame(self.num_frames, frame)
        self.num_frames += 1
        if self._by == "search":
            self._seen.append(_EncodedFrame(frame.time, None))
            return
        small = resize(frame.pixels, _REDUCED_SIZE).astype(np.float32)
        if self._is_duplicate_frame(small):
            self.num_dropped += 1
            self._seen.append(_EncodedFrame(frame.time, self._seen[-1].states))
            return
        self._last_small = small
        backbone = self._timechat.backbone
        states = backbone.frame_states(frame.pixels) if isinstance(backbone, TimeChatBackbone) else frame.pixels
        self._seen.append(_EncodedFrame(frame.time, states))

    def _is_duplicate_frame(self, small: NDArray[np.float32]) -> bool:
        if self._drop_below is None or self._last_small is None or not self._seen:
            return False
        return float(np.abs(small - self._last_small).mean()) < self._drop_below

    def encode_window(self, start: float, end: float) -> EncodedVideo:
        """Encode the frames in memory as a window of the stream."""
        backbone = self._timechat.backbone
        window = Window(start, end, self._time_scale)
        times = np.array([seen.time for seen in self._seen])
        states = [seen.states for seen in self._seen if seen.states is not None]
        clock = partial(to_window_clock, start=start, time_scale=self._time_scale)
        if isinstance(backbone, TimeChatBackbone):
            shown = clock(Frames(np.zeros((len(times), 1, 1, 3), np.uint8), times, end)).timestamps
            content, notes = backbone.encode_states(states, shown)
        else:
            frames = clock(Frames(np.stack(states), times, end))
            shown = frames.timestamps
            content, notes = backbone.encode(frames)
        return EncodedVideo(content, shown, window.duration, None, notes, backbone.name, window)

    def _ask(self, start: float, end: float) -> Iterator[Detection]:
        """Look for all queries in a complete window; detections of an earlier window are not repeated."""
        self.num_windows += 1
        self._recent = [one for one in self._recent if one.event.end >= start]
        for detection in self._detect(start, end):
            min_iou = _SAME_IOU if detection.by == "model" else _ANY_OVERLAP
            is_new = not any(
                one.query == detection.query and temporal_iou(one.event, detection.event) >= min_iou
                for one in self._recent
            )
            self._recent.append(detection)
            if is_new:
                yield detection

    def _detect(self, start: float, end: float) -> Iterator[Detection]:
        """Yield all detections in a complete window, by the model or by the search."""
        window = Window(start, end, self._time_scale)
        encoded = None if self._by == "search" else self.encode_window(start, end)
        domain = self._timechat.backbone.config.domain
        if self._search is not None and (encoded is None or is_outside_by_notes(domain, encoded.notes)):
            self._add_notes(
                [f"windows answered by the search of {self._search.encoder.name}, not by {self._timechat.name}"]
            )
            for query, event in self._search.find(start, end):
                yield Detection(query, event, window, "search")
            return
        assert encoded is not None
        self._add_notes(encoded.notes)
        for query in self._queries:
            answer = self._timechat.ground(encoded, query, find_all=True, threshold=self._threshold, by="model")
            for event in answer.events:
                yield Detection(query, event, window)

    def _add_notes(self, notes: Iterable[str]) -> None:
        self.notes += tuple(note for note in notes if note not in self.notes)


def _streaming_plan(timechat: TimeChat, window_config: WindowConfig) -> WindowPlan:
    """The plan of a stream: the first two of its windows."""
    if window_config.window == 0:
        raise ValueError("a stream has no end, so it cannot be one window; give a window of some seconds")
    config = timechat.backbone.config
    length = window_config.window or config.window_seconds * (
        1.0 if window_config.step is None else (window_config.step * (config.rate.fps or 1))
    )
    if config.rate.fps is None and window_config.step is not None and window_config.window is None:
        length = window_config.step * config.num_frames
    overlap = length / 6 if window_config.overlap is None else window_config.overlap
    plan = plan_windows(
        config, 2 * length - overlap, replace(window_config, window=length, overlap=overlap), FrameSampling()
    )
    if len(plan.windows) < 2:
        raise ValueError(
            f"windows of {length:g} s that overlap by {overlap:g} s do not advance; take a smaller overlap"
        )
    return plan
