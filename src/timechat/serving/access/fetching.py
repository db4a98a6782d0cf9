"""A video from the web to a file, from the very machine whose address was checked."""

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
"""How often a server may send us on."""

CONNECT_TIMEOUT = 10.0
"""Seconds that connecting to one IP address may take."""

_REDIRECTS = {301, 302, 303, 307, 308}
_CHUNK_BYTES = 256 * 1024
_POLL_SECONDS = 0.25  # seconds between two looks at whether somebody has cancelled


@dataclass(frozen=True)
class Fetched:
    """What was fetched.

    Attributes:
        path: the file, whole.
        num_bytes: its size.
        url: the address that sent it, after redirects.
        filename: the last part of that address, fit to be shown; empty if it has none.
        media_type: as the server calls it, in small letters, or None.
    """

    path: Path
    num_bytes: int
    url: str
    filename: str
    media_type: str | None


def fetch(
    url: str, into: Path, addresses: Addresses, limits: Limits, *, is_cancelled: Callable[[], bool] = lambda: False
) -> Fetched:
    """Copy a video from the web into a file.

    Nothing but the address is sent: no credentials, no cookies; proxies of the environment are not used.

    Args:
        url: An `http` or `https` address.
        into: The file to write, in a folder that exists; it appears whole or not at all.
        addresses: The hosts that may be asked, also after a redirect.
        limits: `max_bytes` and `fetch_timeout` hold for the whole.
        is_cancelled: Asked several times a second; once True, fetching is given up as `unreachable`.

    Raises:
        AccessError: It may not be fetched, is too large, is not there, or does not arrive whole and in time.
    """
    watch = _FetchGuard(limits.fetch_timeout, is_cancelled)
    current = addresses.check(url)
    for _ in range(MAX_REDIRECTS + 1):
        watch.check()
        with _response(current, watch) as response:
            if response.status not in _REDIRECTS:
                _check_status(response)
                _check_size(response, limits)
                with atomic_write(into) as unfinished:
                    num_bytes = _copy(response, unfinished, limits, watch)
                return Fetched(into, num_bytes, current.url, _filename(current.url), _media_type(response))
            location = response.getheader("Location")
        current = addresses.check(_next_address(current, location))
    raise AccessError(f"the address was redirected more than {MAX_REDIRECTS} times", "unreachable")


class _FetchGuard:
    """The end of the time for one fetch, and the wish of the caller to stop."""

    def __init__(self, timeout: float, is_cancelled: Callable[[], bool]) -> None:
        self.timeout, self.is_cancelled = timeout, is_cancelled
        self.ends = time.monotonic() + timeout

    def check(self) -> float:
        """Seconds that are left; raises if there are none."""
        left = self.ends - time.monotonic()
        if self.is_cancelled():
            raise AccessError("fetching was cancelled", "unreachable")
        if left <= 0:
            raise AccessError(f"the address did not send the whole video within {self.timeout:g} s", "unreachable")
        return left


class _GuardedStream(io.RawIOBase):
    """What a socket receives, each wait for it short enough to be given up in time."""

    def __init__(self, connection: socket.socket, guard: _FetchGuard) -> None:
        self.connection, self.watch = connection, guard

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            self.connection.settimeout(min(_POLL_SECONDS, self.watch.check()))
            try:
                return self.connection.recv_into(buffer)
            except TimeoutError:
                continue


class _GuardedSocket:
    """As much of a socket as `http.client` uses, with the watch over all that is read."""

    def __init__(self, connection: socket.socket, guard: _FetchGuard) -> None:
        self.connection, self.watch = connection, guard

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_GuardedStream(self.connection, self.watch), _CHUNK_BYTES)

    def sendall(self, data: bytes) -> None:
        self.connection.settimeout(self.watch.check())
        self.connection.sendall(data)

    def close(self) -> None:
        """Called as soon as the head is read; the body is still to come, and `_response` closes."""


@contextmanager
def _response(address: CheckedAddress, guard: _FetchGuard) -> Iterator[HTTPResponse]:
    """The answer of the server at one of the checked IP addresses, up to its body."""
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
    """A connection to one of the checked IP addresses, with TLS for the host's name where the scheme asks for it."""
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
    """How servers prove who they are: by the certificates that the system trusts."""
    return ssl.create_default_context()


@contextmanager
def _as_unreachable() -> Iterator[None]:
    """Turn what goes wrong on the way into an `AccessError`."""
    try:
        yield
    except (OSError, HTTPException, ValueError):
        raise AccessError(
            "the address cannot be read: its server broke off, or does not speak HTTP", "unreachable"
        ) from None


def _check_status(response: HTTPResponse) -> None:
    """Raise unless the whole content follows, as it is."""
    if response.status in (404, 410):
        raise AccessError(f"the address is not there: its server answered {response.status}", "not_found")
    if response.status != 200:
        raise AccessError(f"the address sends no video: its server answered {response.status}", "unreachable")
    encodings = [response.getheader("Content-Encoding", ""), response.getheader("Transfer-Encoding", "")]
    if encodings[0].strip().lower() not in ("", "identity") or encodings[1].strip().lower() not in ("", "chunked"):
        raise AccessError("the address sends its video compressed once more, which is not accepted", "unreachable")


def _check_size(response: HTTPResponse, limits: Limits) -> None:
    if response.length is not None and response.length > limits.max_bytes:
        raise _too_large(limits)


def _copy(response: HTTPResponse, path: Path, limits: Limits, guard: _FetchGuard) -> int:
    """Write the body to a file.

    Returns:
        Its bytes.
    """
    expected, num_bytes = response.length, 0
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
            file.write(chunk)
    if expected is not None and num_bytes < expected:
        raise AccessError(f"the address cannot be read: its server broke off after {num_bytes} bytes", "unreachable")
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
