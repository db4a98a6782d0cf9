"""Files of HTTP servers: read by the decoder library where ranges work, else downloaded as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from timechat.errors import VideoError
from timechat.video.limits import Deadline, reason

HTTP_OPTIONS = {"multiple_requests": "1", "reconnect": "1", "reconnect_delay_max": "2"}
"""Options of the decoder library: servers that do not name the connection, or drop it, are read to the end."""

_MAX_RESUMES = 3  # broken connections in a row without new data
_REFUSES_RANGES = {400, 405, 406, 412, 416, 501}  # answers to a range by servers that may send the whole file


def whole_content(address: str, deadline: Deadline) -> Iterator[bytes] | None:
    """Return the content of a file whose server does not send ranges in the way in which FFmpeg needs them.

    The first and the last byte are requested as ranges. None means that FFmpeg reads the address itself: the server
    sends ranges or a playlist, or the request failed.
    """
    try:
        response = _ask(address, "bytes=0-0", deadline)
        if response is not None and response.status == 206:
            total = _total(response, first=0)
            response.close()
            if total is not None and (total < 2 or _has_last_byte(address, total, deadline)):
                return None
            response = None
        if response is None:
            response = _ask(address, None, deadline)
        if response is not None and response.status == 200 and not _is_playlist(response.peek(512)):
            return _content(response, address, deadline)
        if response is not None:
            response.close()
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            raise silent_server(deadline) from error
        if isinstance(error, HTTPError):
            error.close()
    return None


def silent_server(deadline: Deadline) -> VideoError:
    """Return the error for a server that does not answer."""
    return VideoError(
        f"{deadline.name}: the server did not answer, or stopped answering, within "
        f"{deadline.patience:g} s; check the address and the network, or try again"
    )


def _ask(address: str, byte_range: str | None, deadline: Deadline) -> HTTPResponse | None:
    """Send a request; None if the server refuses the range."""
    deadline.check()
    request = Request(address, headers={"Range": byte_range} if byte_range else {})
    try:
        response: HTTPResponse = urlopen(request, timeout=min(deadline.left(), deadline.patience))
    except HTTPError as error:
        if byte_range is None or error.code not in _REFUSES_RANGES:
            raise
        error.close()
        return None
    return response


def _total(response: HTTPResponse, first: int) -> int | None:
    """Return the size of the file that a range from `first` states; None if it is another range, or unknown."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    return int(match[3]) if match and int(match[1]) == first else None


def _has_last_byte(address: str, total: int, deadline: Deadline) -> bool:
    """Whether the server sends the last byte of a file of `total` bytes, as one byte."""
    response = _ask(address, f"bytes={total - 1}-{total - 1}", deadline)
    if response is None:
        return False
    with response:
        return response.status == 206 and _total(response, total - 1) == total and len(response.read(2)) == 1


def _is_playlist(head: bytes) -> bool:
    return head.startswith(b"#EXTM3U") or b"<MPD" in head


def _content(response: HTTPResponse, address: str, deadline: Deadline) -> Iterator[bytes]:
    """Yield the content that a server sends; resume after a broken connection; silence is an error."""
    received, failures = 0, 0
    version = response.headers.get("ETag", "")
    while True:
        problem = ""
        with response:
            try:
                while data := response.read1(2**20):
                    received, failures = received + len(data), 0
                    yield data
            except TimeoutError as error:
                raise silent_server(deadline) from error
            except (OSError, HTTPException) as error:
                problem = reason(error)
            if not problem and response.length:
                problem = f"{response.length} bytes are missing"
        if not problem:
            return
        failures += 1
        resumed = None if failures > _MAX_RESUMES else _resume(address, received, version, deadline)
        if resumed is None:
            raise VideoError(f"{deadline.name}: the server closed the connection: {problem}; try again")
        response = resumed


def _resume(address: str, received: int, version: str, deadline: Deadline) -> HTTPResponse | None:
    """Request the rest of a file; None if the server does not send it."""
    headers = {"Range": f"bytes={received}-"} | ({"If-Range": version} if version.startswith('"') else {})
    try:
        response: HTTPResponse = urlopen(
            Request(address, headers=headers), timeout=min(deadline.left(), deadline.patience)
        )
    except (OSError, HTTPException):
        return None
    match = re.match(rf"bytes {received}-", response.headers.get("Content-Range", ""))
    if response.status == 206 and match:
        return response
    response.close()
    return None
