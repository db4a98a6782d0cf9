import numpy as np
import pytest

from timechat.backbones.endpoint.abilities import CompletionRequest, request_body
from timechat.backbones.endpoint.client import _encode
from timechat.backbones.endpoint.estimate import Price, RequestCost, measure_request, tokens_of_patches, total_cost
from timechat.backbones.endpoint.messages import chat_messages, native_video_messages
from timechat.backbones.endpoint.pictures import EncodedPictures, PictureFormat
from timechat.video import Frames

FRAMES = Frames(np.zeros((3, 270, 480, 3), np.uint8), np.array([0.0, 1.0, 2.5]), 4.0)


def body_of(messages):
    return request_body(CompletionRequest(messages, 60), "tiny", {})


def test_request_is_measured_as_it_is_sent():
    body = body_of(chat_messages(EncodedPictures.of(FRAMES), "Wann beginnt die Übung?"))
    assert measure_request(body, 60) == RequestCost(1, 3, len(_encode(body)), None, 60)


def test_tokens_come_from_the_rule_or_from_the_server():
    body = body_of(chat_messages(EncodedPictures.of(FRAMES, PictureFormat(320)), "When?"))  # 320 x 180 pixels
    cost = measure_request(body, 60, picture_tokens=tokens_of_patches(32), text_tokens=40)
    assert cost.prompt_tokens == 40 + 3 * 10 * 6
    assert measure_request(body, 60, prompt_tokens=777).prompt_tokens == 777
    assert measure_request(body, 60, picture_tokens=tokens_of_patches(32)).prompt_tokens is None


def test_frames_of_a_native_video_are_counted():
    messages, _ = native_video_messages(EncodedPictures.of(FRAMES), "When?")
    assert measure_request(body_of(messages), 60).pictures == 3


def test_job_is_the_sum_of_its_requests():
    window = RequestCost(1, 8, 4861, 183, 24)
    job = window * 720
    assert job == total_cost([window] * 720) == RequestCost(720, 5760, 3_499_920, 131_760, 17_280)
    assert job.to_dict(Price(0.2, 0.8)) == {
        "requests": 720,
        "pictures": 5760,
        "prompt_tokens": 131_760,
        "answer_tokens": 17_280,
        "megabytes_sent": 3.5,
        "price": pytest.approx(0.040176),
    }
    assert job.describe(Price(0.2, 0.8)) == (
        "720 requests, 5760 pictures, 3.5 MB sent, 131760 + 17280 tokens, price 0.04018"
    )


def test_unknown_tokens_have_no_price():
    job = RequestCost(1, 1, 1_000_000, None, 24) + RequestCost(1, 0, 0, 100, 24)
    assert job == RequestCost(2, 1, 1_000_000, None, 48)
    assert job.price(Price(1, 1)) is None
    assert job.describe(Price(1, 1)) == "2 requests, 1 picture, 1.0 MB sent"
    assert total_cost([]).describe(Price(1, 1)) == "0 requests, 0 pictures, 0.0 MB sent, 0 + 0 tokens, price 0"


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"a price must be at least 0, got -1 and 0"):
        Price(-1, 0)
    with pytest.raises(ValueError, match="the side of a square must be at least 1 pixel, got 0"):
        tokens_of_patches(0)
