"""Errors of requests: one message, an HTTP status and a code, whatever the front (`http` or `mcp`)."""

import errno
import math
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from timechat.errors import (
    AccessError,
    DataError,
    EndpointError,
    EngineError,
    PromptTooLongError,
    TimeChatError,
    VideoError,
    plain_mistake,
)

CLIENT_CLOSED_REQUEST = 499
"""Status for a client that has disconnected, as in nginx; it appears in logs and metrics only."""

INTERNAL_ERROR = "something went wrong inside of the server; its log says more"

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    411: "invalid_request_error",
    413: "request_too_large",
    415: "unsupported_media_type",
    422: "video_error",
    424: "video_error",
    429: "rate_limit_error",
    499: "client_closed_request",
    502: "model_error",
    503: "service_unavailable",
    504: "timeout_error",
    507: "insufficient_storage",
}
_ACCESS_STATUS = {
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    "bad_address": 400,
    "unreachable": 424,
    "no_room": 507,
}
_ENDPOINT_STATUS = {"timeout": 504, "too_large": 413}  # the others are 502: the server of the model gave no answer


class CancelledRequestError(TimeChatError):
    """A request that was cancelled, or whose client has disconnected."""


class DeadlineError(TimeChatError):
    """A request that took longer than its time limit."""


class EngineFailedError(TimeChatError):
    """A step of the model failed that several requests shared."""


class EngineStoppedError(TimeChatError):
    """The server is shutting down."""


class RequestError(TimeChatError):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status code.
        message: What was given, what was expected and what to do.
        param: Name of the wrong field of the request.
        code: Short name for programs that is more precise than the type.
        headers: HTTP headers of the response, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        """Return the error in the format of OpenAI's API."""
        kind = _TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def internal_error() -> RequestError:
    """Return the error for a fault of the server itself; the log has the traceback."""
    return RequestError(500, INTERNAL_ERROR)


def busy_error(message: str, seconds: float) -> RequestError:
    """Return the error for a request that may be sent again after some seconds."""
    wait = max(1, math.ceil(seconds))
    return RequestError(429, f"{message}; try again in {wait} s", code="busy", headers={"Retry-After": str(wait)})


def as_request_error(error: BaseException, hidden: Iterable[tuple[Path, str]] = ()) -> RequestError | None:
    """Convert an error of the pipeline.

    Args:
        error: Error that was raised.
        hidden: Paths of this machine that the message must not show, each with its replacement.

    Returns:
        None for an unexpected error.
    """
    if isinstance(error, RequestError):
        return error
    message = " ".join(str(error).split())
    for path, name in hidden:
        message = message.replace(str(path), name)
    if isinstance(error, AccessError):
        return RequestError(_ACCESS_STATUS[error.reason], message, "video", error.reason)
    if isinstance(error, EndpointError):
        return RequestError(_ENDPOINT_STATUS.get(error.reason, 502), message, "model", f"endpoint_{error.reason}")
    if isinstance(error, DeadlineError):
        return RequestError(504, message, code="too_slow")
    if isinstance(error, CancelledRequestError):
        return RequestError(CLIENT_CLOSED_REQUEST, message, code="cancelled")
    if isinstance(error, EngineError):  # it is started again, which takes half a minute
        return RequestError(503, message, code="model_failed", headers={"Retry-After": "30"})
    if isinstance(error, EngineFailedError):
        return RequestError(503, message, code="model_failed", headers={"Retry-After": "1"})
    if isinstance(error, EngineStoppedError):
        return RequestError(503, message, code="stopping", headers={"Retry-After": "5"})
    if isinstance(error, VideoError):
        return RequestError(422, message, "video", "unreadable_video")
    if isinstance(error, PromptTooLongError):
        return RequestError(400, message, "messages", "context_length_exceeded")
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        return RequestError(400, f"{param or 'the body'}: {plain_mistake(first['msg'])}"[:500], param)
    if isinstance(error, DataError | ValueError | TimeChatError):
        return RequestError(400, message)
    if isinstance(error, FileNotFoundError):
        return RequestError(404, "the file was removed meanwhile", "video", "not_found")
    is_full = isinstance(error, sqlite3.OperationalError) and "full" in message
    if is_full or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return RequestError(507, "the server's disk is full", code="disk_full")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        message = "out of memory; ask about a shorter part of the video, or fewer frames"
        return RequestError(503, message, code="out_of_memory", headers={"Retry-After": "5"})
    return None
