"""HTTP servers that are odd in one way each, on the loopback address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DROP_AFTER = 9000  # bytes


class Plain(BaseHTTPRequestHandler):
    """Sends ranges as requested, and names the connection."""

    protocol_version = "HTTP/1.1"
    content = b""
    requests: list[str]
    names_connection = True

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.requests.append(asked or "whole")
        if asked is None:
            self.send_whole()
            return
        first, last = asked.removeprefix("bytes=").split("-")
        begin = int(first)
        end = min(int(last), len(self.content) - 1) if last else len(self.content) - 1
        if begin >= len(self.content):
            self.answer(416)
        else:
            self.send_range(begin, end)

    def send_whole(self) -> None:
        self.answer(200, self.content)

    def send_range(self, begin: int, end: int) -> None:
        self.answer(206, self.content[begin : end + 1], f"bytes {begin}-{end}/{len(self.content)}")

    def answer(self, status: int, body: bytes = b"", content_range: str = "", *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if content_range:
            self.send_header("Content-Range", content_range)
        if self.names_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


class NoConnectionHeader(Plain):
    """Closes the connection as requested, without saying so."""

    names_connection = False


class RefusesRanges(Plain):
    def send_range(self, begin: int, end: int) -> None:
        self.answer(406)


class RefusesParts(Plain):
    """Answers 416 to every range except the whole file."""

    def send_range(self, begin: int, end: int) -> None:
        if (begin, end) == (0, len(self.content) - 1):
            self.send_whole()
        else:
            self.answer(416)


class OnlyFirstByte(Plain):
    """Sends the first byte as a range, and the whole file for every other range."""

    def send_range(self, begin: int, end: int) -> None:
        if (begin, end) == (0, 0):
            super().send_range(begin, end)
        else:
            self.send_whole()


class UnknownTotal(Plain):
    def send_range(self, begin: int, end: int) -> None:
        self.answer(206, self.content[begin : end + 1], f"bytes {begin}-{end}/*")


class WrongTotal(Plain):
    """States 100,000 bytes too many, and sends empty ranges after the end."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        if asked and int(asked.removeprefix("bytes=").split("-")[0]) >= len(self.content):
            self.requests.append(asked)
            self.send_range(len(self.content), len(self.content))
        else:
            super().do_GET()

    def send_range(self, begin: int, end: int) -> None:
        self.answer(206, self.content[begin : end + 1], f"bytes {begin}-{end}/{len(self.content) + 100_000}")


class DropsConnections(Plain):
    """Closes every connection after some bytes."""

    def send_whole(self) -> None:
        self.answer(200, self.content[:DROP_AFTER], length=len(self.content))
        self.close_connection = True

    def send_range(self, begin: int, end: int) -> None:
        body = self.content[begin : end + 1]
        self.answer(206, body[:DROP_AFTER], f"bytes {begin}-{end}/{len(self.content)}", length=len(body))
        self.close_connection = True


class DropsWholeFiles(DropsConnections):
    """Refuses the range of the first byte, and drops the whole file, but can resume it."""

    def send_range(self, begin: int, end: int) -> None:
        if begin == 0:
            self.answer(406)
        else:
            super().send_range(begin, end)


class DropsForever(DropsConnections):
    """Drops the whole file, and refuses all ranges."""

    def send_range(self, begin: int, end: int) -> None:
        self.answer(406)


@contextmanager
def serve(kind: type[Plain], content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a file on a server, and the list of its requests."""
    requests: list[str] = []
    handler = type(kind.__name__, (kind,), {"content": content, "requests": requests})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/clip", requests
        finally:
            server.shutdown()
