"""Parts of responses that several routes use: security headers, errors, server-sent events."""

import json
from typing import Any

from fastapi.responses import JSONResponse

from timechat.serving.errors import RequestError

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
"""Headers of every response."""

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers of every event stream: no cache stores it, and nginx sends each event on without a buffer."""

KEEPALIVE_SECONDS = 10.0
"""Seconds without an event after which a stream sends `KEEPALIVE`."""

OPEN_SECONDS = 2.0
"""Seconds after which the stream of an answer opens; an error before that has a status of its own."""

KEEPALIVE = ": still at work\n\n"
"""Comment of an event stream that keeps the connection open."""


def error_response(error: RequestError) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse(error.to_dict(), error.status, headers=error.headers)


def format_event(content: dict[str, Any], kind: str | None = None) -> str:
    """Format a server-sent event; `kind` is its name."""
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(content, ensure_ascii=False)}\n\n"
