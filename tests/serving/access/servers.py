"""Servers on this machine with responses that a test chooses."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress


class Server:
    """Answers every request by a function of the connection and the request's head.

    Attributes:
        requests: the heads of all requests, in order.
    """

    def __init__(
        self,
        answer: Callable[[socket.socket, str], None],
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer, self.host, self.tls = answer, host, tls
        self.requests: list[str] = []
        self.is_closed = threading.Event()

    def __enter__(self) -> Server:
        self.listener = socket.create_server((self.host, 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # which ends the waiting for a connection, as closing does not
        self.listener.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            self.requests.append(head.decode("latin-1"))
            self.answer(connection, self.requests[-1])
            if self.tls:
                connection.unwrap()


def sending(head: str, body: bytes = b"") -> Callable[[socket.socket, str], None]:
    """Return a function that sends the lines of a head, separated by `|`, and a body."""
    data = head.replace("|", "\r\n").encode("latin-1") + b"\r\n\r\n" + body

    def answer(connection: socket.socket, _request: str) -> None:
        connection.sendall(data)

    return answer
