"""Instruction files of other toolkits are read, or refused with a message that says what to do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from timechat.data.readers import read_records, record_files
from timechat.errors import DataError

QUESTION, ANSWER = "When does it turn?", "The given query happens in 5.0 - 6.0 seconds."
TURNS = [(QUESTION, ANSWER)]
MESSAGES = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
BOM = "\ufeff"


def spoken(question: str, answer: str = ANSWER, user: str = "human", assistant: str = "gpt") -> list[dict[str, str]]:
    return [{"from": user, "value": question}, {"from": assistant, "value": answer}]


def parts(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}, {"role": "assistant", "content": ANSWER}]


def write(path: Path, content: Any, start: str = "") -> Path:
    path.write_text(start + (content if isinstance(content, str) else json.dumps(content)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "item",
    [
        {"id": "1", "video": "a.mp4", "conversations": spoken(f"<video>\n{QUESTION}")},
        {"video": "a.mp4", "conversations": spoken(f"{QUESTION}\n<video>")},
        {"video": "a.mp4", "conversations": spoken(f"<image>\n{QUESTION}")},
        {"video": "a.mp4", "conversations": spoken(QUESTION, user="user", assistant="assistant")},
        {"video": ["a.mp4"], "conversations": [{"from": "system", "value": "Be brief."}, *spoken(QUESTION)]},
        {"videos": ["a.mp4"], "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]},
        {"videos": ["a.mp4"], "messages": parts({"type": "video"}, {"type": "text", "text": QUESTION})},
        {"messages": parts({"type": "video", "video": "a.mp4"}, {"type": "text", "text": QUESTION})},
        {"messages": parts({"type": "video_url", "video_url": {"url": "a.mp4"}}, {"type": "text", "text": QUESTION})},
        {"video": "a.mp4", "QA": [{"q": f"<video>{QUESTION}", "a": ANSWER}]},
        {"video": "a.mp4", "messages": MESSAGES},
    ],
)
@pytest.mark.parametrize("shape", ["list", "lines", "lines with a mark", "one object"])
def test_records_of_other_toolkits_are_read(tmp_path, item, shape):
    texts = {
        "list": json.dumps([item]),
        "lines": json.dumps(item) + "\r\n",
        "lines with a mark": BOM + json.dumps(item) + "\n",
        "one object": json.dumps(item, indent=1),
    }
    (record,) = read_records(write(tmp_path / "set.json", texts[shape]), videos="/v")
    assert (record.video, record.turns) == ("/v/a.mp4", TURNS)


@pytest.mark.parametrize(
    "item",
    [
        {"id": "000000033471", "image": "a.jpg", "conversations": spoken(f"{QUESTION}\n<image>")},
        {"images": ["a.jpg"], "messages": MESSAGES},
        {"image": "a.jpg", "QA": [{"q": QUESTION, "a": ANSWER}]},
        {"messages": parts({"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": QUESTION})},
    ],
)
def test_records_of_images_are_read_and_written_back(tmp_path, item):
    (record,) = read_records(write(tmp_path / "set.json", [item]), videos="/v")
    assert (record.video, record.is_image, record.turns) == ("/v/a.jpg", True, TURNS)
    written = record.to_dict()
    assert written == {"id": written["id"], "image": "/v/a.jpg", "messages": MESSAGES}
    (again,) = read_records(write(tmp_path / "again.jsonl", written))
    assert replace(again, id=record.id) == record


def test_an_image_beside_a_video_is_not_read(tmp_path):
    (record,) = read_records(write(tmp_path / "set.json", [{"video": "a.mp4", "image": "b.jpg", "messages": MESSAGES}]))
    assert (record.video, record.is_image, record.extra) == (str(tmp_path / "a.mp4"), False, {"image": "b.jpg"})


def test_system_turns_are_kept_apart_and_written_back(tmp_path):
    item = {"videos": ["a.mp4"], "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]}
    (record,) = read_records(write(tmp_path / "set.json", [item]))
    assert record.system == "Be brief."
    assert record.to_dict()["system"] == "Be brief."
    assert record.to_dict()["messages"] == MESSAGES
    assert "videos" not in record.to_dict()


def test_a_mark_inside_an_answer_stays(tmp_path):
    item = {"video": "a.mp4", "conversations": spoken("<video>\nWhich tag?", "It is the <video> tag.")}
    (record,) = read_records(write(tmp_path / "set.json", [item]))
    assert record.turns == [("Which tag?", "It is the <video> tag.")]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"videos": ["a.mp4", "b.mp4"], "messages": MESSAGES}, "about one video, got 2 videos: a.mp4, b.mp4; write a"),
        ({"images": ["a.jpg", "b.jpg"], "messages": MESSAGES}, "about one image, got 2 images: a.jpg, b.jpg; write a"),
        ({"image": 5, "messages": MESSAGES}, "image must be the path or the address of an image, got 5"),
        ({"image": "a.jpg", "messages": MESSAGES, "end": 2.0}, "an image has no start and no end, got start=None and"),
        ({"video": 5, "messages": MESSAGES}, "video must be the path or the address of a video, got 5"),
        ({"video": "a", "messages": MESSAGES, "start": True}, "start must be seconds, at least 0, got True"),
        ({"video": "a", "messages": MESSAGES, "end": "9"}, "end must be seconds, at least 0, got '9'"),
        ({"video": "a", "messages": MESSAGES, "query": ["x"]}, "query must be text, got .'x'."),
        ({"video": "a", "messages": MESSAGES, "events": [{"start": True, "end": 2}]}, "the start of an event must be"),
        ({"video": "a", "messages": MESSAGES, "events": [{"start": 1, "end": "2"}]}, "the end of an event must be"),
        ({"video": "a", "messages": MESSAGES, "events": [{"start": 3, "end": 2}]}, "must not end before it starts"),
        ({"video": "a", "messages": "hello"}, "a conversation must be a list of messages, got 'hello'"),
        ({"video": "a", "messages": [{"role": "tool", "content": ""}]}, "role of a message must be one of user, human"),
        (
            {"video": "a", "messages": parts({"type": "audio"})},
            "text and at most one video or image, got a part of type 'audio'",
        ),
        ({"video": "a", "conversations": 5}, "'conversations' must be a list, got 5"),
        ({"video": "a", "instruction": "x"}, "needs 'video' and 'messages' .*got the keys video, instruction"),
        (["a"], "needs 'video' and 'messages'"),
    ],
)
def test_a_wrong_record_is_refused_with_its_place(tmp_path, item, message):
    good = json.dumps({"video": "a.mp4", "messages": MESSAGES})
    with pytest.raises(DataError, match=rf"set\.jsonl:2: .*{message}"):
        read_records(write(tmp_path / "set.jsonl", f"{good}\n{json.dumps(item)}\n"))


@pytest.mark.parametrize(
    ("content", "owner"),
    [
        ({"v1": {"duration": 12.0, "timestamps": [[0, 5]], "sentences": ["It starts."]}}, "ActivityNet Captions"),
        ({"database": {"v1": {"annotations": []}}}, "YouCook2 or ActivityNet"),
        ({"annotations": [{"image_id": "v1"}]}, "a data set"),
        ("AO8RW 0.0 6.9##a person puts a book on a shelf.\n", "Charades-STA"),
        ({"qid": 1, "query": "a dog", "vid": "v1", "relevant_windows": [[0, 2]]}, "QVHighlights"),
    ],
)
def test_annotations_are_called_by_their_name(tmp_path, content, owner):
    with pytest.raises(
        DataError, match=rf"holds annotations of {owner}, not instructions; .*timechat data build.*docs/data.md"
    ):
        read_records(write(tmp_path / "set.json", content))


def test_a_deeply_nested_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"set\.json: is nested too deeply"):
        read_records(write(tmp_path / "set.json", "[" * 100_000))


def test_a_folder_stands_for_its_files_of_records(tmp_path):
    (tmp_path / "drawn").mkdir()
    for name in ("a.jsonl", "b.json", "notes.txt"):
        write(tmp_path / name, {})
    write(tmp_path / "drawn" / "records.jsonl", {})
    write(tmp_path / "drawn" / "truth.jsonl", {})
    assert record_files(tmp_path) == [tmp_path / "a.jsonl", tmp_path / "b.json"]
    assert record_files(tmp_path / "drawn") == [tmp_path / "drawn" / "records.jsonl"]
    assert record_files(tmp_path / "a.jsonl") == [tmp_path / "a.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder holds no records\.jsonl and no other \.json or \.jsonl file"):
        record_files(tmp_path / "empty")
    with pytest.raises(DataError, match=r"is a folder; give a file of instruction records, such as records\.jsonl"):
        read_records(tmp_path)
