"""Jobs in the background, with progress, resumed after restarts."""

import json
import sqlite3
import threading
import time

import pytest

from tests.serving.conftest import until
from timechat.pipeline import TimeChat
from timechat.serving.database import exclusive_lock
from timechat.serving.errors import EngineFailedError, RequestError
from timechat.video.frames import frame_to_pixels


def over(running, job_id, seconds=60.0):
    until(lambda: running.client.get(f"/v1/jobs/{job_id}").json()["finished_at"], seconds)
    return running.client.get(f"/v1/jobs/{job_id}").json()


def add(running, video, **options):
    answer = running.client.post(
        "/v1/jobs", json={"task": "dense_caption", "video": video, "max_new_tokens": 60, **options}
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


def hold(monkeypatch, seconds=600.0):
    """Let jobs run until they are cancelled."""

    def run(*_, progress, **__):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            progress("windows", 1, 4)
            time.sleep(0.01)
        raise AssertionError("the job was not cancelled")

    monkeypatch.setattr(TimeChat, "run", run)


def test_the_result_of_a_job_is_the_answer_of_the_route(running, film_id):
    job = add(running, film_id)
    assert job["status"] in ("queued", "running")
    assert (job["filename"], job["video"]) == ("film.mp4", film_id)
    job = over(running, job["id"])
    assert job["status"] == "succeeded"
    route = running.client.post("/v1/captions", json={"video": film_id, "max_new_tokens": 60}).json()
    for answer in (job["result"], route):
        answer.pop("timings")
        for event in answer["events"]:
            event["score"] = round(event["score"], 4)  # what was read before is not read again: float noise
    assert job["result"] == route
    listed = next(one for one in running.client.get("/v1/jobs").json()["data"] if one["id"] == job["id"])
    assert "result" not in listed
    assert (listed["num_events"], listed["found"]) == (len(route["events"]), None)
    assert listed["progress"] | {"message": None} == {"stage": "windows", "done": 1.0, "total": 1, "message": None}


def test_jobs_are_listed_page_by_page(served, film_id):
    running = served(job_workers=1)
    other = next(file["id"] for file in running.client.get("/v1/files").json()["data"] if file["id"] != film_id)
    ids = [over(running, add(running, video)["id"])["id"] for video in (film_id, other, film_id)]
    newest = ids[::-1]

    def listed(**query):
        page = running.client.get("/v1/jobs", params=query).json()
        return [job["id"] for job in page["data"]], page["has_more"]

    assert listed() == (newest, False)
    assert listed(limit=2) == (newest[:2], True)
    assert listed(after=newest[0], limit=2) == (newest[1:], False)
    assert listed(video=film_id) == ([ids[2], ids[0]], False)
    assert listed(video=film_id, after=ids[2]) == ([ids[0]], False)
    assert listed(video="film-0") == ([], False)
    answer = running.client.get("/v1/jobs", params={"after": "job-0"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")


def test_progress_only_rises(running, film_id):
    job = add(running, film_id, window=3, query=None, task="summary", cite=True)
    reports = [job["progress"]]
    with running.client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                told = json.loads(line.removeprefix("data: "))
                reports.append(told.get("progress", told))
    assert all(report["total"] == 1 for report in reports)
    done = [report["done"] for report in reports]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1)


def test_progress_of_a_resumed_job_does_not_fall(served, film_id, monkeypatch):
    first = served(job_workers=1)
    hold(monkeypatch)
    job = add(first, film_id)
    until(lambda: first.client.get(f"/v1/jobs/{job['id']}").json()["progress"]["done"])
    before = first.client.get(f"/v1/jobs/{job['id']}").json()["progress"]["done"]
    first.server.jobs.stop()
    second = served(job_workers=1)
    assert second.client.get(f"/v1/jobs/{job['id']}").json()["progress"]["done"] == before
    second.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert over(second, job["id"])["progress"]["done"] == before


def test_progress_is_streamed(running, film_id):
    job = add(running, film_id, window=3, query=None)
    kinds, last = [], None
    with running.client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.headers["x-accel-buffering"] == "no"
        for line in events.iter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            if line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    assert kinds[0] == "status"
    assert "progress" in kinds
    assert kinds[-1] == "done"
    assert last["status"] == "succeeded"


def test_a_running_job_can_be_cancelled(served, film_id, monkeypatch):
    running = served()
    hold(monkeypatch)
    job = add(running, film_id)
    until(lambda: running.client.get(f"/v1/jobs/{job['id']}").json()["progress"]["stage"] == "windows")
    running.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert over(running, job["id"])["status"] == "cancelled"


def test_decoding_and_waiting_for_it_can_be_cancelled(served, film_id, monkeypatch):
    decoding = threading.Event()

    def slowly(*arguments):
        decoding.set()
        time.sleep(2)
        return frame_to_pixels(*arguments)

    monkeypatch.setattr("timechat.video.decoding.frame_to_pixels", slowly)
    running = served(job_workers=2)
    jobs = [add(running, film_id, num_frames=96) for _ in range(2)]  # the second waits for what the first decodes
    assert decoding.wait(30)
    opened = running.server.service._open
    until(lambda: [video.num_users for video in opened._videos.values()] == [2])
    for job in reversed(jobs):
        running.client.post(f"/v1/jobs/{job['id']}/cancel")
        assert over(running, job["id"], 10)["status"] == "cancelled"
    assert running.server.service.engine.state.frames == 0
    monkeypatch.undo()
    assert over(running, add(running, film_id, num_frames=96)["id"])["status"] == "succeeded"


def test_a_job_that_is_deleted_as_it_ends_does_not_come_back(served, film_id, monkeypatch):
    running = served()
    database = running.server.jobs._database
    save, is_saved = database.save_job, threading.Event()
    deleting = threading.Thread(target=lambda: running.client.delete(f"/v1/jobs/{job['id']}"))

    def save_late(job_id, created_at, status, content):
        if status == "succeeded":
            deleting.start()
            deleting.join(0.5)
        save(job_id, created_at, status, content)
        if status == "succeeded":
            is_saved.set()

    monkeypatch.setattr(database, "save_job", save_late)
    job = add(running, film_id)
    assert is_saved.wait(60)
    deleting.join(30)
    assert running.client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert database.load_jobs() == []


def test_many_stuck_jobs_delay_the_stop_no_longer_than_one(served, film_id, monkeypatch):
    monkeypatch.setattr("timechat.serving.http.jobs._STOP_SECONDS", 1.0)
    running = served(job_workers=4)
    is_over = threading.Event()

    def answer(question, ticket, progress):
        is_over.wait(30)
        raise RequestError(503, "too late")

    monkeypatch.setattr(running.server.service, "answer", answer)
    for _ in range(4):
        add(running, film_id)
    until(lambda: running.server.jobs.counts()["running"] == 4)
    began = time.monotonic()
    running.server.jobs.stop()
    elapsed = time.monotonic() - began
    is_over.set()
    assert 1.0 <= elapsed < 2.5


def test_frames_decoded_ahead_are_dropped_after_an_error(served, film_id, monkeypatch):
    def slowly(*arguments):
        time.sleep(0.2)
        return frame_to_pixels(*arguments)

    def look(*_):
        raise EngineFailedError("a step has failed")

    monkeypatch.setattr("timechat.video.decoding.frame_to_pixels", slowly)
    running = served()
    monkeypatch.setattr(running.server.service.engine, "encode_frames", look)
    asked = {"video": film_id, "window": 4, "num_frames": 40}
    assert running.client.post("/v1/captions", json=asked).status_code == 503
    began = time.monotonic()
    running.server.service.stop()  # waits for whoever reads frames
    assert time.monotonic() - began < 2


def test_a_waiting_job_is_cancelled_at_once(served, film_id, monkeypatch):
    running = served(job_workers=1)
    hold(monkeypatch)
    first, second = add(running, film_id), add(running, film_id)
    assert running.client.post(f"/v1/jobs/{second['id']}/cancel").json()["status"] == "cancelled"
    running.client.post(f"/v1/jobs/{first['id']}/cancel")
    over(running, first["id"])


def test_a_job_that_fails_says_why(served, films, tmp_path):
    running = served()
    with (films / "film.mp4").open("rb") as file:
        stored = running.client.post("/v1/files", files={"file": ("a.mp4", file)}).json()
    (running.settings.data / "uploads" / stored["id"]).write_bytes(b"damaged meanwhile")
    job = over(running, add(running, stored["id"])["id"])
    assert job["status"] == "failed"
    assert job["error"]["type"] == "video_error"
    assert str(tmp_path) not in json.dumps(job)


def test_jobs_of_a_stopped_server_resume_with_the_next(served, film_id, monkeypatch):
    first = served(job_workers=1)
    hold(monkeypatch)
    jobs = [add(first, film_id) for _ in range(3)]
    until(lambda: first.client.get(f"/v1/jobs/{jobs[0]['id']}").json()["status"] == "running")
    first.server.jobs.stop()
    monkeypatch.undo()
    second = served(job_workers=1)
    for job in jobs:
        done = over(second, job["id"])
        assert (done["status"], done["created_at"]) == ("succeeded", job["created_at"])


def test_a_finished_job_is_deleted_only_on_request(running, film_id):
    job = over(running, add(running, film_id)["id"])
    assert running.client.delete(f"/v1/jobs/{job['id']}").json()["deleted"] is True
    assert running.client.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_a_running_job_cannot_be_deleted(served, film_id, monkeypatch):
    running = served()
    hold(monkeypatch)
    job = add(running, film_id)
    assert running.client.delete(f"/v1/jobs/{job['id']}").status_code == 409
    running.client.post(f"/v1/jobs/{job['id']}/cancel")
    over(running, job["id"])


def test_too_many_waiting_jobs_get_429(served, film_id, monkeypatch):
    running = served(job_workers=1, max_waiting_jobs=1)
    hold(monkeypatch)
    first = add(running, film_id)
    until(lambda: running.client.get(f"/v1/jobs/{first['id']}").json()["status"] == "running")
    second = add(running, film_id)
    answer = running.client.post("/v1/jobs", json={"task": "steps", "video": film_id})
    assert answer.status_code == 429
    assert answer.headers["retry-after"]
    for job in (second, first):
        running.client.post(f"/v1/jobs/{job['id']}/cancel")
        over(running, job["id"])


def test_only_the_newest_finished_jobs_are_kept(served, film_id):
    running = served(max_kept_jobs=2)
    ids = []
    for _ in range(4):
        ids.append(over(running, add(running, film_id)["id"])["id"])
    listed = [job["id"] for job in running.client.get("/v1/jobs").json()["data"]]
    assert listed == [ids[3], ids[2], ids[1]]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"task": "dance", "video": "film-0"}, "task"),
        ({"task": "grounding", "video": "film-0"}, "query"),
        ({"task": "steps", "video": "data:video/mp4;base64,AAAA"}, "video"),
    ],
)
def test_a_wrong_job_is_refused_at_once(running, film_id, body, param):
    if body["video"] == "film-0":
        body = body | {"video": film_id}
    answer = running.client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_job_that_is_too_large_is_refused(running, film_id):
    lines = [{"start": i, "end": i + 1, "text": "words that are said"} for i in range(20_000)]
    answer = running.client.post("/v1/jobs", json={"task": "steps", "video": film_id, "transcript": lines})
    assert answer.status_code == 413


def test_a_full_disk_ends_no_worker(served, film_id, monkeypatch):
    running = served(job_workers=1)
    save = running.server.jobs._save

    def fail(job):
        if job.status != "queued":
            raise sqlite3.OperationalError("database or disk is full")
        save(job)

    monkeypatch.setattr(running.server.jobs, "_save", fail)
    first = add(running, film_id)
    until(lambda: running.client.get(f"/v1/jobs/{first['id']}").json()["status"] != "queued")
    monkeypatch.undo()
    assert over(running, add(running, film_id)["id"])["status"] == "succeeded"


def test_a_data_folder_has_one_server(served):
    running = served()
    with (
        pytest.raises(ValueError, match="is the data folder of a running server"),
        exclusive_lock(running.settings.data),
    ):
        pass
