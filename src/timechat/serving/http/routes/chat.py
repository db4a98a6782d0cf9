"""`/v1/chat/completions` and `/v1/models`, compatible with OpenAI's API."""

import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from timechat.answers.events import Answer
from timechat.model.domain import domain_limits
from timechat.serving.context import RequestContext
from timechat.serving.errors import RequestError
from timechat.serving.http.answering import respond
from timechat.serving.http.responses import format_event
from timechat.serving.http.routes.state import CurrentServer, ServerState
from timechat.serving.http.schemas import ChatRequest
from timechat.serving.http.token_logprobs import choice_logprobs

router = APIRouter()

_DONE = "data: [DONE]\n\n"


@router.get("/v1/models")
async def models(server: CurrentServer) -> dict[str, Any]:
    """List the model of the server and its LoRA adapters."""
    return {"object": "list", "data": [_model(name, server) for name in server.service.models]}


@router.get("/v1/models/{name:path}")
async def model(name: str, server: CurrentServer) -> dict[str, Any]:
    """Return one model."""
    return _model(server.service.find_model(name), server)


def _model(name: str, server: ServerState) -> dict[str, Any]:
    timechat = server.service.timechat
    config = timechat.backbone.config
    sent = () if config.privacy_note is None else (config.privacy_note,)
    context = {} if config.context is None else {"max_model_len": config.context}
    return {
        "id": name,
        "object": "model",
        "created": server.started,
        "owned_by": "timechat",
        **({} if name == timechat.name else {"parent": timechat.name}),
        "preset": config.preset,
        "notes": [*timechat.notes, *domain_limits(config.domain), *sent],
        **context,
    }


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request, server: CurrentServer) -> Response:
    """Answer the last message of a conversation about a video."""
    name = server.service.find_model(body.model)
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    return await respond(body, request, server, lambda context: _Completion(name, context, with_usage))


@dataclass
class _Completion:
    """One completion in the format of OpenAI's API."""

    model: str
    context: RequestContext
    with_usage: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the whole completion."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(answer), "finish_reason": self._reason}
        return self._head("chat.completion") | {
            "choices": [choice],
            "usage": self._usage,
            "timechat": answer.to_dict(),
        }

    def begin(self) -> str:
        """Return the first chunk of a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> str:
        """Return the chunk for a piece of text."""
        return self._chunk({"content": text})

    def end(self, answer: Answer) -> str:
        """Return the chunk with the answer, its events and all log probabilities, and the token counts if asked for."""
        usage = self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage}
        return self._chunk({}, answer) + (format_event(usage) if self.with_usage else "") + _DONE

    def fail(self, error: RequestError) -> str:
        """Return the error."""
        return format_event(error.to_dict()) + _DONE

    def _chunk(self, delta: dict[str, Any], answer: Answer | None = None) -> str:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        extra = {}
        if answer is not None:
            choice |= {"logprobs": self._logprobs(answer), "finish_reason": self._reason}
            extra = {"timechat": answer.to_dict()}
        return format_event(self._head("chat.completion.chunk") | {"choices": [choice]} | extra)

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        texts = self.context.texts
        return choice_logprobs(texts[0], answer.text) if texts else None

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
