"""An OpenAI-compatible server on this machine whose responses a test chooses."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from timechat.video import Frames

SECRET = "key/very+secret/0123456789"


@dataclass(frozen=True)
class Reply:
    """One response.

    Attributes:
        body: Content; a dict is sent as JSON.
        hangs: Whether the server never answers.
        cuts: Whether the connection is closed before the content is complete.
    """

    status: int = 200
    body: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    cuts: bool = False


Answering = Callable[[dict[str, Any]], Reply]


@dataclass(frozen=True)
class Recorded:
    """A request as the server received it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class StubServer:
    """Answers chat completions with the given replies in order, the last one again and again.

    Attributes:
        requests: Requests for chat completions, in order.
        models: Names that `/models` lists.
        contexts: Context length of a model, if the list states it.
        num_lists: Number of requests for the list.
    """

    def __init__(self, *replies: Reply | Answering, models: tuple[str, ...] = ("tiny",)) -> None:
        self.replies, self.models = list(replies), models
        self.requests: list[Recorded] = []
        self.contexts: dict[str, int] = {}
        self.num_lists = 0
        self.num_at_once = self.max_at_once = 0
        self.arrived = threading.Condition()
        self.is_closed = threading.Event()

    def __enter__(self) -> StubServer:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._http.daemon_threads, self._http.block_on_close = True, False
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def next_reply(self, recorded: Recorded) -> Reply:
        with self.arrived:
            self.requests.append(recorded)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            self.arrived.notify_all()
        return reply(recorded.body) if callable(reply) else reply

    def wait_for_requests(self, number: int, timeout: float = 5) -> bool:
        with self.arrived:
            return self.arrived.wait_for(lambda: len(self.requests) >= number, timeout)


def _handler_of(server: StubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and content in one packet: the second one would wait for 40 ms

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            server.num_lists += 1
            found = self.path == "/v1/models"
            listed = [
                {"id": name, **({"max_model_len": server.contexts[name]} if name in server.contexts else {})}
                for name in server.models
            ]
            self.send(Reply(200 if found else 404, {"data": listed}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.arrived:
                server.num_at_once += 1
                server.max_at_once = max(server.max_at_once, server.num_at_once)
            try:
                self.send(server.next_reply(Recorded(self.path, dict(self.headers), body)))
            finally:
                with server.arrived:
                    server.num_at_once -= 1

        def send(self, reply: Reply) -> None:
            if reply.hangs:
                server.is_closed.wait(20)
                self.close_connection = True
                return
            content = json.dumps(reply.body).encode() if isinstance(reply.body, dict) else reply.body
            self.send_response(reply.status)
            for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + 100 * reply.cuts))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(content)
            self.close_connection = self.close_connection or reply.cuts

    return Handler


def completion(content: object = "Yes.", **fields: Any) -> dict[str, Any]:
    """The body of a response; `fields` are those of the choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"} | fields
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return {"model": "tiny", "system_fingerprint": "fp_1", "choices": [choice], "usage": usage}


def answering(content: object = "Yes.", **fields: Any) -> Reply:
    return Reply(body=completion(content, **fields))


def refusal(message: str, status: int = 400, **fields: Any) -> Reply:
    return Reply(status, {"error": {"message": message, "type": "invalid_request_error"} | fields})


def token(text: str, logprob: float, data: bytes | None = None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": None if data is None else list(data), "top_logprobs": []}


def chunks(*texts: str, finish: str | None = "stop", **fields: Any) -> Iterator[dict[str, Any]]:
    """The parts of a streamed response, one for each text."""
    for text in texts:
        yield {"model": "tiny", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None} | fields]}
    if finish:
        yield {"model": "tiny", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}


def streaming(
    parts: Iterator[dict[str, Any]] | list[dict[str, Any]], *, done: bool = True, cuts: bool = False
) -> Reply:
    lines = [f"data: {json.dumps(part, ensure_ascii=False)}\n\n" for part in parts] + ["data: [DONE]\n\n"] * done
    return Reply(
        body="".join([": ping\n\n", *lines]).encode(), headers={"Content-Type": "text/event-stream"}, cuts=cuts
    )


def gray_frames(times: list[float], height: int = 40, width: int = 80, *, duration: float | None = None) -> Frames:
    """Frames whose gray value is 50 times their index."""
    pixels = np.stack([np.full((height, width, 3), 50 * i % 256, np.uint8) for i in range(len(times))])
    return Frames(pixels, np.array(times), times[-1] + 1 if duration is None else duration)


def picture_of(part: dict[str, Any]) -> Image.Image:
    """The picture in a part of a message."""
    assert part["type"] == "image_url"
    head, _, content = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))
