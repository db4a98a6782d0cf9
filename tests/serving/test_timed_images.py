"""Pictures between texts with their times, and log probabilities, in requests of other clients."""

import base64
import io
import json

import pytest
from PIL import Image

from timechat.answers.token_evidence import Token
from timechat.backbones.backbone import GeneratedText
from timechat.serving.errors import RequestError
from timechat.serving.http.image_times import split_time
from timechat.serving.http.messages import ChatConversation, RequestMessage
from timechat.serving.http.token_logprobs import choice_logprobs
from timechat.serving.inline_frames import decode_picture


def image(shade=0):
    content = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 0, 0)).save(content, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def text(words):
    return {"type": "text", "text": words}


def said(*parts):
    conversation = ChatConversation()
    conversation.add(RequestMessage(role="user", content=list(parts)), "messages[0]")
    return conversation


@pytest.mark.parametrize(
    ("words", "rest", "seconds"),
    [
        ("<12.3 seconds>", "", 12.3),
        ("Frame from 00:12.3:", "", 12.3),
        ("00:12.3 ", "", 12.3),
        ("12.3s:", "", 12.3),
        ("Time 12.3s:", "", 12.3),
        ("Frame at 12.3 seconds:", "", 12.3),
        ("12.3 ", "", 12.3),
        ("62:05", "", 3725.0),
        ("1:02:03.5", "", 3723.5),
        ("Look at this video. <0.0 seconds>", "Look at this video. ", 0.0),
        ("A video of 3 frames.\n00:00", "A video of 3 frames.\n", 0.0),
        (f"{'long ' * 100}7.25 seconds", "long " * 100, 7.25),
    ],
)
def test_time_is_read_from_the_end_of_a_text(words, rest, seconds):
    assert split_time(words) == (rest, pytest.approx(seconds))


@pytest.mark.parametrize(
    "words",
    ["", "What happens?", "Scene 2", "<abc>", "frame12.3s", "1:2:3:4:05", "12.3 seconds later", "x" * 100 + " 5"],
)
def test_text_without_a_time_at_its_end_has_none(words):
    assert split_time(words) is None


def test_pictures_with_times_are_the_frames_of_the_video():
    parts = [text("Watch. <0.0 seconds>"), image(1), text("<0.5 seconds>"), image(2), text("<3.1 seconds>"), image(3)]
    conversation = said(*parts, text("What happens?"))
    frames, options = conversation.video
    assert (frames.times, frames.duration, options) == ((0.0, 0.5, 3.1), None, {})
    assert frames.is_one_window
    assert frames.urls == tuple(part["image_url"]["url"] for part in parts[1::2])
    assert conversation.question == "Watch.\nWhat happens?"


def test_times_may_repeat_and_one_picture_lasts_a_second():
    assert said(text("3.0s:"), image(), text("3.0s:"), image()).video[0].times == (3.0, 3.0)
    assert (
        said(text("0.0s:"), {"type": "input_image", "image_url": image()["image_url"]["url"]}).video[0].duration == 1.0
    )


@pytest.mark.parametrize(
    ("parts", "place", "message"),
    [
        ([image(), text("What?")], "messages[0].content[0]", "needs its time: end the text part before it"),
        ([text("What?"), image()], "messages[0].content[1]", "needs its time"),
        ([text("1.0s:"), image(), image()], "messages[0].content[2]", "needs its time"),
        ([text("3.0s: 1.0s:"), image(), image()], "messages[0].content[2]", "needs its time"),
        (
            [text("2.0s:"), image(), text("1.5s:"), image()],
            "messages[0].content[3]",
            "must rise, got 2 s and then 1.5 s",
        ),
        ([text("1.0s:"), {"type": "image_url"}], "messages[0].content[1]", 'a picture needs {"image_url"'),
    ],
)
def test_wrong_pictures_get_clear_errors(parts, place, message):
    with pytest.raises(RequestError) as caught:
        said(*parts)
    assert (caught.value.status, caught.value.param) == (400, place)
    assert message in caught.value.message


def test_pictures_and_a_video_are_two_videos():
    with pytest.raises(RequestError, match="a conversation is about one video"):
        said({"type": "video_url", "video_url": {"url": "film-0"}}, text("1.0s:"), image())


# ------------------------------------------------------------------------------------------- log probabilities


def test_bytes_of_all_tokens_are_the_text():
    # The second character is written by three tokens; unfinished, it reads as one or two unknown characters.
    spans = [(0, 1), (1, 2), (2, 3), (3, 2), (2, 3), (3, 3)]
    tokens = tuple(Token(first, end, -float(i)) for i, (first, end) in enumerate(spans))
    entries = choice_logprobs(GeneratedText("a火b", tokens), "a火b")["content"]
    assert [(entry["token"], entry["logprob"]) for entry in entries] == [
        *(("a", 0.0), ("火", -1.0), ("", -2.0), ("", -3.0), ("b", -4.0)),
    ]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == "a火b"
    assert {len(entry["top_logprobs"]) for entry in entries} == {0}


def test_answer_that_was_cut_has_the_tokens_before_the_cut():
    tokens = (Token(0, 3, -1.0), Token(3, 7, float("-inf")), Token(7, 9, -3.0))
    entries = choice_logprobs(GeneratedText("One two ab", tokens), "One t")["content"]
    assert [(entry["token"], entry["logprob"]) for entry in entries] == [("One", -1.0), (" t", -9999.0)]


@pytest.fixture
def asked(running):
    def ask(**fields):
        parts = [text("<0.0 seconds>"), image(10), text("<1.0 seconds>"), image(200), text("What happens?")]
        body = {"model": "nano", "messages": [{"role": "user", "content": parts}], "max_tokens": 12, **fields}
        return running.client.post("/v1/chat/completions", json=body)

    return ask


def test_log_probabilities_are_in_whole_and_streamed_answers(asked):
    whole = asked(logprobs=True, top_logprobs=0).json()["choices"][0]
    entries = whole["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == whole["message"]["content"] != ""
    assert all(entry["logprob"] <= 0 for entry in entries)
    lines = asked(logprobs=True, stream=True).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    streamed = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {}).get("content", [])]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in entries]
    assert max(abs(a["logprob"] - b["logprob"]) for a, b in zip(streamed, entries, strict=True)) < 1e-5
    assert asked().json()["choices"][0]["logprobs"] is None


def test_log_probabilities_end_at_a_stop_text(asked):
    usual = asked().json()["choices"][0]["message"]["content"]
    stop = usual.split()[2]
    choice = asked(logprobs=True, stop=stop).json()["choices"][0]
    assert choice["message"]["content"] == usual[: usual.index(stop)]
    assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == choice["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "cite": True}, "logprobs"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"guided_json": {"type": "object"}, "structured_outputs": {"json": {"type": "object"}}}, "guided_json"),
        ({"task": "dense_caption", "guided_json": {"type": "object"}}, "guided_json"),
    ],
)
def test_fields_that_cannot_be_kept_are_refused_by_name(asked, fields, param):
    response = asked(**fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "fields", [{"structured_outputs": {"json": SCHEMA}}, {"guided_json": SCHEMA}, {"guided_json": json.dumps(SCHEMA)}]
)
def test_json_schema_is_kept_in_the_fields_of_vllm(asked, fields):
    answer = json.loads(asked(max_tokens=64, **fields).json()["choices"][0]["message"]["content"])
    assert answer["colour"] in ("red", "blue")


def test_a_photo_of_a_phone_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content = io.BytesIO()
    Image.new("RGB", (64, 48)).save(content, "JPEG", exif=exif)
    url = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
    assert decode_picture(url, "image").size == (48, 64)
