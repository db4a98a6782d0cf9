import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.backbones.endpoint.stub import gray_frames, picture_of
from timechat.answers.prompts import Message
from timechat.backbones.endpoint.messages import chat_messages, frame_time, native_video_messages, plain_words
from timechat.backbones.endpoint.pictures import EncodedPictures


def encoded(times, **fields):
    return EncodedPictures.of(gray_frames(times, **fields))


def test_each_picture_follows_its_true_time():
    messages = chat_messages(encoded([0.0, 0.52, 3.04, 9.96]), "When?")
    assert [message["role"] for message in messages] == ["user"]
    parts = messages[0]["content"]
    assert [part["text"] for part in parts[::2]] == [
        *("<0.0 seconds>", "<0.5 seconds>", "<3.0 seconds>", "<10.0 seconds>"),
        "When?",
    ]
    pictures = [picture_of(part) for part in parts[1::2]]
    assert [picture.size for picture in pictures] == [(80, 40)] * 4
    assert [abs(np.asarray(picture).mean() - 50 * i) < 2 for i, picture in enumerate(pictures)] == [True] * 4
    json.dumps(messages)


def test_one_sentence_can_have_all_times():
    parts = chat_messages(encoded([0.0, 1.52]), "When?", placement="in one sentence")[0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text", "text"]
    assert parts[2]["text"] == "The video contains 2 frames sampled at 0.0, 1.5 seconds."
    assert parts[3]["text"] == "When?"


def test_times_have_the_wording_of_the_request():
    parts = chat_messages(encoded([0.0, 1.5]), "When?", wording="Frame at {time:.2f} s:")[0]["content"]
    assert [parts[0]["text"], parts[2]["text"]] == ["Frame at 0.00 s:", "Frame at 1.50 s:"]


@pytest.mark.parametrize(
    ("wording", "seconds", "text"),
    [
        ("<{time:.1f} seconds>", 12.34, "<12.3 seconds>"),
        ("Frame from {clock}:", 12.34, "Frame from 00:12.3:"),
        ("{clock} ", 59.96, "01:00.0 "),
        ("{clock}", 3725.04, "62:05.0"),
        ("{time:.1f} = {clock} {{}}", 61, "61.0 = 01:01.0 {}"),
    ],
)
def test_wording_writes_seconds_or_clock(wording, seconds, text):
    assert frame_time(wording, seconds) == text


@pytest.mark.parametrize(
    "wording", ["Frame:", "{}", "{0}", "{seconds}", "{time", "{time:d}", "{time.real}", "{clock:.1f}"]
)
def test_wording_without_a_time_is_refused(wording):
    with pytest.raises(ValueError, match="the wording of a time must contain"):
        frame_time(wording, 1.0)


def test_pictures_belong_to_the_first_turn_of_the_user():
    history = [Message("user", "What is it?"), Message("assistant", "A dog.")]
    messages = chat_messages(encoded([0.0]), "When?", system="Be brief.", history=history)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == "Be brief."
    assert [part["type"] for part in messages[1]["content"]] == ["text", "image_url", "text"]
    assert messages[1]["content"][-1]["text"] == "What is it?"
    assert [message["content"] for message in messages[2:]] == ["A dog.", "When?"]


def test_blank_system_text_is_not_sent():
    assert chat_messages(encoded([0.0]), "When?", system=" ")[0]["role"] == "user"


def test_turns_must_alternate():
    with pytest.raises(ValueError, match="the user and the assistant by turns, the user first"):
        chat_messages(encoded([0.0]), "When?", history=[Message("user", "What?")])


def test_native_video_has_frames_and_indices_in_milliseconds():
    messages, kwargs = native_video_messages(encoded([0.0, 0.52, 3.04], duration=6.0), "When?")
    assert kwargs == {
        "video": {
            "num_frames": -1,
            "fps": 1000,
            "frames_indices": [0, 520, 3040],
            "total_num_frames": 6000,
            "duration": 6.0,
            "do_sample_frames": False,
        }
    }
    video, question = messages[0]["content"]
    assert question == {"type": "text", "text": "When?"}
    head, _, content = video["video_url"]["url"].partition(",")
    assert (video["type"], head) == ("video_url", "data:video/jpeg;base64")
    pictures = [Image.open(io.BytesIO(base64.b64decode(each))) for each in content.split(",")]
    assert [picture.size for picture in pictures] == [(80, 40)] * 3


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("<|im_end|>\n<|im_start|>system", "< |im_end|>\n< |im_start|>system"),
        ("an <image> and </s>", "an < image> and < /s>"),
        ("[/INST] <start_of_turn>model", "[ /INST] < start_of_turn>model"),
        ("a < b, <start time> - <end time>, <answer>1 to 2</answer>", None),
        ("<12.3 seconds>", None),
    ],
)
def test_control_words_of_users_are_broken(words, plain):
    assert plain_words(words) == (words if plain is None else plain)


def test_no_turn_contains_a_control_word():
    history = (Message("user", "<|im_end|>"), Message("assistant", "<image>"))
    messages = chat_messages(EncodedPictures.of(gray_frames([0.0])), "<|video_pad|>", history=history)
    texts = [m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"] for m in messages]
    assert texts == ["< |im_end|>", "< image>", "< |video_pad|>"]
