"""One test for each promise of docs/security.md; tests/serving/access tests the access rules in detail."""

import hmac
import inspect
import logging
import pickle
import re
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from fastapi import Request

from tests.serving.conftest import serving, until
from timechat.cli import serve as serve_command
from timechat.errors import CheckpointError
from timechat.model.loading import NANO_FOLDER
from timechat.pipeline import TimeChat
from timechat.serving.access import Limits
from timechat.serving.errors import RequestError
from timechat.serving.http import security as gate
from timechat.serving.http.security import COOKIE, Keys

KEY = "correct horse battery"
BEARER = {"Authorization": f"Bearer {KEY}"}


def raw(running, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Return the beginning of the response to a request that is sent in pieces."""
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        with suppress(ConnectionError):  # the server hangs up once it has refused
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        return connection.recv(4000)


def head(running, method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", f"Host: {urlsplit(running.url).netloc}", *lines, "", ""]
    ).encode()


def code(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json()["error"]["code"]


def captions(running, video: object, **options) -> httpx.Response:
    return running.client.post("/v1/captions", json={"video": video, "max_new_tokens": 8} | options)


# ------------------------------------------------------------------------------------------------------ who may come in


def test_the_server_listens_on_loopback_by_default():
    assert inspect.signature(serve_command.serve).parameters["host"].default == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_other_machines_need_a_key(host, monkeypatch):
    monkeypatch.delenv("TIMECHAT_API_KEYS", raising=False)
    with pytest.raises(ValueError, match="admits other machines, and there is no key"):
        inspect.unwrap(serve_command.serve)(None, None, host=host)


@pytest.mark.parametrize("key", ["first key", "second key", "third key", "no key", "", "\udcff"])
def test_all_keys_are_compared_in_constant_time(key, monkeypatch):
    compared = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(gate.hmac, "compare_digest", compare)
    keys = Keys(["first key", "second key", "third key"])
    assert keys.is_valid(key) == (key in ("first key", "second key", "third key"))
    assert compared == [(32, 32)] * 3  # digests: not even the length of a key tells anything


def test_only_the_page_and_health_need_no_key(served):
    running = served(api_keys=(KEY,))
    routes = [
        ("GET", "/v1/files"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/v1/captions"),
        ("GET", "/v1/x"),
    ]
    for method, path in routes:
        assert running.client.request(method, path).status_code == 401
        assert running.client.request(method, path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert running.client.get("/v1/files", headers=BEARER).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_an_unknown_host_name_is_refused(running, host):
    assert code(running.client.get("/v1/files", headers={"Host": host})) == (403, "wrong_host")


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_and_readiness_have_every_host_name(running, path):
    assert running.client.get(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200
    assert running.client.head(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/app.js"])
def test_the_files_of_the_page_have_every_origin(running, path):
    answer = running.client.get(path, headers={"Origin": "https://videos.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert code(running.client.get(path, headers={"Host": "evil.example"})) == (403, "wrong_host")


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/v1/jobs/", "../jobs"),
        ("/v1/jobs/?limit=2", "../jobs?limit=2"),
        ("/static", "./static/"),
    ],
)
def test_a_redirect_keeps_scheme_host_and_prefix(running, path, location):
    answer = running.client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, location)
    target = httpx.URL(f"https://videos.example/prefix{path}").join(location)
    assert (target.scheme, target.host) == ("https", "videos.example")
    assert target.path == f"/prefix{path.partition('?')[0].rstrip('/')}{'/' if path == '/static' else ''}"


@pytest.mark.parametrize(
    ("headers", "is_secure"),
    [
        ({}, False),
        ({"X-Forwarded-Proto": "http"}, False),
        ({"X-Forwarded-Proto": "https"}, True),
        ({"X-Forwarded-Proto": "https, http"}, True),
        ({"Origin": "https://videos.example", "Host": "videos.example"}, True),
    ],
)
def test_the_cookie_is_secure_behind_tls(served, headers, is_secure):
    running = served(api_keys=(KEY,), names=("127.0.0.1", "videos.example"))
    for answer in (
        running.client.post("/v1/session", headers=BEARER | headers),
        running.client.delete("/v1/session", headers=headers),
    ):
        assert answer.status_code == 200
        assert ("secure" in answer.headers["set-cookie"].lower()) == is_secure


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_is_refused(running, origin):
    answer = running.client.post("/v1/jobs", json={}, headers={"Origin": origin})
    assert code(answer) == (403, "wrong_origin")
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_an_allowed_origin_may_send_requests(served):
    running = served(origins=("https://friend.example",))
    answer = running.client.get("/v1/models", headers={"Origin": "https://friend.example"})
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    assert running.client.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_preflight_needs_no_key_and_the_401_is_readable(served):
    running = served(origins=("https://friend.example",), api_keys=(KEY,))
    friend = {"Origin": "https://friend.example"}
    before = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    answer = running.client.options("/v1/captions", headers=friend | before)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    refused = running.client.get("/v1/files", headers=friend)
    assert code(refused) == (401, "invalid_api_key")
    assert refused.headers["access-control-allow-origin"] == "https://friend.example"
    assert running.client.get("/v1/files", headers=friend | BEARER).status_code == 200

    evil = {"Origin": "https://evil.example"}
    assert code(running.client.options("/v1/captions", headers=evil | before)) == (403, "wrong_origin")
    named = friend | before | {"Host": "evil.example"}
    assert code(running.client.options("/v1/captions", headers=named)) == (403, "wrong_host")
    assert running.client.options("/v1/captions", headers=before).status_code == 401


def visit(token: str) -> Request:
    cookie = (b"cookie", f"{COOKIE}={token}".encode())
    return Request({"type": "http", "method": "GET", "headers": [cookie]})


def test_the_session_of_a_browser_ends_after_twelve_hours(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(gate, "time", SimpleNamespace(monotonic=lambda: now))
    keys = Keys([KEY])
    token = keys.open_session()
    now += 12 * 3600 - 1
    keys.check(visit(token))
    now += 1
    with pytest.raises(RequestError, match="needs a key"):
        keys.check(visit(token))


def test_the_oldest_of_too_many_sessions_is_closed(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(gate, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(gate, "_MAX_SESSIONS", 2)
    keys, tokens = Keys([KEY]), []
    for _ in range(3):
        tokens.append(keys.open_session())
        now += 1
    for token in tokens[1:]:
        keys.check(visit(token))
    with pytest.raises(RequestError, match="needs a key"):
        keys.check(visit(tokens[0]))


def test_a_cookie_is_accepted_only_for_requests_that_change_nothing(served):
    running = served(api_keys=(KEY,))
    cookie = running.client.post("/v1/session", headers=BEARER).headers["set-cookie"]
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
    assert KEY not in cookie
    assert running.client.get("/v1/files").status_code == 200  # httpx sends it, as a browser does
    assert running.client.post("/v1/captions", json={"video": "x"}).status_code == 401
    assert running.client.delete("/v1/files/file-0").status_code == 401
    running.client.delete("/v1/session")
    running.client.cookies.clear()
    held = {"Cookie": cookie.partition(";")[0]}
    assert running.client.get("/v1/files", headers=held).status_code == 401


# ----------------------------------------------------------------------------------------------- which films are opened


@pytest.mark.parametrize("name", ["file:///etc/passwd", "file:///proc/self/environ", "file:///etc/nothing-is-here"])
def test_all_files_outside_get_the_same_message(running, name):
    assert captions(running, name).json()["error"]["message"] == "only files in the allowed folders may be opened"


def test_a_link_that_leads_out_of_a_folder_is_forbidden(served, tmp_path, films):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.mp4").symlink_to(films / "film.mp4")
    running = served(folders=(folder,))
    assert code(captions(running, (folder / "link.mp4").as_uri())) == (403, "forbidden")
    assert running.client.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../film.mp4", "film.mp4", "concat:a|b", "pipe:0", "rtsp://localhost/x"]
)
def test_unknown_kinds_of_names_are_refused(running, name):
    assert captions(running, name).status_code == 400


def test_nothing_is_fetched_without_allowed_hosts(running):
    assert code(captions(running, f"{running.url}/static/app.js")) == (403, "forbidden")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/", "http://[::1]/", "http://169.254.169.254/", "http://localhost/"]
)
def test_private_addresses_are_not_fetched_though_any_host_is_allowed(served, address):
    assert code(captions(served(hosts=("*",)), address)) == (403, "forbidden")


def test_the_size_of_a_data_address_is_checked_before_decoding(served):
    running = served(limits=Limits(max_inline_bytes=1000))
    assert code(captions(running, "data:video/mp4;base64," + "A" * 2000)) == (413, "too_large")


# ----------------------------------------------------------------------------------------------------- how much at once


@pytest.mark.parametrize("tells_its_length", [True, False])
def test_an_upload_that_is_too_large_is_refused(served, tells_its_length):
    running = served(limits=Limits(max_bytes=100_000))
    body = (
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + bytes(1_200_000)
        + b"\r\n--XX--\r\n"
    )
    kind = "Content-Type: multipart/form-data; boundary=XX"
    if tells_its_length:
        answer = raw(running, head(running, "POST", "/v1/files", kind, f"Content-Length: {len(body)}"))
    else:
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        answer = raw(running, head(running, "POST", "/v1/files", kind, "Transfer-Encoding: chunked"), chunk)
    assert answer.startswith(b"HTTP/1.1 413")
    until(lambda: not list((running.settings.data / "uploads").iterdir()))


def test_a_body_that_stops_arriving_is_refused(served):
    running = served(silence_timeout=0.3)
    answer = raw(
        running, head(running, "POST", "/v1/captions", "Content-Length: 100", "Content-Type: application/json")
    )
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_arrives_too_slowly_is_refused(served):
    running = served(upload_timeout=0.4)
    request = head(running, "POST", "/v1/captions", "Content-Length: 100", "Content-Type: application/json")
    answer = raw(running, request, *[b" "] * 10, pause=0.1)
    assert answer.startswith(b"HTTP/1.1 408")


def test_too_many_requests_get_429_with_retry_after(served, film_id, monkeypatch):
    running = served(max_requests=1)
    goes_on, is_inside = threading.Event(), threading.Event()
    answer = running.server.service.answer

    def slowly(*arguments):
        is_inside.set()
        assert goes_on.wait(30)
        return answer(*arguments)

    monkeypatch.setattr(running.server.service, "answer", slowly)
    first: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: first.append(captions(running, film_id)))
    asking.start()
    assert is_inside.wait(30)
    refused = httpx.post(f"{running.url}/v1/captions", json={"video": film_id})
    goes_on.set()
    asking.join()
    assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1) == (429, True)
    assert first[0].status_code == 200


def test_an_answer_that_takes_too_long_gets_504(served, film_id):
    assert code(captions(served(request_timeout=0.001), film_id)) == (504, "too_slow")


# ----------------------------------------------------------------------------------------------------------- what it is


@pytest.mark.parametrize(
    "content",
    [b"text", bytes(5000), b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"],
)
def test_a_file_that_is_not_a_video_is_refused(running, content):
    answer = running.client.post("/v1/files", files={"file": ("film.mp4", content)})
    assert code(answer) == (422, "unreadable_video")
    assert "passwd" not in answer.text
    assert not list((running.settings.data / "uploads").glob(".*"))


def test_every_video_is_probed_before_it_is_opened(served, film_id, monkeypatch):
    from timechat.serving import videos as films

    running, probed = served(), []
    real = films.probe_safely
    monkeypatch.setattr(films, "probe_safely", lambda path, limits: probed.append(path.name) or real(path, limits))
    assert captions(running, film_id).status_code == 200
    assert probed == ["film.mp4"]


def test_nothing_is_unpickled(films, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in [(pickle, "Unpickler"), (pickle, "load"), (pickle, "loads"), (torch, "load")]:
        monkeypatch.setattr(module, name, refuse)
    from timechat.serving.http import ServerSettings

    with serving(TimeChat.from_pretrained(), ServerSettings(data=tmp_path / "data", folders=(films,))) as running:
        assert captions(running, (films / "film.mp4").as_uri()).status_code == 200
        with (films / "film.mp4").open("rb") as file:
            assert running.client.post("/v1/files", files={"file": file}).status_code == 200


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_pickled_weights_are_not_loaded(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(NANO_FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": _Trap(tmp_path / "sprung")}, file)
    with pytest.raises(CheckpointError, match="safetensors"):
        TimeChat.from_pretrained(folder)
    assert not (tmp_path / "sprung").exists()


# --------------------------------------------------------------------------------------------- what is told and written


@pytest.mark.parametrize(
    "name", ["../../escaped.mp4", "/tmp/escaped.mp4", "..", "C:\\x\\escaped.mp4", "a\u202e\x01.mp4"]
)
def test_the_name_of_an_upload_is_shown_and_never_a_path(served, films, name):
    running = served()
    file = running.client.post("/v1/files", files={"file": (name, (films / "film.mp4").read_bytes())}).json()
    assert not re.search(r"[/\\\x00-\x1f\u202e]", file["filename"])
    assert [path.name for path in (running.settings.data / "uploads").iterdir()] == [file["id"]]
    assert {path.name.partition(".")[0] for path in running.settings.data.iterdir()} == {
        "uploads",
        "fetched",
        "server",
        "lock",
    }


def test_errors_and_the_log_contain_no_paths_keys_or_data(served, films, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    broken = tmp_path / "folder"
    broken.mkdir()
    (broken / "film.mp4").write_bytes((films / "film.mp4").read_bytes()[:4000])
    running = served(api_keys=(KEY,), folders=(films, broken))
    running.client.headers.update(BEARER)
    inline = "data:video/mp4;base64,U0VDUkVUU0VDUkVU"
    answers = [
        captions(running, inline),
        captions(running, "file-" + "0" * 24),
        captions(running, "film-" + "0" * 24),
        running.client.get(f"/v1/nothing?api_key={KEY}"),
        running.client.get("/v1/files/x%0aINFO a made-up line"),
        running.client.post("/v1/files", files={"file": b"text"}),
    ]
    for film in running.client.get("/v1/files").json()["data"]:
        answers += [running.client.get(f"/v1/files/{film['id']}/{part}") for part in ("content", "thumbnail")]
        answers += [captions(running, film["id"])]
    told = "\n".join(answer.text for answer in answers if "json" in answer.headers["content-type"])
    written = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("timechat"))
    assert written.count("/v1/captions") >= 3
    for secret in (str(tmp_path), str(films), str(running.settings.data), KEY, "U0VDUkVU", "\nINFO a made-up"):
        assert secret not in told + written


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/v1/models", "/v1/nothing", "/v1/export/formats"])
def test_responses_have_security_headers(running, path):
    headers = running.client.get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy.get("script-src", "'self'") == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in {name.lower() for name in headers} or "uvicorn" in headers["server"]


def test_an_exported_page_does_not_read_the_video_of_the_answer(running, films):
    def page(video: str) -> str:
        answer = {"text": "x", "task": "ask", "video": video, "events": [{"start": 0, "end": 1, "caption": "x"}]}
        told = running.client.post("/v1/export", json={"answer": answer, "format": "html"})
        assert told.status_code == 200
        return told.text

    assert page(str(films / "film.mp4")) == page("/nothing/is/here.mp4")


# -------------------------------------------------------------------------------------------------------- what survives


def test_uploads_and_jobs_survive_a_kill_at_any_moment(served, nano, films, tmp_path, monkeypatch):
    running = served()
    file = running.client.post("/v1/files", files={"file": (films / "film.mp4").read_bytes()}).json()
    (running.settings.data / "uploads" / ".half.unfinished").write_bytes(b"an upload that was under way")
    goes_on = threading.Event()
    answer = running.server.service.answer
    monkeypatch.setattr(running.server.service, "answer", lambda *a: goes_on.wait(60) and answer(*a))
    jobs = [
        running.client.post("/v1/jobs", json={"task": "dense_caption", "video": file["id"]}).json()["id"]
        for _ in range(4)
    ]
    until(lambda: running.client.get(f"/v1/jobs/{jobs[0]}").json()["status"] == "running")
    shutil.copytree(running.settings.data, tmp_path / "after")  # the disk as the kill leaves it
    goes_on.set()
    from timechat.serving.http import ServerSettings

    with serving(nano, ServerSettings(data=tmp_path / "after", folders=(films,))) as again:
        assert again.client.get(f"/v1/files/{file['id']}").json() == file
        assert [path.name for path in (tmp_path / "after" / "uploads").iterdir()] == [file["id"]]
        until(lambda: all(job["finished_at"] for job in again.client.get("/v1/jobs").json()["data"]))
        one = captions(again, file["id"], max_new_tokens=512).json()
        for job in (again.client.get(f"/v1/jobs/{job}").json() for job in jobs):
            assert (job["status"], job["result"]["text"]) == ("succeeded", one["text"])


def test_the_security_page_names_tests_that_exist():
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    there = {
        name
        for path in Path(__file__).parents[1].rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert set(named) <= there
    own = set(re.findall(r"def (test_\w+)", Path(__file__).read_text())) - {
        "test_the_security_page_names_tests_that_exist"
    }
    assert own <= set(named)
