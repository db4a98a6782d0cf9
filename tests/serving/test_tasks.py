"""The task routes return what the commands print."""

import gc
import json
import threading
import time
from contextlib import suppress

import httpx
import pytest

from tests.clips import Subtitles, draw_video_with_subtitles
from tests.search.conftest import ColorEncoder
from tests.serving.conftest import until
from timechat.cli import main
from timechat.serving.errors import RequestError
from timechat.serving.service import OpenRequest
from timechat.speech import NO_AUDIO

ROUTES = {
    "captions": ["caption"],
    "moments": ["ground", "the red ball"],
    "highlights": ["highlights"],
    "steps": ["steps"],
    "summary": ["summarize"],
    "transcription": ["transcribe", "--guess"],
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_gives_the_json_of_its_command(running, films, route, capsys, monkeypatch):
    command, *words = ROUTES[route]
    path = str(films / "film.mp4")
    monkeypatch.setattr("sys.argv", ["timechat", command, path, *words, "--json", "--quiet", "--max-new-tokens", "90"])
    with pytest.raises(SystemExit):
        main()
    expected = json.loads(capsys.readouterr().out)
    body = {
        "video": (films / "film.mp4").as_uri(),
        "max_new_tokens": 90,
        **({"query": words[0]} if words and words[0] != "--guess" else {}),
    }
    told = running.client.post(f"/v1/{route}", json=body).json()
    assert told["video"] == body["video"]
    assert set(told) == set(expected)
    for answer in (told, expected):
        del answer["video"], answer["timings"]
        for event in answer["events"]:
            event["score"] = None if event["score"] is None else round(event["score"], 3)
        answer["score"] = None if answer["score"] is None else round(answer["score"], 3)
    assert told == expected


def test_moments_take_top_k_and_threshold(running, film_id):
    body = {"video": film_id, "query": "the red ball", "find_all": True, "threshold": 0.0}
    assert running.client.post("/v1/moments", json=body).json()["found"] is True
    told = running.client.post("/v1/moments", json=body | {"threshold": 1.0}).json()
    assert (told["found"], told["events"]) == (False, [])


def test_moments_take_a_share_to_read_and_the_search(running, film_id, monkeypatch):
    monkeypatch.setattr("timechat.pipeline.retrieving._loaded", {"sight": ColorEncoder()})
    body = {"video": film_id, "query": "red", "window": 2, "overlap": 0, "threshold": 0}
    told = running.client.post("/v1/moments", json=body | {"read": 0.25}).json()
    assert (told["by"], "that colors ranks first" in told["notes"][0]) == ("model", True)
    assert 0.1 < told["read_share"] <= 0.25
    assert running.client.post("/v1/moments", json=body | {"read": "all"}).json()["read_share"] == 1.0
    told = running.client.post("/v1/moments", json=body | {"by": "search"}).json()
    assert (told["by"], told["model"], told["found"]) == ("search", "colors", True)


def test_a_chat_reads_a_share_of_the_video_too(running, film_id, monkeypatch):
    monkeypatch.setattr("timechat.pipeline.retrieving._loaded", {"sight": ColorEncoder()})
    content = [{"type": "video_url", "video_url": {"url": film_id}}, {"type": "text", "text": "Is it red?"}]
    body = {"messages": [{"role": "user", "content": content}], "window": 2, "overlap": 0, "max_tokens": 4}
    answer = running.client.post("/v1/chat/completions", json=body | {"read": 0.25}).json()
    assert 0.1 < answer["timechat"]["read_share"] <= 0.25
    refused = running.client.post("/v1/chat/completions", json=body | {"read": 0.25, "task": "summary"})
    assert refused.status_code == 400
    assert "only ask and grounding can read a part of the video" in refused.json()["error"]["message"]


def test_only_a_part_of_the_video_is_used(running, film_id):
    body = {"video": film_id, "start": 2, "end": 6, "fps": 1, "max_new_tokens": 60}
    told = running.client.post("/v1/captions", json=body).json()
    assert told["step"] == 1.0
    assert all(2 <= event["start"] <= event["end"] <= 6 for event in told["events"])


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"query": "x"}, 400, "video"),
        ({"video": "film-000000000000000000000000", "query": "x"}, 404, "video"),
        ({"video": "file-0", "query": "x"}, 404, "file_id"),
        ({"video": "FILM"}, 400, "query"),
        ({"video": "FILM", "query": "x", "top_k": 0}, 400, "top_k"),
        ({"video": "FILM", "query": "x", "repetition_penalty": 0}, 400, "repetition_penalty"),
        ({"video": "FILM", "query": "x", "num_beams": 4}, 400, "num_beams"),
        ({"video": "FILM", "query": "x", "read": 0}, 400, "read"),
        ({"video": "FILM", "query": "x", "by": "mine"}, 400, "by"),
        ({"video": "FILM", "query": "x", "min_new_tokens": 9, "max_new_tokens": 8}, 400, None),
        ({"video": "FILM", "query": "x", "start": 5, "end": 2}, 400, None),
        ({"video": "FILM", "query": "x", "window": 10, "overlap": 6}, 400, None),
        ({"video": "FILM", "query": "x", "overlap": 31}, 400, None),
        ({"video": "FILM", "query": "x", "step": 1, "fps": 2}, 400, None),
        ({"video": "FILM", "query": "x", "start": 5000}, 422, "video"),
        ({"video": "FILM", "query": "x", "num_frames": 10**6}, 400, "num_frames"),
        ({"video": "FILM", "query": "x", "transcript": "nonsense"}, 400, "transcript"),
        ({"video": {"frames": []}, "query": "x"}, 400, "video.frames"),
        ({"video": {"frames": [{"url": "data:image/png;base64,AAAA", "time": 0}]}, "query": "x"}, 400, "frames[0]"),
    ],
)
def test_errors_name_the_wrong_field(running, film_id, body, status, param):
    if body.get("video") == "FILM":
        body = body | {"video": film_id}
    answer = running.client.post("/v1/moments", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


def test_health_readiness_and_metrics_are_served(running):
    assert running.client.get("/health").json() == {"status": "ok"}
    assert running.client.get("/ready").json() == {"status": "ready", "model": "nano"}
    told = running.client.get("/metrics").text
    for name in ("timechat_tokens_written_total", "timechat_http_requests_total", "timechat_jobs", "process_open_fds"):
        assert f"\n{name}" in told
    assert 'route="/v1/models/{name}"' not in told
    running.client.get("/v1/models/nano")
    assert 'route="/v1/models/{name:path}"' in running.client.get("/metrics").text


def test_event_streams_end_when_the_server_is_told_to_stop(served, film_id, monkeypatch):
    monkeypatch.setattr("timechat.serving.http.answering.OPEN_SECONDS", 0.1)
    running = served()
    received: dict[str, list[str]] = {"job": [], "chat": []}

    def answer(self, *_, **__):
        while True:
            self._timechat.backbone.check()
            time.sleep(0.01)

    monkeypatch.setattr(OpenRequest, "answer", answer)
    monkeypatch.setattr(OpenRequest, "stream", lambda _: None)
    job = running.client.post("/v1/jobs", json={"task": "steps", "video": film_id}).json()
    content = [{"type": "video_url", "video_url": {"url": film_id}}, {"type": "text", "text": "What happens?"}]
    body = {"stream": True, "messages": [{"role": "user", "content": content}]}
    requests = {"job": ("GET", f"/v1/jobs/{job['id']}/events", None), "chat": ("POST", "/v1/chat/completions", body)}

    def follow(name):
        method, path, content = requests[name]
        with httpx.stream(method, running.url + path, json=content, timeout=60) as stream:
            for line in stream.iter_lines():
                received[name].append(line)

    following = [threading.Thread(target=follow, args=(name,)) for name in requests]
    for thread in following:
        thread.start()
    until(lambda: "data: {" in "".join(received["chat"]) and '"status": "running"' in "".join(received["job"]))
    began = time.monotonic()
    running.http.should_exit = True  # as SIGTERM sets it
    for thread in following:
        thread.join(30)
    assert time.monotonic() - began < 2
    last, done = [line.removeprefix("data: ") for line in received["chat"] if line.startswith("data: ")][-2:]
    assert (json.loads(last)["error"]["code"], done) == ("stopping", "[DONE]")
    assert "event: done" not in received["job"]  # the next server resumes it


def test_a_server_that_stops_during_a_request_logs_no_traceback(served, film_id, monkeypatch, caplog):
    running = served()
    is_asked = threading.Event()

    def answer(question, ticket, progress=None):
        is_asked.set()
        until(lambda: ticket.is_over)
        raise RequestError(499, "the request was cancelled")

    def ask():
        with suppress(httpx.HTTPError):
            httpx.post(f"{running.url}/v1/captions", json={"video": film_id}, timeout=60)

    def stop():
        time.sleep(0.5)  # in which the error comes that nobody waits for
        stop_at_once()

    stop_at_once = running.server.service.stop
    monkeypatch.setattr(running.server.service, "answer", answer)
    monkeypatch.setattr(running.server.service, "stop", stop)
    asking = threading.Thread(target=ask)
    asking.start()
    assert is_asked.wait(30)
    served()  # which stops the one before
    asking.join(30)
    gc.collect()
    assert "never retrieved" not in caplog.text


SUBTITLES = Subtitles([(0.5, 2.0, "welcome to the kitchen"), (3.0, 4.0, "Yes.")], language="eng")


@pytest.fixture
def with_subtitles(served, tmp_path):
    """A server with a video that has a subtitle track, and one with a file beside it."""
    folder = tmp_path / "library"
    folder.mkdir()
    draw_video_with_subtitles(folder / "track.mkv", SUBTITLES)
    draw_video_with_subtitles(folder / "beside.mp4")
    (folder / "beside.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nbeside the video\n")
    return served(folders=(folder,))


def test_subtitles_are_the_transcription(with_subtitles):
    client, folder = with_subtitles.client, with_subtitles.settings.folders[0]

    def transcribe(name, **options):
        return client.post("/v1/transcription", json={"video": (folder / name).as_uri(), **options}).json()

    told = transcribe("track.mkv")
    assert [(e["start"], e["end"], e["caption"]) for e in told["events"]] == [
        (0.5, 2.0, "welcome to the kitchen"),
        (3.0, 4.0, "Yes."),
    ]
    assert (told["model"], told["notes"]) == (None, ["speech: subtitle track 1 (eng)"])
    assert [e["caption"] for e in transcribe("track.mkv", start=2.5)["events"]] == ["Yes."]
    assert transcribe("track.mkv", subtitles=False)["notes"] == [NO_AUDIO]
    told = transcribe("beside.mp4")
    assert [e["caption"] for e in told["events"]] == ["beside the video"]
    assert told["notes"] == ["speech: subtitles of beside.srt"]
    given = [{"start": 1, "end": 2, "text": "these are given words"}]
    assert transcribe("beside.mp4", transcript=given)["events"][0]["caption"] == "these are given words"


def test_a_subtitle_file_outside_of_the_folders_is_not_read(with_subtitles, tmp_path):
    folder = with_subtitles.settings.folders[0]
    outside = (folder / "beside.srt").rename(tmp_path / "secret.srt")
    (folder / "beside.srt").symlink_to(outside)
    told = with_subtitles.client.post("/v1/transcription", json={"video": (folder / "beside.mp4").as_uri()}).json()
    assert (told["events"], told["notes"]) == ([], [NO_AUDIO])


def test_subtitles_are_streamed_at_once(with_subtitles):
    video = (with_subtitles.settings.folders[0] / "track.mkv").as_uri()
    content = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": "words"}]
    body = {"messages": [{"role": "user", "content": content}], "task": "transcribe", "stream": True}
    told = with_subtitles.client.post("/v1/chat/completions", json=body).text
    assert "welcome to the kitchen" in told
    assert "subtitle track 1 (eng)" in told
