import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.access.servers import Server, sending
from timechat.errors import AccessError
from timechat.serving.access import Addresses, Fetched, Limits, addresses, fetch, fetching

VIDEO = bytes(range(256)) * 40
HERE = Addresses(["*"], allows_private=True)


def refusal(url: str, folder: Path, limits: Limits | None = None, allowed: Addresses = HERE) -> tuple[str, str]:
    """Return reason and message of a failed download, which leaves no file."""
    with pytest.raises(AccessError) as caught:
        fetch(url, folder / "video", allowed, limits or Limits())
    assert list(folder.iterdir()) == []
    return caught.value.reason, str(caught.value)


def whole(body: bytes = VIDEO, more: str = "") -> Callable[[socket.socket, str], None]:
    return sending(f"HTTP/1.1 200 OK|Content-Length: {len(body)}|Content-Type: Video/MP4; x=1{more}", body)


# ── What arrives, and what is asked ─────────────────────────────────────────────────────────────────────────────


def test_a_video_is_downloaded_completely(tmp_path: Path) -> None:
    with Server(whole()) as server:
        fetched = fetch(f"{server.url}/a%20b/film%20.mp4?x=1#t=3", tmp_path / "video", HERE, Limits())
    url = f"{server.url}/a%20b/film%20.mp4?x=1"
    assert fetched == Fetched(tmp_path / "video", len(VIDEO), url, "film .mp4", "video/mp4")
    assert (tmp_path / "video").read_bytes() == VIDEO
    assert [path.name for path in tmp_path.iterdir()] == ["video"]


def test_only_the_address_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Server(whole(more="|Set-Cookie: a=b")) as server:
        for _ in range(2):
            fetch(f"{server.url}/x?y=1", tmp_path / "video", HERE, Limits())
    lines = server.requests[1].strip().split("\r\n")
    assert lines[0] == "GET /x?y=1 HTTP/1.1"
    assert sorted(lines[1:]) == [
        *("Accept-Encoding: identity", "Accept: */*", "Connection: close"),
        *(f"Host: 127.0.0.1:{server.port}", "User-Agent: timechat"),
    ]


def test_chunks_and_a_body_that_ends_with_the_connection_are_read(tmp_path: Path) -> None:
    chunked = sending("HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")
    for answer, expected in ((chunked, b"hello!"), (sending("HTTP/1.0 200 OK", VIDEO), VIDEO)):
        with Server(answer) as server:
            fetch(server.url, tmp_path / "video", HERE, Limits())
        assert (tmp_path / "video").read_bytes() == expected


def test_an_earlier_file_stays_when_fetching_fails(tmp_path: Path) -> None:
    (tmp_path / "video").write_bytes(b"earlier")
    with Server(sending("HTTP/1.1 200 OK|Content-Length: 100", b"short")) as server, pytest.raises(AccessError):
        fetch(server.url, tmp_path / "video", HERE, Limits())
    assert (tmp_path / "video").read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 1


# ── Where it comes from ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_connection_goes_to_the_checked_ip_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["8.8.8.8"], ["127.0.0.1"], ["127.0.0.1"]]
    monkeypatch.setattr(addresses, "resolve", lambda *_: answers.pop(0))
    tried = list[object]()

    class Recorded(socket.socket):
        def connect(self, address: object) -> None:
            tried.append(address)
            raise ConnectionRefusedError

    with Server(whole()) as server:
        monkeypatch.setattr(fetching.socket, "socket", Recorded)
        url = f"http://rebinding.example:{server.port}/"
        assert refusal(url, tmp_path, allowed=Addresses(["*"]))[0] == "unreachable"
        assert tried == [("8.8.8.8", server.port)]
        assert server.requests == []
    assert len(answers) == 2  # the name was looked up once


def test_a_name_is_looked_up_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "resolve", lambda *_: ["127.0.0.1"])
    with Server(whole()) as server:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a second look-up"))
        fetch(f"http://pinned.example:{server.port}/", tmp_path / "video", HERE, Limits())
    assert f"Host: pinned.example:{server.port}" in server.requests[0]


def test_the_next_ip_address_is_tried_if_the_first_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "resolve", lambda *_: ["127.0.0.2", "127.0.0.1"])
    with Server(whole()) as server:
        fetch(f"http://two.example:{server.port}/", tmp_path / "video", HERE, Limits())
    assert (tmp_path / "video").read_bytes() == VIDEO


def test_redirects_are_followed_with_relative_and_unencoded_addresses(tmp_path: Path) -> None:
    def answer(connection: socket.socket, request: str) -> None:
        target = request.split()[1]
        places = {"/a": "b/c", "/b/c": "/ü ö".encode().decode("latin-1"), "/%C3%BC%20%C3%B6": None}
        if place := places[target]:
            sending(f"HTTP/1.1 302 Found|Location: {place}")(connection, request)
        else:
            whole()(connection, request)

    with Server(answer) as server:
        fetched = fetch(f"{server.url}/a", tmp_path / "video", HERE, Limits())
    assert fetched.url == f"{server.url}/%C3%BC%20%C3%B6"
    assert fetched.filename == "ü ö"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_refused(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(whole()) as hidden:
        location = f"http://127.0.0.1:{hidden.port}/secret"
        with Server(sending(f"HTTP/1.1 {status} Moved|Location: {location}")) as server:
            public = Addresses([f"127.0.0.1:{server.port}", "*"], allows_private=False)
            monkeypatch.setattr(addresses, "resolve", lambda *_: ["127.0.0.1"])
            monkeypatch.setattr(addresses, "reach", lambda ip, seen=[]: seen.append(ip) or _public_at_first(seen))
            assert refusal(f"http://public.example:{server.port}/", tmp_path, allowed=public)[0] == "forbidden"
            assert len(server.requests) == 1
        assert hidden.requests == []


def _public_at_first(seen: list[str]) -> str:
    return "public" if len(seen) == 1 else "private"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://other.example/", "forbidden"),
        ("http://169.254.169.254/latest/meta-data/", "forbidden"),
        ("file:///etc/passwd", "bad_address"),
        ("http://user:secret@127.0.0.1/", "bad_address"),
        ("http://0x7f000001/", "bad_address"),
        ("http://[::1/", "bad_address"),
        ("", "unreachable"),
    ],
)
def test_every_redirect_is_checked_again(location: str, reason: str, tmp_path: Path) -> None:
    with Server(sending(f"HTTP/1.1 302 Found|Location: {location}")) as server:
        allowed = Addresses(["127.0.0.1"], allows_private=True)
        assert refusal(server.url, tmp_path, allowed=allowed)[0] == reason
    assert len(server.requests) == 1


def test_five_redirects_are_followed_and_no_more(tmp_path: Path) -> None:
    with Server(sending("HTTP/1.1 302 Found|Location: /again")) as server:
        assert refusal(server.url, tmp_path) == ("unreachable", "the address was redirected more than 5 times")
    assert len(server.requests) == 6


# ── How much, how slowly, in which form ─────────────────────────────────────────────────────────────────────────


def test_a_file_with_too_large_a_length_is_not_read(tmp_path: Path) -> None:
    with Server(sending("HTTP/1.1 200 OK|Content-Length: 1001")) as server:
        assert refusal(server.url, tmp_path, Limits(max_bytes=1000))[0] == "too_large"


def test_a_body_of_the_maximum_size_is_read(tmp_path: Path) -> None:
    with Server(whole()) as server:
        fetch(server.url, tmp_path / "video", HERE, Limits(max_bytes=len(VIDEO)))


@pytest.mark.parametrize("head", ["Transfer-Encoding: chunked", "Content-Length: nonsense", "X: y"])
def test_a_file_that_grows_too_large_is_refused(head: str, tmp_path: Path) -> None:
    sent = [0]

    def endless(connection: socket.socket, request: str) -> None:
        sending(f"HTTP/1.1 200 OK|{head}")(connection, request)
        while sent[0] < 50_000_000:
            connection.sendall(b"2710\r\n" + bytes(10000) + b"\r\n")
            sent[0] += 10000

    with Server(endless) as server:
        assert refusal(server.url, tmp_path, Limits(max_bytes=100_000))[0] == "too_large"
    assert sent[0] < 50_000_000


@pytest.mark.parametrize(
    "start",
    ["", "HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"],
)
def test_a_slow_response_times_out_in_head_and_body(start: str, tmp_path: Path) -> None:
    def drip(connection: socket.socket, _request: str) -> None:
        connection.sendall(start.encode())
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    with Server(drip) as server:
        began = time.monotonic()
        assert "within 0.6 s" in refusal(server.url, tmp_path, Limits(fetch_timeout=0.6))[1]
        assert 0.5 < time.monotonic() - began < 2


def test_a_silent_server_times_out(tmp_path: Path) -> None:
    with Server(lambda *_: time.sleep(5)) as server:
        began = time.monotonic()
        assert refusal(server.url, tmp_path, Limits(fetch_timeout=0.5))[0] == "unreachable"
        assert time.monotonic() - began < 2


def test_fetching_stops_soon_after_it_is_cancelled(tmp_path: Path) -> None:
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    with Server(lambda *_: time.sleep(5)) as server:
        began = time.monotonic()
        with pytest.raises(AccessError, match="cancelled"):
            fetch(server.url, tmp_path / "video", HERE, Limits(), is_cancelled=cancelled.is_set)
        assert time.monotonic() - began < 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "head",
    [
        "Content-Encoding: gzip",
        "Content-Encoding: br",
        "Content-Encoding: GZIP, identity",
        "Transfer-Encoding: gzip, chunked",
    ],
)
def test_compressed_bodies_are_refused(head: str, tmp_path: Path) -> None:
    with Server(sending(f"HTTP/1.1 200 OK|{head}", b"\x1f\x8b")) as server:
        assert "compressed" in refusal(server.url, tmp_path)[1]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("HTTP/1.1 404 Not Found", "not_found"),
        ("HTTP/1.1 410 Gone", "not_found"),
        ("HTTP/1.1 403 Forbidden", "unreachable"),
        ("HTTP/1.1 500 Oh", "unreachable"),
        ("HTTP/1.1 206 Partial Content", "unreachable"),
        ("HTTP/1.1 204 No Content", "unreachable"),
        ("HTTP/1.1 200 OK|Content-Length: 0", "unreachable"),
        ("HTTP/1.1 200 OK|Content-Length: 5", "unreachable"),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked", "unreachable"),
        ("SSH-2.0-OpenSSH_9.9", "unreachable"),
        ("HTTP/1.1 200 OK|" + "X: y|" * 200, "unreachable"),
        ("HTTP/1.1 200 OK|X: " + "y" * 70_000, "unreachable"),
    ],
)
def test_other_statuses_have_their_reason(answer: str, reason: str, tmp_path: Path) -> None:
    with Server(sending(answer)) as server:
        assert refusal(server.url, tmp_path)[0] == reason


def test_a_closed_port_is_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert refusal(f"http://127.0.0.1:{port}/", tmp_path)[0] == "unreachable"


# ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key for `video.example` in one file."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=video.example", "-addext", "subjectAltName=DNS:video.example"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    return both


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """TLS context of a server; its certificate is trusted, and every name resolves to this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.names = list[str | None]()
    context.sni_callback = lambda _, name, __: context.names.append(name)
    monkeypatch.setattr(fetching, "tls_context", lambda: ssl.create_default_context(cafile=str(certificate)))
    monkeypatch.setattr(addresses, "resolve", lambda *_: ["127.0.0.1"])
    return context


def test_a_certificate_is_checked_for_the_name_of_the_host(tls: ssl.SSLContext, tmp_path: Path) -> None:
    with Server(whole(), tls=tls) as server:
        fetch(f"https://video.example:{server.port}/a", tmp_path / "video", HERE, Limits())
        (tmp_path / "video").unlink()
        reason, message = refusal(f"https://other.example:{server.port}/a", tmp_path)
    assert (reason, message) == ("unreachable", "the address shows a certificate that is not trusted")
    assert tls.names == ["video.example", "other.example"]
    assert len(server.requests) == 1


def test_an_untrusted_certificate_is_refused(
    tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(addresses, "resolve", lambda *_: ["127.0.0.1"])
    with Server(whole(), tls=tls) as server:
        assert "not trusted" in refusal(f"https://video.example:{server.port}/a", tmp_path)[1]
    assert server.requests == []


def test_a_redirect_away_from_https_is_refused(tls: ssl.SSLContext, tmp_path: Path) -> None:
    with Server(whole()) as plain:
        location = f"http://video.example:{plain.port}/"
        with Server(sending(f"HTTP/1.1 302 Found|Location: {location}"), tls=tls) as server:
            reason, message = refusal(f"https://video.example:{server.port}/", tmp_path)
        assert reason == "forbidden"
        assert "without encryption" in message
        assert plain.requests == []


def test_a_redirect_from_http_to_https_is_followed(tls: ssl.SSLContext, tmp_path: Path) -> None:
    with Server(whole(), tls=tls) as server:
        location = f"https://video.example:{server.port}/"
        with Server(sending(f"HTTP/1.1 302 Found|Location: {location}")) as plain:
            assert fetch(plain.url, tmp_path / "video", HERE, Limits()).url == location


def test_a_slow_response_times_out_with_tls_too(tls: ssl.SSLContext, tmp_path: Path) -> None:
    def drip(connection: socket.socket, request: str) -> None:
        sending("HTTP/1.1 200 OK|Content-Length: 1000")(connection, request)
        while True:
            connection.sendall(b"x")
            time.sleep(0.4)

    with Server(drip, tls=tls) as server:
        began = time.monotonic()
        url = f"https://video.example:{server.port}/"
        assert "within 1 s" in refusal(url, tmp_path, Limits(fetch_timeout=1.0))[1]
        assert time.monotonic() - began < 2.5
