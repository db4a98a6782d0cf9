"""`/v1/responses`, compatible with OpenAI's API; responses are not stored."""

import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from timechat.answers.events import Answer
from timechat.serving.context import RequestContext
from timechat.serving.errors import RequestError
from timechat.serving.http.answering import respond
from timechat.serving.http.openai_responses import ResponseRequest
from timechat.serving.http.responses import format_event
from timechat.serving.http.routes.state import CurrentServer

router = APIRouter()


@router.post("/v1/responses", response_model=None)
async def responses(body: ResponseRequest, request: Request, server: CurrentServer) -> Response:
    """Answer the last message of the input about a video."""
    name = server.service.find_model(body.model)
    return await respond(body.to_chat(), request, server, lambda context: _Response(name, body, context))


@dataclass
class _Response:
    """One response in the format of OpenAI's API."""

    model: str
    request: ResponseRequest
    context: RequestContext
    id: str = field(default_factory=lambda: f"resp_{token_hex(24)}")
    message_id: str = field(default_factory=lambda: f"msg_{token_hex(24)}")
    created: int = field(default_factory=lambda: int(time.time()))
    num_events: int = 0
    has_message: bool = False
    text: str = ""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the whole response."""
        status = self._status
        return self._response(status, output=[self._message(status, answer.text)]) | {"timechat": answer.to_dict()}

    def begin(self) -> str:
        """Return the events before the first text."""
        response = self._response("in_progress")
        return self._event("created", response=response) + self._event("in_progress", response=response)

    def piece(self, text: str) -> str:
        """Return the events for a piece of text."""
        begin = self._begin_message()
        self.text += text
        return begin + self._part_event("output_text.delta", delta=text, logprobs=[])

    def end(self, answer: Answer) -> str:
        """Return the events after the last text."""
        status, message = self._status, self._message(self._status, self.text)
        response = self._response(status, output=[message]) | {"timechat": answer.to_dict()}
        events = [  # in this order, since each event takes the next number
            self._begin_message(),
            self._part_event("output_text.done", text=self.text, logprobs=[]),
            self._part_event("content_part.done", part=_part(self.text)),
            self._event("output_item.done", output_index=0, item=message),
            self._event(status, response=response),
        ]
        return "".join(events)

    def fail(self, error: RequestError) -> str:
        """Return the event for an error."""
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        detail = error.to_dict()["error"] | {"code": code}
        return self._event("failed", response=self._response("failed", error=detail))

    def _begin_message(self) -> str:
        """Return the events before the first piece of text, once."""
        if self.has_message:
            return ""
        self.has_message = True
        item = self._message("in_progress", None)
        added = self._event("output_item.added", output_index=0, item=item)
        return added + self._part_event("content_part.added", part=_part(""))

    def _part_event(self, kind: str, **content: Any) -> str:
        return self._event(kind, item_id=self.message_id, output_index=0, content_index=0, **content)

    def _event(self, kind: str, **content: Any) -> str:
        kind = f"response.{kind}"
        event = format_event({"type": kind, "sequence_number": self.num_events, **content}, kind)
        self.num_events += 1
        return event

    def _message(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": self.message_id, "type": "message", "status": status, "role": "assistant", "content": content}

    @property
    def _status(self) -> str:
        return "incomplete" if self.context.reached_length_limit else "completed"

    def _response(
        self, status: str, *, output: list[dict[str, Any]] | None = None, error: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the response object; its fields that this server does not support have their neutral values."""
        request, is_over = self.request, status in ("completed", "incomplete")
        given = None if request.text is None else request.text.format
        text_format = {"type": "text"} if given is None else given.model_dump(by_alias=True, exclude_unset=True)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "metadata": request.metadata or {},
            "model": self.model,
            "output": output or [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": request.temperature or 0.0,
            "text": {"format": text_format},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": self._usage if is_over else None,
            "user": None,
        }

    @property
    def _usage(self) -> dict[str, Any]:
        read, written = self.context.prompt_tokens, self.context.written_tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": self.context.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
