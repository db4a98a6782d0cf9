"""`timechat.download` against a server on loopback that plays every failure; no other host is asked."""

import hashlib
import json
import socket
import struct
import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Literal
from urllib.request import Request

import pytest
import typer
from typer.testing import CliRunner

from timechat.cli.download import download as download_command
from timechat.download import (
    Downloaded,
    Licence,
    Part,
    Progress,
    choose_parts,
    describe_parts,
    download,
    original_parts,
    transfer,
    web,
)
from timechat.errors import DownloadError

BODY = bytes(i * 7 % 251 for i in range(50_000))
SHA256 = hashlib.sha256(BODY).hexdigest()
TOKEN = "hf_never_shown"
FREE = Licence("Free licence", "Do as you like.", None)
GATED = Licence("LLaMA 2 Community License", "Accept first.", "https://meta.example/accept")


@dataclass
class Reply:
    """How the server answers one request."""

    status: int = 200
    body: bytes = BODY
    etag: str | None = '"one"'
    last_modified: str | None = None
    drop_after: int | None = None  # bytes of the body, then the connection is cut
    ending: Literal["close", "reset", "silence"] = "close"
    claimed_length: int | None = None
    knows_ranges: bool = True
    checks_if_range: bool = True
    is_chunked: bool = False
    has_length: bool = True
    headers: dict[str, str] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """Answers each path with its replies in turn, the last one for good, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.asked: dict[str, list[dict[str, str]]] = defaultdict(list)
        self.is_stopping = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self, path):
        return [headers.get("Range") for headers in self.asked[path]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.close_connection = True
        path = self.path
        self.server.asked[path].append(dict(self.headers))
        replies = self.server.replies.get(path) or [Reply(status=404, body=b"")]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        status, body, headers = reply.status, reply.body, dict(reply.headers)
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        matches = condition in (None, reply.etag, reply.last_modified) or not reply.checks_if_range
        if status == 200 and wanted and reply.knows_ranges and matches:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                status, body = 416, b""
            else:
                status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
                body = body[start:]
        self.send_response(status)
        for name, value in (("ETag", reply.etag), ("Last-Modified", reply.last_modified), *headers.items()):
            if value is not None:
                self.send_header(name, value)
        if reply.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        elif reply.has_length:
            self.send_header("Content-Length", str(reply.claimed_length or len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: reply.drop_after])
        if reply.ending == "silence":
            self.server.is_stopping.wait(10)
        if reply.ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The seconds that would have been waited between tries; no test waits them."""
    seconds = []
    monkeypatch.setattr(transfer.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def start_server(monkeypatch):
    """Starts a server on a free port of loopback; all are stopped when the test ends."""
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start():
        server = Server()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.is_stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(start_server):
    return start_server()


@pytest.fixture
def part(server):
    """A part that is one file at a full address."""
    return Part("vit", "to see", FREE, None, f"{server.address}/vit.pth", "eva/vit.pth", (), 0.1)


HUB_PART = Part("timechat", "to know", FREE, "someone/model", "model.pth", "t/model.pth", ("model.pth",), 0.1)
LLM_PART = Part("llm", "to speak", GATED, "some/llama", "chat/*", "llm/chat/", ("a.json", "b.bin"), 0.1)
FILE = "/someone/model/resolve/main/model.pth"
LISTING = "/api/models/someone/model/tree/main"


def listing(*entries):
    return [Reply(body=json.dumps(entries).encode(), etag=None)]


def listed(path, body=BODY, sha256=None):
    lfs = {"lfs": {"oid": sha256, "size": len(body)}} if sha256 else {}
    return {"type": "file", "path": path, "size": len(body), "oid": "0" * 40, **lfs}


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def manifest_of(folder):
    return json.loads((folder / "downloads.json").read_text())


# --- one file ---


def test_a_file_is_fetched_whole_and_recorded(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    assert download(tmp_path, [part]) == [Downloaded("eva/vit.pth", 50_000, SHA256, was_there=False)]
    assert (tmp_path / "eva/vit.pth").read_bytes() == BODY
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth"]
    record = manifest_of(tmp_path)["files"]["eva/vit.pth"]
    assert record.pop("date").endswith("+00:00")
    assert record == {
        "address": part.source,
        "size": 50_000,
        "sha256": SHA256,
        "checked_against": "length",
    }
    assert manifest_of(tmp_path)["unfinished"] == {}


def test_a_dropped_connection_goes_on_at_the_byte_where_it_stopped(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(drop_after=10_000), Reply(drop_after=25_000), Reply()]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None, "bytes=10000-", "bytes=35000-"]
    assert [asked.get("If-Range") for asked in server.asked["/vit.pth"]] == [None, '"one"', '"one"']


@pytest.mark.parametrize("ending", ["reset", "silence"])
def test_a_connection_that_is_reset_or_silent_goes_on(server, part, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(web, "TIMEOUT", 0.3)
    server.replies["/vit.pth"] = [Reply(drop_after=10_000, ending=ending), Reply()]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert len(server.asked["/vit.pth"]) == 2


def test_the_date_stands_in_for_a_weak_etag(server, part, tmp_path):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    reply = Reply(etag='W/"one"', last_modified=date)
    server.replies["/vit.pth"] = [replace(reply, drop_after=10_000), reply]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.asked["/vit.pth"][1]["If-Range"] == date


def test_a_file_that_no_header_identifies_is_never_joined(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(etag=None, drop_after=10_000), Reply(etag=None)]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None, None]


def test_a_server_that_ignores_ranges_starts_over(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(drop_after=10_000), Reply(knows_ranges=False)]
    (found,) = download(tmp_path, [part])
    assert (found.size, found.sha256) == (50_000, SHA256)
    assert server.ranges("/vit.pth") == [None, "bytes=10000-"]


def test_a_file_that_changed_between_tries_starts_over(server, part, tmp_path):
    old = bytes(50_000)
    server.replies["/vit.pth"] = [Reply(body=old, etag='"old"', drop_after=10_000), Reply(etag='"new"')]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256


def test_a_range_of_another_version_is_not_joined(server, part, tmp_path):
    server.replies["/vit.pth"] = [
        Reply(body=bytes(50_000), etag='"old"', drop_after=10_000),
        Reply(etag='"new"', checks_if_range=False),
    ]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None, "bytes=10000-", None]


def test_a_range_that_starts_elsewhere_is_not_joined(server, part, tmp_path):
    elsewhere = {"Content-Range": "bytes 9000-49999/50000"}
    server.replies["/vit.pth"] = [
        Reply(drop_after=10_000),
        Reply(status=206, body=BODY[9_000:], headers=elsewhere),
        Reply(),
    ]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None, "bytes=10000-", None]


def test_two_downloads_into_one_file_are_noticed(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]

    def write_too(progress):
        with (tmp_path / "eva/vit.pth.part").open("ab") as other:
            other.write(b"from another process")

    with pytest.raises(DownloadError, match=r"vit\.pth\.part was changed by another process; let one download"):
        download(tmp_path, [part], on_progress=write_too)
    assert not (tmp_path / "eva/vit.pth").exists()


def test_an_interrupt_leaves_the_part_and_the_next_call_resumes_it(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(drop_after=20_000), Reply()]

    def interrupt(progress):
        if progress.done == 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(tmp_path, [part], on_progress=interrupt)
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth.part"]

    seen = []
    (found,) = download(tmp_path, [part], on_progress=seen.append)
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None, "bytes=20000-"]
    assert seen[0] == Progress("eva/vit.pth", "checking", 20_000, 20_000)
    assert seen[-1] == Progress("eva/vit.pth", "fetching", 50_000, 50_000)
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth"]


def test_a_part_that_is_whole_is_not_asked_for_again(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    download(tmp_path, [part])
    manifest = manifest_of(tmp_path)
    record = manifest["files"].pop("eva/vit.pth")
    manifest["unfinished"]["eva/vit.pth"] = {
        "address": record["address"],
        "size": 50_000,
        "sha256": None,
        "validator": '"one"',
    }
    (tmp_path / "downloads.json").write_text(json.dumps(manifest))
    (tmp_path / "eva/vit.pth").rename(tmp_path / "eva/vit.pth.part")
    (found,) = download(tmp_path, [part])
    assert found == Downloaded("eva/vit.pth", 50_000, SHA256, was_there=False)
    assert len(server.asked["/vit.pth"]) == 1


def test_a_busy_server_is_asked_again_after_the_time_it_names(server, part, tmp_path, pauses):
    server.replies["/vit.pth"] = [
        Reply(status=503, headers={"Retry-After": "7"}),
        Reply(status=429),
        Reply(status=500),
        Reply(),
    ]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert pauses == [7.0, 2.0, 4.0]


def test_a_server_that_stays_busy_is_given_up(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(status=503)]
    with pytest.raises(DownloadError, match=r"6 tries in a row brought nothing new \(the server answered 503\)"):
        download(tmp_path, [part])
    assert len(server.asked["/vit.pth"]) == 6
    assert files_in(tmp_path) == []


def test_a_server_that_ignores_ranges_and_always_drops_is_given_up(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(knows_ranges=False, drop_after=10_000)]
    with pytest.raises(DownloadError, match=r"connection closed after 10,000 of 50,000 bytes\); 10\.0 kB are kept"):
        download(tmp_path, [part])
    assert len(server.asked["/vit.pth"]) == 7
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth.part"]


def test_a_server_that_announces_more_than_it_has_is_given_up(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(claimed_length=60_000, knows_ranges=False)]
    with pytest.raises(DownloadError, match="connection closed after 50,000 of 60,000 bytes"):
        download(tmp_path, [part])
    assert not (tmp_path / "eva/vit.pth").exists()


def test_a_range_past_the_end_starts_over(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(claimed_length=60_000), Reply(), Reply()]
    (found,) = download(tmp_path, [part])
    assert found.sha256 == SHA256
    assert server.ranges("/vit.pth") == [None, "bytes=50000-", None]


def test_chunks_carry_a_file_without_a_length(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(is_chunked=True, drop_after=30_000), Reply(is_chunked=True)]
    (found,) = download(tmp_path, [part])
    assert (found.size, found.sha256) == (50_000, SHA256)


def test_a_file_whose_end_cannot_be_told_is_refused(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(has_length=False)]
    with pytest.raises(DownloadError, match="names no length"):
        download(tmp_path, [part])
    assert files_in(tmp_path) == []


def test_a_web_page_is_not_taken_for_the_file(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(headers={"Content-Type": "text/html; charset=utf-8"})]
    with pytest.raises(DownloadError, match="a web page and not the file"):
        download(tmp_path, [part])


def test_an_unasked_compression_is_refused(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(headers={"Content-Encoding": "gzip"})]
    with pytest.raises(DownloadError, match="sent as gzip though nobody asked for that"):
        download(tmp_path, [part])


def test_an_empty_file_is_a_file(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(body=b"")]
    (found,) = download(tmp_path, [part])
    assert (found.size, found.sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth"]


def test_an_empty_file_that_was_begun_but_not_written_is_asked_for_again(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply(body=b"")]
    unfinished = {"address": part.source, "size": 0, "sha256": None, "validator": None}
    (tmp_path / "downloads.json").write_text(json.dumps({"files": {}, "unfinished": {"eva/vit.pth": unfinished}}))
    assert download(tmp_path, [part])[0].size == 0
    assert files_in(tmp_path) == ["downloads.json", "eva/vit.pth"]


def test_a_full_disk_is_noticed_before_the_file(server, part, tmp_path, monkeypatch):
    server.replies["/vit.pth"] = [Reply()]
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(DownloadError, match=r"eva/vit\.pth needs 50\.0 kB more, and 1\.0 kB are free in"):
        download(tmp_path, [part])
    assert files_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_line(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    (tmp_path / "taken").write_text("")
    with pytest.raises(DownloadError, match=r"^cannot use .*taken.*: Not a directory$"):
        download(tmp_path / "taken", [part])


def test_a_machine_that_is_offline_is_told_so_at_once(part, tmp_path, pauses):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    silent = replace(part, source=f"http://127.0.0.1:{port}/vit.pth")
    with pytest.raises(DownloadError, match=rf"^cannot reach 127\.0\.0\.1:{port}: Connection refused; is this"):
        download(tmp_path / "new", [silent])
    assert not (tmp_path / "new").exists()
    assert pauses == []


# --- what is there already ---


def test_a_recorded_file_is_kept_without_asking(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    download(tmp_path, [part])
    assert download(tmp_path, [part]) == [Downloaded("eva/vit.pth", 50_000, SHA256, was_there=True)]
    assert len(server.asked["/vit.pth"]) == 1


def test_a_recorded_file_with_other_bytes_is_an_error_that_says_what_to_do(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    download(tmp_path, [part])
    (tmp_path / "eva/vit.pth").write_bytes(bytes(50_000))
    with pytest.raises(DownloadError, match=r"has changed since it was fetched on .* delete it and run"):
        download(tmp_path, [part])
    (tmp_path / "eva/vit.pth").write_bytes(b"short")
    with pytest.raises(DownloadError, match=r"has 5 bytes where its record has 50,000; delete it"):
        download(tmp_path, [part])


def test_a_file_from_elsewhere_is_taken_over_if_it_has_the_published_size(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    (tmp_path / "eva").mkdir()
    (tmp_path / "eva/vit.pth").write_bytes(BODY)
    assert download(tmp_path, [part]) == [Downloaded("eva/vit.pth", 50_000, SHA256, was_there=True)]
    assert manifest_of(tmp_path)["files"]["eva/vit.pth"]["checked_against"] == "length"


def test_a_file_from_elsewhere_of_another_size_is_never_overwritten(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    (tmp_path / "eva").mkdir()
    (tmp_path / "eva/vit.pth").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="has 4 bytes where the published file has 50,000; delete it or move"):
        download(tmp_path, [part])
    assert (tmp_path / "eva/vit.pth").read_bytes() == b"mine"


def test_a_new_file_that_differs_from_the_record_waits_for_a_decision(server, part, tmp_path):
    server.replies["/vit.pth"] = [Reply()]
    download(tmp_path, [part])
    (tmp_path / "eva/vit.pth").unlink()
    server.replies["/vit.pth"] = [Reply(body=bytes(50_000), etag='"two"')]
    with pytest.raises(DownloadError, match=r"is not the file recorded on .* delete its entry under \"files\""):
        download(tmp_path, [part])
    manifest = manifest_of(tmp_path)
    del manifest["files"]["eva/vit.pth"]
    (tmp_path / "downloads.json").write_text(json.dumps(manifest))
    download(tmp_path, [part])
    assert (tmp_path / "eva/vit.pth").read_bytes() == bytes(50_000)
    assert len(server.asked["/vit.pth"]) == 2


def test_a_damaged_manifest_is_an_error_that_says_what_to_do(part, tmp_path):
    (tmp_path / "downloads.json").write_text('{"files": 1')
    with pytest.raises(DownloadError, match=r"downloads\.json cannot be read .* delete it"):
        download(tmp_path, [part])


# --- the hub ---


def test_a_hub_file_is_checked_against_the_published_checksum(server, tmp_path):
    server.replies[LISTING] = listing(listed("README.md", b"x"), listed("model.pth", sha256=SHA256))
    server.replies[FILE] = [Reply()]
    (found,) = download(tmp_path, [HUB_PART], endpoint=server.address)
    assert found == Downloaded("t/model.pth", 50_000, SHA256, was_there=False)
    assert manifest_of(tmp_path)["files"]["t/model.pth"]["checked_against"] == "published sha256"


def test_a_file_that_came_damaged_is_thrown_away(server, tmp_path):
    server.replies[LISTING] = listing(listed("model.pth", sha256="0" * 64))
    server.replies[FILE] = [Reply()]
    message = f"came damaged \\(sha256 000000000000… expected, {SHA256[:12]}… found\\) and was thrown away"
    with pytest.raises(DownloadError, match=message):
        download(tmp_path, [HUB_PART], endpoint=server.address)
    assert files_in(tmp_path) == ["downloads.json"]
    assert manifest_of(tmp_path) == {"files": {}, "unfinished": {}}


def test_a_length_that_the_hub_does_not_list_is_refused(server, tmp_path):
    server.replies[LISTING] = listing(listed("model.pth", sha256=SHA256))
    server.replies[FILE] = [Reply(claimed_length=40_000)]
    with pytest.raises(DownloadError, match="is sent with 40,000 bytes where the hub lists 50,000"):
        download(tmp_path, [HUB_PART], endpoint=server.address)


def test_a_hub_file_from_elsewhere_must_have_the_published_checksum(server, tmp_path):
    server.replies[LISTING] = listing(listed("model.pth", sha256=SHA256))
    (tmp_path / "t").mkdir()
    (tmp_path / "t/model.pth").write_bytes(bytes(50_000))
    with pytest.raises(DownloadError, match="is not the published file"):
        download(tmp_path, [HUB_PART], endpoint=server.address)
    (tmp_path / "t/model.pth").write_bytes(BODY)
    assert download(tmp_path, [HUB_PART], endpoint=server.address)[0].was_there
    assert server.asked[FILE] == []


def test_a_published_checksum_lets_another_host_go_on_with_the_file(server, tmp_path):
    server.replies[LISTING] = listing(listed("model.pth", sha256=SHA256))
    server.replies[FILE] = [Reply(etag='"one"', drop_after=10_000), Reply(etag='"other host"')]
    (found,) = download(tmp_path, [HUB_PART], endpoint=server.address)
    assert found.sha256 == SHA256
    assert server.ranges(FILE) == [None, "bytes=10000-"]


def test_a_part_outlives_a_hub_that_stops_listing(server, tmp_path):
    server.replies[LISTING] = listing(listed("model.pth", sha256=SHA256))
    server.replies[FILE] = [Reply(drop_after=10_000), Reply(status=403), Reply()]
    with pytest.raises(DownloadError, match="answered 403"):
        download(tmp_path, [HUB_PART], endpoint=server.address)
    server.replies[LISTING] = [Reply(status=404)]
    (found,) = download(tmp_path, [HUB_PART], endpoint=server.address)
    assert found.sha256 == SHA256
    assert server.ranges(FILE) == [None, "bytes=10000-", "bytes=10000-"]
    assert manifest_of(tmp_path)["files"]["t/model.pth"]["checked_against"] == "published sha256"


def test_a_folder_of_the_hub_is_fetched_as_it_is_listed(server, tmp_path):
    server.replies["/api/models/some/llama/tree/main/chat"] = listing(
        listed("chat/config.json", b"{}"),
        listed("chat/w 1.bin", b"unsafe name"),
        listed("chat/../..", b"out of the folder"),
        listed("chat/.hidden", b"hidden"),
        {"type": "directory", "path": "chat/more", "size": 0},
        "not an entry",
    )
    server.replies["/some/llama/resolve/main/chat/config.json"] = [Reply(body=b"{}")]
    found = download(tmp_path, [LLM_PART], endpoint=server.address)
    assert [file.path for file in found] == ["llm/chat/config.json"]


def test_without_a_listing_the_known_names_are_asked_for(server, tmp_path):
    server.replies["/some/llama/resolve/main/chat/a.json"] = [Reply(body=b"{}")]
    server.replies["/some/llama/resolve/main/chat/b.bin"] = [Reply()]
    found = download(tmp_path, [LLM_PART], endpoint=server.address)
    assert [file.path for file in found] == ["llm/chat/a.json", "llm/chat/b.bin"]


def test_a_listing_that_is_no_listing_is_passed_over(server, tmp_path):
    server.replies[LISTING] = [Reply(body=b"<html>", etag=None)]
    server.replies[FILE] = [Reply()]
    assert download(tmp_path, [HUB_PART], endpoint=server.address)[0].sha256 == SHA256


def test_two_files_where_one_is_expected_are_named(server, tmp_path):
    server.replies[LISTING] = listing(listed("a.pth"), listed("b.pth"))
    with pytest.raises(DownloadError, match=r"someone/model holds a\.pth, b\.pth where one file was expected"):
        download(tmp_path, [replace(HUB_PART, source="*.pth")], endpoint=server.address)


def test_a_gated_repository_names_the_licence_where_to_accept_it_and_how_to_give_a_token(server, tmp_path):
    server.replies["/some/llama/resolve/main/chat/a.json"] = [Reply(status=401, body=b"")]
    with pytest.raises(DownloadError) as caught:
        download(tmp_path / "new", [LLM_PART], endpoint=server.address)
    assert str(caught.value) == (
        "some/llama answered 401: the LLaMA 2 Community License must be accepted first, at "
        f"https://meta.example/accept and on {server.address}/some/llama; then give its token "
        f"({server.address}/settings/tokens) in HF_TOKEN or with --token"
    )
    assert not (tmp_path / "new").exists()


def test_a_token_without_the_licence_is_told_so_and_not_shown(server, tmp_path):
    server.replies["/some/llama/resolve/main/chat/a.json"] = [Reply(status=403, body=b"")]
    with pytest.raises(DownloadError, match="the account of the token that was given has not done so") as caught:
        download(tmp_path, [LLM_PART], endpoint=server.address, token=TOKEN)
    assert TOKEN not in str(caught.value)


def test_a_private_repository_asks_for_a_token(server, tmp_path):
    server.replies[FILE] = [Reply(status=401, body=b"")]
    with pytest.raises(DownloadError, match="answered 401: not public, or not there; if it wants a log-in, give"):
        download(tmp_path, [HUB_PART], endpoint=server.address)


def test_a_missing_file_is_one_line(server, tmp_path):
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, [HUB_PART], endpoint=server.address)
    assert str(caught.value) == (
        f"{server.address}{FILE} answered 404: the file is not there any more; `timechat convert` takes a "
        "copy from elsewhere by its own option"
    )


# --- the token ---


def test_the_token_goes_to_the_hub_and_to_no_other_host(server, part, start_server, tmp_path, monkeypatch):
    elsewhere = start_server()
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
    server.replies[FILE] = [Reply(status=302, body=b"", headers={"Location": f"{elsewhere.address}/cdn?key=1"})]
    elsewhere.replies["/cdn?key=1"] = [Reply(drop_after=10_000), Reply()]
    outside = replace(part, source=f"{elsewhere.address}/cdn?key=1")
    assert [file.sha256 for file in download(tmp_path, [HUB_PART, outside])] == [SHA256] * 2
    assert {asked.get("Authorization") for asked in server.asked[LISTING]} == {f"Bearer {TOKEN}"}
    assert {asked.get("Authorization") for asked in server.asked[FILE]} == {f"Bearer {TOKEN}"}
    assert [asked.get("Authorization") for asked in elsewhere.asked["/cdn?key=1"]] == [None, None, None]
    assert elsewhere.ranges("/cdn?key=1") == [None, "bytes=10000-", None]
    assert TOKEN not in (tmp_path / "downloads.json").read_text()


def test_the_token_follows_a_redirect_on_the_same_host(server, tmp_path):
    server.replies[FILE] = [Reply(status=307, body=b"", headers={"Location": "/renamed"})]
    server.replies["/renamed"] = [Reply()]
    download(tmp_path, [HUB_PART], endpoint=server.address, token=TOKEN)
    assert [asked.get("Authorization") for asked in server.asked["/renamed"]] == [f"Bearer {TOKEN}"]


def test_a_redirect_out_of_encryption_is_not_followed():
    request = Request("https://hub.example/file")
    with pytest.raises(DownloadError, match=r"hub\.example redirects to an address without encryption"):
        web.TokenStaysHome().redirect_request(request, None, 302, "Found", {}, "http://hub.example/file")


def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(tmp_path):
    with pytest.raises(ValueError, match="the token holds blanks") as caught:
        download(tmp_path, [HUB_PART], token="hf_one\nhf_two")
    assert "hf_" not in str(caught.value)


def test_a_hub_address_without_a_scheme_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must start with https://, got 'file:///tmp'; set it in HF_ENDPOINT"):
        download(tmp_path, [HUB_PART], endpoint="file:///tmp")


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


def test_an_unknown_part_names_the_ones_there_are():
    with pytest.raises(ValueError, match="there is no part 'llama'; choose from bert-vocab, llm, video-llama,"):
        choose_parts(["llama"])


def test_the_whole_layout_is_fetched_from_its_addresses(server, tmp_path):
    parts = [
        part if part.repository else replace(part, source=server.address + "/" + part.source.rpartition("/")[2])
        for part in choose_parts()
    ]
    for part in parts:
        folder = part.source.rpartition("/")[0]
        for name in part.known_files:
            path = "/".join(filter(None, ("", part.repository, "resolve/main", folder, name)))
            server.replies["/" + path] = [Reply(body=name.encode())]
    server.replies["/eva_vit_g.pth"] = server.replies["/instruct_blip_vicuna7b_trimmed.pth"] = [Reply()]
    download(tmp_path, parts, endpoint=server.address)
    llm = "Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf"
    assert files_in(tmp_path) == [
        "Video-LLaMA-2-7B-Finetuned/VL_LLaMA_2_7B_Finetuned.pth",
        f"{llm}/config.json",
        f"{llm}/generation_config.json",
        f"{llm}/pytorch_model-00001-of-00002.bin",
        f"{llm}/pytorch_model-00002-of-00002.bin",
        f"{llm}/pytorch_model.bin.index.json",
        f"{llm}/special_tokens_map.json",
        f"{llm}/tokenizer.json",
        f"{llm}/tokenizer.model",
        f"{llm}/tokenizer_config.json",
        "bert-base-uncased/vocab.txt",
        "downloads.json",
        "eva-vit-g/eva_vit_g.pth",
        "instruct-blip/instruct_blip_vicuna7b_trimmed.pth",
        "timechat/timechat_7b.pth",
    ]


# --- the command ---


def run(*arguments):
    app = typer.Typer()
    app.command()(download_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_list_prints_parts_and_terms_and_fetches_nothing():
    result = run("--list", "--paper")
    assert result.exit_code == 0
    assert result.stdout == describe_parts(choose_parts(paper=True)) + "\n"
    assert "llm: Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf/ (about 13.5 GB)" in result.stdout
    assert "accept  https://huggingface.co/meta-llama/Llama-2-7b-chat-hf" in result.stdout
    assert (
        "licence TimeChat terms of use. Research preview, non-commercial use only. "
        "Not for illegal, harmful, violent, racist or sexual purposes." in result.stdout
    )
    assert result.stdout.endswith("about 17.6 GB in all\n")


def test_the_command_fetches_and_prints_what_lies_there(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    server.replies["/ShuhuaiRen/TimeChat-7b/resolve/main/timechat_7b.pth"] = [Reply()]
    result = run(tmp_path, "--only", "timechat")
    assert result.stdout == f"timechat/timechat_7b.pth\t50000\tsha256:{SHA256}\tfetched\n"
    assert result.stderr == (
        "licence: TimeChat terms of use. Research preview, non-commercial use only. Not for illegal, "
        f"harmful, violent, racist or sexual purposes.\nnext: timechat convert --from {tmp_path} OUT_DIR\n"
    )
    again = run(tmp_path, "--only", "timechat", "--quiet")
    assert (again.stdout, again.stderr) == (result.stdout.replace("fetched", "kept"), "")


def test_the_command_wants_a_folder():
    assert str(run("--only", "vit").exception) == (
        "CKPT_DIR is missing: timechat download CKPT_DIR, or timechat download --list"
    )


def test_the_bars_follow_every_file_on_a_terminal(monkeypatch):
    from timechat.cli.download import _ProgressBars

    monkeypatch.setenv("FORCE_COLOR", "1")
    with _ProgressBars(is_shown=True) as bars:
        bars.update(Progress("eva/vit.pth", "checking", 10, 10))
        bars.update(Progress("eva/vit.pth", "fetching", 20, 50))
        bars.update(Progress("eva/vit.pth", "fetching", 30, 50))
        assert [(task.description, task.completed, task.total) for task in bars._bars.tasks] == [
            ("checking vit.pth", 10, 10),
            ("fetching vit.pth", 30, 50),
        ]
