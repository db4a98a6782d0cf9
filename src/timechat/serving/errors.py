"""What is said where something is wrong: OpenAI's shape, and the status that clients act on."""

import errno
import math
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from timechat.errors import AccessError, DataError, PromptTooLongError, TimeChatError, VideoError, plain_mistake
from timechat.serving.engine import CancelledRequestError, DeadlineError, EngineFailedError, EngineStoppedError

CLIENT_CLOSED_REQUEST = 499
"""As nginx says it; nobody is there to read it, but logs and metrics are."""

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
    429: "rate_limit_error",
    499: "client_closed_request",
    503: "service_unavailable",
    504: "timeout_error",
    507: "insufficient_storage",
}
_ACCESS_STATUS = {"forbidden": 403, "not_found": 404, "too_large": 413, "bad_address": 400, "unreachable": 424}


class ApiError(HTTPException):
    """An answer that says what is wrong.

    Attributes:
        status: Of HTTP.
        message: What was given, what was expected, what to do.
        param: The part of the request that is meant.
        code: For programs, where there is more to know than the type.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Say what is wrong; `headers` are such as `Retry-After`."""
        super().__init__(status, message, headers)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's shape."""
        kind = _TYPES.get(self.status, "video_error" if self.status == 424 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.to_dict(), self.status, headers=dict(self.headers or {}))


def busy(message: str, seconds: float) -> ApiError:
    """Turn a request away that may come again after so many seconds."""
    wait = max(1, math.ceil(seconds))
    return ApiError(429, f"{message}; try again in {wait} s", code="busy", headers={"Retry-After": str(wait)})


def as_api_error(error: BaseException, hidden: Iterable[tuple[Path, str]] = ()) -> ApiError | None:
    """Say an error of the pipeline as an answer; None for what nobody foresaw.

    Args:
        error: What was raised.
        hidden: Paths of this machine that no message may show, and what stands for each.
    """
    if isinstance(error, ApiError):
        return error
    message = " ".join(str(error).split())
    for path, name in hidden:
        message = message.replace(str(path), name)
    if isinstance(error, AccessError):
        return ApiError(_ACCESS_STATUS[error.reason], message, "video", error.reason)
    if isinstance(error, DeadlineError):
        return ApiError(504, message, code="too_slow")
    if isinstance(error, CancelledRequestError):
        return ApiError(CLIENT_CLOSED_REQUEST, message, code="cancelled")
    if isinstance(error, EngineFailedError):
        return ApiError(503, message, code="model_failed", headers={"Retry-After": "1"})
    if isinstance(error, EngineStoppedError):
        return ApiError(503, message, code="stopping", headers={"Retry-After": "5"})
    if isinstance(error, VideoError):
        return ApiError(422, message, "video", "unreadable_video")
    if isinstance(error, PromptTooLongError):
        return ApiError(400, message, "messages", "context_length_exceeded")
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        return ApiError(400, f"{param or 'the body'}: {plain_mistake(first['msg'])}"[:500], param)
    if isinstance(error, DataError | ValueError | TimeChatError):
        return ApiError(400, message)
    if isinstance(error, FileNotFoundError):
        return ApiError(404, "the file was removed meanwhile", "video", "not_found")
    is_full = isinstance(error, sqlite3.OperationalError) and "full" in message
    if is_full or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return ApiError(507, "the server's disk is full", code="disk_full")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ApiError(
            503, "out of memory; ask about fewer frames", code="out_of_memory", headers={"Retry-After": "5"}
        )
    return None
