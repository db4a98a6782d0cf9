"""Export of answers over HTTP."""

import json

import pytest

from timechat.answers.events import Answer, Event
from timechat.export import FORMATS, write_as

ANSWER = Answer(
    "a text",
    [
        Event(12.0 * i, 12.0 * i + 10, caption, 0.75)
        for i, caption in enumerate(("A ball rolls.", "It stops.", "It waits."))
    ],
    task="dense_caption",
    video="inner/my film.mp4",
    duration=40.0,
    model="nano",
)


def test_every_format_is_listed(running):
    listed = running.client.get("/v1/export/formats").json()["data"]
    assert [one["format"] for one in listed] == [*FORMATS, "html"]
    assert len({one["extension"] for one in listed}) == len(listed)


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_an_exported_file_equals_that_of_the_command(running, form):
    answer = running.client.post("/v1/export", json={"answer": ANSWER.to_dict(), "format": form, "fps": 25})
    assert answer.status_code == 200, answer.text
    assert answer.text == write_as(ANSWER, form, fps=25)
    assert "my film.dense_caption." in answer.headers["content-disposition"]
    assert isinstance(json.loads(answer.headers["x-notes"]), list)


def test_a_page_never_contains_the_file_that_an_answer_names(running, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"a secret")
    sent = ANSWER.to_dict() | {"video": str(secret)}
    page = running.client.post("/v1/export", json={"answer": sent, "format": "html"}).text
    assert "<video" not in page
    assert "base64,YSBzZWNyZXQ" not in page
    assert "A ball rolls." in page


@pytest.mark.parametrize(
    "change",
    [{"format": "exe"}, {"answer": {"events": [{"start": 2, "end": 1}]}}, {"answer": {"events": [{"start": "x"}]}}],
)
def test_a_malformed_answer_is_not_exported(running, change):
    answer = running.client.post("/v1/export", json={"answer": ANSWER.to_dict(), "format": "srt"} | change)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
