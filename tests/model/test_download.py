"""`timechat.model.download` against a server on loopback that acts as the hub and as a plain host."""

import hashlib
import json
import os
import shutil
import socket
import struct
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.file_download
import huggingface_hub.utils._http
import pytest

from timechat.cli import main
from timechat.errors import CheckpointError, DownloadError
from timechat.model.download import (
    DownloadedFile,
    Licence,
    Part,
    choose_parts,
    describe_parts,
    download,
    fetch,
    fetch_model,
    original_parts,
)

BODY = bytes(i * 7 % 251 for i in range(50_000))
SHA256 = hashlib.sha256(BODY).hexdigest()
COMMIT = "c" * 40
BLOB_ID = "b" * 40
TOKEN = "hf_never_shown"
FREE = Licence("Free licence", "Do as you like.", None)
GATED = Licence("LLaMA 2 Community License", "Accept first.", "https://meta.example/accept")
HUB_PART = Part("timechat", "to know", FREE, "someone/model", "model.pth", "t/model.pth", 0.1)
LLM_PART = Part("llm", "to speak", GATED, "some/llama", "chat/*", "llm/chat/", 0.1)
FILE = f"/someone/model/resolve/{COMMIT}/model.pth"


@dataclass
class Reply:
    """How the server answers one request."""

    status: int = 200
    body: bytes = BODY
    etag: str | None = '"one"'
    last_modified: str | None = None
    drop_after: int | None = None
    """Bytes of the body before the connection is cut."""
    is_reset: bool = False
    knows_ranges: bool = True
    headers: dict[str, str | None] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """Answers each path with its replies in turn, the last one repeatedly, and keeps the headers of GET requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.asked: dict[str, list[dict[str, str]]] = defaultdict(list)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, repository, **files):
        """Act as the hub for a repository: path → body, or (body, published sha256) of a large file."""
        siblings = []
        for path, content in files.items():
            body, sha256 = content if isinstance(content, tuple) else (content, None)
            lfs = {"lfs": {"sha256": sha256, "size": len(body), "pointerSize": 130}} if sha256 else {}
            siblings.append({"rfilename": path, "size": len(body), "blobId": BLOB_ID, **lfs})
            etag = f'"{sha256 or BLOB_ID}"'
            headers: dict[str, str | None] = {"X-Repo-Commit": COMMIT}
            self.replies[f"/{repository}/resolve/{COMMIT}/{path}"] = [Reply(body=body, etag=etag, headers=headers)]
        tree = [{"type": "file", "path": s["rfilename"], "size": s["size"], "oid": BLOB_ID} for s in siblings]
        info = {"id": repository, "sha": COMMIT, "siblings": siblings}
        for revision in ("", "/revision/main", f"/revision/{COMMIT}"):
            self.replies[f"/api/models/{repository}{revision}"] = [Reply(body=json.dumps(info).encode())]
        self.replies[f"/api/models/{repository}/tree/{COMMIT}"] = [Reply(body=json.dumps(tree).encode())]

    def ranges(self, path):
        return [headers.get("Range") for headers in self.asked[path]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(self.replies()[0], is_head=True)

    def do_GET(self):
        names = {"range": "Range", "if-range": "If-Range", "authorization": "Authorization"}
        self._server.asked[self.path].append({names.get(n.lower(), n): value for n, value in self.headers.items()})
        replies = self.replies()
        self.answer(replies.pop(0) if len(replies) > 1 else replies[0])

    @property
    def _server(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def replies(self):
        path = self.path.partition("?")[0] if self.path.startswith("/api/") else self.path
        return self._server.replies.get(path) or [Reply(status=404, body=b"")]

    def answer(self, reply, *, is_head=False):
        self.close_connection = True
        status, body, headers = reply.status, reply.body, dict(reply.headers)
        wanted = self.headers.get("Range")
        matches = self.headers.get("If-Range") in (None, reply.etag, reply.last_modified)
        if status == 200 and wanted and reply.knows_ranges and matches:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        self.send_response(status)
        headers = {"ETag": reply.etag, "Last-Modified": reply.last_modified, "Content-Length": len(body)} | headers
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.send_header("Connection", "close")
        self.end_headers()
        if is_head:
            return
        self.wfile.write(body[: reply.drop_after])
        if reply.is_reset:
            threading.Event().wait(0.2)  # until the client has read the body
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # sends a reset, not an orderly end


def wait_in_downloads(patch: pytest.MonkeyPatch, sleep) -> None:
    """Replace the waiting between the tries of a download, and no other waiting of this process."""
    replaced = SimpleNamespace(**{**vars(time), "sleep": sleep})
    for module in (huggingface_hub.file_download, huggingface_hub.utils._http):
        patch.setattr(module, "time", replaced)


@pytest.fixture(autouse=True)
def hub_settings(monkeypatch, tmp_path_factory):
    """No pauses between tries, no token and no cache of this user, no proxy for the loopback."""
    wait_in_downloads(monkeypatch, lambda _: None)
    monkeypatch.setattr(
        huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1_000
    )  # bytes; a lost connection loses a chunk
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "cache"))
    huggingface_hub.close_session()  # it keeps the proxy settings of its first use
    yield
    huggingface_hub.close_session()


@pytest.fixture
def start_server():
    """Starts a server on a free port of loopback; all are stopped when the test ends."""
    servers = []

    def start():
        server = Server()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def set_endpoint(monkeypatch, address):
    """Do what HF_ENDPOINT does, which huggingface_hub reads at import."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(start_server, monkeypatch):
    server = start_server()
    set_endpoint(monkeypatch, server.address)
    return server


@pytest.fixture
def part(server):
    """A part that is one file at a plain address."""
    return Part("vit", "to see", FREE, None, f"{server.address}/vit.pth", "eva/vit.pth", 0.1)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def record_of(folder):
    return json.loads((folder / "downloads.json").read_text())


def closed_address():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


# --- plain addresses ---


def test_a_plain_file_is_complete_and_recorded(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    assert download(tmp_path, [part]) == [DownloadedFile("eva/vit.pth", 50_000, SHA256, is_kept=False)]
    assert (tmp_path / "eva/vit.pth").read_bytes() == BODY
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth"]
    record = record_of(tmp_path)["files"]["eva/vit.pth"]
    assert record.pop("date").endswith("+00:00")
    assert record == {"address": part.source, "size": 50_000, "sha256": SHA256, "checked_against": "length"}
    assert record_of(tmp_path)["unfinished"] == {}


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_lost_connection_resumes_at_the_next_byte(server, part, tmp_path, is_reset):
    server.replies["/vit.pth"] = [Reply(drop_after=10_000, is_reset=is_reset), Reply(drop_after=25_000), Reply()]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None, "bytes=10000-", "bytes=35000-"]


def test_a_server_without_ranges_starts_over(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(drop_after=10_000), Reply(knows_ranges=False)]
    (found,) = download(tmp_path, [part])
    assert (found.size, found.sha256) == (50_000, SHA256)


def test_a_plain_file_that_changes_between_tries_starts_over(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(body=bytes(50_000), etag='"old"', drop_after=10_000), Reply(etag='"new"')]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256


def interrupt(server, part, tmp_path, monkeypatch, reply):
    """Stop a download after the 20,000 bytes that `reply` gives before it drops the connection."""

    def stop(_):
        raise KeyboardInterrupt

    path = part.source.removeprefix(server.address) if part.repository is None else FILE
    complete, server.replies[path] = server.replies[path], [reply]
    with monkeypatch.context() as patch:
        wait_in_downloads(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            download(tmp_path, [part])
    server.replies[path] = complete
    server.asked.clear()


def test_the_next_run_resumes_an_interrupted_plain_file(server, part, tmp_path, monkeypatch):
    server.replies["/vit.pth"] = [Reply()]
    interrupt(server, part, tmp_path, monkeypatch, Reply(drop_after=20_000))
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth.part"]
    (found,) = download(tmp_path, [part])
    assert found == DownloadedFile("eva/vit.pth", 50_000, SHA256, is_kept=False)
    assert server.ranges("/vit.pth") == ["bytes=20000-"]
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth"]


def test_the_next_run_does_not_join_another_version(server, part, tmp_path, monkeypatch):
    server.replies["/vit.pth"] = [Reply(etag='"new"')]
    interrupt(server, part, tmp_path, monkeypatch, Reply(body=bytes(50_000), etag='"old"', drop_after=20_000))
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None]


def test_the_date_identifies_a_file_with_a_weak_etag(server, part, tmp_path, monkeypatch):
    reply = Reply(etag='W/"one"', last_modified="Wed, 21 Oct 2015 07:28:00 GMT")
    server.replies["/vit.pth"] = [reply]
    interrupt(server, part, tmp_path, monkeypatch, replace(reply, drop_after=20_000))
    download(tmp_path, [part])
    (asked,) = server.asked["/vit.pth"]
    assert (asked["Range"], asked["If-Range"]) == ("bytes=20000-", "Wed, 21 Oct 2015 07:28:00 GMT")


def test_an_unfinished_file_of_version_0_1_is_resumed(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    unfinished = {"address": part.source, "size": 50_000, "sha256": None, "validator": '"one"'}
    (tmp_path / "downloads.json").write_text(json.dumps({"files": {}, "unfinished": {"eva/vit.pth": unfinished}}))
    (tmp_path / "eva").mkdir()
    (tmp_path / "eva/vit.pth.part").write_bytes(BODY[:30_000])
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == ["bytes=30000-"]


def test_a_part_longer_than_the_file_starts_over(server, part, tmp_path, monkeypatch):
    server.replies["/vit.pth"] = [Reply()]
    interrupt(server, part, tmp_path, monkeypatch, Reply(drop_after=20_000))
    (tmp_path / "eva/vit.pth.part").write_bytes(bytes(60_000))
    assert download(tmp_path, [part])[0].sha256 == SHA256
    assert server.ranges("/vit.pth") == [None]


def test_two_downloads_into_one_file_are_detected(server, part, tmp_path, monkeypatch):
    server.replies["/vit.pth"] = [Reply()]
    original = fetch.http_get  # type: ignore[attr-defined]

    def with_another_writer(address, handle, **options):
        original(address, handle, **options)
        handle.write(b"from another process")

    monkeypatch.setattr(fetch, "http_get", with_another_writer)
    with pytest.raises(DownloadError, match=r"arrived damaged \(50,000 bytes expected, 50,020 found\) and was deleted"):
        download(tmp_path, [part])
    assert files_in(tmp_path) == ["downloads.json"]


def test_a_busy_server_is_one_line(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(status=503)]
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, [part])
    assert str(caught.value) == f"{part.source} answered 503; try again later"
    assert files_in(tmp_path) == []


def test_a_plain_file_without_a_length_is_refused(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(headers={"Content-Length": None})]
    with pytest.raises(DownloadError, match="has no Content-Length"):
        download(tmp_path, [part])


def test_a_web_page_is_refused(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(headers={"Content-Type": "text/html; charset=utf-8"})]
    with pytest.raises(DownloadError, match=r"vit\.pth is a web page, expected a file"):
        download(tmp_path, [part])


def test_an_empty_file_is_a_file(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(body=b"")]
    (found,) = download(tmp_path, [part])
    assert (found.size, found.sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth"]


def test_a_full_disk_is_detected_before_the_download(server, part, tmp_path, monkeypatch):
    server.replies["/vit.pth"] = [Reply()]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(DownloadError, match=r"eva/vit\.pth needs 50\.0 kB more, but .* has 1\.0 kB free; free some"):
        download(tmp_path, [part])
    assert files_in(tmp_path) == []


def test_a_folder_that_cannot_be_created_is_one_line(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    (tmp_path / "taken").write_text("")
    with pytest.raises(DownloadError, match=r"^cannot use .*taken.*: Not a directory$"):
        download(tmp_path / "taken", [part])


def test_a_missing_plain_file_is_one_line(server, part, tmp_path):
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, [part])
    assert str(caught.value) == (
        f"{part.source} answered 404: it does not exist; `timechat convert` has an option for a copy from elsewhere"
    )


# --- existing files ---


def test_a_recorded_plain_file_is_kept_without_a_request(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    download(tmp_path, [part])
    server.replies.clear()
    assert download(tmp_path, [part]) == [DownloadedFile("eva/vit.pth", 50_000, SHA256, is_kept=True)]


def test_a_recorded_file_that_changed_is_an_error(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    download(tmp_path, [part])
    (tmp_path / "eva/vit.pth").write_bytes(bytes(50_000))
    with pytest.raises(DownloadError, match=r"not the file that was downloaded on .* \(sha256 .* found\); delete it"):
        download(tmp_path, [part])
    (tmp_path / "eva/vit.pth").write_bytes(b"short")
    with pytest.raises(DownloadError, match=r"\(50,000 bytes expected, 5 found\); delete it"):
        download(tmp_path, [part])


def test_an_existing_file_of_the_published_size_is_kept(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    (tmp_path / "eva").mkdir()
    (tmp_path / "eva/vit.pth").write_bytes(BODY)
    assert download(tmp_path, [part]) == [DownloadedFile("eva/vit.pth", 50_000, SHA256, is_kept=True)]
    assert record_of(tmp_path)["files"]["eva/vit.pth"]["checked_against"] == "length"


def test_an_existing_file_of_another_size_is_not_overwritten(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    (tmp_path / "eva").mkdir()
    (tmp_path / "eva/vit.pth").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"is not the published file \(50,000 bytes expected, 4 found\); delete it"):
        download(tmp_path, [part])
    assert (tmp_path / "eva/vit.pth").read_bytes() == b"mine"


def test_a_damaged_record_is_an_error_that_says_what_to_do(part, tmp_path):
    (tmp_path / "downloads.json").write_text('{"files": 1')
    with pytest.raises(DownloadError, match=r"downloads\.json cannot be read .*; delete it"):
        download(tmp_path, [part])


# --- the hub ---


def test_a_hub_file_is_checked_against_the_published_sha256(server, tmp_path):
    server.publish("someone/model", **{"README.md": b"x", "model.pth": (BODY, SHA256), "other/model.pth": b"y"})
    (found,) = download(tmp_path, [HUB_PART])
    assert found == DownloadedFile("t/model.pth", 50_000, SHA256, is_kept=False)
    assert files_in(tmp_path) == ["downloads.json", "t/model.pth"]
    record = record_of(tmp_path)["files"]["t/model.pth"]
    assert (record["address"], record["checked_against"]) == (server.address + FILE, "published sha256")


def test_a_damaged_hub_file_is_deleted(server, tmp_path):
    server.publish("someone/model", **{"model.pth": (BODY, "0" * 64)})
    message = f"arrived damaged \\(sha256 000000000000… expected, {SHA256[:12]}… found\\) and was deleted"
    with pytest.raises(DownloadError, match=message):
        download(tmp_path, [HUB_PART])
    assert files_in(tmp_path) == ["downloads.json"]


def test_a_hub_file_of_another_length_is_an_error(server, tmp_path):
    server.publish("someone/model", **{"model.pth": (BODY, SHA256)})
    server.replies[FILE] = [Reply(body=BODY[:40_000])]
    with pytest.raises(DownloadError, match=r"did not arrive complete: .* size 50000 but has size 40000"):
        download(tmp_path, [HUB_PART])
    assert not (tmp_path / "t/model.pth").exists()


def test_the_next_run_resumes_an_interrupted_hub_file(server, tmp_path, monkeypatch):
    server.publish("someone/model", **{"model.pth": (BODY, SHA256)})
    interrupt(server, HUB_PART, tmp_path, monkeypatch, Reply(etag='"another host"', drop_after=20_000))
    (found,) = download(tmp_path, [HUB_PART])
    assert found == DownloadedFile("t/model.pth", 50_000, SHA256, is_kept=False)
    assert server.ranges(FILE) == ["bytes=20000-"]


def test_a_new_version_on_the_hub_starts_over(server, tmp_path, monkeypatch):
    server.publish("someone/model", **{"model.pth": (bytes(50_000), "0" * 64)})
    interrupt(server, HUB_PART, tmp_path, monkeypatch, Reply(body=bytes(50_000), drop_after=20_000))
    server.publish("someone/model", **{"model.pth": (BODY, SHA256)})
    assert download(tmp_path, [HUB_PART])[0].sha256 == SHA256
    assert server.ranges(FILE) == [None]


def test_an_existing_hub_file_must_have_the_published_sha256(server, tmp_path):
    server.publish("someone/model", **{"model.pth": (BODY, SHA256)})
    (tmp_path / "t").mkdir()
    (tmp_path / "t/model.pth").write_bytes(bytes(50_000))
    with pytest.raises(DownloadError, match="is not the published file"):
        download(tmp_path, [HUB_PART])
    (tmp_path / "t/model.pth").write_bytes(BODY)
    assert download(tmp_path, [HUB_PART])[0].is_kept
    assert server.asked[FILE] == []


def test_a_hub_folder_is_downloaded_without_unsafe_names(server, tmp_path):
    server.publish(
        "some/llama",
        **{"chat/config.json": b"{}", "chat/..": b"x", "chat/.hidden": b"x", "chat/a b": b"x", "chat/more/x": b"x"},
    )
    found = download(tmp_path, [LLM_PART])
    assert [file.path for file in found] == ["llm/chat/config.json"]


def test_two_files_in_place_of_one_are_an_error(server, tmp_path):
    server.publish("someone/model", **{"a.pth": b"a", "b.pth": b"b"})
    with pytest.raises(DownloadError, match=r"someone/model has 2 files \*\.pth; expected one"):
        download(tmp_path, [replace(HUB_PART, source="*.pth")])


def test_a_gated_file_names_the_licence_and_where_to_accept_it(server, tmp_path):
    server.publish("some/llama", **{"chat/a.json": b"{}"})
    path = f"/some/llama/resolve/{COMMIT}/chat/a.json"
    server.replies[path] = [Reply(status=401, body=b"", headers={"X-Error-Code": "GatedRepo"})]
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, [LLM_PART])
    assert str(caught.value) == (
        f"{server.address}{path} answered 401: the LLaMA 2 Community License must be accepted first, at "
        f"https://meta.example/accept and on {server.address}/some/llama; then give a token "
        f"({server.address}/settings/tokens) in HF_TOKEN"
    )


def test_a_token_without_the_licence_is_not_shown(server, tmp_path):
    server.replies["/api/models/some/llama"] = [Reply(status=403, body=b"")]
    with pytest.raises(DownloadError, match="the account of the given token has not accepted it") as caught:
        download(tmp_path, [LLM_PART], token=TOKEN)
    assert TOKEN not in str(caught.value)


def test_a_private_repository_needs_a_token(server, tmp_path):
    server.replies["/api/models/someone/model"] = [Reply(status=401, body=b"")]
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, [HUB_PART])
    assert str(caught.value) == (
        f"{server.address}/someone/model answered 401: it does not exist or is not public; "
        "if it is private, give a "
        "token in HF_TOKEN"
    )


def test_an_offline_machine_is_one_line_for_both_kinds(part, tmp_path):
    address = closed_address()
    host = address.removeprefix("http://")
    with pytest.raises(DownloadError, match=rf"^cannot reach {host}: .*Connection refused; check the network"):
        download(tmp_path / "new", [replace(part, source=f"{address}/vit.pth")])
    with pytest.raises(DownloadError, match=rf"^cannot reach {host}: .*Connection refused; check the network"):
        download(tmp_path / "new", [HUB_PART], endpoint=address)
    assert not (tmp_path / "new").exists()


def test_offline_mode_of_the_hub_is_respected(server, part, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"vit\.pth was not requested, because HF_HUB_OFFLINE is set; unset it"):
        download(tmp_path, [part])
    with pytest.raises(DownloadError, match=r"someone/model was not requested, because HF_HUB_OFFLINE is set"):
        download(tmp_path, [HUB_PART])


# --- the token ---


def test_the_token_reaches_the_hub_and_no_other_host(server, start_server, tmp_path, monkeypatch):
    elsewhere = start_server()
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")
    server.publish("someone/model", **{"model.pth": (BODY, SHA256)})
    server.replies[FILE] = [Reply(status=302, body=b"", headers={"Location": f"{elsewhere.address}/cdn?key=1"})]
    elsewhere.replies["/cdn?key=1"] = [Reply(drop_after=10_000), Reply()]
    outside = Part("vit", "to see", FREE, None, f"{elsewhere.address}/cdn?key=1", "eva/vit.pth", 0.1)
    assert [file.sha256 for file in download(tmp_path, [HUB_PART, outside])] == [SHA256] * 2
    hub = [headers for path in server.asked for headers in server.asked[path]]
    assert {headers.get("Authorization") for headers in hub} == {f"Bearer {TOKEN}"}
    assert [headers.get("Authorization") for headers in elsewhere.asked["/cdn?key=1"]] == [None, None, None]
    assert elsewhere.ranges("/cdn?key=1") == [None, "bytes=10000-", None]
    assert TOKEN not in (tmp_path / "downloads.json").read_text()


def test_an_invalid_token_is_refused_without_being_shown(server, tmp_path):
    with pytest.raises(ValueError, match="the token contains blanks") as caught:
        download(tmp_path, [HUB_PART], token="hf_one\nhf_two")
    assert "hf_" not in str(caught.value)
    assert server.asked == {}


# --- models of the hub ---


def test_a_model_of_the_hub_is_stored_in_its_cache(server):
    server.publish("someone/model", **{"config.json": b"{}"})
    folder = fetch_model("someone/model")
    assert folder.name == COMMIT
    assert (folder / "config.json").read_bytes() == b"{}"
    server.replies.clear()
    assert fetch_model("someone/model") == folder  # from the cache, without the hub


def test_a_model_of_another_kind_is_refused_by_its_config(server):
    from timechat.model.loading import find_folder

    server.publish("someone/model", **{"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights"})
    with pytest.raises(CheckpointError, match=r"^someone/model is not a converted TimeChat model, it contains llama"):
        find_folder("someone/model")
    assert not [path for path in server.asked if "safetensors" in path]


def test_only_the_files_that_a_model_needs_are_fetched(server):
    files = {"model.safetensors": b"weights", "pytorch_model.bin": b"pickle", "README.md": b"text"}
    server.publish("someone/model", **{"config.json": b"{}", "lora/adapter_model.safetensors": b"lora", **files})
    folder = fetch_model("someone/model")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == ["config.json", "lora/adapter_model.safetensors", "model.safetensors"]


def test_a_missing_model_is_one_line(server):
    from timechat.model.loading import find_folder

    server.replies["/api/models/some/one/revision/main"] = [Reply(status=401, body=b"")]
    with pytest.raises(CheckpointError) as caught:
        find_folder("some/one")
    assert str(caught.value) == (
        "'some/one' is not a local folder and cannot be downloaded as a model: "
        f"{server.address}/some/one answered 401: it does not exist or is not public; "
        "if it is private, give a token in HF_TOKEN"
    )


def test_a_model_without_network_and_copy_is_one_line(monkeypatch):
    address = closed_address()
    set_endpoint(monkeypatch, address)
    with pytest.raises(DownloadError, match=rf"^cannot reach {address}/some/one: .*; check the network$") as caught:
        fetch_model("some/one")
    assert "\n" not in str(caught.value)


# --- the parts ---


def test_the_parts_fill_the_original_layout():
    assert {part.name: (part.origin, part.destination) for part in original_parts()} == {
        "bert-vocab": ("google-bert/bert-base-uncased", "bert-base-uncased/vocab.txt"),
        "llm": (
            "DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned",
            "Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf/",
        ),
        "video-llama": (
            "DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned",
            "Video-LLaMA-2-7B-Finetuned/VL_LLaMA_2_7B_Finetuned.pth",
        ),
        "qformer": (
            "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/InstructBLIP/"
            "instruct_blip_vicuna7b_trimmed.pth",
            "instruct-blip/instruct_blip_vicuna7b_trimmed.pth",
        ),
        "vit": (
            "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
            "eva-vit-g/eva_vit_g.pth",
        ),
        "timechat": ("ShuhuaiRen/TimeChat-7b", "timechat/timechat_7b.pth"),
        "timechat-paper": ("ShuhuaiRen/TimeChat-7b-paper", "timechat/timechat_7b_paper.pth"),
    }


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["bert-vocab", "llm", "video-llama", "qformer", "vit", "timechat"]),
        ({"paper": True}, ["bert-vocab", "llm", "video-llama", "qformer", "vit", "timechat-paper"]),
        ({"without_stage2": True}, ["bert-vocab", "llm", "qformer", "vit", "timechat"]),
        ({"only": ["vit", "bert-vocab"]}, ["bert-vocab", "vit"]),
        ({"only": ["timechat"], "paper": True}, ["timechat-paper"]),
    ],
)
def test_parts_are_chosen_by_name(options, names):
    assert [part.name for part in choose_parts(**options)] == names


def test_an_unknown_part_names_the_known_ones():
    with pytest.raises(ValueError, match="there is no part 'llama'; choose from bert-vocab, llm, video-llama,"):
        choose_parts(["llama"])


def test_the_whole_layout_is_downloaded(server, tmp_path):
    server.publish("google-bert/bert-base-uncased", **{"vocab.txt": b"words", "config.json": b"{}"})
    server.publish(
        "DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned",
        **{"llama-2-7b-chat-hf/config.json": b"{}", "llama-2-7b-chat-hf/pytorch_model-00001-of-00002.bin": b"1"},
        **{"VL_LLaMA_2_7B_Finetuned.pth": b"2", "AL_LLaMA_2_7B_Finetuned.pth": b"not ours"},
    )
    server.publish("ShuhuaiRen/TimeChat-7b-paper", **{"timechat_7b.pth": b"3"})
    server.replies["/eva_vit_g.pth"] = server.replies["/instruct_blip_vicuna7b_trimmed.pth"] = [Reply()]
    download(
        tmp_path,
        [
            part if part.repository else replace(part, source=server.address + "/" + part.source.rpartition("/")[2])
            for part in choose_parts(paper=True)
        ],
    )
    assert files_in(tmp_path) == [
        "Video-LLaMA-2-7B-Finetuned/VL_LLaMA_2_7B_Finetuned.pth",
        "Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf/config.json",
        "Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf/pytorch_model-00001-of-00002.bin",
        "bert-base-uncased/vocab.txt",
        "downloads.json",
        "eva-vit-g/eva_vit_g.pth",
        "instruct-blip/instruct_blip_vicuna7b_trimmed.pth",
        "timechat/timechat_7b_paper.pth",
    ]


# --- the command ---


def run(capfd, monkeypatch, *arguments):
    """Run `timechat download`; returns exit status, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["timechat", "download", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capfd.readouterr()
    return caught.value.code, captured.out, captured.err


def test_list_prints_parts_and_terms_and_downloads_nothing(capfd, monkeypatch):
    status, out, _ = run(capfd, monkeypatch, "--list", "--paper")
    assert status == 0
    assert out == describe_parts(choose_parts(paper=True)) + "\n"
    assert "llm: Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf/ (about 13.5 GB)" in out
    assert "accept  https://huggingface.co/meta-llama/Llama-2-7b-chat-hf" in out
    assert (
        "licence TimeChat terms of use. Research preview, non-commercial use only. "
        "Not for illegal, harmful, violent, racist or sexual purposes." in out
    )
    assert out.endswith("about 17.6 GB in all\n")


def test_the_command_downloads_and_prints_each_file(server, tmp_path, capfd, monkeypatch):
    server.publish("ShuhuaiRen/TimeChat-7b", **{"timechat_7b.pth": (BODY, SHA256)})
    status, out, err = run(capfd, monkeypatch, tmp_path, "--only", "timechat")
    assert status == 0
    assert out == f"timechat/timechat_7b.pth\t50000\tsha256:{SHA256}\tfetched\n"
    assert err == (
        "licence: TimeChat terms of use. Research preview, non-commercial use only. Not for illegal, "
        f"harmful, violent, racist or sexual purposes.\nnext: timechat convert --from {tmp_path} OUT_DIR\n"
    )
    again = run(capfd, monkeypatch, tmp_path, "--only", "timechat", "--quiet")
    assert again == (0, out.replace("fetched", "kept"), "")


def test_the_command_refuses_a_missing_folder_argument(capfd, monkeypatch):
    assert run(capfd, monkeypatch, "--only", "vit") == (
        2,
        "",
        "timechat: CKPT_DIR is missing: timechat download CKPT_DIR, or timechat download --list\n",
    )


def test_the_command_offline_is_one_line_and_exit_2(tmp_path, capfd, monkeypatch):
    set_endpoint(monkeypatch, closed_address())
    status, out, err = run(capfd, monkeypatch, tmp_path, "--only", "timechat", "--quiet")
    assert (status, out) == (2, "")
    assert err.startswith("timechat: cannot reach 127.0.0.1:")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("show_progress", "titles"), [(True, ["vit.pth", "checking vit.pth"]), (False, [])])
def test_bars_are_shown_for_each_file(server, part, tmp_path, monkeypatch, show_progress, titles):
    started = []

    class Bar(huggingface_hub.utils.silent_tqdm):
        def __init__(self, **options):
            started.append((options["desc"], options["total"]))

    monkeypatch.setattr(fetch, "tqdm", Bar)
    server.replies["/vit.pth"] = [Reply()]
    download(tmp_path, [part], show_progress=show_progress)
    assert started == [(title, 50_000) for title in titles]
