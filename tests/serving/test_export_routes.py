"""Export of answers over HTTP."""

import json

import pytest

from timechat.answers.events import Answer, Event
from timechat.cli.options import OutputOptions
from timechat.export import FORMATS, Format, write_as

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
    assert [one["format"] for one in listed] == [*FORMATS]
    assert [one["title"] for one in listed] == [form.title for form in FORMATS.values()]
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


def test_a_new_format_is_one_entry_of_the_table(running, monkeypatch):
    loud = Format("Loud text", lambda answer: answer.text.upper() + "\n", ".loud.txt", "text/plain")
    monkeypatch.setitem(FORMATS, "loud", loud)
    assert OutputOptions(format="loud").format == "loud"
    listed = running.client.get("/v1/export/formats").json()["data"][-1]
    assert listed == {"format": "loud", "title": "Loud text", "extension": ".loud.txt", "media_type": "text/plain"}
    assert running.client.post("/v1/export", json={"answer": ANSWER.to_dict(), "format": "loud"}).text == "A TEXT\n"


def test_the_page_format_says_that_it_has_no_video(running):
    reply = running.client.post("/v1/export", json={"answer": ANSWER.to_dict(), "format": "html"})
    assert json.loads(reply.headers["x-notes"]) == ["the page shows the events without the video"]
