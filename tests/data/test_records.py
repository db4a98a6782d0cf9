"""Instruction records: our own lines and published files."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.golden import golden_path
from timechat.answers.events import Event
from timechat.answers.prompts import Message
from timechat.data.readers import read_records
from timechat.data.records import Record, RecordEvent, write_lines
from timechat.data.settings import conversation
from timechat.errors import DataError
from timechat.speech import clean_transcript, read_transcript

MESSAGES = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "In 1.0 - 2.0 seconds."}]
LINE = {
    "id": "f1:0",
    "video": "videos/f1.mp4",
    "duration": 30.5,
    "task": "grounding",
    "query": "the red circle spins",
    "messages": MESSAGES,
    "events": [{"id": "e3", "start": 1, "end": 2.5, "caption": "The red circle spins.", "thing": 4}],
    "transcript": [{"start": 0.0, "end": 1.5, "text": "look at this"}],
    "level": 2,
}


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_rows(path: Path, *lines) -> Path:
    return write(path, "\n".join(json.dumps(line) for line in lines) + "\n")


def test_a_record_line_gives_every_field(tmp_path):
    (record,) = read_records(write_rows(tmp_path / "records.jsonl", LINE))
    assert record.video == str(tmp_path / "videos/f1.mp4")
    assert (record.id, record.task, record.query, record.duration) == ("f1:0", "grounding", LINE["query"], 30.5)
    assert record.turns == [("When?", "In 1.0 - 2.0 seconds.")]
    assert record.events == (RecordEvent(1.0, 2.5, "The red circle spins.", id="e3", extra={"thing": 4}),)
    assert record.events[0].extra == {"thing": 4}
    assert record.transcript == (Event(0.0, 1.5, "look at this"),)
    assert record.extra == {"level": 2}


def test_written_records_are_read_back_unchanged(tmp_path):
    records = [Record.from_dict(LINE | {"video": "/v/a.mp4", "start": 1.5, "end": 9, "clock": "part"})]
    write_lines(tmp_path / "again.jsonl", (record.to_dict() for record in records))
    assert read_records(tmp_path / "again.jsonl") == records
    assert json.loads((tmp_path / "again.jsonl").read_text())["level"] == 2


def test_a_video_folder_replaces_that_of_the_file(tmp_path):
    path = write_rows(tmp_path / "r.jsonl", LINE, LINE | {"id": "2", "video": "https://host/a.mp4"})
    assert [record.video for record in read_records(path, videos="/films")] == [
        "/films/videos/f1.mp4",
        "https://host/a.mp4",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"vidoe": "a.mp4", "messages": MESSAGES}, r"r\.jsonl:2: a record needs 'video'.*is 'vidoe' a typing error"),
        ({"video": "a.mp4"}, r"r\.jsonl:2: a record needs 'messages', got the keys video"),
        ({"video": "a.mp4", "messages": MESSAGES[:1]}, "pairs of a user and an assistant message"),
        ({"video": "a.mp4", "messages": [{"role": "bot", "content": ""}]}, "role of a message must be one of user"),
        ({"video": "a.mp4", "messages": [{"role": "user"}]}, "a message must be"),
        ({"video": "a.mp4", "messages": MESSAGES, "start": 5, "end": 4}, "start must be before end"),
        ({"video": "a.mp4", "messages": MESSAGES, "end": "4"}, "end must be seconds"),
        ({"video": "a.mp4", "messages": MESSAGES, "events": [{"start": 3}]}, "an event must be"),
        ({"video": "a.mp4", "messages": MESSAGES, "events": [{"start": 3, "end": 2}]}, "end before it starts"),
        (["video"], "a record must be a JSON object, got list"),
    ],
)
def test_an_invalid_line_is_named(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read_records(write_rows(tmp_path / "r.jsonl", LINE, line), format="timechat")


def test_files_without_records_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"r\.jsonl:1: is not JSON"):
        read_records(write(tmp_path / "r.jsonl", "{video: 1}\n"))
    with pytest.raises(DataError, match="holds no record"):
        read_records(write(tmp_path / "r.jsonl", "\n"))
    with pytest.raises(DataError, match="item 0: a record needs 'video' and 'messages'"):
        read_records(write(tmp_path / "r.json", [{"video": "a"}]))
    with pytest.raises(DataError, match="two records have the id"):
        read_records(write_rows(tmp_path / "r.jsonl", LINE, LINE))
    with pytest.raises(ValueError, match="format must be one of"):
        read_records(tmp_path / "r.jsonl", format="coco")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "events"),
    [
        ("The given query happens in 24.3 - 30.4 seconds.", [Event(24.3, 30.4)]),
        (
            "0.0 - 9.1 seconds, Cut 3 onions.  9.1 - 10.8 seconds, Stir.",
            [Event(0.0, 9.1, "Cut 3 onions."), Event(9.1, 10.8, "Stir.")],
        ),
        (
            "There are 2 highlight moments in the 82.0, 84.0 second. Their saliency scores are 1.3, 1.7.",
            [Event(82, 82, "", saliency=1.3), Event(84, 84, "", saliency=1.7)],
        ),
        (
            "The highlight timestamps are in the 82, 84 seconds. Their saliency scores are 1.3, 1.7.",
            [Event(82, 82, "", saliency=1.3), Event(84, 84, "", saliency=1.7)],
        ),
        ("Transcribed speech: 0.0 - 2.1 seconds, hello there. ", [Event(0, 2.1, "hello there.")]),
        ("There are 3 people in the video.", []),
    ],
)
def test_published_instructions_give_turns_and_events(tmp_path, answer, events):
    item = {"video": "didemo/c.mp4", "QA": [{"q": "Find it.", "a": answer}], "source": "didemo"}
    (record,) = read_records(write(tmp_path / "instruct.json", [item]), videos=tmp_path)
    assert (record.video, record.source, record.id) == (str(tmp_path / "didemo/c.mp4"), "didemo", "instruct:0")
    assert record.turns == [("Find it.", answer)]
    assert [Event(e.start, e.end, e.caption, e.score, e.saliency) for e in record.events] == events


def test_several_turns_stay_one_record(tmp_path):
    item = {"video": "a.mp4", "QA": [{"q": "1?", "a": "one"}, {"q": "2?", "a": "two"}]}
    (record,) = read_records(write(tmp_path / "i.json", [item]))
    assert record.turns == [("1?", "one"), ("2?", "two")]


def test_an_invalid_item_of_a_published_file_is_named(tmp_path):
    good = {"video": "a.mp4", "QA": [{"q": "1?", "a": "one"}]}
    with pytest.raises(DataError, match=r"i\.json: item 1: needs 'a', got the keys q"):
        read_records(write(tmp_path / "i.json", [good, {"video": "a.mp4", "QA": [{"q": "1?"}]}]))


def test_valley_files_have_no_marks_and_vatex_items_have_a_part(tmp_path):
    def said(question):
        return [{"from": "human", "value": question}, {"from": "gpt", "value": "A dog."}]

    vatex = "-abc_DE12345_000012_000022"[1:]
    assert len(vatex) == 25
    items = [
        {"v_id": vatex, "video": "vatex/1.mp4", "source": "VATEX", "conversations": said("<video>\nWhat is it?")},
        {
            "v_id": "j1",
            "source": "jukinmedia",
            "conversations": said("What is it?\n<video>") + said("Why?"),
        },
    ]
    first, second = read_records(write(tmp_path / "valley.json", items))
    assert (first.start, first.end, first.clock) == (12.0, 22.0, "part")
    assert first.turns == [("What is it?", "A dog.")]
    assert (second.start, second.video) == (None, str(tmp_path / "j1.mp4"))
    assert second.turns == [("What is it?", "A dog."), ("Why?", "A dog.")]


def test_speech_is_before_the_question_as_in_the_original():
    record = Record.from_dict(LINE | {"transcript": [{"start": 0, "end": 2.05, "text": "look at this"}]})
    assert conversation(record, transcripts=True)[0][0] == (
        "Transcribed speech: 0.0 - 2.0 seconds, look at this.  "
        "Based on the video content and possible transcribed speech, When?"
    )
    silent = dataclasses.replace(record, transcript=())
    assert conversation(silent, transcripts=True)[0][0].startswith("Transcribed speech: None. Based on")
    assert conversation(record, transcripts=False)[0][0] == "When?"


def test_a_question_with_speech_gets_no_second_transcript():
    asked = "Transcribed speech: None. Based on the video content and possible transcribed speech, When?"
    record = Record.from_dict(LINE | {"messages": [{"role": "user", "content": asked}, MESSAGES[1]]})
    assert conversation(record, transcripts=True)[0][0] == asked


def test_transcripts_are_found_by_the_video_name(tmp_path):
    write(tmp_path / "f1.txt", "0.00\t1.50\thello there you\n1.50\t2.00\tok\n")
    line = {key: value for key, value in LINE.items() if key != "transcript"}
    path = write_rows(tmp_path / "r.jsonl", line, line | {"id": "2", "video": "f2.mp4"}, LINE | {"id": "3"})
    records = read_records(path, transcripts=tmp_path)
    assert [record.transcript for record in records] == [
        (Event(0.0, 1.5, "hello there you"),),
        (),
        (Event(0.0, 1.5, "look at this"),),
    ]
    with pytest.raises(DataError, match="is not a folder"):
        read_records(path, transcripts=tmp_path / "none")


def test_recognized_speech_is_cleaned_as_in_the_original(tmp_path):
    cases = json.loads(Path(golden_path("data_construction.json")).read_text())["cases"]
    case = next(case for case in cases if case["script"] == "clean_asr")
    events = clean_transcript(read_transcript(write(tmp_path / "a.txt", case["input"])))
    assert "".join(f"{e.start:.2f}\t{e.end:.2f}\t{e.caption}\n" for e in events) == case["output"]
    assert clean_transcript([]) == ()


def test_a_conversation_must_end_with_an_answer():
    with pytest.raises(ValueError, match="pairs of a user and an assistant message"):
        Record(video="a.mp4", messages=(Message("user", "Hello?"),))
