"""`/v1/chat/completions` and `/v1/models`, compatible with OpenAI's API."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_hex
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from timechat.answers.events import Answer
from timechat.answers.tasks import read_answer
from timechat.pipeline.streaming import AnswerStream
from timechat.serving.context import RequestContext
from timechat.serving.errors import RequestError, as_request_error, internal_error
from timechat.serving.http.responses import KEEPALIVE, KEEPALIVE_SECONDS, OPEN_SECONDS, STREAM_HEADERS, format_event
from timechat.serving.http.routes.state import CurrentServer, ServerState, wait_for_disconnect
from timechat.serving.http.schemas import ChatRequest
from timechat.serving.progress import ProgressTracker, ProgressUpdate

logger = logging.getLogger(__name__)

router = APIRouter()


@router.get("/v1/models")
async def models(server: CurrentServer) -> dict[str, Any]:
    """List the one model of the server."""
    return {"object": "list", "data": [_model(server)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, server: CurrentServer) -> dict[str, Any]:
    """Return one model."""
    _check_model(name, server)
    return _model(server)


def _model(server: ServerState) -> dict[str, Any]:
    timechat = server.service.timechat
    return {
        "id": timechat.name,
        "object": "model",
        "created": server.started,
        "owned_by": "timechat",
        "notes": [*timechat.notes, *timechat.limits],
    }


def _check_model(name: str, server: ServerState) -> None:
    served = server.service.timechat.name
    if name not in ("", "timechat", served):
        raise RequestError(
            404, f"there is no model {name[:80]!r} here; this server has {served}", "model", "model_not_found"
        )


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request, server: CurrentServer) -> Response:
    """Answer the last message of a conversation about a video."""
    _check_model(body.model, server)
    service = server.service
    context = service.new_context()
    completion = _Completion(service.timechat.name, context)
    with ExitStack() as admission:
        admission.enter_context(service.admitted())
        if not body.stream:
            answer = await service.in_thread(
                partial(_answer, server, body, context), context, wait_for_disconnect(request)
            )
            return JSONResponse(completion.whole(answer))
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

    usage = body.stream_options is not None and body.stream_options.include_usage
    return _Stream(_lines(first, items, completion, with_usage=usage), end)


StreamItem = str | ProgressUpdate | Answer | RequestError
"""An item of a stream: text, progress, and at the end the answer or an error."""


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
            stream = opened.stream()
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
        stream = opened.stream() if body.stops else None
        if stream is None:
            return _apply_stops(opened.answer(), body.stops, context)
        for _ in _cut_stream(stream, body.stops):
            pass
        return _apply_stops(opened.with_server_facts(stream.answer), body.stops, context)


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
    first: StreamItem | None, items: "asyncio.Queue[StreamItem]", completion: "_Completion", *, with_usage: bool
) -> AsyncIterator[str]:
    """Format the items of a stream; `first` is None if there is no item yet."""
    item = first
    if item is None:
        yield KEEPALIVE
    yield format_event(completion.chunk({"role": "assistant", "content": ""}))
    while True:
        if item is None:
            pass
        elif isinstance(item, str):
            yield format_event(completion.chunk({"content": item}))
        elif isinstance(item, ProgressUpdate):
            yield f": {item.done / item.total:.1%} {item.message}\n\n"
        elif isinstance(item, RequestError):
            yield format_event(item.to_dict())
            break
        else:
            yield format_event(completion.chunk({}, answer=item))
            if with_usage:
                yield format_event(completion.usage_chunk())
            break
        while items.empty():
            try:
                item = await asyncio.wait_for(items.get(), KEEPALIVE_SECONDS)
                break
            except TimeoutError:
                yield KEEPALIVE
        else:
            item = items.get_nowait()
    yield "data: [DONE]\n\n"


@dataclass
class _Completion:
    """One completion in the format of OpenAI's API."""

    model: str
    context: RequestContext
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the whole completion."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason}
        return self._head("chat.completion") | {
            "choices": [choice],
            "usage": self._usage,
            "timechat": answer.to_dict(),
        }

    def chunk(self, delta: dict[str, Any], answer: Answer | None = None) -> dict[str, Any]:
        """Return a chunk of the stream; the last one has the answer with its events."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": self._reason if answer else None}
        extra = {} if answer is None else {"timechat": answer.to_dict()}
        return self._head("chat.completion.chunk") | {"choices": [choice]} | extra

    def usage_chunk(self) -> dict[str, Any]:
        """Return the token counts, after the last chunk."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage}

    @property
    def _reason(self) -> Literal["stop", "length"]:
        return "length" if self.context.reached_length_limit else "stop"

    @property
    def _usage(self) -> dict[str, Any]:
        prompt, completion = self.context.prompt_tokens, self.context.written_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.context.cached_tokens},
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
