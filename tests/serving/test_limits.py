"""What requests may use together: the disk, connections, attempts of jobs, and memory for thumbnails."""

import asyncio
import json
import socket
import sqlite3
import stat
import threading
import time

import pytest
import uvicorn

from tests.serving.conftest import until
from timechat.errors import AccessError
from timechat.pipeline import TimeChat
from timechat.serving.access import Addresses, Limits, fetch
from timechat.serving.database import Database, exclusive_lock
from timechat.serving.errors import RequestError
from timechat.serving.http import ServerSettings, connections
from timechat.serving.http.connections import Connection
from timechat.serving.http.routes import files as file_routes
from timechat.serving.videos import FetchedFiles, VideoStore

_FORM = {"content-type": "multipart/form-data; boundary=x"}
_HEAD = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'


# ── the disk ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_simultaneous_uploads_reserve_their_room(tmp_path):
    store = VideoStore(ServerSettings(data=tmp_path, max_store_bytes=1000), Database(tmp_path / "db"))
    store.reserve(600)
    with pytest.raises(RequestError, match="no room for this file") as caught:
        store.reserve(401)
    assert caught.value.status == 507
    store.reserve(400)
    store.reserve(-1000)
    assert store.num_arriving == 0


def test_an_upload_counts_what_others_finished_meanwhile(served, films):
    content = (films / "film.mp4").read_bytes()
    running = served(max_store_bytes=len(content) * 3 // 2)
    is_first_done = threading.Event()
    answers = []

    def slow():
        yield _HEAD + content[:100]
        is_first_done.wait(30)
        yield content[100:] + b"\r\n--x--\r\n"

    thread = threading.Thread(
        target=lambda: answers.append(running.client.post("/v1/files", content=slow(), headers=_FORM))
    )
    thread.start()
    until(lambda: running.server.videos.num_arriving)
    with (films / "film.mp4").open("rb") as file:
        assert running.client.post("/v1/files", files={"file": ("b.mp4", file)}).status_code == 200
    is_first_done.set()
    thread.join(30)
    assert [answer.status_code for answer in answers] == [507]
    assert running.server.videos.num_arriving == 0
    assert running.server.videos.num_bytes == len(content)


def test_simultaneous_fetches_reserve_their_room(tmp_path):
    files = FetchedFiles(tmp_path / "fetched", max_bytes=1000)

    def take(num_bytes):
        with files.acquire("b", lambda _, reserve: reserve(num_bytes), lambda: False):
            pass

    def make(path, reserve):
        reserve(600)
        with pytest.raises(AccessError, match="no room for another fetched video") as caught:
            take(401)
        assert caught.value.reason == "no_room"
        path.write_bytes(bytes(600))

    with files.acquire("a", make, lambda: False):
        assert files._num_reserved == 0
        with pytest.raises(AccessError, match="no room"):
            take(401)
    with files.acquire("b", lambda path, reserve: (reserve(900), path.write_bytes(bytes(900))), lambda: False):
        assert sum(path.stat().st_size for path in (tmp_path / "fetched").iterdir()) == 900  # the first was deleted


@pytest.mark.parametrize("is_stated", [True, False])
def test_a_download_is_reserved_before_it_is_written(tmp_path, is_stated):
    length = b"Content-Length: 300000\r\n" if is_stated else b""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\n" + bytes(300_000))

        thread = threading.Thread(target=serve)
        thread.start()
        reserved = []
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        here = Addresses(["127.0.0.1"], allows_private=True)
        fetch(url, tmp_path / "video", here, Limits(), reserve=reserved.append)
        thread.join(10)
    assert sum(reserved) == (tmp_path / "video").stat().st_size == 300_000


def test_only_the_owner_can_open_the_data_folder(tmp_path):
    with exclusive_lock(tmp_path / "new"):
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "old").mkdir(mode=0o755)
    (tmp_path / "old" / "server.sqlite3").touch()
    with exclusive_lock(tmp_path / "old"):
        assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o700
    (tmp_path / "shared").mkdir(mode=0o755)
    with exclusive_lock(tmp_path / "shared"):
        assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755


# ── videos ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_duration_is_that_of_the_frames_not_the_header(served, films, film_id, monkeypatch):
    running = served()
    file = running.client.get(f"/v1/files/{film_id}").json()
    monkeypatch.setattr(running.server.videos, "probe", lambda _: None)  # as a header that states a second
    object.__setattr__(running.settings.limits, "max_duration", 1.0)
    try:
        answer = running.client.post("/v1/captions", json={"video": film_id})
    finally:
        object.__setattr__(running.settings.limits, "max_duration", Limits().max_duration)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == (
        f"the video lasts {file['video']['duration']:.0f} s, longer than the 1 s that are allowed"
    )


def test_thumbnails_in_memory_are_limited_by_bytes(served, film_id, monkeypatch):
    monkeypatch.setattr(file_routes, "_KEPT_THUMBNAIL_BYTES", 2000)
    monkeypatch.setattr(file_routes, "thumbnail", lambda *_: bytes(900))
    running = served()
    for number in range(6):
        answer = running.client.get(f"/v1/files/{film_id}/thumbnail", params={"time": number})
        assert len(answer.content) == 900
    assert [time for _, time, _ in running.server.thumbnails] == [4.0, 5.0]


# ── connections ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("per_address", [8, 1000])
def test_half_open_connections_do_not_lock_out_others(monkeypatch, per_address):
    monkeypatch.setattr(connections, "MAX_WAITING_PER_ADDRESS", per_address)
    monkeypatch.setattr(connections, "MAX_WAITING", 12)

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    async def attack() -> tuple[str, int]:
        config = uvicorn.Config(app, http=Connection, log_level="error", limit_concurrency=20, lifespan="off")
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            task = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            attackers = []
            for _ in range(50):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost:")
                attackers.append((reader, writer))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = (await reader.read()).split(b"\r\n")[0].decode()
            num_open = len(server.server_state.connections)
            for _, each in [*attackers, (reader, writer)]:
                each.close()
            server.should_exit = True
            await task
        return answer, num_open

    answer, num_open = asyncio.run(attack())
    assert answer == "HTTP/1.1 200 OK"
    assert num_open <= min(per_address, 12)


# ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _change_record(path, job_id, **changes):
    with sqlite3.connect(path) as database:
        (content,) = database.execute("SELECT content FROM jobs WHERE id = ?", (job_id,)).fetchone()
        record = json.dumps(json.loads(content) | changes)
        database.execute("UPDATE jobs SET content = ?, status = 'running' WHERE id = ?", (record, job_id))


def test_a_job_that_killed_two_servers_is_not_tried_again(served, film_id):
    running = served()
    job = {"task": "dense_caption", "video": film_id, "max_new_tokens": 8}
    ids = [running.client.post("/v1/jobs", json=job).json()["id"] for _ in range(2)]
    until(lambda: all(running.client.get(f"/v1/jobs/{i}").json()["finished_at"] for i in ids))
    served(max_requests=95)  # stops the first server
    running = served()
    path = running.settings.data / "server.sqlite3"
    for job_id, attempts in zip(ids, (1, 2), strict=True):
        _change_record(path, job_id, status="running", attempts=attempts, finished_at=None, result=None)
    running = served()
    until(lambda: all(running.client.get(f"/v1/jobs/{i}").json()["finished_at"] for i in ids))
    first, second = (running.client.get(f"/v1/jobs/{job_id}").json() for job_id in ids)
    assert first["status"] == "succeeded"
    assert (second["status"], second["error"]["code"]) == ("failed", "server_crashed")
    assert second["error"]["message"].startswith("the server ended 2 times while this job was running")


def test_a_regular_stop_is_no_attempt_of_a_job(served, film_id, monkeypatch):
    def run(*_, progress, **__):
        while True:
            progress("windows", 1, 4)
            time.sleep(0.01)

    monkeypatch.setattr(TimeChat, "run", run)
    running = served()
    job_id = running.client.post("/v1/jobs", json={"task": "dense_caption", "video": film_id}).json()["id"]
    for _ in range(4):
        until(lambda: running.server.jobs.get(job_id).status == "running")  # noqa: B023
        assert running.server.jobs.get(job_id).attempts == 1
        running = served()
    running.client.post(f"/v1/jobs/{job_id}/cancel")
