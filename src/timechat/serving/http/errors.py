"""Error responses in the format of OpenAI's API."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from timechat.errors import TimeChatError
from timechat.serving.errors import RequestError, as_request_error, internal_error
from timechat.serving.http.responses import SECURITY_HEADERS, error_response

_NO_FIELDS = ("body", "InlineFrameList", "constrained-str")  # parts of a location that are no fields of the request
_STATUS_MESSAGES = {404: "there is nothing at {path}", 405: "{method} is not what {path} takes"}


def add_error_handlers(app: FastAPI) -> None:
    """Let an application answer every error in the format of OpenAI's API."""
    for kind in (TimeChatError, ValueError, MemoryError, OSError):
        app.add_exception_handler(kind, _handle_known)
    app.add_exception_handler(RequestValidationError, _handle_invalid)
    app.add_exception_handler(HTTPException, _handle_status)
    app.add_exception_handler(Exception, _handle_unexpected)


async def _handle_known(_: Request, error: Exception) -> JSONResponse:
    known = as_request_error(error)
    if known is None:
        raise error
    return error_response(known)


async def _handle_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The deepest of several errors: a union reports one for each of its types.
    first = max(error.errors(), key=lambda each: len(each["loc"]))
    if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", "").lower():
        message = "the body must be JSON, sent with the header Content-Type: application/json"
        return error_response(RequestError(415, message))
    if first["type"] == "json_invalid":
        return error_response(RequestError(400, f"the body is no JSON: {first['ctx']['error']}"[:500]))
    param = ".".join(str(part) for part in first["loc"] if part not in _NO_FIELDS) or None
    return error_response(RequestError(400, f"{param or 'the body'}: {first['msg']}"[:500], param))


async def _handle_status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, RequestError):  # FastAPI wraps what is raised while it reads the body
        return error_response(error.__cause__)
    message = _STATUS_MESSAGES.get(error.status_code, str(error.detail))
    message = message.format(path=request.url.path[:200], method=request.method[:10])
    return error_response(RequestError(error.status_code, message, headers=dict(error.headers or {})))


async def _handle_unexpected(_: Request, _error: Exception) -> JSONResponse:
    response = error_response(internal_error())
    response.headers.update(SECURITY_HEADERS)  # this response does not pass the security middleware
    return response
