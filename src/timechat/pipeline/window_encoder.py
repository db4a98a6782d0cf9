"""Windows of one open video, read and encoded with one model."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from timechat.answers.windows import Window
from timechat.backbones.backbone import Backbone, EncodedVideo
from timechat.pipeline.session import ProgressCallback, Video, to_window_clock
from timechat.video import Frames, FrameSampling, VideoIndex, VideoReader, sample_video

if TYPE_CHECKING:
    from timechat.pipeline.cache import WindowCache


class WindowEncoder:
    """Reads windows of one open video and encodes them with one model.

    Attributes:
        source: The video, for other readers; None for a pipe, which can be read only once.
        duration: Duration of the video in seconds.
        name: Display name of the video; None for ready-made frames without one.
        info: Properties of the file; None for ready-made frames without a file and for windows encoded before.
        cache: Windows and answers of this video on disk; None if the cache is off or the video cannot be cached.
        backbone: The model, unless a call names it with another executor.
        timeout: Maximum wall time in seconds for reading a window.
        decoded: Frames that another process has decoded, by their frame options; each is used once.
    """

    def __init__(
        self,
        video: Video,
        backbone: Backbone,
        *,
        cache: "WindowCache | None" = None,
        name: str | None = None,
        timeout: float = 600.0,
        index: VideoIndex | None = None,
    ) -> None:
        """Open a video.

        Args:
            video: Path, address, bytes, open file, or `Frames`.
            backbone: The model, unless a call names it with another executor; its `check` can end the opening.
            cache: Windows of this video on disk; None for no cache.
            name: Display name of the video; None takes its path or address.
            timeout: Maximum wall time in seconds for opening the file, and again for reading a window.
            index: `index` of another encoder of the same file, whose packets are then not read again.
        """
        self.backbone, self.timeout = backbone, timeout
        self.source = video if _can_be_read_again(video) else None
        self._frames = video if isinstance(video, Frames) else None
        self._reader = (
            None
            if isinstance(video, Frames)
            else VideoReader(video, timeout=timeout, check=backbone.check, index=index)
        )
        info = video.source if isinstance(video, Frames) else self._reader.info  # type: ignore[union-attr]
        self.duration = video.duration if isinstance(video, Frames) else self._reader.duration  # type: ignore[union-attr]
        self.name = name if name is not None or info is None else info.name
        self.info = info
        self.player_offset = info.player_offset if info else 0.0
        self.cache = cache
        self.decoded: dict[FrameSampling, Frames] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="timechat-decode")

    def close(self) -> None:
        """Stop reading ahead and close the file."""
        self._threads.shutdown(cancel_futures=True)
        if self._reader is not None:
            self._reader.close()

    @property
    def index(self) -> VideoIndex | None:
        """Times of all packets of the file, for other encoders of the same file; None for ready-made frames."""
        return None if self._reader is None else self._reader.index

    def read(self, sampling: FrameSampling, check: Callable[[], object] | None = None) -> Frames:
        """Decode frames; their times are on the video's clock. An exception that `check` raises ends the call."""
        if sampling in self.decoded:
            return self.decoded.pop(sampling)
        if self._reader is None:
            assert self._frames is not None
            return sample_video(self._frames, sampling, size=self.backbone.frame_size(*self._frames.pixels.shape[1:3]))
        size = self.backbone.frame_size(self._reader.info.height, self._reader.info.width)
        return self._reader.load(sampling, size=size, check=check)

    def read_ahead(self, sampling: FrameSampling, check: Callable[[], object] | None = None) -> "Future[Frames]":
        """Start to decode frames in another thread."""
        return self._threads.submit(self.read, sampling, check)

    def find(self, window: Window, sampling: FrameSampling) -> EncodedVideo | None:
        """Return a window that was encoded earlier, from the cache on disk."""
        found = None if self.cache is None else self.cache.load(window, sampling)
        return None if found is None else replace(found, name=self.name, model=self.backbone.name)

    def encode(
        self,
        frames: Frames,
        window: Window,
        sampling: FrameSampling,
        backbone: Backbone,
        progress: ProgressCallback | None = None,
    ) -> EncodedVideo:
        """Encode the frames of a window, whose times are on the video's clock, and keep it in the cache on disk."""
        frames = to_window_clock(frames, window.start, window.time_scale)
        frame_cache = None
        if self.cache is not None:
            from timechat.pipeline.cache import WindowFrameCache

            frame_cache = WindowFrameCache(self.cache, window, sampling)
        report = None if progress is None else partial(progress, "encode")
        content, notes = backbone.encode(frames, frame_cache=frame_cache, progress=report)
        encoded = EncodedVideo(
            content,
            frames.timestamps,
            window.duration,
            self.name,
            (*frames.notes, *notes),
            backbone.name,
            window,
            self.player_offset,
        )
        if self.cache is not None:
            self.cache.save(window, sampling, encoded)
        return encoded


def _can_be_read_again(video: Video) -> bool:
    if isinstance(video, str | os.PathLike):
        return not Path(video).is_fifo()
    return not hasattr(video, "read") or (hasattr(video, "seekable") and video.seekable())
