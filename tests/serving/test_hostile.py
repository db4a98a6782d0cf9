"""Requests of hostile clients that once broke the server."""

import asyncio
import base64
import io
import json
import socket
import struct
import time
import zlib
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from PIL import Image

from tests.serving.conftest import until
from timechat.serving.errors import as_request_error
from timechat.serving.http import connections
from timechat.serving.http.connections import Connection
from timechat.serving.http.uploads import _MAX_PARTS
from timechat.serving.inline_frames import InlineFrames
from timechat.video.frames import FrameSize


def refusal(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def chat(film_id: str, text: str = "What happens?", part: dict | None = None, **options) -> bytes:
    video = {"type": "video_url", "video_url": {"url": film_id}} | (part or {})
    content = [video, {"type": "text", "text": text}]
    return json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 4, **options}).encode()


def ask(running, *arguments, **options):
    body = chat(*arguments, **options)
    return running.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})


def png(width: int, height: int) -> str:
    """Return the address of an image with a given size in its header and almost no content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(width: int, height: int) -> str:
    content = io.BytesIO()
    Image.new("RGB", (width, height)).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def upload(running, body: bytes, boundary: str = "XX"):
    return running.client.post(
        "/v1/files", content=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )


FILE = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'


@pytest.mark.parametrize("origin", ["http://[", "null", "//", "http://", "javascript:alert(1)", "\xff"])
def test_a_malformed_origin_is_refused(running, origin):
    answer = running.client.get("/v1/models", headers={"Origin": origin.encode("latin-1")})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "wrong_origin"


def test_a_lone_surrogate_is_refused(running, film_id):
    half = "a\ud800b"
    assert refusal(ask(running, film_id, half)) == (
        400,
        "a text holds half of a character (a surrogate without the other)",
    )
    assert ask(running, film_id, part={"transcript": half}).status_code == 400
    assert ask(running, half).status_code == 400


def test_json_needs_its_content_type(running, film_id):
    answer = running.client.post("/v1/captions", content=json.dumps({"video": film_id}))
    assert refusal(answer) == (415, "the body must be JSON, sent with the header Content-Type: application/json")


@pytest.mark.parametrize("transcript", [5, True, {"start": 1}, ["line"]])
def test_a_transcript_of_another_kind_is_refused(running, film_id, transcript):
    assert ask(running, film_id, part={"transcript": transcript}).status_code == 400


def test_a_temperature_near_zero_is_greedy(running, film_id):
    cold = ask(running, film_id, temperature=1e-300).json()
    assert cold["choices"][0]["message"] == ask(running, film_id, temperature=0).json()["choices"][0]["message"]


def test_a_wrong_option_of_a_part_is_one_clear_line(running, film_id):
    status, message = refusal(ask(running, film_id, part={"fps": "secret"}))
    assert (status, message) == (400, "fps: must be a valid number")


def test_a_huge_image_is_refused_before_it_is_read(running):
    body = {"video": {"frames": [{"url": png(50_000, 50_000), "time": 0}]}}
    assert running.client.post("/v1/captions", json=body).status_code == 413


def test_frames_are_kept_in_the_input_size_of_the_model(running):
    frames = InlineFrames((picture(4000, 3000), picture(20, 10)), (0.0, 1.0), None).decode(lambda *_: FrameSize(28, 28))
    assert frames.pixels.shape == (2, 28, 28, 3)
    assert frames.duration == 2.0


def test_frames_of_too_many_pixels_together_are_refused(running, monkeypatch):
    monkeypatch.setattr("timechat.serving.inline_frames._MAX_TOTAL_PIXELS", 400_000)
    large = picture(200, 200)
    frames = [{"url": large, "time": i} for i in range(11)]
    status, message = refusal(running.client.post("/v1/captions", json={"video": {"frames": frames}}))
    assert status == 413
    assert "pixels together" in message


def test_an_impossible_frame_rate_is_refused(running):
    body = {"answer": {"text": "", "task": "ask", "events": []}, "format": "edl", "fps": 1e-300}
    began = time.monotonic()
    assert running.client.post("/v1/export", json=body).status_code == 400
    assert time.monotonic() - began < 5


def test_a_form_with_too_many_parts_is_refused_early(running):
    parts = b'--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * (_MAX_PARTS + 1) + b"--XX--\r\n"
    assert refusal(upload(running, parts)) == (413, "the form has more than 100 parts")


def test_an_incomplete_form_is_refused(running, films):
    content = (films / "film.mp4").read_bytes()
    assert refusal(upload(running, FILE + content)) == (400, "the form is incomplete")
    assert list((running.settings.data / "uploads").glob(".*")) == []


def test_a_full_disk_and_a_missing_file_are_reported():
    told = [
        as_request_error(error) for error in (OSError(28, "x"), FileNotFoundError(2, "x", "/secret"), OSError(5, "x"))
    ]
    assert [error and error.status for error in told] == [507, 404, None]
    assert "secret" not in told[1].message


def test_the_key_is_checked_before_the_body_is_read(served):
    running = served(api_keys=("correct horse",))
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        head = f"POST /v1/captions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 99000000\r\n\r\n"
        connection.sendall(head.encode())  # and not a byte of the body
        assert connection.recv(100).startswith(b"HTTP/1.1 401")
    assert running.client.post("/v1/captions", content=b"no JSON").status_code == 401
    assert running.client.get("/v1/nothing").status_code == 401
    assert [running.client.get(path).status_code for path in ("/", "/health", "/ready")] == [200, 200, 200]
    assert running.client.get("/v1/models", headers={"Authorization": "Bearer correct horse"}).status_code == 200


def test_large_requests_together_get_429(served, film_id):
    running = served(max_buffered_bytes=1000)
    answer = running.client.post("/v1/captions", json={"video": "x" * 2000})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    for _ in range(5):  # none of which is counted twice
        assert running.client.post("/v1/captions", json={"video": "x" * 500}).status_code == 400


@pytest.mark.parametrize("values", ["[]", "{}", "1", '""'])
def test_a_body_with_too_many_values_is_refused_before_parsing(served, values):
    running = served(max_body_values=1000)
    inside = ",".join([values] * 1001)
    answer = running.client.post("/v1/captions", content=f"[{inside}]", headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "more than the 1000 values" in answer.json()["error"]["message"]
    few = {"video": "file-0", "transcript": [{"start": i, "end": i + 1, "text": "a"} for i in range(200)]}
    assert running.client.post("/v1/captions", json=few).status_code == 404


def test_a_video_inside_a_request_is_deleted_after_a_while(served, films, monkeypatch):
    monkeypatch.setattr("timechat.serving.http.app._CLEANUP_SECONDS", 0.2)
    monkeypatch.setattr("timechat.serving.videos._KEPT_SECONDS", 2.0)
    running = served()
    address = f"data:video/mp4;base64,{base64.b64encode((films / 'film.mp4').read_bytes()).decode()}"
    answer = running.client.post("/v1/captions", json={"video": address, "max_new_tokens": 8})
    assert answer.status_code == 200
    kept = running.settings.data / "fetched"
    assert len(list(kept.iterdir())) == 1
    until(lambda: not list(kept.iterdir()), 10)


def test_an_unexpected_error_is_counted_as_500(served, monkeypatch):
    running = served()
    monkeypatch.setattr(running.server.videos, "list_files", lambda: 1 / 0)
    answer = running.client.get("/v1/files")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    # Of a connection of its own: the server has closed the other.
    assert 'status="500"' in httpx.get(f"{running.url}/metrics").text


async def _listen(app, protocol) -> tuple[uvicorn.Server, int, asyncio.Task]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=protocol, ws="none", log_level="error"))
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    return server, port, task


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_connection_without_a_request_is_closed(monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.4)

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(0.6)  # an answer may take longer than the next head
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    async def drip() -> bytes:
        server, port, task = await _listen(app, Connection)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = b""
        writer.write(sent)
        try:
            async with asyncio.timeout(5):
                while True:
                    reading = asyncio.ensure_future(reader.read(100))
                    while not (await asyncio.wait({reading}, timeout=0.1))[0]:
                        if not sent.endswith(b"\r\n\r\n"):
                            writer.write(b"x")  # a sign of life is no request
                    if not reading.result():
                        break
                    answer += reading.result()
        except ConnectionError:
            pass
        writer.close()
        server.should_exit = True
        await task
        return answer

    answer = asyncio.run(drip())
    assert answer.endswith(b"ok") == sent.endswith(b"\r\n\r\n")


def test_a_client_that_does_not_read_is_disconnected(monkeypatch):
    monkeypatch.setattr(connections, "STALL_TIMEOUT", 0.3)
    ended = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        await send({"type": "http.response.body"})
        ended.append(time.monotonic())

    async def stall() -> None:
        server, port, task = await _listen(app, Connection)
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(10):
            while not ended:
                await asyncio.sleep(0.05)
        writer.transport.abort()
        server.should_exit = True
        await task

    asyncio.run(stall())
