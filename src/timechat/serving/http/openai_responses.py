"""Requests of `/v1/responses`, and their conversion into chat requests."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from timechat.serving.errors import RequestError
from timechat.serving.http.messages import RequestModel
from timechat.serving.http.schemas import ChatRequest


class TextFormat(RequestModel):
    """`{"type": "json_schema", "name": …, "schema": …}`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    def response_format(self) -> dict[str, Any]:
        """Return the same in the format of a chat request."""
        if self.type != "json_schema":
            return {"type": self.type}
        if self.schema_ is None:
            raise RequestError(400, "text.format of the type json_schema needs schema", "text.format.schema")
        return {"type": self.type, "json_schema": {"name": self.name, "schema": self.schema_}}


class TextOptions(RequestModel):
    """Options of the text."""

    format: TextFormat | None = None


class ResponseRequest(RequestModel):
    """A request of `/v1/responses`; other fields are those of a chat request."""

    model: str = ""
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    text: TextOptions | None = None
    metadata: dict[str, Any] | None = None
    background: bool | None = None
    conversation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None
    include: list[str] | None = None

    model_config = ConfigDict(extra="allow")

    def to_chat(self) -> ChatRequest:
        """Return the chat request.

        Raises:
            RequestError: The server does not support a field or an item of the input.
        """
        for name in ("background", "conversation", "previous_response_id", "prompt"):
            if getattr(self, name):
                message = f"{name} is not offered by this server, which stores no responses; leave it out"
                raise RequestError(400, message, name, "unsupported")
        for name, asks in (
            ("include", "message.output_text.logprobs" in (self.include or ())),
            ("logprobs", bool((self.model_extra or {}).get("logprobs"))),
        ):
            if asks:
                message = "log probabilities are offered by /v1/chat/completions only"
                raise RequestError(400, message, name, "unsupported")
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        messages = [_message(item, f"input[{i}]") for i, item in enumerate(items)]
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        text_format = None if self.text is None else self.text.format
        fields = dict(self.model_extra or {}) | {
            "model": self.model,
            "messages": messages,
            "stream": self.stream,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "response_format": None if text_format is None else text_format.response_format(),
        }
        if self.max_output_tokens is not None:
            fields["max_completion_tokens"] = self.max_output_tokens
        return ChatRequest.model_validate(fields)


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an item of the input as a message of a chat."""
    kind = item.get("type", "message")
    if kind != "message":
        message = f"items of the type {str(kind)[:40]!r} are not accepted here; expected message"
        raise RequestError(400, message, where)
    if "role" not in item:
        raise RequestError(400, "a message needs a role: user, assistant, system or developer", where)
    return {"role": item["role"], "content": item.get("content")}
