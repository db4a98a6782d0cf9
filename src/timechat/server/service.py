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

from timechat.access import AccessError
from timechat.errors import VideoError
from timechat.events import Answer, Event, Task
from timechat.model.streaming import AnswerStream
from timechat.pipeline import Decoding, LongVideo, Looking, Sampling, TimeChat, Wanted
from timechat.pipeline.encoded import Progress
from timechat.server.engine import Engine, Ticket, TicketWork
from timechat.server.errors import ApiError, as_api_error, busy
from timechat.server.films import Film, Films
from timechat.server.frames import SentFrames
from timechat.server.settings import ServerSettings
from timechat.waiting import held

Result = TypeVar("Result")

_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Question:
    """What is asked about which video, and how it is to be looked at and answered.

    Attributes:
        task: Which one.
        video: Id or address, or frames that came with the request.
        words: Question or query.
        history: Earlier (question, answer) pairs.
        decoding: How the answer is written.
        looking: In which windows.
        sampling: At which frames.
        speech: What is said in the video; None where nobody listened.
        wanted: Which moments.
        system: System prompt instead of the usual one.
        cites: Whether a free answer says when its sentences can be seen.
    """

    task: Task
    video: str | SentFrames
    words: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    looking: Looking = field(default_factory=Looking)
    sampling: Sampling = field(default_factory=Sampling)
    speech: tuple[Event, ...] | None = None
    wanted: Wanted = field(default_factory=Wanted)
    system: str | None = None
    cites: bool = False


class Service:
    """Answers questions; one model, many threads that wait for it.

    Attributes:
        timechat: The model.
        engine: Does its work.
        films: The videos.
    """

    def __init__(self, timechat: TimeChat, settings: ServerSettings, films: Films) -> None:
        """Take a model; nothing runs before `start`."""
        self.timechat, self.films, self._settings = timechat, films, settings
        self.engine = Engine(
            timechat.model,
            timechat.processor,
            max_rows=settings.max_rows,
            max_bytes=settings.max_state_bytes,
            turn_tokens=settings.turn_tokens,
        )
        self._open = OpenVideos(settings.max_open_videos)
        self._threads = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="timechat-request")
        self._num_inside = 0
        self._usual_seconds = 2.0
        self.num_turned_away = 0

    def start(self) -> None:
        """Begin to work."""
        self.engine.start()

    def stop(self) -> None:
        """End; who waits is told. Frames that are being decoded are waited for a while, and not for ever."""
        self.engine.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + _STOP_SECONDS
        while self._num_inside and time.monotonic() < end:
            time.sleep(0.05)
        self._open.close()

    # --------------------------------------------------------------------------------------------- from coroutines

    @property
    def num_inside(self) -> int:
        """Requests that are worked on or wait."""
        return self._num_inside

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Let a request in, or turn it away.

        Raises:
            ApiError: There are too many (429).
        """
        most = self._settings.max_requests
        if self._num_inside >= most:
            self.num_turned_away += 1
            raise busy(f"{most} requests are being answered or wait already", min(60.0, self._usual_seconds))
        self._num_inside += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._num_inside -= 1
            self._usual_seconds += 0.1 * (time.monotonic() - began - self._usual_seconds)

    def new_ticket(self) -> Ticket:
        """A ticket with the time that a request may take."""
        return Ticket(time.monotonic() + self._settings.request_timeout)

    async def in_thread(
        self, work: Callable[[], Result], ticket: Ticket, is_gone: Callable[[], Awaitable[None]]
    ) -> Result:
        """Do work in a thread, and call it off when the client has gone.

        Args:
            work: May block; ends soon once the ticket is cancelled.
            ticket: Of the request.
            is_gone: Returns when the client has gone.
        """
        future = asyncio.ensure_future(self.submit(work))
        gone = asyncio.ensure_future(is_gone())
        try:
            both: set[asyncio.Future[Any]] = {future, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                self.call_off(ticket)
            return await future
        except asyncio.CancelledError:
            self.call_off(ticket)
            future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else asks for it
            raise
        finally:
            gone.cancel()

    def submit(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Do work in one of the threads of requests."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def call_off(self, ticket: Ticket) -> None:
        """End what is at work for a request."""
        ticket.cancel()
        self.engine.wake()

    # ------------------------------------------------------------------------------------------------ from threads

    def check(self, question: Question) -> None:
        """Refuse what asks for too much.

        Raises:
            ApiError: It does.
        """
        if question.decoding.max_new_tokens > self._settings.max_new_tokens:
            raise ApiError(
                400,
                f"an answer may have {self._settings.max_new_tokens} tokens here, {question.decoding.max_new_tokens} "
                "were asked for",
                "max_tokens",
            )
        for name in ("num_frames", "max_frames"):
            value = getattr(question.sampling, name)
            if value is not None and value > self._settings.max_frames:
                raise ApiError(400, f"{name} may be {self._settings.max_frames} here, got {value}", name)

    def answer(self, question: Question, ticket: Ticket, progress: Progress | None = None) -> Answer:
        """Answer a question; blocks.

        Raises:
            ApiError: Anything that is wrong with it.
        """
        with self.asking(question, ticket) as asked:
            return asked.answer(progress)

    @contextmanager
    def asking(self, question: Question, ticket: Ticket) -> "Iterator[Asked]":
        """Have a question's video open while the block lasts; errors inside of it come out as answers.

        Raises:
            ApiError: Anything that is wrong with it.
        """
        self.check(question)
        hidden: list[tuple[Path, str]] = []
        try:
            ticket.check()
            with self._film(question.video, ticket) as film:
                if film.path is not None:
                    hidden.append((film.path, film.name))
                timechat = self.timechat.working_by(TicketWork(self.engine, ticket))
                with self._open.lend(timechat, film, question.looking, self._bounded(question.sampling)) as video:
                    try:
                        ticket.check()
                        yield Asked(question, timechat, video, film.name or None)
                    finally:
                        ticket.cancel()  # nobody wants the frames any more that are read ahead
        except Exception as error:
            why: Exception = error
            if isinstance(error, AccessError) and ticket.is_over:  # the fetching was given up for that
                why = ticket.error
            elif isinstance(error, VideoError) and not all(path.exists() for path, _ in hidden):
                why = FileNotFoundError("the file was removed while it was asked about")
            told = as_api_error(why, hidden)
            if told is None:
                raise
            raise told from why

    def _bounded(self, sampling: Sampling) -> Sampling:
        """The same, with a bound to the frames of a window where neither the request nor the model has one."""
        if sampling.fps is None or sampling.max_frames or self.timechat.model.config.max_frames:
            return sampling
        return replace(sampling, max_frames=self._settings.max_frames)

    def _film(self, video: str | SentFrames, ticket: Ticket) -> "AbstractContextManager[Film]":
        if isinstance(video, SentFrames):
            size = self.timechat.model.config.vision_config.image_size
            return nullcontext(Film("", None, video.key, video.decode(size)))
        return self.films.opened(video, lambda: ticket.is_over)


class Asked:
    """A question put to an opened video."""

    def __init__(self, question: Question, timechat: TimeChat, video: LongVideo, name: str | None) -> None:
        """Put a question; `name` is how the answer calls the video."""
        self._question, self._timechat, self._video, self._name = question, timechat, video, name
        self._timings = dict(video.timings)
        self._options: dict[str, Any] = {
            "history": question.history,
            "decoding": question.decoding,
            "speech": question.speech,
            "wanted": question.wanted,
            "system": question.system,
        }

    def stream(self) -> AnswerStream | None:
        """The answer while it is written; None where several windows answer, or what is written is worked on."""
        if len(self._video.windows) > 1 or self._question.cites:
            return None
        return self._timechat.stream(self._question.task, self._video, self._question.words, **self._options)

    def answer(self, progress: Progress | None = None) -> Answer:
        """The whole answer."""
        question = self._question
        return self.named(
            self._timechat.run(
                question.task, self._video, question.words, cites=question.cites, progress=progress, **self._options
            )
        )

    def named(self, answer: Answer) -> Answer:
        """An answer that calls the video as the client does, with the seconds that were spent since the question."""
        spent = {stage: round(s - self._timings[stage], 3) for stage, s in dict(self._video.timings).items()}
        return replace(answer, video=self._name, timings=spent)


class OpenVideos:
    """Videos that stay open with what was made of them, for the next question; the least recently used are closed."""

    def __init__(self, most: int) -> None:
        """Keep at most so many that nobody uses."""
        self._most = most
        self._lock = threading.Lock()
        self._videos: OrderedDict[Any, _OpenVideo] = OrderedDict()

    @contextmanager
    def lend(self, timechat: TimeChat, film: Film, looking: Looking, sampling: Sampling) -> Iterator[LongVideo]:
        """Lend an opened video; `timechat` opens it."""
        key = (film.key, looking, sampling)
        with self._lock:
            shared = self._videos.setdefault(key, _OpenVideo())
            self._videos.move_to_end(key)
            shared.num_users += 1
        try:
            # Who asks about the same video at the same time waits until it is open.
            with held(shared.lock, timechat.work.check):
                if shared.video is None:
                    source = film.frames if film.path is None else film.path
                    assert source is not None
                    shared.video = timechat.open(source, looking=looking, sampling=sampling, keeps_tokens=True)
            yield shared.video
        finally:
            with self._lock:
                shared.num_users -= 1
                if shared.video is None and not shared.num_users:
                    self._videos.pop(key, None)
            self._close_some()

    def close(self) -> None:
        """Close all that nobody uses."""
        self._most = 0
        self._close_some()

    def _close_some(self) -> None:
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
        self.video: LongVideo | None = None
        self.lock = threading.Lock()
        self.num_users = 0
