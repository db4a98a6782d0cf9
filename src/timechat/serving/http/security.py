"""Who may come in, how large a request may be, and what is written down about it."""

import hashlib
import hmac
import logging
import re
import secrets
import time
from asyncio import timeout
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from timechat.serving.access import redact
from timechat.serving.errors import CLIENT_CLOSED_REQUEST, ApiError, busy
from timechat.serving.http.metrics import Metrics
from timechat.serving.settings import ServerSettings

logger = logging.getLogger("timechat.serving.http.requests")

COOKIE = "timechat_session"
_SESSION_SECONDS = 12 * 3600.0
_MAX_SESSIONS = 1000
_OPEN = {"/", "/health", "/ready", "/openapi.json"}
_VALUE_STARTS = (b",", b"[", b"{")
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


class Keys:
    """The keys that open the server, and the sessions of browsers that have shown one."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys; none lets everybody in."""
        self._digests = [_digest(key) for key in keys]
        self._sessions: dict[str, float] = {}

    @property
    def is_required(self) -> bool:
        """Whether there are any."""
        return bool(self._digests)

    def is_valid(self, key: str) -> bool:
        """Whether a key opens the server; takes as long for a wrong one as for a right one."""
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all, so that time tells nothing
        return any(matches)

    def open_session(self) -> str:
        """Let a browser in that has shown a key; returns what its cookie holds."""
        now = time.monotonic()
        self._sessions = {name: ends for name, ends in self._sessions.items() if ends > now}
        if len(self._sessions) >= _MAX_SESSIONS:
            self._sessions.pop(min(self._sessions, key=self._sessions.__getitem__))
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token).hex()] = now + _SESSION_SECONDS
        return token

    def close_session(self, token: str) -> None:
        """Let it in no more."""
        self._sessions.pop(_digest(token).hex(), None)

    def check(self, request: Request) -> None:
        """Refuse a request that shows no valid key.

        A cookie counts only for requests that change nothing, so that no other page can act in a visitor's name.

        Raises:
            ApiError: 401.
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
        raise ApiError(
            401,
            "this server needs a key: send the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class SecurityMiddleware:
    """The outermost layer: all passes it, both ways."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, keys: Keys, metrics: Metrics) -> None:
        """Stand before an application."""
        self._settings, self._keys, self._metrics = settings, keys, metrics
        self._app = self._allow_origin(app)
        self._held = _BufferedBytes(settings.max_buffered_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.monotonic()
        body = _RequestBody(receive, self._settings, self._held, is_upload=_is_upload(scope))
        status = CLIENT_CLOSED_REQUEST

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            refusal = self._check_host_and_origin(headers)
            if refusal is not None:
                await refusal.response()(scope, receive, send_on)
            elif (refusal := self._reject_reason(scope, headers)) is not None:
                await self._allow_origin(refusal.response())(scope, receive, send_on)
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
        """An application whose answers pages of other servers may read where they were named (CORS)."""
        origins = list(self._settings.origins)
        if not origins:
            return app
        return CORSMiddleware(app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])

    def _check_host_and_origin(self, headers: dict[bytes, str]) -> ApiError | None:
        """Why a request is not meant for this server, or is of a page that may not ask; None where neither is so."""
        host = headers.get(b"host", "")
        name = re.sub(r":\d*$", "", host).lower()
        if "*" not in self._settings.names and name not in {known.lower() for known in self._settings.names}:
            return ApiError(
                403, f"this server is not called {host[:80]!r}; name it with --name if it should be", code="wrong_host"
            )
        origin = headers.get(b"origin")
        if origin is not None and origin not in self._settings.origins and _host_of(origin) != host:
            return ApiError(
                403, "pages of other servers may not ask this one; allow theirs with --origin", code="wrong_origin"
            )
        return None

    def _reject_reason(self, scope: Scope, headers: dict[bytes, str]) -> ApiError | None:
        """Why a request does not come in; None where it does."""
        is_asking_whether = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if is_asking_whether and headers.get(b"origin") in self._settings.origins:
            return None  # a browser before it asks: it shows no key, and CORS answers
        if not _is_open(scope):  # before the body: who has no key cannot make the server hold anything
            try:
                self._keys.check(Request(scope))
            except ApiError as refusal:
                return refusal
        length = headers.get(b"content-length", "0")
        most = _max_body_bytes(self._settings, is_upload=_is_upload(scope))
        if not length.isdecimal() or int(length) > most:
            return _too_large(most)
        return None


def _host_of(origin: str) -> str | None:
    """Host and port of a page; None where that is no address."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


_METHODS = {"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"}


@dataclass
class _BufferedBytes:
    """Bytes of all bodies that are in memory."""

    most: int
    num_bytes: int = 0


class _RequestBody:
    """What a client sends, measured: too much, too slow or broken off is told apart."""

    def __init__(
        self, receive: Receive, settings: ServerSettings, all_held: _BufferedBytes, *, is_upload: bool
    ) -> None:
        self._receive, self._settings, self._all_held = receive, settings, all_held
        self._is_held = not is_upload  # uploads go to the disk as they come
        self._most, self._held = _max_body_bytes(settings, is_upload=is_upload), 0
        self._most_values, self._num_values = settings.max_body_values, 0
        self._num_held = 0
        self._ends = time.monotonic() + settings.upload_timeout
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()  # nothing more than that the client goes away
        wait = min(self._settings.silence_timeout, self._ends - time.monotonic())
        try:
            async with timeout(max(0.0, wait)):
                message = await self._receive()
        except TimeoutError as error:
            raise ApiError(408, "the request's body did not arrive in time", headers={"Connection": "close"}) from error
        if message["type"] == "http.request":
            self._held += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._held > self._most:
                raise _too_large(self._most)
            if self._is_held:
                self._hold(message.get("body", b""))
        else:
            self._is_whole = True
        return message

    def _hold(self, piece: bytes) -> None:
        self._num_held += len(piece)
        self._all_held.num_bytes += len(piece)
        self._num_values += sum(map(piece.count, _VALUE_STARTS))
        if self._num_values > self._most_values:
            raise ApiError(413, f"the request's JSON has more than the {self._most_values} values that it may have")
        if self._all_held.num_bytes > self._all_held.most:
            raise busy("the requests that are being worked on are too large together", 5)

    def release(self) -> None:
        """Make room for others."""
        self._all_held.num_bytes -= self._num_held
        self._num_held = 0


def _is_open(scope: Scope) -> bool:
    """Whether a route is there for those without a key: the page itself, and what tells nothing."""
    path: str = scope["path"]
    return path in _OPEN or path.startswith("/static/") or (scope["method"], path) == ("DELETE", "/v1/session")


def _is_upload(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"] == "/v1/files")


def _max_body_bytes(settings: ServerSettings, *, is_upload: bool) -> int:
    # The parts around a file in a form are small.
    return settings.limits.max_bytes + (1 << 20) if is_upload else settings.max_body_bytes


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the request is larger than the {most} bytes that it may have", headers={"Connection": "close"}
    )
