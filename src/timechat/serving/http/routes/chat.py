"""`/v1/chat/completions` and `/v1/models`, as OpenAI's clients expect them."""

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
from timechat.serving.http.responses import KEEPALIVE, KEEPALIVE_SECONDS, format_event
from timechat.serving.http.routes.state import CurrentServer, ServerState, wait_for_disconnect
from timechat.serving.http.schemas import ChatRequest

logger = logging.getLogger(__name__)

router = APIRouter()


@router.get("/v1/models")
async def models(server: CurrentServer) -> dict[str, Any]:
    """The one model that is served."""
    return {"object": "list", "data": [_model(server)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, server: CurrentServer) -> dict[str, Any]:
    """One model."""
    _check_model(name, server)
    return _model(server)


def _model(server: ServerState) -> dict[str, Any]:
    timechat = server.service.timechat
    return {
        "id": timechat.name,
        "object": "model",
        "created": server.started,
        "owned_by": "timechat",
        "notes": list(timechat.notes),
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
    ticket = service.new_context()
    completion = _Completion(service.timechat.name, ticket)
    with ExitStack() as admission:
        admission.enter_context(service.admitted())
        if not body.stream:
            answer = await service.in_thread(
                partial(_answer, server, body, ticket), ticket, wait_for_disconnect(request)
            )
            return JSONResponse(completion.whole(answer))
        told: asyncio.Queue[StreamItem] = asyncio.Queue()
        talk = service.submit(partial(_stream_worker, server, body, ticket, told, asyncio.get_running_loop()))
        gone = asyncio.ensure_future(wait_for_disconnect(request)())
        gone.add_done_callback(lambda _: service.cancel(ticket))
        try:
            first = await told.get()
        except BaseException:
            gone.cancel()  # which calls it off
            raise
        if isinstance(first, RequestError):
            gone.cancel()
            raise first
        kept = admission.pop_all()

    async def end() -> None:
        gone.cancel()
        service.cancel(ticket)
        await asyncio.wait({talk})
        kept.close()

    usage = body.stream_options is not None and body.stream_options.include_usage
    return _Stream(_lines(first, told, completion, tells_usage=usage), end)


@dataclass(frozen=True)
class _Progress:
    """How far the work is, before there are words."""

    stage: str = "opened"
    done: int = 0
    total: int = 0


StreamItem = str | _Progress | Answer | RequestError
"""What a talk tells: a piece of text, progress, and at last the answer or what went wrong."""


def _stream_worker(
    server: ServerState,
    body: ChatRequest,
    context: RequestContext,
    told: "asyncio.Queue[StreamItem]",
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Answer in a thread, telling everything to a coroutine."""

    def tell(item: StreamItem) -> None:
        loop.call_soon_threadsafe(told.put_nowait, item)

    try:
        with server.service.open_request(body.to_request(server.settings), context) as asked:
            stream = asked.stream()
            if stream is not None:
                for piece in _up_to(stream, body.stops):
                    tell(piece)
                answer = _apply_stops(asked.with_video_name(stream.answer), body.stops, context)
            else:
                tell(_Progress())
                answer = asked.answer(lambda stage, done, total: tell(_Progress(stage, done, total)))
                answer = _apply_stops(answer, body.stops, context)
                tell(answer.text)
            tell(answer)
    except Exception as error:
        known = as_request_error(error)
        if known is None:
            logger.exception("an answer failed")
        tell(known or internal_error())


def _answer(server: ServerState, body: ChatRequest, context: RequestContext) -> Answer:
    """Answer at once; what stands after a stop is not written."""
    with server.service.open_request(body.to_request(server.settings), context) as asked:
        stream = asked.stream() if body.stops else None
        if stream is None:
            return _apply_stops(asked.answer(), body.stops, context)
        for _ in _up_to(stream, body.stops):
            pass
        return _apply_stops(asked.with_video_name(stream.answer), body.stops, context)


def _apply_stops(answer: Answer, stops: list[str], context: RequestContext) -> Answer:
    """The answer up to the first of some texts, with the events that are told before it."""
    text = _truncate_answer(answer.text, stops)
    if text == answer.text:
        return answer
    context.reached_length_limit = False
    told = read_answer(text, answer.task, query=answer.question or None, duration=answer.duration)
    return replace(answer, text=text, events=told.events)


def _up_to(pieces: AnswerStream, stops: list[str]) -> Iterator[str]:
    """Pieces of text before the first of some texts; what may be the beginning of one is held back."""
    text, told = "", 0
    held = max(map(len, stops), default=1) - 1
    for piece in pieces:
        text += piece
        end = len(_truncate_answer(text, stops))
        if end < len(text):
            yield text[told:end]
            pieces.close()
            return
        if len(text) - held > told:
            yield text[told : len(text) - held]
            told = len(text) - held
    if text[told:]:
        yield text[told:]


def _truncate_answer(text: str, stops: list[str]) -> str:
    """The text before the first of some others."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


class _Stream(StreamingResponse):
    """Server-sent events, after which something is done in any case."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[str], end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(lines, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._end())


async def _lines(
    first: StreamItem, told: "asyncio.Queue[StreamItem]", completion: "_Completion", *, tells_usage: bool
) -> AsyncIterator[str]:
    """The stream's lines."""
    yield format_event(completion.chunk({"role": "assistant", "content": ""}))
    item: StreamItem = first
    while True:
        if isinstance(item, str):
            yield format_event(completion.chunk({"content": item}))
        elif isinstance(item, _Progress):
            yield f": {item.stage} {item.done}/{item.total}\n\n"
        elif isinstance(item, RequestError):
            yield format_event(item.to_dict())
            break
        else:
            yield format_event(completion.chunk({}, answer=item))
            if tells_usage:
                yield format_event(completion.usage_chunk())
            break
        while told.empty():
            try:
                item = await asyncio.wait_for(told.get(), KEEPALIVE_SECONDS)
                break
            except TimeoutError:
                yield KEEPALIVE
        else:
            item = told.get_nowait()
    yield "data: [DONE]\n\n"


@dataclass
class _Completion:
    """One completion, as OpenAI's API tells it."""

    model: str
    ticket: RequestContext
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer at once."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason}
        return self._head("chat.completion") | {
            "choices": [choice],
            "usage": self._usage,
            "timechat": answer.to_dict(),
        }

    def chunk(self, delta: dict[str, Any], answer: Answer | None = None) -> dict[str, Any]:
        """A piece of it; the last has the answer with its events."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": self._reason if answer else None}
        told = {} if answer is None else {"timechat": answer.to_dict()}
        return self._head("chat.completion.chunk") | {"choices": [choice]} | told

    def usage_chunk(self) -> dict[str, Any]:
        """What it took, after the last piece."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage}

    @property
    def _reason(self) -> Literal["stop", "length"]:
        return "length" if self.ticket.reached_length_limit else "stop"

    @property
    def _usage(self) -> dict[str, int]:
        read, written = self.ticket.prompt_tokens, self.ticket.written_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
