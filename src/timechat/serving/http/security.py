"""Security of requests: hosts, origins, keys and sizes; and the log of requests."""

import hashlib
import hmac
import logging
import re
import secrets
import time
from asyncio import timeout
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from timechat.serving.access import redact
from timechat.serving.errors import CLIENT_CLOSED_REQUEST, RequestError, busy_error
from timechat.serving.http.metrics import Metrics
from timechat.serving.http.responses import SECURITY_HEADERS, error_response
from timechat.serving.settings import ServerSettings

logger = logging.getLogger("timechat.serving.http.requests")

COOKIE = "timechat_session"
_SESSION_SECONDS = 12 * 3600.0
_MAX_SESSIONS = 1000
_PROBED_PATHS = {"/health", "/ready"}
_OPEN_PATHS = {"/", *_PROBED_PATHS, "/openapi.json"}
_VALUE_STARTS = (b",", b"[", b"{")
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


class Keys:
    """The API keys, and the sessions of browsers that have sent one."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Store digests of the keys; without keys, every request is accepted."""
        self._digests = [_digest(key) for key in keys]
        self._sessions: dict[str, float] = {}

    @property
    def is_required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._digests)

    def is_valid(self, key: str) -> bool:
        """Whether a key is valid; takes the same time for all keys."""
        digest = _digest(key)
        matches = [
            hmac.compare_digest(digest, known) for known in self._digests
        ]  # compare all, so that the time reveals nothing
        return any(matches)

    def open_session(self) -> str:
        """Open the session of a browser that has sent a key; return the value of its cookie."""
        now = time.monotonic()
        self._sessions = {name: ends for name, ends in self._sessions.items() if ends > now}
        if len(self._sessions) >= _MAX_SESSIONS:
            self._sessions.pop(min(self._sessions, key=self._sessions.__getitem__))
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token).hex()] = now + _SESSION_SECONDS
        return token

    def close_session(self, token: str) -> None:
        """Close a session."""
        self._sessions.pop(_digest(token).hex(), None)

    def client(self, request: Request) -> str:
        """Return a name of the client of a checked request: the hash of its key; empty on a server without keys."""
        key = request.headers.get("authorization", "").partition(" ")[2].strip()
        return _digest(key).hex() if self.is_required else ""

    def check(self, request: Request) -> None:
        """Check the key or the session of a request.

        A cookie is accepted only for requests that change nothing, so that no other page can act for a visitor.

        Raises:
            RequestError: There is no valid key (401).
        """
        if not self.is_required:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_valid(key.strip()):
            return
        token = request.cookies.get(COOKIE, "")
        ends = self._sessions.get(_digest(token).hex(), 0.0)
        if request.method in _SAFE_METHODS and ends > time.monotonic():
            return
        raise RequestError(
            401,
            "this server needs a key: send the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class SecurityMiddleware:
    """The outermost layer: checks requests, limits their bodies, adds headers to responses, and writes the log."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, keys: Keys, metrics: Metrics) -> None:
        """Wrap an application."""
        self._settings, self._keys, self._metrics = settings, keys, metrics
        self._app = self._allow_origin(app)
        self._buffered = _BufferedBytes(settings.max_buffered_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.monotonic()
        body = _RequestBody(receive, self._settings, self._buffered, is_upload=_is_upload(scope))
        status = CLIENT_CLOSED_REQUEST

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items() if k.encode() not in given]
                message = {**message, "headers": [*_relative_redirect(scope["path"], message["headers"]), *extra]}
            await send(message)

        try:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            refusal = self._check_host_and_origin(scope, headers)
            if refusal is not None:
                await error_response(refusal)(scope, receive, send_on)
            elif (refusal := self._reject_reason(scope, headers)) is not None:
                await self._allow_origin(error_response(refusal))(scope, receive, send_on)
            else:
                await self._app(scope, body, send_on)
        except Exception:
            status = 500 if status == CLIENT_CLOSED_REQUEST else status
            raise
        finally:
            body.release()
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.count(scope["method"] if scope["method"] in _METHODS else "other", route, status, seconds)
            path = scope["path"][:200].encode("ascii", "backslashreplace").decode()
            logger.info("%s %s %s %.3f s", scope["method"][:10], redact(path), status, seconds)

    def _allow_origin(self, app: ASGIApp) -> ASGIApp:
        """Let the configured origins read the responses of an application (CORS)."""
        origins = list(self._settings.origins)
        if not origins:
            return app
        return CORSMiddleware(app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])

    def _check_host_and_origin(self, scope: Scope, headers: dict[bytes, str]) -> RequestError | None:
        """Return an error if the host name or the origin of a request is not allowed.

        Probes name a machine by its address, so health and readiness have every name. The page and its files have
        every origin: behind a proxy that changes the host name, the page loads and can show the error of the API.
        """
        if scope["path"] in _PROBED_PATHS:
            return None
        host = headers.get(b"host", "")
        name = re.sub(r":\d*$", "", host).lower()
        if "*" not in self._settings.names and name not in {known.lower() for known in self._settings.names}:
            return RequestError(
                403,
                f"{host[:80]!r} is not a name of this server; if it should be, add it with --name",
                code="wrong_host",
            )
        origin = headers.get(b"origin")
        if origin is None or _is_page(scope):
            return None
        if origin not in self._settings.origins and _host_of(origin) != host:
            return RequestError(
                403,
                "pages of other servers may not send requests to this one; allow their origin with --origin, "
                "or let the proxy pass on the Host header if the page is this server's own",
                code="wrong_origin",
            )
        return None

    def _reject_reason(self, scope: Scope, headers: dict[bytes, str]) -> RequestError | None:
        """Return an error if the request has no key or is too large."""
        is_preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if is_preflight and headers.get(b"origin") in self._settings.origins:
            return None  # a browser sends no key with it, and CORS answers it
        if not _is_open(scope):  # before the body, so that a client without a key cannot use memory
            try:
                self._keys.check(Request(scope))
            except RequestError as refusal:
                return refusal
        length = headers.get(b"content-length", "0")
        max_bytes = _max_body_bytes(self._settings, is_upload=_is_upload(scope))
        if not length.isdecimal() or int(length) > max_bytes:
            return _too_large(max_bytes)
        return None


def _host_of(origin: str) -> str | None:
    """Return host and port of an origin; None if it is not an address."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


_METHODS = {"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"}


@dataclass
class _BufferedBytes:
    """Size of all bodies in memory, and its maximum."""

    max_bytes: int
    num_bytes: int = 0


class _RequestBody:
    """The body of a request, with limits of size and time."""

    def __init__(
        self, receive: Receive, settings: ServerSettings, all_buffered: _BufferedBytes, *, is_upload: bool
    ) -> None:
        self._receive, self._settings, self._all_buffered = receive, settings, all_buffered
        self._is_buffered = not is_upload  # uploads go to the disk as they arrive
        self._max_bytes, self._num_bytes = _max_body_bytes(settings, is_upload=is_upload), 0
        self._max_values, self._num_values = settings.max_body_values, 0
        self._num_buffered = 0
        self._ends = time.monotonic() + settings.upload_timeout
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()  # only the disconnection of the client
        wait = min(self._settings.silence_timeout, self._ends - time.monotonic())
        try:
            async with timeout(max(0.0, wait)):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestError(
                408, "the request's body did not arrive in time", headers={"Connection": "close"}
            ) from error
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._num_bytes > self._max_bytes:
                raise _too_large(self._max_bytes)
            if self._is_buffered:
                self._count(message.get("body", b""))
        else:
            self._is_whole = True
        return message

    def _count(self, chunk: bytes) -> None:
        self._num_buffered += len(chunk)
        self._all_buffered.num_bytes += len(chunk)
        self._num_values += sum(map(chunk.count, _VALUE_STARTS))
        if self._num_values > self._max_values:
            raise RequestError(413, f"the request's JSON has more than the {self._max_values} values that are allowed")
        if self._all_buffered.num_bytes > self._all_buffered.max_bytes:
            raise busy_error("the running requests are too large together", 5)

    def release(self) -> None:
        """Give the memory free for other requests."""
        self._all_buffered.num_bytes -= self._num_buffered
        self._num_buffered = 0


def _is_open(scope: Scope) -> bool:
    """Whether a route needs no key: the page, and routes that reveal nothing."""
    path: str = scope["path"]
    return path in _OPEN_PATHS or _is_page(scope) or (scope["method"], path) == ("DELETE", "/v1/session")


def _is_page(scope: Scope) -> bool:
    """Whether a request reads the page or one of its files."""
    path: str = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path == "/" or path.startswith("/static/"))


def is_secure(request: Request) -> bool:
    """Whether a browser sent a request with TLS, to this server or to a proxy in front of it.

    A client can claim it for itself only, and then does not get its own cookie back without TLS.
    """
    claimed = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    origin = request.headers.get("origin", "").lower()
    return "https" in (request.url.scheme, claimed) or origin.startswith("https:")


def _relative_redirect(path: str, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers whose redirect to the same path with or without a last slash is relative.

    The server does not know the scheme, the host and the prefix that a proxy in front of it has.
    """
    name = quote(path.rstrip("/").rsplit("/", 1)[-1], safe="")
    num_slashes = len(path) - len(path.rstrip("/"))
    relative = "../" * num_slashes + name if num_slashes else f"./{name}/"

    def changed(key: bytes, value: bytes) -> bytes:
        if key.lower() != b"location":
            return value
        query = urlsplit(value.decode("latin-1")).query
        return (f"{relative}?{query}" if query else relative).encode("latin-1")

    return [(key, changed(key, value)) for key, value in headers]


def _is_upload(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"] == "/v1/files")


def _max_body_bytes(settings: ServerSettings, *, is_upload: bool) -> int:
    # The other parts of a form are small.
    return settings.limits.max_bytes + (1 << 20) if is_upload else settings.max_body_bytes


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        413, f"the request is larger than the {max_bytes} bytes that are allowed", headers={"Connection": "close"}
    )
