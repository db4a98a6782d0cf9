"""Answers a chat request at once, or as a stream of events in the format of its route."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from timechat.answers.events import Answer
from timechat.answers.tasks import read_answer
from timechat.pipeline.streaming import AnswerStream
from timechat.serving.context import RequestContext
from timechat.serving.errors import RequestError, as_request_error, internal_error
from timechat.serving.http.responses import KEEPALIVE, KEEPALIVE_SECONDS, OPEN_SECONDS, STREAM_HEADERS
from timechat.serving.http.routes.state import ServerState, wait_for_disconnect
from timechat.serving.http.schemas import ChatRequest
from timechat.serving.progress import ProgressTracker, ProgressUpdate
from timechat.serving.service import OpenRequest

logger = logging.getLogger(__name__)

StreamItem = str | ProgressUpdate | Answer | RequestError
"""An item of a stream: text, progress, and at the end the answer or an error."""


class AnswerFormat(Protocol):
    """The format in which a route gives an answer; the methods return server-sent events, but for `whole`."""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the JSON of an answer that is not streamed."""

    def begin(self) -> str:
        """Return the first events of a stream."""

    def piece(self, text: str) -> str:
        """Return the events for a piece of text."""

    def end(self, answer: Answer) -> str:
        """Return the last events of a complete stream."""

    def fail(self, error: RequestError) -> str:
        """Return the last events of a stream that an error ends."""


async def respond(
    body: ChatRequest, request: Request, server: ServerState, make_format: Callable[[RequestContext], AnswerFormat]
) -> Response:
    """Answer a request; an error within `OPEN_SECONDS` is raised, also for a stream.

    Args:
        body: The request.
        request: HTTP request; its work ends when the client disconnects.
        server: Parts of the server.
        make_format: Function that returns the format for the context of the request.
    """
    service = server.service
    context = service.new_context(server.keys.client(request))
    context.texts = [] if body.logprobs else None
    form = make_format(context)
    with ExitStack() as admission:
        admission.enter_context(service.admitted())
        if not body.stream:
            answer = await service.in_thread(
                partial(_answer, server, body, context), context, wait_for_disconnect(request)
            )
            return JSONResponse(form.whole(answer))
        context.is_stream = True
        items: asyncio.Queue[StreamItem] = asyncio.Queue()
        worker = service.submit(partial(_stream_worker, server, body, context, items, asyncio.get_running_loop()))
        disconnect = asyncio.ensure_future(wait_for_disconnect(request)())
        disconnect.add_done_callback(lambda _: service.cancel(context))
        first: StreamItem | None = None
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                first = await items.get()
        except TimeoutError:
            pass  # the stream opens with a comment; a later error is an event
        except BaseException:
            disconnect.cancel()  # its callback cancels the request
            raise
        if isinstance(first, RequestError):
            disconnect.cancel()
            raise first
        admitted = admission.pop_all()

    async def end() -> None:
        disconnect.cancel()
        service.cancel(context)
        await asyncio.wait({worker})
        admitted.close()

    return _Stream(_lines(first, items, form), end)


def _stream_worker(
    server: ServerState,
    body: ChatRequest,
    context: RequestContext,
    items: "asyncio.Queue[StreamItem]",
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Answer in a thread and pass all items to a coroutine."""

    def put(item: StreamItem) -> None:
        loop.call_soon_threadsafe(items.put_nowait, item)

    try:
        with server.service.open_request(body.to_request(server.settings), context) as opened:
            stream = _stream_of(opened, body)
            if stream is not None:
                for piece in _cut_stream(stream, body.stops):
                    put(piece)
                answer = _apply_stops(opened.with_server_facts(stream.answer), body.stops, context)
            else:
                progress = ProgressTracker(2 if body.cite else 1, put)
                progress.start("the video is open")
                answer = opened.answer(progress)
                answer = _apply_stops(answer, body.stops, context)
                put(answer.text)
            put(answer)
    except Exception as error:
        known = as_request_error(error)
        if known is None:
            logger.exception("an answer failed")
        put(known or internal_error())


def _answer(server: ServerState, body: ChatRequest, context: RequestContext) -> Answer:
    """Return the whole answer; generation ends at the first stop text."""
    with server.service.open_request(body.to_request(server.settings), context) as opened:
        stream = _stream_of(opened, body) if body.stops or body.logprobs else None
        if stream is None:
            return _apply_stops(opened.answer(), body.stops, context)
        for _ in _cut_stream(stream, body.stops):
            pass
        return _apply_stops(opened.with_server_facts(stream.answer), body.stops, context)


def _stream_of(opened: OpenRequest, body: ChatRequest) -> AnswerStream | None:
    """Return the answer as a stream; None if the model does not write it at once.

    Raises:
        RequestError: The request asks for the log probabilities of such an answer.
    """
    stream = opened.stream()
    if stream is None and body.logprobs:
        raise RequestError(
            400,
            "logprobs are given for an answer that the model writes about the whole video; this one is of windows or "
            "of a part, refined, cited, transcribed or found by the search; leave logprobs out, or set window to 0",
            "logprobs",
            "unsupported",
        )
    return stream


def _apply_stops(answer: Answer, stops: list[str], context: RequestContext) -> Answer:
    """Cut an answer at the first stop text; keep the events before it."""
    text = _cut_text(answer.text, stops)
    if text == answer.text:
        return answer
    context.reached_length_limit = False
    read = read_answer(text, answer.task, query=answer.question or None, duration=answer.duration)
    return replace(answer, text=text, events=read.events)


def _cut_stream(pieces: AnswerStream, stops: list[str]) -> Iterator[str]:
    """Yield the text before the first stop text; hold back what may be the beginning of one."""
    text, sent = "", 0
    held = max(map(len, stops), default=1) - 1
    for piece in pieces:
        text += piece
        end = len(_cut_text(text, stops))
        if end < len(text):
            yield text[sent:end]
            pieces.close()
            return
        if len(text) - held > sent:
            yield text[sent : len(text) - held]
            sent = len(text) - held
    if text[sent:]:
        yield text[sent:]


def _cut_text(text: str, stops: list[str]) -> str:
    """Return the text before the first stop text."""
    return text[: min((index for stop in stops if (index := text.find(stop)) >= 0), default=len(text))]


class _Stream(StreamingResponse):
    """Server-sent events; `end` runs afterwards in any case."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[str], end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(lines, headers=STREAM_HEADERS)
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._end())


async def _lines(
    first: StreamItem | None, items: "asyncio.Queue[StreamItem]", form: AnswerFormat
) -> AsyncIterator[str]:
    """Format the items of a stream; `first` is None if there is no item yet."""
    item = first
    if item is None:
        yield KEEPALIVE
    yield form.begin()
    while True:
        if isinstance(item, str):
            yield form.piece(item)
        elif isinstance(item, ProgressUpdate):
            yield f": {item.done / item.total:.1%} {item.message}\n\n"
        elif isinstance(item, RequestError):
            yield form.fail(item)
            return
        elif item is not None:
            yield form.end(item)
            return
        while items.empty():
            try:
                item = await asyncio.wait_for(items.get(), KEEPALIVE_SECONDS)
                break
            except TimeoutError:
                yield KEEPALIVE
        else:
            item = items.get_nowait()
