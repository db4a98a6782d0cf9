"""Downloads of videos to files, from the IP address that was checked."""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from timechat.errors import AccessError
from timechat.files import atomic_write
from timechat.serving.access.addresses import Addresses, CheckedAddress
from timechat.serving.access.limits import Limits

MAX_REDIRECTS = 5
"""Maximum number of redirects."""

CONNECT_TIMEOUT = 10.0
"""Maximum time to connect to one IP address, in seconds."""

_REDIRECTS = {301, 302, 303, 307, 308}
_CHUNK_BYTES = 256 * 1024
_POLL_SECONDS = 0.25  # between two checks for cancellation


@dataclass(frozen=True)
class Fetched:
    """A downloaded file.

    Attributes:
        path: Path of the complete file.
        num_bytes: Size of the file.
        url: Address that sent the file, after redirects.
        filename: Last part of that address, safe for display; may be empty.
        media_type: Media type from the response, in lower case; None without one.
    """

    path: Path
    num_bytes: int
    url: str
    filename: str
    media_type: str | None


def fetch(
    url: str,
    into: Path,
    addresses: Addresses,
    limits: Limits,
    *,
    is_cancelled: Callable[[], bool] = lambda: False,
    reserve: Callable[[int], None] = lambda _: None,
) -> Fetched:
    """Download a video to a file.

    Only the address is sent: no credentials and no cookies. Proxies of the environment are not used.

    Args:
        url: `http` or `https` address.
        into: Path of the new file in an existing folder; the file is complete or does not exist.
        addresses: Allowed hosts, also after a redirect.
        limits: Limits; `max_bytes` and `fetch_timeout` apply to the whole download.
        is_cancelled: Function that returns True to end the download (`unreachable`); called several times a second.
        reserve: Function that reserves bytes of the disk before they are written; an exception it raises ends the
            download.

    Raises:
        AccessError: The address is not allowed, is too large, does not exist, or was not received completely in time.
    """
    guard = _FetchGuard(limits.fetch_timeout, is_cancelled)
    current = addresses.check(url)
    for _ in range(MAX_REDIRECTS + 1):
        guard.check()
        with _response(current, guard) as response:
            if response.status not in _REDIRECTS:
                _check_status(response)
                _check_size(response, limits)
                with atomic_write(into) as unfinished:
                    num_bytes = _copy(response, unfinished, limits, guard, reserve)
                return Fetched(into, num_bytes, current.url, _filename(current.url), _media_type(response))
            location = response.getheader("Location")
        current = addresses.check(_next_address(current, location))
    raise AccessError(f"the address was redirected more than {MAX_REDIRECTS} times", "unreachable")


class _FetchGuard:
    """Deadline and cancellation of a download."""

    def __init__(self, timeout: float, is_cancelled: Callable[[], bool]) -> None:
        self.timeout, self.is_cancelled = timeout, is_cancelled
        self.ends = time.monotonic() + timeout

    def check(self) -> float:
        """Return the remaining seconds; raise if there are none or the download is cancelled."""
        remaining = self.ends - time.monotonic()
        if self.is_cancelled():
            raise AccessError("fetching was cancelled", "unreachable")
        if remaining <= 0:
            raise AccessError(f"the address did not send the whole video within {self.timeout:g} s", "unreachable")
        return remaining


class _GuardedStream(io.RawIOBase):
    """Received data of a socket; every wait is short, so that it can end in time."""

    def __init__(self, connection: socket.socket, guard: _FetchGuard) -> None:
        self.connection, self.guard = connection, guard

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            self.connection.settimeout(min(_POLL_SECONDS, self.guard.check()))
            try:
                return self.connection.recv_into(buffer)
            except TimeoutError:
                continue


class _GuardedSocket:
    """The part of a socket that `http.client` uses, with the guard for all reads."""

    def __init__(self, connection: socket.socket, guard: _FetchGuard) -> None:
        self.connection, self.guard = connection, guard

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_GuardedStream(self.connection, self.guard), _CHUNK_BYTES)

    def sendall(self, data: bytes) -> None:
        self.connection.settimeout(self.guard.check())
        self.connection.sendall(data)

    def close(self) -> None:
        """Do nothing: `http.client` calls it before the body is read, and `_response` closes the socket."""


@contextmanager
def _response(address: CheckedAddress, guard: _FetchGuard) -> Iterator[HTTPResponse]:
    """Send the request to one of the checked IP addresses; yield the response with its body unread."""
    connection = _connect(address, guard)
    try:
        client = HTTPConnection(address.host, address.port)
        client.sock = _GuardedSocket(connection, guard)
        client.putrequest("GET", address.target, skip_host=True, skip_accept_encoding=True)
        client.putheader("Host", urlsplit(address.url).netloc)
        client.putheader("User-Agent", "timechat")
        client.putheader("Accept", "*/*")
        client.putheader("Accept-Encoding", "identity")
        client.putheader("Connection", "close")
        with _as_unreachable():
            client.endheaders()
            response = client.getresponse()
        yield response
    finally:
        connection.close()


def _connect(address: CheckedAddress, guard: _FetchGuard) -> socket.socket:
    """Connect to one of the checked IP addresses, with TLS for the name of the host if the scheme is `https`."""
    for ip in address.ips:
        family = socket.AF_INET6 if ip_address(ip).version == 6 else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(min(CONNECT_TIMEOUT, guard.check()))
            connection.connect((ip, address.port))
            if address.scheme == "https":
                connection.settimeout(min(CONNECT_TIMEOUT, guard.check()))
                return tls_context().wrap_socket(connection, server_hostname=address.host)
            return connection
        except ssl.SSLCertVerificationError:
            connection.close()
            raise AccessError("the address shows a certificate that is not trusted", "unreachable") from None
        except OSError:
            connection.close()
        except BaseException:
            connection.close()
            raise
    guard.check()
    raise AccessError("the address cannot be reached: its server does not answer", "unreachable")


def tls_context() -> ssl.SSLContext:
    """Return a TLS context that trusts the certificates of the system."""
    return ssl.create_default_context()


@contextmanager
def _as_unreachable() -> Iterator[None]:
    """Convert network errors into an `AccessError`."""
    try:
        yield
    except (OSError, HTTPException, ValueError):
        raise AccessError(
            "the address cannot be read: its server closed the connection, or does not use HTTP", "unreachable"
        ) from None


def _check_status(response: HTTPResponse) -> None:
    """Raise unless the response has the whole content, without compression."""
    if response.status in (404, 410):
        raise AccessError(f"the address is not there: its server answered {response.status}", "not_found")
    if response.status != 200:
        raise AccessError(f"the address sends no video: its server answered {response.status}", "unreachable")
    encodings = [response.getheader("Content-Encoding", ""), response.getheader("Transfer-Encoding", "")]
    if encodings[0].strip().lower() not in ("", "identity") or encodings[1].strip().lower() not in ("", "chunked"):
        raise AccessError("the address sends a compressed response, which is not accepted", "unreachable")


def _check_size(response: HTTPResponse, limits: Limits) -> None:
    if response.length is not None and response.length > limits.max_bytes:
        raise _too_large(limits)


def _copy(
    response: HTTPResponse, path: Path, limits: Limits, guard: _FetchGuard, reserve: Callable[[int], None]
) -> int:
    """Write the body to a file; return its size in bytes."""
    expected, num_bytes = response.length, 0
    reserve(expected or 0)
    with path.open("wb") as file:
        while expected is None or num_bytes < expected:
            guard.check()
            with _as_unreachable():
                chunk = response.read1(_CHUNK_BYTES)
            if not chunk:
                break
            num_bytes += len(chunk)
            if num_bytes > limits.max_bytes:
                raise _too_large(limits)
            if expected is None:
                reserve(len(chunk))
            file.write(chunk)
    if expected is not None and num_bytes < expected:
        raise AccessError(
            f"the address cannot be read: its server closed the connection after {num_bytes} bytes", "unreachable"
        )
    if not num_bytes:
        raise AccessError("the address sends nothing: its file is empty", "unreachable")
    return num_bytes


def _too_large(limits: Limits) -> AccessError:
    return AccessError(f"the address sends more than the {limits.max_bytes} bytes that are allowed", "too_large")


def _next_address(current: CheckedAddress, location: str | None) -> str:
    if not location:
        raise AccessError("the address is redirected to nowhere", "unreachable")
    try:
        location = location.encode("latin-1").decode()  # headers are read as Latin-1, and servers write UTF-8
    except UnicodeError:
        location = quote(location, safe="/?%:@!$&'()*+,;=~-._#[]")
    try:
        following = urljoin(current.url, location.strip().replace(" ", "%20"))
    except ValueError:
        raise AccessError("the address is redirected to one that cannot be read", "bad_address") from None
    if current.scheme == "https" and following[:6].lower() != "https:":
        raise AccessError("the address is redirected to one without encryption, which is not followed", "forbidden")
    return following


def _filename(url: str) -> str:
    last = unquote(urlsplit(url).path.rpartition("/")[2])
    return re.sub(r"[\x00-\x1f\x7f-\x9f/\\]", "", last)[:200].lstrip(".")


def _media_type(response: HTTPResponse) -> str | None:
    kind = response.getheader("Content-Type", "").partition(";")[0].strip().lower()
    return kind if re.fullmatch(r"[\w.+-]{1,60}/[\w.+-]{1,60}", kind) else None
