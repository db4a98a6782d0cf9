"""The kinds of clients of `hostile_clients.py`: requests, frequencies and allowed responses.

They write to the server's socket directly, because no HTTP client would send some of these requests.
"""

import base64
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from running_server import RunningServer

Expected = AbstractSet[int | None]

MAX_UPLOAD = 2_000_000
VANISHED: Expected = {None}
"""No status: the client did not wait for one."""
REFUSED: Expected = {400, 403, 404, 405, 408, 413, 415, 422}


@dataclass
class Site:
    """The server, and the facts about it that clients use."""

    server: RunningServer
    films: list[str]
    content: bytes
    secrets: list[bytes]
    """Texts that no response may contain: folders of the machine."""
    uploads: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------- wire


def head(
    site: Site, method: str, target: str, *, length: int | None = None, kind: str = "application/json", more: str = ""
) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {site.server.host}", "Connection: close", f"Content-Type: {kind}"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1")


def answer_of(connection: socket.socket, most: int | None = None, pause: float = 0.0) -> bytes:
    """Return the response of the server, or its first bytes."""
    answer = b""
    with suppress(ConnectionError):
        while most is None or len(answer) < most:
            piece = connection.recv(512 if pause else 1 << 16)
            if not piece:
                break
            answer += piece
            time.sleep(pause)
    return answer


def send(site: Site, *pieces: bytes, pause: float = 0.0, most: int | None = None, slow: float = 0.0) -> bytes:
    """Send a request in parts and read the response or its beginning."""
    with site.server.connect() as connection:
        with suppress(ConnectionError):  # the server may answer and close before it has read everything
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        return answer_of(connection, most, slow)


def vanish(site: Site, rng: random.Random, *pieces: bytes, wait: float = 0.0, most: int | None = None) -> None:
    """Send something and disconnect, cleanly or like a crash."""
    with site.server.connect() as connection:
        if rng.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for piece in pieces:
            connection.sendall(piece)
        if most is not None:
            answer_of(connection, most)
        time.sleep(wait)


def post(site: Site, target: str, body: bytes | dict[str, Any], **options: Any) -> bytes:
    """Return a request with a JSON body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(site, head(site, "POST", target, length=len(content), **options), content)


def form(parts: Sequence[tuple[str, bytes]], *, ends: bool = True) -> bytes:
    """Return a form; each part is a header and its content."""
    whole = b"".join(b"--XX\r\n" + name.encode() + b"\r\n\r\n" + content + b"\r\n" for name, content in parts)
    return whole + (b"--XX--\r\n" if ends else b"")


FORM = "multipart/form-data; boundary=XX"


def file_form(content: bytes, name: str = "film.mp4") -> bytes:
    """Return a form with one file."""
    return form([(f'Content-Disposition: form-data; name="file"; filename="{name}"', content)])


def chat(site: Site, rng: random.Random, video: str | None = None, **options: Any) -> dict[str, Any]:
    """Return a body for `/v1/chat/completions`."""
    question = rng.choice(["What happens?", "When does it end?", "Describe the film.", "Which colours are there?"])
    content = [
        {"type": "video_url", "video_url": {"url": video or rng.choice(site.films)}},
        {"type": "text", "text": question},
    ]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": rng.choice([4, 16, 48])} | options


# -------------------------------------------------------------------------------------------- correct clients

Client = Callable[[Site, random.Random], bytes]


def asks(site: Site, rng: random.Random) -> bytes:
    return post(site, "/v1/chat/completions", chat(site, rng, temperature=rng.choice([0, 0, 1.0])))


def streams(site: Site, rng: random.Random) -> bytes:
    answer = post(site, "/v1/chat/completions", chat(site, rng, stream=True))
    assert b"data: [DONE]" in answer or not answer.startswith(b"HTTP/1.1 200"), "a stream ended without [DONE]"
    return answer


def asks_tasks(site: Site, rng: random.Random) -> bytes:
    route = rng.choice(["moments", "captions", "highlights", "summary", "steps"])
    start = rng.choice([None, 0, 1.5])
    return post(site, f"/v1/{route}", {"video": rng.choice(site.films), "query": "a red circle", "start": start})


def looks_around(site: Site, rng: random.Random) -> bytes:
    film = rng.choice(site.films)
    paths = ["/health", "/v1/models", "/v1/files", "/metrics", "/", f"/v1/files/{film}", "/v1/jobs"]
    paths += [f"/v1/files/{film}/thumbnail?time={rng.randrange(20)}"] * 3
    return send(site, head(site, "GET", rng.choice(paths)))


def reads_ranges(site: Site, rng: random.Random) -> bytes:
    start = rng.randrange(5000)
    more = f"Range: bytes={start}-{start + rng.randrange(3000)}\r\n"
    return send(site, head(site, "GET", f"/v1/files/{rng.choice(site.films)}/content", more=more))


def uploads(site: Site, rng: random.Random) -> bytes:
    body = file_form(site.content, rng.choice(["a.mp4", "../../etc/passwd", "ü\u202e.mp4", "a\\b.mp4"]))
    answer = send(site, head(site, "POST", "/v1/files", length=len(body), kind=FORM), body)
    file_id = json.loads(answer.partition(b"\r\n\r\n")[2]).get("id")
    if file_id and rng.random() < 0.9:
        post(site, "/v1/captions", {"video": file_id, "max_new_tokens": 8})
        return send(site, head(site, "DELETE", f"/v1/files/{file_id}"))
    return answer


def exports(site: Site, rng: random.Random) -> bytes:
    events = [{"start": i, "end": i + 1, "caption": "x"} for i in range(rng.randrange(5))]
    answer = {"text": "x", "task": "dense_caption", "events": events, "video": "/etc/passwd"}
    return post(site, "/v1/export", {"answer": answer, "format": rng.choice(["srt", "html", "csv", "otio", "edl"])})


# ------------------------------------------------------------------------------------------------ clients that vanish


def leaves_in_the_body(site: Site, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        body, kind, target = file_form(site.content), FORM, "/v1/files"
    else:
        body, kind, target = json.dumps(chat(site, rng)).encode(), "application/json", "/v1/chat/completions"
    vanish(site, rng, head(site, "POST", target, length=len(body), kind=kind), body[: rng.randrange(len(body))])
    return b""


def leaves_in_the_head(site: Site, rng: random.Random) -> bytes:
    whole = head(site, "POST", "/v1/captions", length=10)
    vanish(site, rng, whole[: rng.randrange(len(whole))])
    return b""


def leaves_while_waiting(site: Site, rng: random.Random) -> bytes:
    body = json.dumps(chat(site, rng, stream=rng.random() < 0.5, max_tokens=400)).encode()
    request = head(site, "POST", "/v1/chat/completions", length=len(body))
    vanish(site, rng, request, body, wait=rng.random() * 0.3)
    return b""


def leaves_in_the_stream(site: Site, rng: random.Random) -> bytes:
    body = json.dumps(chat(site, rng, stream=True, max_tokens=400)).encode()
    vanish(site, rng, head(site, "POST", "/v1/chat/completions", length=len(body)), body, most=rng.randrange(1, 2000))
    return b""


def leaves_in_a_film(site: Site, rng: random.Random) -> bytes:
    vanish(site, rng, head(site, "GET", f"/v1/files/{rng.choice(site.films)}/content"), most=100)
    return b""


# ---------------------------------------------------------------------------------------------- clients that are slow


def drips_an_upload(site: Site, _: random.Random) -> bytes:
    body = file_form(site.content)
    step = len(body) // 12 + 1
    pieces = [body[i : i + step] for i in range(0, len(body), step)]
    answer = send(site, head(site, "POST", "/v1/files", length=len(body), kind=FORM), *pieces, pause=0.1)
    file_id = json.loads(answer.partition(b"\r\n\r\n")[2]).get("id", "none")
    return send(site, head(site, "DELETE", f"/v1/files/{file_id}"))


def reads_slowly(site: Site, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return send(site, head(site, "GET", f"/v1/files/{rng.choice(site.films)}/content"), most=8000, slow=0.05)
    body = json.dumps(chat(site, rng, stream=True, max_tokens=16)).encode()
    return send(site, head(site, "POST", "/v1/chat/completions", length=len(body)), body, slow=0.05)


def falls_silent(site: Site, _: random.Random) -> bytes:
    return send(site, head(site, "POST", "/v1/captions", length=1000), b'{"video":')


# ------------------------------------------------------------------------------------------------ clients that lie


def sends_no_request(site: Site, rng: random.Random) -> bytes:
    film = rng.choice(site.films)
    deep = rng.choice([50, 900, 5000, 100_000])
    bodies: list[bytes] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe{}",
        b"[" * deep + b"]" * deep,
        b'{"video":' * deep + b"1" + b"}" * deep,
        b'{"video": "%s", "num_frames": %s}' % (film.encode(), b"9" * rng.choice([3, 30, 5000])),
        *(
            b'{"video": "%s", "%s": %s}' % (film.encode(), name, value)
            for name in (b"start", b"fps", b"window", b"threshold", b"top_k")
            for value in (b"NaN", b"Infinity", b"-1e400", b'"x"', b"[]", b"{}")
        ),
    ]
    return post(site, rng.choice(["/v1/captions", "/v1/moments", "/v1/jobs"]), rng.choice(bodies))


def chats_nonsense(site: Site, rng: random.Random) -> bytes:
    film, deep = rng.choice(site.films), rng.choice([50, 400, 5000])
    schema: Any = json.loads('{"type": "array", "items": ' * 40 + '{"type": "string", "pattern": "("}' + "}" * 40)
    oddities: list[dict[str, Any]] = [
        {"messages": []},
        {"messages": [{"role": "user", "content": [{}] * deep}]},
        chat(site, rng, "\ud800"),
        chat(site, rng, film, top_p=0),
        chat(site, rng, film, n=2),
        chat(site, rng, film, max_tokens=10**9),
        chat(site, rng, film, seed=10**30, temperature=1),
        chat(site, rng, film, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
        chat(site, rng, film, mm_processor_kwargs={"fps": "fast"}),
        chat(site, rng, film, media_io_kwargs={"video": 5}),
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "video", "video": ["x"], "fps": 1e-9}]}]},
        {"messages": [{"role": "user", "content": [{"type": "frames", "frames": [{"url": "data:,", "time": 0}]}]}]},
    ]
    return post(site, "/v1/chat/completions", rng.choice(oddities))


def sends_no_form(site: Site, rng: random.Random) -> bytes:
    file = 'Content-Disposition: form-data; name="file"; filename="a.mp4"'
    forms: list[tuple[bytes, str]] = [
        (form([(file, site.content), (file, site.content)]), FORM),
        (form([(file, site.content)], ends=False), FORM),
        (form([(file, b"")]), FORM),
        (form([('Content-Disposition: form-data; name="other"', b"x")] * 300), FORM),
        (form([("X-A: " + "a" * 100_000, b"x")]), FORM),
        (file_form(site.content), "multipart/form-data"),
        (file_form(site.content), "multipart/form-data; boundary=" + "X" * 5000),
        (file_form(site.content), "multipart/form-data; boundary=YY"),
        (file_form(site.content), "application/json"),
        (b"--XX\r\n\r\n\r\n", FORM),
        (b"", FORM),
        (rng.randbytes(5000), FORM),
    ]
    body, kind = rng.choice(forms)
    return send(site, head(site, "POST", "/v1/files", length=len(body), kind=kind), body)


def knows_no_route(site: Site, rng: random.Random) -> bytes:
    method = rng.choice(["GET", "PUT", "PATCH", "BREW", "TRACE", "POST"])
    target = rng.choice(["/v1/nothing", "/admin", "/%00", "/%ff%fe", "//etc/passwd", "/v1/files/x/y", "/" + "a" * 5000])
    return send(site, head(site, method, target, length=0))


def speaks_no_http(site: Site, rng: random.Random) -> bytes:
    heads = [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        rng.randbytes(300) + b"\r\n\r\n",
    ]
    heads += [head(site, "GET", "/", more="X: " + "a" * 100_000 + "\r\n")]
    heads += [head(site, "POST", "/v1/captions", more=f"Content-Length: {'9' * 4000}\r\n")]
    heads += [head(site, "POST", "/v1/captions", more="Transfer-Encoding: chunked\r\n") + b"ZZ\r\n"]
    return send(site, rng.choice(heads))


def comes_from_elsewhere(site: Site, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        host = rng.choice(["evil.example", "127.0.0.1.evil.example", "", "[::1"])
        return send(site, f"GET /v1/files HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    origin = rng.choice(
        ["https://evil.example", "null", "http://[", "file://", f"http://{site.server.host}.evil.example"]
    )
    return send(site, head(site, "POST", "/v1/captions", length=0, more=f"Origin: {origin}\r\n"))


# ------------------------------------------------------------------------------------------------ clients that attack


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return a damaged video, or another file with the name of a video."""
    place = rng.randrange(len(content))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\nhttp://127.0.0.1:1/x.ts\n"
    return rng.choice(
        [
            content[:place] or b"x",
            content[:place] + rng.randbytes(500) + content[place + 500 :],
            content[:48],
            b"just text\n" * 50,
            playlist,
            b"ffconcat version 1.0\nfile /etc/passwd\n",
            bytes(50_000),
            content[: len(content) // 2] + content[: len(content) // 2],
        ]
    )


def uploads_damage(site: Site, rng: random.Random) -> bytes:
    body = file_form(damaged(site.content, rng))
    answer = send(site, head(site, "POST", "/v1/files", length=len(body), kind=FORM), body)
    if answer.startswith(b"HTTP/1.1 200"):  # the head and the first frame were intact; check the rest
        file_id = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
        answer = post(site, "/v1/captions", {"video": file_id, "max_new_tokens": 8})
        send(site, head(site, "GET", f"/v1/files/{file_id}/thumbnail?time={rng.randrange(20)}"))
        send(site, head(site, "DELETE", f"/v1/files/{file_id}"))
    return answer


def sends_damage_inline(site: Site, rng: random.Random) -> bytes:
    text = base64.b64encode(damaged(site.content, rng)).decode()
    address = rng.choice(
        [f"data:video/mp4;base64,{text}", f"data:video/mp4;base64,{text[:-7]}!", f"data:text/html,{text}"]
    )
    return post(site, "/v1/chat/completions", chat(site, rng, address))


def sends_too_much(site: Site, rng: random.Random) -> bytes:
    body = file_form(site.content + bytes(MAX_UPLOAD + (2 << 20)))
    which = rng.randrange(5)
    if which == 4:
        return post(site, "/v1/captions", b"[" + rng.choice([b"[],", b"{},", b"1,"]) * 10_000_000 + b"1]")
    if which == 0:
        return send(site, head(site, "POST", "/v1/files", length=len(body), kind=FORM), body)
    if which == 1:
        chunks = [b"%x\r\n%s\r\n" % (len(body), body), b"0\r\n\r\n"]
        return send(site, head(site, "POST", "/v1/files", kind=FORM, more="Transfer-Encoding: chunked\r\n"), *chunks)
    if which == 2:
        return send(site, head(site, "POST", "/v1/captions", length=200_000_000), b"{")
    if rng.random() < 0.9:
        body = file_form(site.content + bytes(MAX_UPLOAD))  # below the limit of the form, above the limit of the file
        return send(site, head(site, "POST", "/v1/files", length=len(body), kind=FORM), body)
    return post(site, "/v1/captions", {"video": "data:video/mp4;base64," + "A" * 88_000_000})


def tries_paths(site: Site, rng: random.Random) -> bytes:
    names = ["file:///etc/passwd", "/etc/passwd", "file:///proc/self/environ", "../../etc/passwd", "file:..//x"]
    names += ["file:///\0", "\\\\host\\share", "http://127.0.0.1:22/", "http://169.254.169.254/latest", "concat:a|b"]
    names += ["http://2130706433/", "ftp://x/y", "rtsp://x", "pipe:0", "subfile:x", "data:video/mp4;base64,"]
    if rng.random() < 0.7:
        return post(site, "/v1/captions", {"video": rng.choice(names)})
    tricks = ["/static/..%2f..%2fapp.py", "/static/%2e%2e/gate.py", "/static/%00", "/v1/files/..%2f..%2fx/content"]
    return send(site, head(site, "GET", rng.choice(tricks)))


def asks_for_what_is_not_there(site: Site, rng: random.Random) -> bytes:
    name = rng.choice(["file-", "film-", "job-"]) + f"{rng.getrandbits(96):024x}"
    if name.startswith("job-"):
        return send(site, head(site, rng.choice(["GET", "DELETE"]), f"/v1/jobs/{name}"))
    if rng.random() < 0.5:
        return post(site, "/v1/captions", {"video": name})
    return send(site, head(site, "GET", f"/v1/files/{name}" + rng.choice(["", "/content", "/thumbnail"])))


def calls_jobs_off(site: Site, rng: random.Random) -> bytes:
    answer = post(site, "/v1/jobs", {"task": "dense_caption", "video": rng.choice(site.films), "window": 2})
    job = json.loads(answer.partition(b"\r\n\r\n")[2]).get("id")
    if job is None:
        return answer
    if rng.random() < 0.3:
        vanish(site, rng, head(site, "GET", f"/v1/jobs/{job}/events"), most=rng.randrange(1, 600))
    if rng.random() < 0.8:
        post(site, f"/v1/jobs/{job}/cancel", b"")
    return send(site, head(site, "DELETE", f"/v1/jobs/{job}"))


MIX: dict[Client, tuple[int, Expected]] = {
    asks: (10, {200}),
    streams: (10, {200}),
    asks_tasks: (8, {200}),
    looks_around: (6, {200}),
    reads_ranges: (4, {206}),
    uploads: (3, {200}),
    exports: (3, {200}),
    leaves_in_the_body: (5, VANISHED),
    leaves_in_the_head: (3, VANISHED),
    leaves_while_waiting: (6, VANISHED),
    leaves_in_the_stream: (6, VANISHED),
    leaves_in_a_film: (2, VANISHED),
    drips_an_upload: (2, {200}),
    reads_slowly: (3, {200}),
    sends_no_request: (9, REFUSED),
    chats_nonsense: (6, REFUSED | {200}),
    sends_no_form: (4, REFUSED),
    knows_no_route: (3, REFUSED),
    speaks_no_http: (2, REFUSED | {200, 505}),  # 200: a head of 100 kB in one packet
    comes_from_elsewhere: (3, {403, 400}),
    uploads_damage: (4, {200, 422, 400}),
    sends_damage_inline: (3, {200, 422, 400}),
    sends_too_much: (2, {413, None}),
    tries_paths: (4, {400, 403, 404}),
    asks_for_what_is_not_there: (3, {404}),
    calls_jobs_off: (4, {200, 409}),
}
"""Kinds of clients with their frequencies and allowed statuses. 429 is always allowed."""
