"""A session with a video of any length that is encoded window by window in bounded memory."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from timechat.answers.windows import Window, WindowConfig
from timechat.backbones.backbone import Backbone, EncodedVideo, acquire
from timechat.pipeline.request import WindowPlan, check_start, plan_windows
from timechat.video import Frames, FrameSampling, VideoIndex, VideoSource

if TYPE_CHECKING:
    from timechat.pipeline.window_encoder import WindowEncoder
    from timechat.search.video_vectors import VideoVectors

Result = TypeVar("Result")

_MAX_KEPT_BYTES = 1 << 30  # of the windows of one video in memory; windows of large models have hundreds of megabytes

Video = VideoSource | Frames
ProgressCallback = Callable[[str, int, int], None]
"""Called with a stage (`"decode"`, `"encode"`, `"windows"`), the number of finished parts and the number of parts."""


def to_window_clock(frames: Frames, start: float, time_scale: float) -> Frames:
    """Return frames with times on the clock of a window that starts at `start` seconds of the video."""
    if start == 0 and time_scale == 1:
        return frames
    return replace(frames, timestamps=np.maximum(frames.timestamps - start, 0.0) / time_scale)


# ------------------------------------------------------------------------------------------------- the session


class VideoSession:
    """A video with its windows, which are encoded when a request needs them; a context manager.

    Attributes:
        plan: Windows and frames.
        duration: Duration of the video in seconds.
        name: Path, address or display name; None for ready-made frames without one.
        info: Properties of the file; None for ready-made frames without a file and for windows encoded before.
        timings: Seconds spent so far by stage: `"decode"` (waiting for frames), `"encode"`, `"answer"`; empty for a
            video that was encoded before the session.
        batch_size: Number of windows that are answered in one batch.
        cache: Windows and answers of this video on disk; None if nothing is kept.
        vectors: Frames as vectors of a frame-text encoder, by its fingerprint; `vectors_lock` is held to add some.
    """

    def __init__(
        self,
        plan: WindowPlan,
        duration: float,
        *,
        encoder: "WindowEncoder | None" = None,
        encoded: Iterable[EncodedVideo] | None = None,
        batch_size: int = 1,
    ) -> None:
        """Make a session; `open` and `from_encoded` are the usual ways to do so.

        Args:
            plan: Windows and frames.
            duration: Duration of the video in seconds.
            encoder: Encoder of the windows; None if all of them are in `encoded`.
            encoded: Windows in memory, to which encoded ones are added; None keeps no window in memory.
            batch_size: Number of windows that are answered in one batch.
        """
        windows = list(encoded or ())
        self.plan, self.duration, self.batch_size = plan, duration, batch_size
        self._encoder = encoder
        self._numbers = {window: number for number, window in enumerate(plan.windows)}
        self._kept = {window.span: window for window in windows}
        self._to_keep = set() if encoded is None else set(plan.windows)
        self._kept_bytes = 0
        self._keeping = threading.Lock()
        self.name = encoder.name if encoder else next((window.name for window in windows), None)
        self.info = encoder.info if encoder else None
        offsets = [window.player_offset for window in windows]
        self.player_offset = encoder.player_offset if encoder else max(offsets, default=0.0)
        self.cache = encoder.cache if encoder else None
        self.timings = {"decode": 0.0, "encode": 0.0, "answer": 0.0} if encoder else {}
        self._lock = threading.Lock()
        self.vectors: dict[str, VideoVectors] = {}
        self.vectors_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        encoder: "WindowEncoder",
        windows: WindowConfig,
        sampling: FrameSampling,
        *,
        keep_in_memory: bool = False,
    ) -> "VideoSession":
        """Plan the windows of an open video.

        Args:
            encoder: Encoder of the open video; closed if this fails.
            windows: Options of the windows.
            sampling: Frame options.
            keep_in_memory: Whether encoded windows stay in memory for the next request, up to 1 GiB.

        Raises:
            VideoError: The video ends before `sampling.start`.
        """
        try:
            check_start(encoder.name or "frames", encoder.duration, sampling)
            plan = plan_windows(encoder.backbone.config, encoder.duration, windows, sampling)
        except BaseException:
            encoder.close()
            raise
        encoded: tuple[EncodedVideo, ...] | None = () if keep_in_memory else None
        return cls(plan, encoder.duration, encoder=encoder, encoded=encoded, batch_size=windows.batch_size)

    @classmethod
    def of(cls, video: "EncodedVideo | VideoSession") -> "VideoSession":
        """Return the session of a video that is open or encoded."""
        return cls.from_encoded(video) if isinstance(video, EncodedVideo) else video

    @classmethod
    def from_encoded(cls, encoded: EncodedVideo) -> "VideoSession":
        """Return the session of a video, or of one window, that is already encoded."""
        plan = WindowPlan((encoded.span,), FrameSampling(), encoded.frame_interval, refines=False)
        return cls(plan, encoded.duration, encoded=[encoded])

    def __enter__(self) -> "VideoSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; windows that are in memory can still be asked about."""
        if self._encoder is not None:
            self._encoder.close()

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows in order of time."""
        return self.plan.windows

    @property
    def encoder(self) -> "WindowEncoder | None":
        """The encoder of the windows; None if all of them are in memory."""
        return self._encoder

    @property
    def index(self) -> VideoIndex | None:
        """Times of all packets of the file, for other sessions with the same file; None without a file."""
        return None if self._encoder is None else self._encoder.index

    def spread_windows(self, count: int) -> list[Window]:
        """Return up to `count` windows spread evenly over the video; they stay in memory once they are encoded."""
        total = len(self.windows)
        chosen = sorted({(2 * i + 1) * total // (2 * count) for i in range(count)})
        self._to_keep.update(spread := [self.windows[i] for i in chosen])
        return spread

    def use_frames(self, window: Window, frames: Frames) -> None:
        """Encode a window from frames that another process has decoded with `plan.window_sampling(window)`.

        They are not needed for a window that is in memory.
        """
        if window not in self._kept:
            self._open_encoder.decoded[self.plan.window_sampling(window)] = frames

    def read(self, window: Window) -> Frames:
        """Decode the frames of a window; their times are on the clock of the window."""
        frames = self._open_encoder.read(self.plan.window_sampling(window))
        return to_window_clock(frames, window.start, window.time_scale)

    def encode(
        self, windows: Sequence[Window], backbone: Backbone | None = None, progress: ProgressCallback | None = None
    ) -> Iterator[EncodedVideo]:
        """Encode windows one after the other; the frames of the next window are decoded at the same time.

        Several threads may call this at once; a window that one thread has encoded is reused by the others.

        Args:
            windows: Windows of the plan.
            backbone: The model as the caller uses it; None takes the one that opened the video.
            progress: Callback for the encoded frames of each window.
        """
        ahead: Future[Frames] | None = None
        for window, following in zip(windows, [*windows, None][1:], strict=True):
            encoded = self._find(window)
            if encoded is not None:
                ahead = None
                yield encoded
                continue
            encoder = self._open_encoder
            backbone = backbone or encoder.backbone
            # A thread that needs a window which another thread encodes waits for it and reuses the result.
            with acquire(self._lock, backbone.check):
                if (encoded := self._find(window)) is None:
                    frames = self.timed("decode", (ahead or self._read_ahead(window, backbone)).result)
                    ahead = None
                    if following is not None and self._find(following) is None:
                        ahead = self._read_ahead(following, backbone)
                    sampling = self.plan.window_sampling(window)
                    work = partial(encoder.encode, frames, window, sampling, backbone, progress)
                    encoded = self._keep(self.timed("encode", work))
                else:
                    ahead = None
            yield encoded

    def encode_whole(self, backbone: Backbone | None = None) -> EncodedVideo:
        """Encode a video that fits into one window.

        Raises:
            ValueError: The video has several windows.
        """
        if len(self.windows) > 1:
            raise ValueError(
                f"a video of {len(self.windows)} windows cannot be answered as a stream; use `run`, or `encode` it as "
                "one window"
            )
        return next(self.encode(self.windows, backbone))

    def encode_part(self, window: Window, sampling: FrameSampling, backbone: Backbone | None = None) -> EncodedVideo:
        """Encode a part of the video that is no window of the plan, with frames of its own."""
        encoder = self._open_encoder
        backbone = backbone or encoder.backbone
        if (found := encoder.find(window, sampling)) is not None:
            return found
        frames = self.timed("decode", encoder.read_ahead(sampling, backbone.check).result)
        return self.timed("encode", partial(encoder.encode, frames, window, sampling, backbone))

    def timed(self, stage: str, work: Callable[[], Result]) -> Result:
        """Do a piece of work and add its seconds to a stage of the timings."""
        began = time.perf_counter()
        try:
            return work()
        finally:
            if stage in self.timings:
                self.timings[stage] += time.perf_counter() - began

    @property
    def _open_encoder(self) -> "WindowEncoder":
        assert self._encoder is not None  # without it, every window is in memory
        return self._encoder

    def _read_ahead(self, window: Window, backbone: Backbone) -> "Future[Frames]":
        return self._open_encoder.read_ahead(self.plan.window_sampling(window), backbone.check)

    def _find(self, window: Window) -> EncodedVideo | None:
        """A window that was encoded earlier: in memory, or on disk."""
        if (kept := self._kept.get(window)) is not None:
            return kept
        found = self._open_encoder.find(window, self.plan.window_sampling(window))
        return None if found is None else self._keep(found)

    def _keep(self, encoded: EncodedVideo) -> EncodedVideo:
        """Number a window, and keep it in memory if it is to be kept and there is room for it."""
        encoded = replace(encoded, window_number=self._numbers[encoded.span])
        with self._keeping:
            if encoded.span in self._to_keep and encoded.span not in self._kept:
                total = self._kept_bytes + _num_bytes(encoded.content)
                if total <= _MAX_KEPT_BYTES:
                    self._kept[encoded.span], self._kept_bytes = encoded, total
        return self._kept.get(encoded.span, encoded)


def _num_bytes(content: Any) -> int:
    """Return the size of the content of a window: a tensor, or an object with `num_bytes`."""
    return int(content.nbytes if hasattr(content, "nbytes") else getattr(content, "num_bytes", 0))
