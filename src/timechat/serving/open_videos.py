"""Videos that requests have open: requests about one video share its windows."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from timechat.backbones.backbone import acquire
from timechat.pipeline import FrameSampling, TimeChat, VideoSession, WindowConfig
from timechat.serving.videos import VideoFile


class OpenVideos:
    """Cache of open videos with their tokens; the least recently used ones are closed."""

    def __init__(self, max_idle: int) -> None:
        """Create an empty cache.

        Args:
            max_idle: Maximum number of open videos that no request uses.
        """
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._videos: OrderedDict[Any, _OpenVideo] = OrderedDict()

    @contextmanager
    def acquire(
        self,
        timechat: TimeChat,
        file: VideoFile,
        windows: WindowConfig,
        sampling: FrameSampling,
        *,
        as_one_window: bool = False,
        adapter: str = "",
    ) -> Iterator[VideoSession]:
        """Keep a video open for a `with` block; `timechat` opens it if it is not open.

        Args:
            timechat: Pipeline of the request.
            file: The video.
            windows: Options of the windows.
            sampling: Frame options.
            as_one_window: Whether all frames of `file.frames` are read, in one window.
            adapter: LoRA adapter of the request; an open video has the answers of one.
        """
        key = (file.key, windows, sampling, adapter)
        with self._lock:
            shared = self._videos.setdefault(key, _OpenVideo())
            self._videos.move_to_end(key)
            shared.num_users += 1
        try:
            # Another request for the same video waits until it is open.
            with acquire(shared.lock, timechat.backbone.check):
                if shared.video is None:
                    source = file.frames if file.path is None else file.path
                    assert source is not None
                    if as_one_window:
                        shared.video = VideoSession.from_encoded(timechat.encode(source))
                    else:
                        shared.video = timechat.open(source, windows=windows, sampling=sampling, keep_in_memory=True)
            yield shared.video
        finally:
            with self._lock:
                shared.num_users -= 1
                if shared.video is None and not shared.num_users:
                    self._videos.pop(key, None)
            self._close_idle()

    def close(self) -> None:
        """Close all videos that no request uses."""
        self._max_idle = 0
        self._close_idle()

    def _close_idle(self) -> None:
        closed = []
        with self._lock:
            idle = [key for key, shared in self._videos.items() if not shared.num_users]
            for key in idle[: max(0, len(idle) - self._max_idle)]:
                closed.append(self._videos.pop(key).video)
        for video in closed:  # without the lock: it may have to wait for frames that are being decoded
            if video is not None:
                video.close()


class _OpenVideo:
    def __init__(self) -> None:
        self.video: VideoSession | None = None
        self.lock = threading.Lock()
        self.num_users = 0
