"""Export of answers over HTTP."""

import dataclasses
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
    assert answer.text == write_as(ANSWER, form, fps=25, is_local=False)
    assert "my film.dense_caption." in answer.headers["content-disposition"]
    assert isinstance(json.loads(answer.headers["x-notes"]), list)


def test_a_timeline_names_no_folder_of_the_server(running):
    sent = {"answer": ANSWER.to_dict(), "format": "otio"}
    timeline = running.client.post("/v1/export", json=sent).text
    assert '"inner/my%20film.mp4"' in timeline
    assert "file://" not in timeline


def test_headers_of_an_export_have_a_limit(running):
    events = [Event(i / 2, i / 2 + 0.25, "x" * 500) for i in range(200)]
    answer = Answer("", [Event(0, 20), Event(20, 40), *events], video="n" * 5000 + ".mp4", duration=100.0)
    reply = running.client.post("/v1/export", json={"answer": answer.to_dict(), "format": "youtube"})
    assert reply.status_code == 200, reply.text
    assert len(reply.headers["content-disposition"]) < 400
    assert len(reply.headers["x-notes"]) <= 3000
    assert json.loads(reply.headers["x-notes"])[0].endswith("...")


def test_a_list_of_too_many_notes_is_counted(running, monkeypatch):
    form = dataclasses.replace(FORMATS["srt"], notes=lambda _answer: [f"note {i}" for i in range(1000)])
    monkeypatch.setitem(FORMATS, "srt", form)
    reply = running.client.post("/v1/export", json={"answer": ANSWER.to_dict(), "format": "srt"})
    notes = json.loads(reply.headers["x-notes"])
    assert notes[-1] == f"{1000 - len(notes) + 1} more notes"
    assert len(reply.headers["x-notes"]) <= 3000


def test_a_small_answer_cannot_ask_for_a_large_file(running):
    answer = {"events": [{"start": 0, "end": 1e7}]}
    reply = running.client.post("/v1/export", json={"answer": answer, "format": "qvhighlights"})
    assert reply.status_code == 400
    assert "takes videos of up to 86400 s, got 1e+07 s" in reply.json()["error"]["message"]


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
