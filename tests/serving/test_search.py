"""Search in the videos of the server's folders, and indexing of them as jobs."""

import base64
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import X264, Recipe, draw_clip
from tests.pipeline.color_encoder import ColorEncoder
from tests.serving.conftest import Running, serving, until
from tests.serving.libraries import SECONDS, put, vectors
from timechat.search import Library
from timechat.serving.database import Database
from timechat.serving.errors import RequestError
from timechat.serving.http import ServerSettings
from timechat.serving.library import LibraryQuery, ServedLibrary
from timechat.serving.videos import VideoStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos of two seconds, one of them in `inner/`, and a text that is named like a video."""
    folder = tmp_path_factory.mktemp("allowed")
    (folder / "inner").mkdir()
    draw_clip(Recipe(options=X264, times=[Fraction(i, 5) for i in range(10)]), folder / "red.mp4")
    draw_clip(Recipe(options=X264, times=[Fraction(i, 5) for i in range(15)]), folder / "inner" / "blue.mp4")
    (folder / "broken.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def library_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the two videos, one that is gone, and one outside of the folder."""
    path = tmp_path_factory.mktemp("library") / "library.db"
    with Library(path) as library:
        encoder = ColorEncoder()
        library.set(encoder=encoder.name, encoder_fingerprint=encoder.fingerprint)
        put(library, folder / "red.mp4", vectors(red=(5, 10), green=(10, 15)), speech="the secret of the wood")
        put(library, folder / "inner" / "blue.mp4", vectors(blue=(0, 4)))
        put(library, folder / "gone.mp4", vectors(green=(3, 6)))
        put(library, folder.parent / "outside" / "private.mp4", vectors(red=(0, 20)), speech="my secret word")
    return path


@pytest.fixture(scope="module")
def searched(nano, folder, library_file, tmp_path_factory) -> Iterator[Running]:
    """A server with this library; nothing is written to it."""
    settings = ServerSettings(data=tmp_path_factory.mktemp("data"), folders=(folder,), library=library_file)
    with serving(nano, settings, encoder=ColorEncoder()) as running:
        yield running


@pytest.fixture
def filled(nano, folder, tmp_path) -> Iterator[Callable[..., Running]]:
    """Start servers whose library does not exist yet."""
    with ExitStack() as servers:

        def serve(**changes) -> Running:
            servers.pop_all().close()
            settings = ServerSettings(data=tmp_path / "data", folders=(folder,), library=tmp_path / "new.db")
            return servers.enter_context(serving(nano, replace(settings, **changes), encoder=ColorEncoder()))

        yield serve


def ids(running: Running) -> dict[str, str]:
    return {file["filename"]: file["id"] for file in running.client.get("/v1/files").json()["data"]}


def search(running: Running, query: str, **options):
    answer = running.client.post("/v1/search", json={"query": query, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def error(running: Running, path: str, body: dict) -> tuple[int, str | None, str | None, str]:
    answer = running.client.post(path, json=body)
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"], told["message"]


def over(running: Running, job: dict) -> dict:
    until(lambda: running.client.get(f"/v1/jobs/{job['id']}").json()["finished_at"])
    return running.client.get(f"/v1/jobs/{job['id']}").json()


# ------------------------------------------------------------------------------------------------------------ search


@pytest.fixture
def served(folder, library_file, tmp_path) -> ServedLibrary:
    """A library of a server without the server."""
    shutil.copy(library_file, tmp_path / "library.db")
    settings = ServerSettings(data=tmp_path / "data", folders=(folder,), library=tmp_path / "library.db")
    (tmp_path / "data").mkdir()
    videos = VideoStore(settings, Database(settings.data / "server.db"))
    return ServedLibrary(settings, videos, ColorEncoder())


def test_a_library_that_is_replaced_is_opened_again(served, folder, tmp_path):
    assert served.state()["num_videos"] == 2
    with Library(tmp_path / "new.db") as library:
        library.set(encoder=ColorEncoder.name, encoder_fingerprint=ColorEncoder.fingerprint)
        put(library, folder / "red.mp4", vectors(green=(5, 10)))
    (tmp_path / "new.db").replace(tmp_path / "library.db")
    assert served.state()["num_videos"] == 1
    assert served.search(LibraryQuery("green"))["moments"][0]["start"] == 5
    (tmp_path / "library.db").unlink()
    assert served.state()["exists"] is False
    with pytest.raises(RequestError, match="there is no library of videos yet"):
        served.search(LibraryQuery("green"))


def test_a_changed_library_on_a_read_only_place_is_read_again(served, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert served.state()["num_videos"] == 2
    with Library(tmp_path / "library.db") as library:
        library.remove(folder / "red.mp4")
        library.checkpoint()
    assert served.state()["num_videos"] == 1


def test_a_video_that_is_added_meanwhile_is_no_error(served, folder, tmp_path, monkeypatch):
    known = ServedLibrary._known

    def slowly(self, library):
        found = known(self, library)
        with Library(tmp_path / "library.db") as other:
            put(other, folder / "red.mp4", vectors(), speech=None)
            put(other, folder / "later.mp4", vectors(red=(1, 2)))
        return found

    monkeypatch.setattr(ServedLibrary, "_known", slowly)
    assert served.state()["num_videos"] == 2


def test_a_search_names_videos_as_other_requests_do(searched):
    found = search(searched, "red", best=1)
    (moment,) = found["moments"]
    assert moment == {
        "video": ids(searched)["red.mp4"],
        "start": 5.0,
        "end": 10.0,
        "score": moment["score"],
        "by": ["picture"],
        "text": None,
        "offline": False,
        "filename": "red.mp4",
    }
    assert moment["score"] > 0.99
    assert found | {"moments": []} == {
        "query": "red",
        "library": "library.db",
        "encoder": "colors",
        "found": True,
        "threshold": 0.5,
        "moments": [],
        "notes": [],
    }
    assert searched.client.get(f"/v1/files/{moment['video']}/thumbnail?time=0").status_code == 200


def test_videos_outside_of_the_folders_are_not_searched(searched):
    for query in ("red", "my secret word"):
        found = search(searched, query, best=50)
        assert {moment["filename"] for moment in found["moments"]} <= {"red.mp4", "inner/blue.mp4", "gone.mp4"}
        assert "private" not in str(found)
        assert "outside" not in str(found)
    assert searched.client.get("/v1/library").json() == {
        "object": "library",
        "name": "library.db",
        "exists": True,
        "encoder": "colors",
        "num_videos": 2,
        "duration": 40.0,
        "can_index": True,
    }


def test_exact_words_of_speech_come_first(searched):
    (moment,) = search(searched, "secret of the wood", best=1)["moments"]
    assert (moment["start"], moment["end"], moment["by"], moment["text"]) == (
        4.0,
        6.0,
        ["speech"],
        "the secret of the wood",
    )


def test_a_video_whose_file_is_gone_is_marked(searched):
    found = {moment["filename"]: moment["offline"] for moment in search(searched, "green", best=2)["moments"]}
    assert found == {"red.mp4": False, "gone.mp4": True}


@pytest.mark.parametrize("name", ["inner/blue.mp4", "inner", "inner/", "id", "address", "address of the folder"])
def test_a_search_is_limited_to_named_videos(searched, folder, name):
    inner = folder / "inner"
    names = {
        "id": ids(searched)["inner/blue.mp4"],
        "address": (inner / "blue.mp4").as_uri(),
        "address of the folder": inner.as_uri(),
    }
    found = search(searched, "red", videos=[names.get(name, name)])
    assert {moment["filename"] for moment in found["moments"]} == {"inner/blue.mp4"}
    assert found["found"] is False


def test_filters_choose_videos(searched):
    def names(**options):
        return {moment["filename"] for moment in search(searched, "red", best=50, **options)["moments"]}

    assert names(name="BL*") == {"inner/blue.mp4"}
    assert names(min_length=21) == names(max_length=19) == set()
    assert names(since="2001-09-09T01:46:40Z", until=1_000_000_001) == names()
    assert names(until="2001-09-09T01:46:39+00:00") == names(since="2002-01-01") == set()


def test_a_picture_finds_frames_like_it(searched):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (0, 0, 255)).save(buffer, "PNG")
    like = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    answer = searched.client.post("/v1/search", json={"like": like, "best": 1}).json()
    (moment,) = answer["moments"]
    assert (moment["filename"], moment["start"], moment["end"], moment["score"]) == ("inner/blue.mp4", 0.0, 4.0, 1.0)
    assert (answer["query"], answer["found"]) == ("picture", True)


def test_wrong_searches_are_refused_by_field(searched, folder):
    outside = (folder.parent / "outside" / "private.mp4").as_uri()
    assert error(searched, "/v1/search", {"query": " \n"}) == (
        400,
        None,
        "query",
        "query is empty; describe what to see or hear",
    )
    for body, expected in [
        ({"query": "red", "best": 0}, (400, None, "best")),
        ({"query": "red", "since": "yesterday"}, (400, None, "since")),
        ({"query": "red", "like": "data:"}, (400, None, "like")),
        ({"like": "data:image/png;base64,AAAA"}, (400, None, "like")),
        ({"query": "red", "videos": ["other.mp4"]}, (404, "not_indexed", "videos")),
        ({"query": "red", "videos": [outside]}, (403, "forbidden", "video")),
        ({"query": "red", "videos": [(folder / ".." / "x.mp4").as_uri()]}, (403, "forbidden", "video")),
    ]:
        assert error(searched, "/v1/search", body)[:3] == expected


def test_a_curve_has_a_time_and_a_score_per_frame(searched):
    video = ids(searched)["red.mp4"]
    curve = searched.client.post("/v1/search/curve", json={"query": "red", "video": video}).json()
    assert (curve["video"], curve["filename"], curve["query"]) == (video, "red.mp4", "red")
    assert curve["times"] == list(range(SECONDS))
    assert [time for time, score in zip(curve["times"], curve["scores"], strict=True) if score >= 0.5] == [
        5,
        6,
        7,
        8,
        9,
    ]
    assert curve["threshold"] == 0.5
    body = {"query": "red", "video": "broken.mp4"}
    assert error(searched, "/v1/search/curve", body)[:2] == (404, "not_indexed")


# ---------------------------------------------------------------------------------------------------------- indexing


def test_videos_of_the_folders_are_indexed_by_a_job(filled, folder):
    running = filled()
    status, code, _, message = error(running, "/v1/search", {"query": "red"})
    assert (status, code) == (404, "no_library")
    assert message.endswith("index them with POST /v1/index, or on its machine with: timechat index FOLDER")
    assert running.client.get("/v1/library").json()["exists"] is False
    answer = running.client.post("/v1/index", json={})
    assert answer.status_code == 202
    job = over(running, answer.json())
    result = job["result"]
    assert (job["status"], job["task"], job["video"], job["progress"]["done"]) == ("succeeded", "index", None, 1.0)
    counts = {name: result[name] for name in ("num_videos", "num_read", "num_unchanged", "num_moved", "num_removed")}
    assert counts == {"num_videos": 2, "num_read": 2, "num_unchanged": 0, "num_moved": 0, "num_removed": 0}
    assert list(result["failed"]) == ["broken.mp4"]
    assert result["seconds"] == pytest.approx(5.0)
    assert str(folder) not in str(job)
    found = search(running, "red", best=50)
    assert {moment["filename"] for moment in found["moments"]} == {"red.mp4", "inner/blue.mp4"}


def test_another_index_job_waits_and_tasks_do_not(filled, monkeypatch):
    running = filled()
    is_free = threading.Event()
    probe = type(running.server.videos).probe
    monkeypatch.setattr(type(running.server.videos), "probe", lambda *given: (is_free.wait(30), probe(*given))[1])
    first, second = (running.client.post("/v1/index", json={}).json() for _ in range(2))
    until(lambda: running.client.get(f"/v1/jobs/{first['id']}").json()["status"] == "running")
    until(lambda: running.client.get("/v1/library").json()["exists"])
    note = "no video in the folders of this server is indexed; index them with POST /v1/index"
    assert search(running, "red")["notes"][0].startswith(note)  # searches do not wait
    assert running.client.get(f"/v1/jobs/{second['id']}").json()["status"] == "queued"
    is_free.set()
    assert over(running, first)["result"]["num_read"] == 2
    assert over(running, second)["result"]["num_unchanged"] == 2


def test_a_cancelled_index_job_is_resumed_by_the_next(filled, monkeypatch):
    running = filled()
    monkeypatch.setattr(ColorEncoder, "encode_frames", lambda *_: cancel())

    def cancel() -> np.ndarray:
        (job,) = running.client.get("/v1/jobs").json()["data"]
        running.client.post(f"/v1/jobs/{job['id']}/cancel")
        return np.zeros((10, 3), np.float32)

    job = over(running, running.client.post("/v1/index", json={"videos": ["red.mp4"]}).json())
    assert (job["status"], job["result"]) == ("cancelled", None)
    monkeypatch.undo()
    assert over(running, running.client.post("/v1/index", json={}).json())["result"]["num_read"] == 2


def test_only_videos_of_the_folders_can_be_indexed(filled, folder):
    running = filled()
    outside = (folder.parent / "outside").as_uri()
    assert error(running, "/v1/index", {"videos": [outside]})[:2] == (403, "forbidden")
    assert error(running, "/v1/index", {"videos": ["other"]})[:2] == (404, "not_indexed")
    assert error(filled(folders=()), "/v1/index", {})[:2] == (409, "no_folders")
    assert error(filled(library=None), "/v1/index", {})[:2] == (409, "no_library")


def test_links_that_lead_outside_are_not_indexed(filled, folder, tmp_path):
    allowed = tmp_path / "with link"
    allowed.mkdir()
    (allowed / "link.mp4").symlink_to(folder / "red.mp4")
    shutil.copy(folder / "inner" / "blue.mp4", allowed / "own.mp4")
    (tmp_path / "secret.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nsecret\n")
    (allowed / "own.srt").symlink_to(tmp_path / "secret.srt")
    running = filled(folders=(allowed,))
    result = over(running, running.client.post("/v1/index", json={}).json())["result"]
    assert (result["num_videos"], result["failed"]) == (1, {})
    with Library(running.settings.library, is_read_only=True) as library:
        assert [Path(file.path).name for file in library.files()] == ["own.mp4"]
        assert library.lines() == []


def test_a_library_that_cannot_be_used_has_no_path(filled, tmp_path):
    (tmp_path / "new.db").write_text("no library")
    status, code, _, message = error(filled(), "/v1/search", {"query": "red"})
    assert (status, code) == (409, "library_unusable")
    assert message.startswith("new.db: ")
    assert str(tmp_path) not in message


@pytest.mark.parametrize("query", ['"', "'; DROP TABLE files; --", "* OR NEAR(a b)", "a\0b", "\u202e", "x" * 10_000])
def test_any_text_can_be_searched(searched, query):
    assert search(searched, query)["query"] == query.replace("\0", "")


def test_a_query_of_many_words_is_searched(searched):
    assert search(searched, " ".join(f"word{number}" for number in range(1000)))["found"] is False


def test_a_query_with_a_lone_surrogate_is_refused(searched):
    body = b'{"query": "\\ud800 x"}'
    answer = searched.client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "query")
