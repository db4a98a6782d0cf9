"""A question about a video made an answer: opened videos, bounded queues, and clients that go away."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from timechat.answers.events import Answer, Event, Task
from timechat.errors import VideoError
from timechat.pipeline import DecodingOptions, MomentSelection, TimeChat, VideoSession, WindowConfig, WindowSampling
from timechat.pipeline.encoded import ProgressCallback
from timechat.pipeline.streaming import AnswerStream
from timechat.pipeline.waiting import acquire
from timechat.serving.access import AccessError
from timechat.serving.engine import Engine, EngineExecutor, RequestContext
from timechat.serving.errors import ApiError, as_api_error, busy
from timechat.serving.inline_frames import InlineFrames
from timechat.serving.settings import ServerSettings
from timechat.serving.videos import VideoFile, VideoStore

Result = TypeVar("Result")

_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class VideoRequest:
    """What is asked about which video, and how it is to be looked at and answered.

    Attributes:
        task: Which one.
        video: Id or address, or frames that came with the request.
        query: Question or query.
        history: Earlier (question, answer) pairs.
        decoding: How the answer is written.
        window_config: In which windows.
        sampling: At which frames.
        speech: What is said in the video; None where nobody listened.
        moments: Which moments.
        system: System prompt instead of the usual one.
        cite: Whether a free answer says when its sentences can be seen.
    """

    task: Task
    video: str | InlineFrames
    query: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    window_config: WindowConfig = field(default_factory=WindowConfig)
    sampling: WindowSampling = field(default_factory=WindowSampling)
    speech: tuple[Event, ...] | None = None
    moments: MomentSelection = field(default_factory=MomentSelection)
    system: str | None = None
    cite: bool = False


class Service:
    """Answers questions; one model, many threads that wait for it.

    Attributes:
        timechat: The model.
        engine: Does its work.
        videos: The videos.
    """

    def __init__(self, timechat: TimeChat, settings: ServerSettings, films: VideoStore) -> None:
        """Take a model; nothing runs before `start`."""
        self.timechat, self.videos, self._settings = timechat, films, settings
        self.engine = Engine(
            timechat.model,
            timechat.processor,
            max_rows=settings.max_rows,
            max_bytes=settings.max_state_bytes,
            preempt_after_tokens=settings.preempt_after_tokens,
        )
        self._open = OpenVideos(settings.max_open_videos)
        self._threads = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="timechat-request")
        self._num_active = 0
        self._typical_seconds = 2.0
        self.num_rejected = 0

    def start(self) -> None:
        """Begin to work."""
        self.engine.start()

    def stop(self) -> None:
        """End; who waits is told. Frames that are being decoded are waited for a while, and not for ever."""
        self.engine.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + _STOP_SECONDS
        while self._num_active and time.monotonic() < end:
            time.sleep(0.05)
        self._open.close()

    # --------------------------------------------------------------------------------------------- from coroutines

    @property
    def num_active(self) -> int:
        """Requests that are worked on or wait."""
        return self._num_active

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Let a request in, or turn it away.

        Raises:
            ApiError: There are too many (429).
        """
        most = self._settings.max_requests
        if self._num_active >= most:
            self.num_rejected += 1
            raise busy(f"{most} requests are being answered or wait already", min(60.0, self._typical_seconds))
        self._num_active += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._num_active -= 1
            self._typical_seconds += 0.1 * (time.monotonic() - began - self._typical_seconds)

    def new_context(self) -> RequestContext:
        """A ticket with the time that a request may take."""
        return RequestContext(time.monotonic() + self._settings.request_timeout)

    async def in_thread(
        self, work: Callable[[], Result], context: RequestContext, wait_for_disconnect: Callable[[], Awaitable[None]]
    ) -> Result:
        """Do work in a thread, and call it off when the client has gone.

        Args:
            work: May block; ends soon once the ticket is cancelled.
            context: Of the request.
            wait_for_disconnect: Returns when the client has gone.
        """
        future = asyncio.ensure_future(self.submit(work))
        gone = asyncio.ensure_future(wait_for_disconnect())
        try:
            both: set[asyncio.Future[Any]] = {future, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                self.cancel(context)
            return await future
        except asyncio.CancelledError:
            self.cancel(context)
            future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else asks for it
            raise
        finally:
            gone.cancel()

    def submit(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Do work in one of the threads of requests."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def cancel(self, context: RequestContext) -> None:
        """End what is at work for a request."""
        context.cancel()
        self.engine.wake()

    # ------------------------------------------------------------------------------------------------ from threads

    def check(self, request: VideoRequest) -> None:
        """Refuse what asks for too much.

        Raises:
            ApiError: It does.
        """
        if request.decoding.max_new_tokens > self._settings.max_new_tokens:
            raise ApiError(
                400,
                f"an answer may have {self._settings.max_new_tokens} tokens here, {request.decoding.max_new_tokens} "
                "were asked for",
                "max_tokens",
            )
        for name in ("num_frames", "max_frames"):
            value = getattr(request.sampling, name)
            if value is not None and value > self._settings.max_frames:
                raise ApiError(400, f"{name} may be {self._settings.max_frames} here, got {value}", name)

    def answer(
        self, request: VideoRequest, context: RequestContext, progress: ProgressCallback | None = None
    ) -> Answer:
        """Answer a question; blocks.

        Raises:
            ApiError: Anything that is wrong with it.
        """
        with self.open_request(request, context) as asked:
            return asked.answer(progress)

    @contextmanager
    def open_request(self, request: VideoRequest, context: RequestContext) -> "Iterator[OpenRequest]":
        """Have a question's video open while the block lasts; errors inside of it come out as answers.

        Raises:
            ApiError: Anything that is wrong with it.
        """
        self.check(request)
        hidden: list[tuple[Path, str]] = []
        try:
            context.check()
            with self._open_file(request.video, context) as film:
                if film.path is not None:
                    hidden.append((film.path, film.name))
                timechat = self.timechat.with_executor(EngineExecutor(self.engine, context))
                with self._open.acquire(
                    timechat, film, request.window_config, self._limit_frames(request.sampling)
                ) as video:
                    try:
                        context.check()
                        yield OpenRequest(request, timechat, video, film.name or None)
                    finally:
                        context.cancel()  # nobody wants the frames any more that are read ahead
        except Exception as error:
            why: Exception = error
            if isinstance(error, AccessError) and context.is_over:  # the fetching was given up for that
                why = context.error
            elif isinstance(error, VideoError) and not all(path.exists() for path, _ in hidden):
                why = FileNotFoundError("the file was removed while it was asked about")
            told = as_api_error(why, hidden)
            if told is None:
                raise
            raise told from why

    def _limit_frames(self, sampling: WindowSampling) -> WindowSampling:
        """The same, with a bound to the frames of a window where neither the request nor the model has one."""
        if sampling.fps is None or sampling.max_frames or self.timechat.model.config.max_frames:
            return sampling
        return replace(sampling, max_frames=self._settings.max_frames)

    def _open_file(self, video: str | InlineFrames, context: RequestContext) -> "AbstractContextManager[VideoFile]":
        if isinstance(video, InlineFrames):
            size = self.timechat.model.config.vision_config.image_size
            return nullcontext(VideoFile("", None, video.key, video.decode(size)))
        return self.videos.open(video, lambda: context.is_over)


class OpenRequest:
    """A question put to an opened video."""

    def __init__(self, question: VideoRequest, timechat: TimeChat, video: VideoSession, name: str | None) -> None:
        """Put a question; `name` is how the answer calls the video."""
        self._request, self._timechat, self._video, self._name = question, timechat, video, name
        self._timings = dict(video.timings)
        self._options: dict[str, Any] = {
            "history": question.history,
            "decoding": question.decoding,
            "speech": question.speech,
            "moments": question.moments,
            "system": question.system,
        }

    def stream(self) -> AnswerStream | None:
        """The answer while it is written; None where several windows answer, or what is written is worked on."""
        if len(self._video.windows) > 1 or self._request.cite:
            return None
        return self._timechat.stream(self._request.task, self._video, self._request.query, **self._options)

    def answer(self, progress: ProgressCallback | None = None) -> Answer:
        """The whole answer."""
        question = self._request
        return self.with_video_name(
            self._timechat.run(
                question.task, self._video, question.query, cite=question.cite, progress=progress, **self._options
            )
        )

    def with_video_name(self, answer: Answer) -> Answer:
        """An answer that calls the video as the client does, with the seconds that were spent since the question."""
        spent = {stage: round(s - self._timings[stage], 3) for stage, s in dict(self._video.timings).items()}
        return replace(answer, video=self._name, timings=spent)


class OpenVideos:
    """Videos that stay open with what was made of them, for the next question; the least recently used are closed."""

    def __init__(self, max_idle: int) -> None:
        """Keep at most so many that nobody uses."""
        self._most = max_idle
        self._lock = threading.Lock()
        self._videos: OrderedDict[Any, _OpenVideo] = OrderedDict()

    @contextmanager
    def acquire(
        self, timechat: TimeChat, file: VideoFile, window_config: WindowConfig, sampling: WindowSampling
    ) -> Iterator[VideoSession]:
        """Lend an opened video; `timechat` opens it."""
        key = (file.key, window_config, sampling)
        with self._lock:
            shared = self._videos.setdefault(key, _OpenVideo())
            self._videos.move_to_end(key)
            shared.num_users += 1
        try:
            # Who asks about the same video at the same time waits until it is open.
            with acquire(shared.lock, timechat.executor.check):
                if shared.video is None:
                    source = file.frames if file.path is None else file.path
                    assert source is not None
                    shared.video = timechat.open(
                        source, window_config=window_config, sampling=sampling, keep_in_memory=True
                    )
            yield shared.video
        finally:
            with self._lock:
                shared.num_users -= 1
                if shared.video is None and not shared.num_users:
                    self._videos.pop(key, None)
            self._close_idle()

    def close(self) -> None:
        """Close all that nobody uses."""
        self._most = 0
        self._close_idle()

    def _close_idle(self) -> None:
        closed = []
        with self._lock:
            idle = [key for key, shared in self._videos.items() if not shared.num_users]
            for key in idle[: max(0, len(idle) - self._most)]:
                closed.append(self._videos.pop(key).video)
        for video in closed:  # which may have to wait for frames that are being read
            if video is not None:
                video.close()


class _OpenVideo:
    def __init__(self) -> None:
        self.video: VideoSession | None = None
        self.lock = threading.Lock()
        self.num_users = 0
