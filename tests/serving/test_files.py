"""Uploads, videos in folders, ranges and thumbnails."""

import io
import threading

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.clips import Recipe, draw_clip
from tests.serving.conftest import until
from timechat.pipeline import TimeChat
from timechat.serving.http.uploads import shown_name
from timechat.video.thumbnails import thumbnail


def upload(running, content, name="a.mp4", **data):
    return running.client.post("/v1/files", files={"file": (name, content)}, data=data)


def test_an_upload_keeps_the_file_and_its_properties(served, films):
    running = served()
    content = (films / "film.mp4").read_bytes()
    stored = upload(running, content, "my film.mp4", purpose="vision").json()
    assert (stored["filename"], stored["bytes"], stored["purpose"]) == ("my film.mp4", len(content), "vision")
    assert stored["video"]["codec"] == "h264"
    assert stored["video"]["duration"] > 5
    assert running.client.get(f"/v1/files/{stored['id']}").json() == stored
    assert running.client.get(f"/v1/files/{stored['id']}/content").content == content
    assert [path.name for path in (running.settings.data / "uploads").iterdir()] == [stored["id"]]


def test_videos_of_the_folders_are_listed_and_not_deletable(running):
    listed = running.client.get("/v1/files", params={"purpose": "library"}).json()["data"]
    assert [film["filename"] for film in listed] == ["film.mp4", "inner/second.mp4"]
    assert all(film["video"] is None for film in listed)
    film = running.client.get(f"/v1/files/{listed[1]['id']}").json()
    assert film["video"]["width"] > 0
    assert running.client.delete(f"/v1/files/{film['id']}").status_code == 403


@pytest.mark.parametrize("header", ["bytes=100-199", "bytes=100-", "bytes=-50"])
def test_a_video_is_sent_in_parts(running, films, film_id, header):
    content = (films / "film.mp4").read_bytes()
    answer = running.client.get(f"/v1/files/{film_id}/content", headers={"Range": header})
    expected = {"bytes=100-199": content[100:200], "bytes=100-": content[100:], "bytes=-50": content[-50:]}[header]
    assert answer.status_code == 206
    assert answer.content == expected
    assert answer.headers["content-range"].endswith(f"/{len(content)}")
    assert answer.headers["content-type"] == "video/mp4"


def test_a_range_past_the_end_is_refused(running, film_id):
    answer = running.client.get(f"/v1/files/{film_id}/content", headers={"Range": "bytes=999999999-"})
    assert answer.status_code == 416


@pytest.mark.parametrize("header", ["items=0-5", "bytes=9-5", "bytes=abc", "bytes=", "bytes=-", "0-5"])
def test_a_malformed_range_is_ignored(running, films, film_id, header):
    answer = running.client.get(f"/v1/files/{film_id}/content", headers={"Range": header})
    assert answer.status_code == 200
    assert answer.content == (films / "film.mp4").read_bytes()


def test_a_video_in_the_cache_of_the_client_is_not_sent_again(running, film_id):
    path = f"/v1/files/{film_id}/content"
    etag = running.client.get(path).headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        answer = running.client.get(path, headers={"If-None-Match": known, "Range": "bytes=0-9"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert running.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_requests_are_answered(running, films, film_id):
    for path in (f"/v1/files/{film_id}/content", f"/v1/files/{film_id}/thumbnail", "/health", "/ready", "/"):
        answer = running.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    head = running.client.head(f"/v1/files/{film_id}/content")
    assert head.headers["accept-ranges"] == "bytes"
    assert int(head.headers["content-length"]) == (films / "film.mp4").stat().st_size


def test_a_thumbnail_is_a_small_picture_of_that_time(running, film_id, tmp_path):
    pictures = {}
    for time in (0, 3, 1e6):
        answer = running.client.get(f"/v1/files/{film_id}/thumbnail", params={"time": time, "height": 48})
        assert answer.headers["content-type"] == "image/jpeg"
        assert "max-age" in answer.headers["cache-control"]
        path = tmp_path / "picture.jpg"
        path.write_bytes(answer.content)
        pictures[time] = answer.content
        assert Image.open(path).height == 48
    assert len(set(pictures.values())) > 1


def draw_one_group(path, codec="libx264"):
    """Write 10 s of one group of pictures, whose brightness rises."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"g": "250"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", ["ts", "flv", "h264"])
@pytest.mark.parametrize("time", [0, 5, 9.9, 50])
def test_a_video_of_one_group_of_pictures_has_thumbnails(tmp_path, suffix, time):
    draw_one_group(tmp_path / f"a.{suffix}")
    with Image.open(io.BytesIO(thumbnail(tmp_path / f"a.{suffix}", time, 48))) as picture:
        assert picture.size == (64, 48)


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [
        ("a.webm", "libvpx", "video/webm"),
        ("a.mkv", "libvpx-vp9", "video/webm"),
        ("b.mkv", "libx264", "video/x-matroska"),
    ],
)
def test_webm_is_told_from_matroska_by_its_codecs(running, tmp_path, name, codec, kind):
    draw_one_group(tmp_path / name, codec)
    file_id = upload(running, (tmp_path / name).read_bytes(), name).json()["id"]
    assert running.client.head(f"/v1/files/{file_id}/content").headers["content-type"] == kind
    running.client.delete(f"/v1/files/{file_id}")


def test_quotation_marks_in_a_name_arrive_as_they_were(running, films):
    content = (films / "film.mp4").read_bytes()
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a %22b%22 100%25.mp4"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    record = running.client.post("/v1/files", content=head + content + b"\r\n--x--\r\n", headers=headers).json()
    assert record["filename"] == 'a "b" 100%25.mp4'
    running.client.delete(f"/v1/files/{record['id']}")


@pytest.mark.parametrize("content", [b"", b"no film at all", b"#EXTM3U\nfile:///etc/passwd\n"])
def test_an_upload_that_is_not_a_video_is_not_kept(served, content):
    running = served()
    answer = upload(running, content)
    assert answer.status_code in (400, 422)
    assert "/" not in answer.json()["error"]["message"].replace("file://", "")
    assert list((running.settings.data / "uploads").iterdir()) == []


def test_a_form_without_a_file_or_with_two_is_refused(running):
    assert running.client.post("/v1/files", files={"other": ("a", b"x")}).status_code == 400
    two = running.client.post("/v1/files", files=[("file", ("a", b"x")), ("file", ("b", b"y"))])
    assert "two files" in two.json()["error"]["message"]
    assert running.client.post("/v1/files", json={}).status_code == 415
    broken = running.client.post(
        "/v1/files", content=b"nothing of the kind", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert broken.status_code == 400


def test_an_interrupted_upload_leaves_no_file(served, films):
    running = served()
    content = (films / "film.mp4").read_bytes()

    def half():
        head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        yield head + content[:1000]
        raise ConnectionError("gone")

    with pytest.raises((ConnectionError, httpx.HTTPError)):
        running.client.post("/v1/files", content=half(), headers={"content-type": "multipart/form-data; boundary=x"})
    until(lambda: not list((running.settings.data / "uploads").iterdir()))
    assert running.client.get("/v1/files", params={"purpose": "user_data"}).json()["data"] == []


@pytest.mark.parametrize("is_told", [True, False])
def test_all_uploads_together_are_limited(served, films, is_told):
    content = (films / "film.mp4").read_bytes()
    running = served(max_store_bytes=len(content) * 3 // 2)
    assert upload(running, content).status_code == 200
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
    body = head + content + b"\r\n--x--\r\n"
    pieces = body if is_told else (body[i : i + 5000] for i in range(0, len(body), 5000))
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert running.client.post("/v1/files", content=pieces, headers=headers).status_code == 507
    assert running.server.videos.num_arriving == 0


def test_a_video_deleted_during_a_request_is_not_found(served, films, monkeypatch):
    running = served()
    file_id = upload(running, (films / "film.mp4").read_bytes()).json()["id"]
    opening = TimeChat.open

    def too_late(self, source, **options):
        running.client.delete(f"/v1/files/{file_id}")
        return opening(self, source, **options)

    monkeypatch.setattr(TimeChat, "open", too_late)
    answer = running.client.post("/v1/captions", json={"video": file_id})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "the file was removed meanwhile"


def test_a_thumbnail_of_a_very_wide_video_is_limited(tmp_path):
    draw_clip(Recipe(width=2048, height=16), tmp_path / "wide.mp4")
    picture = Image.open(io.BytesIO(thumbnail(tmp_path / "wide.mp4", 0.0, 64)))
    assert picture.size == (512, 64)


def test_uploads_survive_a_restart_and_unfinished_files_do_not(served, films):
    first = served()
    stored = upload(first, (films / "film.mp4").read_bytes()).json()
    folder = first.settings.data / "uploads"
    (folder / ".0123456789abcdef.unfinished").write_bytes(b"x")
    (folder / "file-of-nobody").write_bytes(b"x")
    second = served()
    assert second.client.get(f"/v1/files/{stored['id']}").json() == stored
    assert [path.name for path in folder.iterdir()] == [stored["id"]]


def test_two_concurrent_uploads_of_a_file_are_two_uploads(served, films):
    running = served()
    content = (films / "film.mp4").read_bytes()
    ids = []

    def send():
        with httpx.Client(base_url=running.url, timeout=60) as client:
            ids.append(client.post("/v1/files", files={"file": ("a.mp4", content)}).json()["id"])

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("film.mp4", "film.mp4"),
        ("../../etc/passwd", "passwd"),
        (r"C:\films\a.mp4", "a.mp4"),
        ("a\x00b\n.mp4", "ab.mp4"),
        ("", "video"),
        ("..", ".."),
        ("x" * 500, "x" * 255),
    ],
)
def test_names_of_uploads_are_cleaned(given, shown):
    assert shown_name(given) == shown
