"""Requests, the token that stays with the hub, and the two ways in which a request fails."""

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from timechat.download.sizes import CHUNK_BYTES
from timechat.errors import DownloadError

TIMEOUT = 30.0  # seconds without a byte
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


class Dropped(Exception):  # noqa: N818 - it never leaves this folder
    """The transfer stopped for a reason that may pass."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""


class Refused(Exception):  # noqa: N818 - it never leaves this folder
    """The server answered with a status that another try will not change."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass
class Web:
    """Opens addresses. The token goes to the hub's endpoint and nowhere else."""

    endpoint: str
    token: str = field(repr=False)
    """Empty for none."""
    is_reached: bool | None = field(default=None, init=False)
    """True once any server answered: from then on a failed connection is worth another try. False while none
    did, None before the first request."""

    def __post_init__(self) -> None:
        if urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise ValueError(
                f"the hub's address must start with https://, got {self.endpoint!r}; set it in HF_ENDPOINT"
            )
        self.endpoint = self.endpoint.rstrip("/")
        self.token = self.token.strip()
        if not re.fullmatch(r"[!-~]*", self.token):  # the message must not show it
            raise ValueError(
                "the token holds blanks or characters outside ASCII; copy it again from the hub's settings"
            )

    @contextmanager
    def open(self, address: str, headers: dict[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
        """The response to a GET, or a `Dropped` or `Refused`."""
        request = Request(address, headers={"User-Agent": "timechat", "Accept-Encoding": "identity", **(headers or {})})
        if self.token and _origin(address) == _origin(self.endpoint):
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            response = build_opener(TokenStaysHome).open(request, timeout=TIMEOUT)
        except HTTPError as error:
            self.is_reached = True
            error.close()
            if error.code in PASSING_STATUS:
                raise Dropped(f"the server answered {error.code}", _retry_after(error)) from None
            raise Refused(error.code) from None
        except (OSError, http.client.HTTPException) as error:
            self.is_reached = bool(self.is_reached)
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                host = urlsplit(address).netloc
                raise DownloadError(f"{host} shows a certificate that is not trusted: {reason}") from None
            raise Dropped(reason_of(reason)) from None
        self.is_reached = True
        with response:
            yield response


class TokenStaysHome(HTTPRedirectHandler):
    """Follows redirects, with the token only where scheme, host and port stay the same."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """The next request; urllib leaves the token out of it, and here it is put back where it may go."""
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            host = urlsplit(req.full_url).netloc
            raise DownloadError(f"{host} redirects to an address without encryption, which is not followed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.unredirected_hdrs.get("Authorization")
        if request and authorization and _origin(newurl) == _origin(req.full_url):
            request.add_unredirected_header("Authorization", authorization)
        return request


def chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives."""
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(reason_of(error)) from None


def reason_of(error: object) -> str:
    """What went wrong, in the system's words."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _retry_after(error: HTTPError) -> float | None:
    """Seconds that the server asks to wait; its other form, a date, is left to our own pause."""
    seconds = error.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else None


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
