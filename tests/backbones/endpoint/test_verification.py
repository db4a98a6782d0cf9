"""Verification of moments by the log probabilities of prompts."""

import json

import pytest

from tests.backbones.endpoint.conftest import Connect
from tests.backbones.endpoint.stub import Reply, answering, completion, gray_frames, refusal
from timechat.answers.events import Event
from timechat.backbones.backbone import EncodedVideo
from timechat.backbones.endpoint.backbone import EndpointBackbone
from timechat.backbones.endpoint.options import EndpointOptions
from timechat.backbones.endpoint.verification import last_words_logprob
from timechat.errors import EndpointError

EVENT = Event(1.0, 2.5, "the red ball rolls")


def entry(text, logprob, **others):
    return {"17": {"logprob": logprob, "rank": 1, "decoded_token": text}, **others}


def prompt_of(*words, logprob=-1.0):
    head = [None, entry("<user>", -9.0), entry(" 2.5", -9.0), entry(" seconds,", -9.0)]
    return [*head, *(entry(word, logprob) for word in words)]


def scoring(**fields):
    """A server that gives log probabilities of prompts: -2 for each word without pictures, -0.5 with them."""

    def answer(body):
        with_pictures = "image_url" in json.dumps(body["messages"])
        words = body["messages"][-1]["content"].partition("seconds,")[2].split()
        logprobs = prompt_of(*(f" {word}" for word in words), logprob=-0.5 if with_pictures else -2.0)
        return Reply(body={**completion("x"), "prompt_logprobs": logprobs, **fields})

    return answer


def verified(connected, *, events=(EVENT,), preset="timechat@1", **options):
    backbone = EndpointBackbone(connected.client, "tiny", EndpointOptions(verify=True, **options))
    frames = gray_frames([0.0, 1.2, 3.0])
    video = EncodedVideo(backbone.encode(frames)[0], frames.timestamps, frames.duration)
    return backbone, backbone.verify([video] * len(events), events, preset=preset)


@pytest.mark.parametrize(
    ("words", "logprob"),
    [
        ("The red ball", -3.0),
        ("red ball", -2.0),
        ("ball", -1.0),
        ("Thered b all", -3.0),  # blanks are not compared
        ("d ball", -2.0),  # the first token begins before the words
        ("The blue ball", None),
        ("The red ball.", None),
    ],
)
def test_last_tokens_of_a_prompt_are_its_last_words(words, logprob):
    assert last_words_logprob(prompt_of("The", " red", " ball"), words) == logprob


@pytest.mark.parametrize("entries", [[], [None], [entry("a", "b")], [{}], prompt_of("�", "�")])
def test_entries_without_the_words_have_no_log_probability(entries):
    assert last_words_logprob(entries, "火") is None


def test_chosen_token_is_the_first_of_an_entry():
    others = {"18": {"logprob": -0.1, "rank": 1, "decoded_token": "other"}}
    assert last_words_logprob([entry("ball", -4.0, **others)], "ball") == -4.0


def test_difference_of_both_prompts_is_the_evidence(connect: Connect):
    connected = connect(scoring())
    _, values = verified(connected, events=(EVENT, Event(0.0, 1.0, "nothing")))
    assert values == [pytest.approx(4 * 1.5), pytest.approx(1.5)]
    blank, shown = [request.body for request in connected.server.requests[:2]]
    assert {name: blank[name] for name in blank if name not in ("model", "messages")} == {
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    parts = shown["messages"][1]["content"]
    assert [part["type"] for part in parts] == [*(["text", "image_url"] * 3), "text"]
    assert blank["messages"][1]["content"] == [part for part in parts if part["type"] == "text"]
    assert blank["messages"][-1] == shown["messages"][-1]
    assert shown["messages"][-1] == {"role": "assistant", "content": "1.0 - 2.5 seconds, The red ball rolls."}


def test_moments_are_not_verified_by_default(connect: Connect):
    connected = connect(scoring())
    backbone = EndpointBackbone(connected.client, "tiny")
    assert backbone.verify([], [EVENT], preset="timechat@1") is None
    assert connected.server.requests == []


@pytest.mark.parametrize("reply", [answering("x"), refusal("Unrecognized request argument: prompt_logprobs")])
def test_server_without_prompt_logprobs_is_asked_once(connect: Connect, reply):
    connected = connect(reply)
    backbone, values = verified(connected)
    assert values is None
    assert backbone.with_check(lambda: None).verify([], [], preset="timechat@1") is None
    assert len(connected.server.requests) == 1
    assert "image_url" not in json.dumps(connected.server.requests[0].body)  # the small one


def test_caption_with_other_tokens_is_not_verified_alone(connect: Connect):
    other = Reply(body={**completion("x"), "prompt_logprobs": prompt_of("else")})
    backbone, values = verified(connect(other, scoring()))
    assert values is None
    frames = gray_frames([0.0])
    video = EncodedVideo(backbone.encode(frames)[0], frames.timestamps, 1.0)
    assert backbone.verify([video], [EVENT], preset="timechat@1") == [pytest.approx(6.0)]


def test_other_failures_of_verification_are_errors(connect: Connect):
    with pytest.raises(EndpointError) as caught:
        verified(connect(refusal("no", 403)))
    assert caught.value.reason == "bad_key"


def test_caption_is_written_in_the_form_of_the_preset(connect: Connect):
    connected = connect(scoring())
    verified(connected, preset="qwen3-vl@1")
    assert connected.server.requests[-1].body["messages"][-1] == {
        "role": "assistant",
        "content": '[{"start": 1.0, "end": 2.5, "caption": "The red ball rolls',
    }
