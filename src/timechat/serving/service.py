"""Answers requests about videos: open videos, threads, cancellation. Fronts are `http` and `mcp`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from timechat.answers.events import Answer
from timechat.backbones.backbone import Backbone
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.errors import AccessError, VideoError
from timechat.pipeline import FrameSampling, ProgressCallback, Request, TimeChat, VideoSession, WindowConfig
from timechat.pipeline.streaming import AnswerStream
from timechat.serving.context import RequestContext
from timechat.serving.direct import DirectEngine
from timechat.serving.engine import Engine
from timechat.serving.engines import VisionEngine, make_engine
from timechat.serving.errors import EngineStoppedError, RequestError, as_request_error, busy_error
from timechat.serving.inline_frames import InlineFrames
from timechat.serving.open_videos import OpenVideos
from timechat.serving.recording import RecordingBackbone
from timechat.serving.settings import ServerSettings
from timechat.serving.videos import VideoFile, VideoStore
from timechat.speech import NO_AUDIO, Transcript, transcript_answer
from timechat.speech.subtitles import find_subtitles

Result = TypeVar("Result")

_STOP_SECONDS = 10.0
_STOPPING = "the server is shutting down"


@dataclass(frozen=True)
class VideoRequest:
    """A request about a video that the server can open.

    Attributes:
        video: Id or address of the video, or frames that came with the request.
        request: Task, query and everything else that determines the answer.
        windows: Options of the windows.
        sampling: Frame options.
        reads_subtitles: Whether the subtitles of the video, if it has any, are the answer to the task `transcribe`.
        model: Name of the model or of a LoRA adapter of it; empty for the model.
    """

    video: str | InlineFrames
    request: Request
    windows: WindowConfig = field(default_factory=WindowConfig)
    sampling: FrameSampling = field(default_factory=FrameSampling)
    reads_subtitles: bool = True
    model: str = ""

    @property
    def is_one_window(self) -> bool:
        """Whether all frames are read in one window: the client has chosen them, and the request has no options."""
        is_chosen = isinstance(self.video, InlineFrames) and self.video.is_one_window
        return is_chosen and self.sampling == FrameSampling() and self.windows in (WindowConfig(), WindowConfig(0.0))


class Service:
    """Answers requests in threads that share one model.

    Attributes:
        timechat: The pipeline with the model.
        engine: Engine that does the work of the model.
        videos: Videos that requests may name.
        num_rejected: Number of requests that were rejected because there were too many.
        is_stopping: Whether the server stops soon: event streams end.
    """

    def __init__(self, timechat: TimeChat, settings: ServerSettings, videos: VideoStore) -> None:
        """Prepare the service; it starts with `start`."""
        self.timechat, self.videos, self._settings = timechat, videos, settings
        backbone = timechat.backbone
        self.engine: Engine | DirectEngine
        if isinstance(backbone, TimeChatBackbone):
            self.engine = make_engine(backbone, settings)
        else:
            self.engine = DirectEngine(backbone)
        self._open = OpenVideos(settings.max_open_videos)
        self._threads = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="timechat-request")
        self._contexts: set[RequestContext] = set()  # of requests that have a video open
        self._num_active = 0
        self._typical_seconds = 2.0
        self.num_rejected = 0
        self.is_stopping = False

    def start(self) -> None:
        """Start the engine."""
        self.engine.start()

    def end_streams(self) -> None:
        """End all event streams, before the server stops; other requests have a few seconds for their answers."""
        self.is_stopping = True
        for context in list(self._contexts):
            if context.is_stream:
                context.cancel(EngineStoppedError(_STOPPING))
        self.engine.wake()

    def stop(self) -> None:
        """Stop: all requests end with `EngineStoppedError`. Running decoders get a few seconds to notice it."""
        for context in list(self._contexts):
            context.cancel(EngineStoppedError(_STOPPING))
        self.engine.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + _STOP_SECONDS
        while (self._contexts or self._num_active) and time.monotonic() < end:
            time.sleep(0.05)
        self._open.close()

    # --------------------------------------------------------------------------------- called from coroutines

    @property
    def num_active(self) -> int:
        """Number of admitted requests, running or waiting."""
        return self._num_active

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Admit a request, or reject it.

        Raises:
            RequestError: There are too many requests (429).
        """
        maximum = self._settings.max_requests
        if self._num_active >= maximum:
            self.num_rejected += 1
            raise busy_error(f"{maximum} requests are being answered or wait already", min(60.0, self._typical_seconds))
        self._num_active += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._num_active -= 1
            self._typical_seconds += 0.1 * (time.monotonic() - began - self._typical_seconds)

    def new_context(self, client: str = "") -> RequestContext:
        """Return the context of a new request of a client, with the deadline of the settings."""
        return RequestContext(time.monotonic() + self._settings.request_timeout, client=client)

    async def in_thread(
        self,
        work: Callable[[], Result],
        context: RequestContext,
        wait_for_disconnect: Callable[[], Awaitable[None]] | None = None,
    ) -> Result:
        """Run a function in a thread; cancel the request if the client disconnects or the coroutine is cancelled.

        Args:
            work: Function that may block and that ends soon after the request is cancelled.
            context: Context of the request.
            wait_for_disconnect: Coroutine function that returns when the client has disconnected.
        """
        future = asyncio.ensure_future(self.submit(work))
        awaited: set[asyncio.Future[Any]] = {future}
        disconnect = None if wait_for_disconnect is None else asyncio.ensure_future(wait_for_disconnect())
        if disconnect is not None:
            awaited.add(disconnect)
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                self.cancel(context)
            return await future
        except asyncio.CancelledError:
            self.cancel(context)
            future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # its error is expected
            raise
        finally:
            if disconnect is not None:
                disconnect.cancel()

    def submit(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Run a function in one of the threads for requests."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def cancel(self, context: RequestContext) -> None:
        """Cancel the work of a request."""
        context.cancel()
        self.engine.wake()

    # ----------------------------------------------------------------------------------- called from threads

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the model and of the LoRA adapters that requests may choose."""
        adapters = self.engine.adapters if isinstance(self.engine, VisionEngine) else ()
        return (self.timechat.name, *adapters)

    def find_model(self, name: str) -> str:
        """Return the name in `models` that a request means; an empty name and `timechat` mean the model.

        Raises:
            RequestError: There is no such model.
        """
        if name in ("", "timechat"):
            return self.timechat.name
        if name not in self.models:
            message = f"there is no model {name[:80]!r} here; this server has {', '.join(self.models)}"
            raise RequestError(404, message, "model", "model_not_found")
        return name

    def check(self, request: VideoRequest) -> None:
        """Check a request against the limits of the settings.

        Raises:
            RequestError: It exceeds one of them.
        """
        self.find_model(request.model)
        for name in ("num_frames", "max_frames"):
            value = getattr(request.sampling, name)
            if value is not None and value > self._settings.max_frames:
                raise RequestError(400, f"{name} may be {self._settings.max_frames} here, got {value}", name)

    def answer(
        self, request: VideoRequest, context: RequestContext, progress: ProgressCallback | None = None
    ) -> Answer:
        """Answer a request; blocks.

        Raises:
            RequestError: The request cannot be answered.
        """
        with self.open_request(request, context) as opened:
            return opened.answer(progress)

    @contextmanager
    def open_request(self, request: VideoRequest, context: RequestContext) -> "Iterator[OpenRequest]":
        """Keep the video of a request open for a `with` block, and convert the errors of the block.

        Raises:
            RequestError: The request cannot be answered.
        """
        self.check(request)
        chosen = self.find_model(request.model)
        context.adapter = "" if chosen == self.timechat.name else chosen
        limited, notes = self._limit_tokens(request.request)
        hidden: list[tuple[Path, str]] = []
        self._contexts.add(context)
        try:
            if self.is_stopping and context.is_stream:
                context.cancel(EngineStoppedError(_STOPPING))
            context.check()
            with self._open_file(request.video, context) as file:
                if file.path is not None:
                    hidden.append((file.path, file.name))
                timechat = self._for_request(context)
                sampling = self._limit_frames(request.sampling)
                as_one = request.is_one_window
                with self._open.acquire(
                    timechat, file, request.windows, sampling, as_one_window=as_one, adapter=context.adapter
                ) as video:
                    try:
                        context.check()
                        self._check_duration(video.duration)
                        subtitles = None
                        if limited.task == "transcribe" and request.reads_subtitles:
                            subtitles = self._subtitles(file, video, context)
                        name = file.name or None
                        yield OpenRequest(limited, sampling, timechat, video, name, notes, subtitles)
                    finally:
                        context.cancel()  # frames that are decoded ahead are not needed any more
        except Exception as error:
            cause: Exception = error
            if isinstance(error, AccessError) and context.is_over:  # fetching ended because the request is over
                cause = context.error
            elif isinstance(error, VideoError) and not all(path.exists() for path, _ in hidden):
                cause = FileNotFoundError("the file was removed during the request")
            converted = as_request_error(cause, hidden)
            if converted is None:
                raise
            raise converted from cause
        finally:
            self._contexts.discard(context)

    def _for_request(self, context: RequestContext) -> TimeChat:
        """Return the pipeline whose work belongs to one request."""
        shared = self.timechat.backbone
        backbone: Backbone
        if isinstance(self.engine, DirectEngine):
            backbone = self.engine.backbone(context)
        else:
            assert isinstance(shared, TimeChatBackbone)
            backbone = shared.with_executor(self.engine.executor(context))
        if context.texts is not None:
            backbone = cast(Backbone, RecordingBackbone(backbone, context.texts))
        return self.timechat.with_backbone(backbone)

    def _subtitles(self, file: VideoFile, video: VideoSession, context: RequestContext) -> Transcript | None:
        """Return the subtitles of a video; a file beside it is read only in an allowed folder."""
        if file.path is None:
            return None
        return find_subtitles(file.path, video.info, may_read=self.videos.folders.holds, check_caller=context.check)

    def _check_duration(self, duration: float) -> None:
        """Check the time of the frames that were really found: a header can state less."""
        limit = self._settings.limits.max_duration
        if duration > limit:
            message = f"the video lasts {duration:.0f} s, longer than the {limit:.0f} s that are allowed"
            raise RequestError(413, message, "video", "too_large")

    def _limit_tokens(self, request: Request) -> tuple[Request, tuple[str, ...]]:
        """Limit the length of the answer; the second value notes it if the request asks for more."""
        asked, limit = request.decoding.max_new_tokens, self._settings.max_new_tokens
        if asked <= limit:
            return request, ()
        note = f"the request allows {asked} tokens for an answer; this server allows {limit}, which were used"
        shortest = min(request.decoding.min_new_tokens, limit)
        limited = replace(request.decoding, max_new_tokens=limit, min_new_tokens=shortest)
        return replace(request, decoding=limited), (note,)

    def _limit_frames(self, sampling: FrameSampling) -> FrameSampling:
        """Limit the frames of a window if neither the request nor the model does."""
        if sampling.fps is None or sampling.max_frames or self.timechat.backbone.config.rate.max_frames:
            return sampling
        return replace(sampling, max_frames=self._settings.max_frames)

    def _open_file(self, video: str | InlineFrames, context: RequestContext) -> "AbstractContextManager[VideoFile]":
        if isinstance(video, InlineFrames):
            frames = video.decode(self.timechat.backbone.frame_size, context.check)
            return nullcontext(VideoFile("", None, video.key, frames))
        return self.videos.open(video, lambda: context.is_over)


class OpenRequest:
    """A request whose video is open."""

    def __init__(
        self,
        request: Request,
        sampling: FrameSampling,
        timechat: TimeChat,
        video: VideoSession,
        name: str | None,
        notes: tuple[str, ...],
        subtitles: Transcript | None,
    ) -> None:
        """Join a request and its open video.

        Args:
            request: Request within the limits of the server.
            sampling: Frame options, with the part of the video that the answer is about.
            timechat: Pipeline with the model.
            video: Open video.
            name: Name of the video in the answer.
            notes: Notes of the server for the answer.
            subtitles: Subtitles of the video, for the task `transcribe`; None if there are none.
        """
        self._request, self._timechat, self._video, self._name = request, timechat, video, name
        self._notes, self._subtitles, self._sampling = notes, subtitles, sampling
        self._timings = dict(video.timings)

    def stream(self) -> AnswerStream | None:
        """Return the answer as a stream; None if it is known or found by the search, or if its text is edited."""
        if not self._timechat.answerer().keeps_text(self._request, self._video):
            return None
        if self._request.cite or self._request.verify or self._known_speech is not None:
            return None
        if self._timechat.answerer().uses_search(self._request, self._video):
            return None
        return self._timechat.stream(self._request, self._video)

    def answer(self, progress: ProgressCallback | None = None) -> Answer:
        """Return the whole answer; a request that is over ends with the next progress report.

        Speech that is known, or that a silent video cannot have, is not left to the model to guess.
        """
        if self._known_speech is not None:
            return replace(self.with_server_facts(self._known_speech), timings={})
        check = self._timechat.backbone.check

        def report(stage: str, done: int, total: int) -> None:
            check()
            if progress is not None:
                progress(stage, done, total)

        return self.with_server_facts(self._timechat.run(self._request, self._video, progress=report))

    @cached_property
    def _known_speech(self) -> Answer | None:
        if self._request.task != "transcribe":
            return None
        if self._request.transcript is not None:
            transcript = Transcript(tuple(self._request.transcript))
        elif self._subtitles is not None and self._subtitles.lines:
            transcript = self._subtitles
        elif self._video.info is not None and not self._video.info.has_audio:
            transcript = Transcript(notes=(NO_AUDIO,))
        else:
            return None
        return transcript_answer(
            transcript,
            video=self._name,
            duration=self._video.duration,
            player_offset=self._video.player_offset,
            start=self._sampling.start,
            end=self._sampling.end,
        )

    def with_server_facts(self, answer: Answer) -> Answer:
        """Set the client's name of the video, the seconds that this request alone took, and the server's notes."""
        spent = {stage: round(s - self._timings[stage], 3) for stage, s in dict(self._video.timings).items()}
        return replace(answer, video=self._name, timings=spent, notes=(*answer.notes, *self._notes))
