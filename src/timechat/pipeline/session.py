"""A video of any length, looked at window by window in bounded memory."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from timechat.answers.windows import Window, WindowConfig
from timechat.errors import VideoError
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline.cache import WindowCache
from timechat.pipeline.encoded import EncodedVideo, ProgressCallback, Video
from timechat.pipeline.encoding import compress_frames, encode_frames, to_window_clock
from timechat.pipeline.executor import Executor, LocalExecutor
from timechat.pipeline.waiting import acquire
from timechat.pipeline.window_plan import WindowPlan, WindowSampling, plan_windows
from timechat.video import Frames, VideoReader, load_frames

Result = TypeVar("Result")


class VideoSession:
    """A video that has been opened, planned in windows, and is encoded as it is asked about; a context manager.

    Attributes:
        plan: Windows and frames.
        duration: Seconds.
        name: Path or address, None for ready-made frames without one.
        fps: Average frames per second of the file, None where nobody knows.
        notes: What a reader of the answers should know, as far as frames have been looked at.
        timings: Seconds spent so far, by stage: `"decode"` (waiting for frames), `"encode"`, `"answer"`.
    """

    def __init__(
        self,
        video: Video,
        model: TimeChatForConditionalGeneration,
        processor: TimeChatProcessor,
        *,
        model_name: str,
        window_config: WindowConfig,
        sampling: WindowSampling,
        cache: WindowCache,
        keep_in_memory: bool = False,
        timeout: float = 600.0,
        check: Callable[[], object] | None = None,
    ) -> None:
        """Open a video.

        Args:
            video: Anything that `TimeChat.encode` takes.
            model: That looks.
            processor: The model's.
            model_name: Name of the model.
            window_config: In which windows.
            sampling: At which frames.
            cache: Where encoded windows are kept on disk.
            keep_in_memory: Whether encoded windows are kept in memory for the next question.
            timeout: Seconds of wall time after which reading a window is given up.
            check: Called again and again while the file is opened; what it raises ends that.
        """
        self._model, self._processor, self._model_name = model, processor, model_name
        self._reader = None if isinstance(video, Frames) else VideoReader(video, timeout=timeout, check=check)
        self._frames = video if isinstance(video, Frames) else None
        self.duration = video.duration if isinstance(video, Frames) else self._reader.duration  # type: ignore[union-attr]
        source = video.source if isinstance(video, Frames) else self._reader.info  # type: ignore[union-attr]
        self.name = source.name if source else None
        self.fps = source.fps if source else None
        self.window_config = window_config
        if sampling.start is not None and sampling.start >= self.duration:
            self._close_reader()
            raise VideoError(
                f"{self.name or 'frames'}: ends at {self.duration:.3f} s, before the start at {sampling.start:g} s"
            )
        try:
            self.plan: WindowPlan = plan_windows(model.config, self.duration, window_config, sampling)
        except ValueError:
            self._close_reader()
            raise
        self.cache = cache
        self.notes: tuple[str, ...] = ()
        self.timings = {"decode": 0.0, "encode": 0.0, "answer": 0.0}
        self._kept: dict[Window, EncodedVideo] | None = {} if keep_in_memory else None
        self._executor: Executor = LocalExecutor(model, processor)
        self._lock = threading.Lock()
        self._decode_ahead = ThreadPoolExecutor(1, thread_name_prefix="timechat-look")

    def __enter__(self) -> "VideoSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; windows that are kept in memory can still be asked about."""
        self._decode_ahead.shutdown(cancel_futures=True)
        self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows, in order of time."""
        return self.plan.windows

    def encode(
        self, windows: Sequence[Window], executor: Executor | None = None, progress: ProgressCallback | None = None
    ) -> Iterator[EncodedVideo]:
        """Encode windows one after the other; the next one's frames are decoded meanwhile.

        May be called from several threads: what one has encoded, the others take over.

        Args:
            windows: Of the plan.
            executor: Does what needs the model; None does it here.
            progress: Told of the frames of each window.
        """
        executor = executor or self._executor
        ahead: Future[Frames] | None = None
        numbers = {window: number for number, window in enumerate(self.windows)}
        for window, following in zip(windows, [*windows, None][1:], strict=True):
            encoded = self._find_encoded(window)
            # Who wants the same window waits, and takes it over.
            with nullcontext() if encoded else acquire(self._lock, executor.check):
                if encoded is None and (encoded := self._find_encoded(window)) is None:
                    frames = self.timed(
                        "decode", (ahead or self._decode_ahead.submit(self.load, window, executor.check)).result
                    )
                    ahead = None
                    if following is not None and self._needs_encoding(following):
                        ahead = self._decode_ahead.submit(self.load, following, executor.check)
                    arguments = self.plan.load_arguments(window)
                    look = partial(self._encode_window, frames, window, arguments, executor, progress)
                    encoded = self._remember(self.timed("encode", look))
                else:
                    ahead = None
            yield replace(encoded, window_number=numbers[window])

    def encode_whole(self, executor: Executor | None = None) -> EncodedVideo:
        """Encode a video that fits into one window; `executor` does what needs the model.

        Raises:
            ValueError: It takes several.
        """
        if len(self.windows) > 1:
            raise ValueError(
                f"a video of {len(self.windows)} windows is not answered as a stream; use `run`, or `encode` it, which "
                "looks at it as one"
            )
        return next(self.encode(self.windows, executor))

    def reencode_window(
        self, window: Window, load_arguments: Mapping[str, Any], executor: Executor | None = None
    ) -> EncodedVideo:
        """Encode a stretch that is no window of the plan, with frames of its own choice."""
        known = self.cache.load(window, load_arguments)
        if known is not None:
            return replace(known, name=self.name, model=self._model_name)
        executor = executor or self._executor
        frames = self.timed(
            "decode", self._decode_ahead.submit(self._load_frames, load_arguments, executor.check).result
        )
        return self.timed("encode", partial(self._encode_window, frames, window, load_arguments, executor))

    def _find_encoded(self, window: Window) -> EncodedVideo | None:
        """A window that was encoded before: in this job, or in any other whose results are on disk."""
        if self._kept is not None and window in self._kept:
            return self._kept[window]
        found = self.cache.load(window, self.plan.load_arguments(window))
        if found is None:
            return None
        self.notes += tuple(note for note in found.notes if note not in self.notes)
        return self._remember(replace(found, name=self.name, model=self._model_name))

    def _needs_encoding(self, window: Window) -> bool:
        return self._find_encoded(window) is None

    def _remember(self, encoded: EncodedVideo) -> EncodedVideo:
        if self._kept is not None and encoded.window is not None:
            self._kept[encoded.window] = encoded
        return encoded

    def load(self, window: Window, check: Callable[[], object] | None = None) -> Frames:
        """Decode the frames of a window; their times are the video's. What `check` raises ends that."""
        return self._load_frames(self.plan.load_arguments(window), check)

    def _load_frames(self, arguments: Mapping[str, Any], check: Callable[[], object] | None) -> Frames:
        size = self._model.config.vision_config.image_size
        if self._frames is not None:
            return load_frames(self._frames, **arguments, size=size)
        assert self._reader is not None
        return self._reader.load(**arguments, size=size, check=check)

    def _encode_window(
        self,
        frames: Frames,
        window: Window,
        load_arguments: Mapping[str, Any],
        executor: Executor,
        progress: ProgressCallback | None = None,
    ) -> EncodedVideo:
        frames = to_window_clock(frames, window.start, window.time_scale)
        frame_tokens = self.cache.load_frame_tokens(window, load_arguments)
        if frame_tokens is None:
            report = None if progress is None else partial(progress, "encode")
            frame_tokens = encode_frames(self._model, self._processor, frames, report, encode=executor.encode_frames)
            self.cache.save_frame_tokens(window, load_arguments, frame_tokens)
        tokens = executor.call(partial(compress_frames, self._model, frame_tokens))
        self.notes += tuple(note for note in frames.notes if note not in self.notes)
        encoded = EncodedVideo(
            tokens, frames.timestamps, window.duration, self.name, frames.notes, self._model_name, window
        )
        self.cache.save(window, load_arguments, encoded)
        return encoded

    def timed(self, stage: str, work: Callable[[], Result]) -> Result:
        """Do a piece of work and count its time to a stage."""
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.timings[stage] += time.perf_counter() - began
