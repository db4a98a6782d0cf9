"""Protections that no other test would miss: each test here fails if its line of the product is removed."""

import base64
import io
import logging
import os
import threading

import pytest
from PIL import Image

from tests.serving.conftest import until
from timechat.errors import EndpointError, VideoError
from timechat.serving.access import AccessError, Addresses
from timechat.serving.access.addresses import reach
from timechat.serving.errors import RequestError, as_request_error
from timechat.serving.inline_frames import InlineFrames
from timechat.video import load_frames
from timechat.video.frames import FrameSize

_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:3.0,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", _HLS),
        ("list.mp4", "ffconcat version 1.0\nfile '{}'\n"),
    ],
    ids=["hls", "concat"],
)
def test_no_file_that_a_playlist_names_is_opened(tmp_path, name, content):
    named = tmp_path / "named.ts"
    os.mkfifo(named)  # a writer waits until the pipe has a reader
    (tmp_path / name).write_text(content.format(named.name))
    is_opened = threading.Event()

    def wait_for_a_reader() -> None:
        os.close(os.open(named, os.O_WRONLY))
        is_opened.set()

    thread = threading.Thread(target=wait_for_a_reader, daemon=True)
    thread.start()
    with pytest.raises(VideoError, match=r"cannot be opened as a video|is not a video but text"):
        load_frames(tmp_path / name, num_frames=1)
    was_opened = is_opened.wait(0.2)
    os.close(os.open(named, os.O_RDONLY | os.O_NONBLOCK))
    thread.join(5)
    assert not was_opened


@pytest.mark.parametrize("kind", ["mlv", "image2", "concat", "hls", "dash", "imf", "sdp", "vobsub"])
def test_formats_that_open_other_files_are_not_allowed(kind):
    from timechat.video.source import _FORMATS_OF_ONE_FILE

    allowed = _FORMATS_OF_ONE_FILE.split(",")
    assert kind not in allowed
    assert {"mov", "matroska", "avi", "mpegts", "flv", "gif", "png_pipe"} <= {
        name for each in allowed for name in each.split(",")
    }


def _address(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def test_an_image_above_4096_by_4096_is_refused(monkeypatch):
    converted = []
    monkeypatch.setattr(
        Image.Image, "convert", lambda image, _: converted.append(image.size) or Image.new("RGB", (8, 8))
    )
    frames = InlineFrames((_address(Image.new("1", (4097, 4096))),), (0.0,), 1.0)
    with pytest.raises(RequestError, match="an image of 4097x4096 pixels is too large") as caught:
        frames.decode(lambda *_: FrameSize(8, 8))
    assert caught.value.status == 413
    assert converted == []
    InlineFrames((_address(Image.new("1", (4096, 4096))),), (0.0,), 1.0).decode(lambda *_: FrameSize(8, 8))
    assert converted == [(4096, 4096)]


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("2606:4700::5efe:a00:1", "private"),
        ("2606:4700::200:5efe:7f00:1", "private"),
        ("2606:4700::5efe:a9fe:a9fe", "unusable"),
        ("2606:4700::200:5efe:808:808", "public"),
    ],
)
def test_isatap_addresses_are_those_they_contain(address, kind):
    assert reach(address) == kind
    if kind != "public":
        with pytest.raises(AccessError, match="private network"):
            Addresses(["*"]).check(f"http://[{address}]/")


def test_messages_have_the_name_of_a_video_not_its_path(tmp_path):
    path = tmp_path / "uploads" / "file-1"
    error = as_request_error(VideoError(f"{path}: is damaged; see {path}"), [(path, "holiday.mp4")])
    assert error is not None
    assert error.message == "holiday.mp4: is damaged; see holiday.mp4"


def test_the_path_in_the_log_has_no_credentials(running, caplog):
    caplog.set_level(logging.INFO)
    running.client.get("/v1/files/https:%2F%2Fuser:pa55word@host%0Aline")
    logger = "timechat.serving.http.requests"
    until(lambda: any(one.name == logger for one in caplog.records))  # it is written after the response
    (written,) = [one.getMessage() for one in caplog.records if one.name == logger]
    assert "pa55word" not in written
    assert "\n" not in written


def test_the_errors_of_a_damaged_upload_have_no_path(served, films):
    running = served()
    with (films / "film.mp4").open("rb") as file:
        upload = running.client.post("/v1/files", files={"file": ("my film.mp4", file)}).json()["id"]
    (running.settings.data / "uploads" / upload).write_bytes(b"damaged meanwhile")
    answers = [
        running.client.post("/v1/captions", json={"video": upload}),
        running.client.get(f"/v1/files/{upload}/thumbnail"),
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    for answer in answers:
        assert str(running.settings.data) not in answer.text


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("unreachable", 502),
        ("bad_key", 502),
        ("failed", 502),
        ("interrupted", 502),
        ("timeout", 504),
        ("too_large", 413),
    ],
)
def test_error_of_an_endpoint_has_a_status_and_a_code(reason, status):
    error = as_request_error(EndpointError(f"http://127.0.0.1:8000/v1 {reason}", reason, "words of the server"))
    assert (error.status, error.code, error.param) == (status, f"endpoint_{reason}", "model")
    assert error.message == f"http://127.0.0.1:8000/v1 {reason}"
