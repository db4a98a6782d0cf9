"""The backbone over an endpoint: what is sent for a window, what comes back, what it costs."""

import json
import logging
import math
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.backbones.endpoint.conftest import KEY, Connect
from tests.backbones.endpoint.stub import (
    SECRET,
    Recorded,
    Reply,
    StubServer,
    answering,
    chunks,
    gray_frames,
    picture_of,
    refusal,
    streaming,
    token,
)
from tests.clips import RECIPES, draw_clip
from timechat import TimeChat
from timechat.answers.forms import AnswerForm, json_form
from timechat.answers.tasks import GREEDY, DecodingOptions
from timechat.answers.token_evidence import Token
from timechat.backbones.backbone import Backbone, EncodedVideo, Question
from timechat.backbones.endpoint.backbone import EndpointBackbone, load_endpoint
from timechat.backbones.endpoint.limits import RequestLimits
from timechat.backbones.endpoint.options import EndpointOptions, EndpointSettings
from timechat.backbones.endpoint.pictures import PictureFormat
from timechat.errors import EndpointError, PromptTooLongError
from timechat.files.cache import DiskCache

QUESTION = Question("When?")
FORM = AnswerForm(r"[0-9]+\.")
IRREGULAR = [0.0, 0.52, 3.04, 3.08, 9.96]
SAMPLED = DecodingOptions(do_sample=True, temperature=0.7, top_p=0.9, top_k=20, seed=5)


def backbone_of(connected, **options) -> EndpointBackbone:
    return EndpointBackbone(connected.client, connected.client.model(), EndpointOptions(**options))


def prompt_of(backbone: Backbone, frames=None, question=QUESTION):
    frames = gray_frames(IRREGULAR) if frames is None else frames
    content, notes = backbone.encode(frames)
    assert notes == ()
    video = EncodedVideo(content, frames.timestamps, frames.duration, model=backbone.name)
    return backbone.prompt(video, question, 60)


def texts_of(request):
    return [part["text"] for part in request.body["messages"][0]["content"] if part["type"] == "text"]


def pictures_of(body):
    return [picture_of(part) for part in body["messages"][0]["content"] if part["type"] == "image_url"]


# ------------------------------------------------------------------------------------------ what is sent


def test_server_receives_each_picture_with_its_true_time(connect: Connect):
    connected = connect(answering())
    backbone = backbone_of(connected)
    question = Question("And then?", [("What is it?", "A dog.")], "Be brief.")
    backbone.generate([prompt_of(backbone, question=question)], [None], GREEDY)
    system, first, answer, last = connected.server.requests[0].body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["text"] for part in first["content"] if part["type"] == "text"] == [
        *("<0.0 seconds>", "<0.5 seconds>", "<3.0 seconds>", "<3.1 seconds>", "<10.0 seconds>"),
        "What is it?",
    ]
    means = [np.asarray(picture_of(part)).mean() for part in first["content"] if part["type"] == "image_url"]
    assert [round(mean / 50) for mean in means] == [0, 1, 2, 3, 4]
    assert (answer["content"], last["content"]) == ("A dog.", "And then?")


def test_frames_are_decoded_to_the_size_that_is_sent(connect: Connect):
    backbone = backbone_of(connect(answering()), pictures=PictureFormat(448))
    size = backbone.frame_size(1080, 1920)
    assert (size.height, size.width, size.interpolation) == (252, 448, "bicubic")


def test_words_of_times_and_their_place_can_be_chosen(connect: Connect):
    connected = connect(answering())
    for options in ({"wording": "Frame from {clock}:"}, {"placement": "in one sentence"}):
        backbone = backbone_of(connected, **options)
        backbone.generate([prompt_of(backbone, gray_frames([0.0, 12.34]))], [None], GREEDY)
    assert [texts_of(request) for request in connected.server.requests] == [
        ["Frame from 00:00.0:", "Frame from 00:12.3:", "When?"],
        ["The video contains 2 frames sampled at 0.0, 12.3 seconds.", "When?"],
    ]


def test_greedy_and_sampled_requests_have_their_own_fields(connect: Connect):
    connected = connect(answering("12."))
    backbone = backbone_of(connected)
    prompts = [prompt_of(backbone)] * 2
    backbone.generate(prompts[:1], [FORM], replace(GREEDY, max_new_tokens=30))
    backbone.generate(prompts, [None, None], SAMPLED, window_numbers=[3, 11])
    greedy, *sampled = [request.body for request in connected.server.requests]
    assert {name: greedy[name] for name in greedy if name not in ("messages", "chat_template_kwargs")} == {
        "model": "tiny",
        "structured_outputs": {"regex": FORM.regex},
        "logprobs": True,
        "top_logprobs": 20,
        "temperature": 0.0,
        "max_tokens": 30,
    }
    assert sorted(body["seed"] for body in sampled) == [8, 16]
    assert [(body["temperature"], body["top_p"], body["top_k"]) for body in sampled] == [(0.7, 0.9, 20)] * 2


def test_json_schema_of_decoding_is_the_form_of_the_answer(connect: Connect):
    connected = connect(answering("{}"))
    backbone = backbone_of(connected)
    decoding = DecodingOptions(json_schema='{"type": "object"}')
    answer = backbone.generate([prompt_of(backbone)], [None], decoding)[0]
    assert connected.server.requests[0].body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert answer.text == "{}"


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [("repetition_penalty", 1.2, "repetition_penalty"), ("min_new_tokens", 4, "min_tokens")],
)
def test_penalty_and_minimum_are_sent_or_refused(connect: Connect, option, value, field):
    connected = connect(answering(), refusal(f"Unrecognized request argument supplied: {field}"))
    backbone = backbone_of(connected)
    decoding = DecodingOptions(**{option: value})
    backbone.generate([prompt_of(backbone)], [None], decoding)
    assert connected.server.requests[0].body[field] == value
    with pytest.raises(ValueError, match=rf"does not take {field}: .*; leave it at its default, or use a local model"):
        backbone.generate([prompt_of(backbone)], [None], decoding)
    assert len(connected.server.requests) == 2


@pytest.mark.parametrize("options", [{"num_beams": 4}, {"length_penalty": 2.0}])
def test_beam_search_is_refused_before_a_request(connect: Connect, options):
    connected = connect(answering())
    backbone = backbone_of(connected)
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"an endpoint has no beam search, got {name}={value}; set it to 1"):
        backbone.generate([prompt_of(backbone)], [None], DecodingOptions(**options))
    assert connected.server.requests == []


def test_native_video_is_sent_only_if_it_is_asked_for(connect: Connect):
    connected = connect(answering())
    backbone = backbone_of(connected, native_video=True)
    assert backbone.generate([prompt_of(backbone)], [None], GREEDY)[0].text == "Yes."
    body = connected.server.requests[0].body
    assert body["media_io_kwargs"]["video"]["frames_indices"] == [0, 520, 3040, 3080, 9960]
    assert [part["type"] for part in body["messages"][0]["content"]] == ["video_url", "text"]


# ------------------------------------------------------------------------------------------ what comes back


def test_answer_has_tokens_counts_and_no_blanks_at_its_ends(connect: Connect):
    entries = [token(" A", -0.5), token(" dog", -0.25), token(".", -0.125), token("\n", -1.0)]
    backbone = backbone_of(connect(answering(" A dog.\n", logprobs={"content": entries})))
    answer = backbone.generate([prompt_of(backbone)], [None], GREEDY)[0]
    assert answer.text == "A dog."
    assert answer.tokens == (Token(0, 1, -0.5), Token(1, 5, -0.25), Token(5, 6, -0.125), Token(6, 6, -1.0))
    assert (answer.num_prompt_tokens, answer.num_tokens, answer.notes) == (7, 2, ())


def test_tokens_are_weighed_against_what_the_form_allows(connect: Connect):
    """The model would rather write a word than the number of the form; `7` is the other number."""
    first = token(" 1", -3.0) | {"top_logprobs": [token("Noon", -0.1), token(" 1", -3.0), token("7", -3.0)]}
    entries = [first, token("2.", -0.5) | {"top_logprobs": [token("2.", -0.5), token("!", -1.0)]}]
    backbone = backbone_of(connect(answering(" 12.", logprobs={"content": entries})))
    tokens = backbone.generate([prompt_of(backbone)], [FORM], GREEDY)[0].tokens
    assert [token.form_logprob for token in tokens] == pytest.approx([-math.log(2), 0.0])
    assert [token.logprob for token in tokens] == [-3.0, -0.5]
    free = backbone.generate([prompt_of(backbone)], [None], GREEDY)[0].tokens
    assert [token.allowed for token in free] == [None, None]


def test_notes_say_what_a_server_does_not_do(connect: Connect):
    def answer(body):
        if "top_k" in body:
            return refusal("top_k is not supported")
        return answering("<think>Hm.</think>Maybe", finish_reason="length")

    backbone = backbone_of(connect(answer))
    assert backbone.generate([prompt_of(backbone)], [None], replace(SAMPLED, max_new_tokens=9))[0].notes == (
        "the answer ends at the limit of 9 tokens",
        "thoughts of the model were removed from the answer",
        "the server does not take top_k, so it sampled in its own way",
    )


@pytest.mark.parametrize("content", ["", None])
def test_an_empty_answer_has_a_note(connect: Connect, content):
    backbone = backbone_of(connect(answering(content)))
    (answer,) = backbone.generate([prompt_of(backbone)], [None], GREEDY)
    assert (answer.text, answer.notes) == ("", ("the server gave an empty answer",))


def test_an_empty_answer_is_asked_again_and_a_text_is_not(connect: Connect, tmp_path):
    video = draw_clip(RECIPES["constant rate"], tmp_path / "a.mp4").path
    connected = connect(answering(""), answering("A dog runs."))
    timechat = TimeChat(backbone_of(connected), cache=DiskCache(tmp_path / "cache"))
    assert [timechat.summarize(video).text for _ in range(3)] == ["", "A dog runs.", "A dog runs."]
    assert len(connected.server.requests) == 2


def test_answer_without_its_form_has_a_note(connect: Connect):
    connected = connect(answering("At noon.", logprobs={"content": [token("At noon.", -1.0)]}))
    backbone = backbone_of(connected)
    answer = backbone.generate([prompt_of(backbone)], [FORM], GREEDY)[0]
    assert answer.text == "At noon."
    assert answer.notes == ("the server does not keep the form of answers, so the answer was read as free text",)
    assert len(connected.server.requests) == 3  # two spellings, then no form
    backbone.generate([prompt_of(backbone)], [FORM], GREEDY)
    assert len(connected.server.requests) == 4  # it is remembered


def test_a_text_that_is_too_long_changes_no_later_request(connect: Connect):
    def answer(body):
        question = texts_of(Recorded("", {}, body))[-1]
        return refusal("maximum context length is 100 tokens") if len(question) > 99 else answering()

    connected = connect(answer)
    backbone = backbone_of(connected)
    with pytest.raises(EndpointError, match="the request is too large"):
        backbone.generate([prompt_of(backbone, question=Question("x" * 100))], [None], GREEDY)
    (answer,) = backbone.generate([prompt_of(backbone)], [None], GREEDY)
    assert not any("refuses larger requests" in note for note in answer.notes)
    assert len(pictures_of(connected.server.requests[-1].body)) == len(IRREGULAR)


@pytest.mark.parametrize("schema", ["[1", "[1]", "3"])
def test_a_schema_that_is_no_object_is_refused(connect: Connect, schema):
    backbone = backbone_of(connect(answering()))
    with pytest.raises(ValueError, match="json_schema must be the text of a JSON object, got"):
        backbone.generate([prompt_of(backbone)], [json_form(schema)], replace(GREEDY, json_schema=schema))


def test_answers_keep_the_order_of_their_prompts(connect: Connect):
    connected = connect(lambda body: answering(f"{len(pictures_of(body))} pictures"))
    backbone = backbone_of(connected)
    prompts = [prompt_of(backbone, gray_frames([float(i) for i in range(number)])) for number in (3, 1, 2, 5, 4)]
    answers = backbone.generate(prompts, [None] * 5, GREEDY, window_numbers=range(5))
    assert [answer.text for answer in answers] == [f"{number} pictures" for number in (3, 1, 2, 5, 4)]


def test_text_is_shown_while_it_is_written_and_can_be_stopped(connect: Connect):
    connected = connect(streaming(chunks("A dog", " runs", " away.")))
    backbone = backbone_of(connected)
    shown: list[str] = []
    answer = backbone.generate([prompt_of(backbone)], [None], GREEDY, on_text=shown.append)[0]
    assert (shown, answer.text) == (["A dog", " runs", " away."], "A dog runs away.")
    shown.clear()
    stopped = backbone.generate(
        [prompt_of(backbone)], [None], GREEDY, on_text=shown.append, should_stop=lambda: len(shown) == 2
    )[0]
    assert (shown, stopped.text) == (["A dog", " runs"], "A dog runs")


# ------------------------------------------------------------------------------------------ many requests


def test_requests_run_at_the_same_time_up_to_the_limit(connect: Connect):
    two_arrived = threading.Barrier(2, timeout=5)

    def answer(_):
        two_arrived.wait()  # fails if requests come one by one
        return answering()

    connected = connect(answer, limits=RequestLimits(max_concurrent=2, timeout=20))
    backbone = backbone_of(connected)
    assert len(backbone.generate([prompt_of(backbone)] * 6, [None] * 6, GREEDY)) == 6
    assert connected.server.max_at_once == 2


def test_first_error_ends_the_other_requests(connect: Connect):
    connected = connect(Reply(hangs=True), Reply(hangs=True), refusal("no", 403))
    backbone = backbone_of(connected)
    began = time.monotonic()
    with pytest.raises(EndpointError) as caught:
        backbone.generate([prompt_of(backbone)] * 20, [None] * 20, GREEDY)
    assert caught.value.reason == "bad_key"
    assert time.monotonic() - began < 10  # the hanging requests last 20 s
    assert len(connected.server.requests) <= 6


def test_cancelled_job_sends_no_more_requests(connect: Connect):
    class Cancelled(Exception):  # noqa: N818
        pass

    connected = connect(Reply(hangs=True))

    def check():
        if len(connected.server.requests) >= 2:
            raise Cancelled

    shared = backbone_of(connected)
    backbone = shared.with_check(check)
    with pytest.raises(Cancelled):
        backbone.generate([prompt_of(shared)] * 20, [None] * 20, GREEDY)
    assert len(connected.server.requests) <= 4
    assert shared.check() is None


def test_temporary_failures_are_retried(connect: Connect):
    connected = connect(Reply(429, headers={"Retry-After": "3"}), Reply(503, headers={"Retry-After": "1"}), answering())
    backbone = backbone_of(connected)
    assert backbone.generate([prompt_of(backbone)], [None], GREEDY)[0].text == "Yes."
    assert connected.waits == [3.0, 1.0]


# ------------------------------------------------------------------------------------------ sizes


def refusing_above(max_side, max_pictures):
    def answer(body):
        pictures = pictures_of(body)
        if max(max(picture.size) for picture in pictures) > max_side or len(pictures) > max_pictures:
            return refusal("This model's maximum context length is 4096 tokens.")
        return answering()

    return answer


def test_pictures_are_halved_until_the_request_fits(connect: Connect):
    connected = connect(refusing_above(200, 3))
    backbone = backbone_of(connected)
    prompt = prompt_of(backbone, gray_frames(IRREGULAR, 288, 512))
    answer = backbone.generate([prompt], [None], GREEDY)[0]
    sizes = [
        (pictures_of(request.body)[0].size, len(pictures_of(request.body))) for request in connected.server.requests
    ]
    assert sizes == [((512, 288), 5), ((256, 144), 5), ((128, 72), 5), ((112, 63), 5), ((112, 63), 2)]
    assert texts_of(connected.server.requests[-1]) == ["<0.0 seconds>", "<10.0 seconds>", "When?"]
    note = "at most 2 frames of each window in pictures of at most 112 pixels a side were sent"
    assert f"the server refuses larger requests, so {note}" in answer.notes
    backbone.generate([prompt], [None], GREEDY)
    assert len(connected.server.requests) == 6  # the limits are remembered


def test_stated_number_of_pictures_is_sent_next(connect: Connect):
    def answer(body):
        if len(pictures_of(body)) > 3:
            return refusal("At most 3 image(s) may be provided in one prompt.")
        return answering()

    connected = connect(answer)
    backbone = backbone_of(connected)
    answers = backbone.generate([prompt_of(backbone)], [None], GREEDY)
    assert [len(pictures_of(request.body)) for request in connected.server.requests] == [5, 3]
    assert texts_of(connected.server.requests[1])[:-1] == ["<0.0 seconds>", "<3.0 seconds>", "<10.0 seconds>"]
    assert answers[0].notes[0] == "the server refuses larger requests, so at most 3 frames of each window were sent"


def test_request_that_never_fits_is_an_error(connect: Connect):
    connected = connect(refusing_above(0, 0))
    backbone = backbone_of(connected)
    with pytest.raises(EndpointError, match="the request is too large"):
        backbone.generate([prompt_of(backbone)], [None], GREEDY)
    assert [len(pictures_of(request.body)) for request in connected.server.requests] == [5, 2, 1]


def test_answer_longer_than_the_context_is_refused(connect: Connect):
    connected = connect(answering())
    connected.server.contexts = {"tiny": 60}
    backbone = backbone_of(connected)
    assert backbone.config.context == 60
    with pytest.raises(PromptTooLongError, match=r"may have 60 tokens, but the model of .* takes 60 tokens"):
        prompt_of(backbone)


# ------------------------------------------------------------------------------------------ costs


def test_plan_costs_one_request_and_is_what_is_sent_then(connect: Connect):
    connected = connect(answering("12."))
    backbone = backbone_of(connected)
    frames, decoding = gray_frames(IRREGULAR), replace(GREEDY, max_new_tokens=60)
    costs = [backbone.measure(frames, 10.0, QUESTION, FORM, decoding, 24) for _ in range(3)]
    assert [request.body["max_tokens"] for request in connected.server.requests] == [1]
    assert (costs[0].requests, costs[0].prompt_tokens, costs[0].answer_tokens) == (1, 7, 24)
    backbone.generate([prompt_of(backbone, frames)], [FORM], decoding)
    sent = connected.server.requests[1]
    assert sent.body["max_tokens"] == 60
    assert {cost.num_bytes for cost in costs} == {int(sent.headers["Content-Length"])}
    backbone.measure(gray_frames([0.0, 1.0]), 10.0, QUESTION, FORM, decoding, 24)
    assert len(connected.server.requests) == 3  # another number of frames


def test_plan_counts_the_pictures_that_the_server_takes(connect: Connect):
    connected = connect(refusing_above(200, 9))
    backbone = backbone_of(connected)
    frames = gray_frames(IRREGULAR, 288, 512)
    cost = backbone.measure(frames, 10.0, QUESTION, None, GREEDY, 24)
    backbone.generate([prompt_of(backbone, frames)], [None], GREEDY)
    assert cost.num_bytes == int(connected.server.requests[-1].headers["Content-Length"])


def test_plan_without_token_counts_has_no_tokens(connect: Connect):
    connected = connect(refusal("max_tokens must be at least 16"))
    cost = backbone_of(connected).measure(gray_frames([0.0]), 1.0, QUESTION, None, GREEDY, 24)
    assert (cost.requests, cost.prompt_tokens) == (1, None)


# ------------------------------------------------------------------------------------------ identity and secrets


def test_config_has_the_habits_of_the_model(connect: Connect):
    connected = connect(answering(), models=("TimeLens2-4B",), model=None)
    connected.server.contexts = {"TimeLens2-4B": 32768}
    config = backbone_of(connected).config
    assert (config.rate.fps, config.rate.max_frames, config.window_seconds, config.context) == (2.0, 128, 64.0, 32768)
    assert (config.found_threshold, config.privacy_note) == (0.0, None)
    assert backbone_of(connected, fps=0.5).config.rate.fps == 0.5
    assert backbone_of(connected).name == "TimeLens2-4B"
    assert connected.server.num_lists == 1


def test_server_elsewhere_has_a_privacy_note(connect: Connect):
    connected = connect(answering())
    connected.client.address = replace(connected.address, host="models.example")  # requests go to the stub
    assert backbone_of(connected).config.privacy_note == (
        "Frames of the video (not the file, not the sound), your question, and the transcript if you give one leave "
        "this machine to models.example, without encryption."
    )


def test_facts_change_with_everything_that_is_sent(connect: Connect):
    connected = connect(answering())
    facts = [
        json.dumps(backbone_of(connected, **options).facts("answer"), sort_keys=True)
        for options in (
            {},
            {"pictures": PictureFormat(448)},
            {"pictures": PictureFormat(quality=70)},
            {"wording": "{clock} "},
            {"placement": "in one sentence"},
            {"native_video": True},
            {"verify": True},
        )
    ]
    assert len(set(facts)) == len(facts)
    assert json.loads(facts[0]) == {
        "base_url": connected.address.base_url,
        "model": "tiny",
        "max_side": 512,
        "quality": 85,
        "wording": "<{time:.1f} seconds>",
        "placement": "before each",
        "native_video": False,
        "verify": False,
        "request_version": 1,
        "form_version": 1,
    }
    assert backbone_of(connected).facts("video") == {"max_side": 512, "quality": 85}


def test_key_is_in_no_error_log_fact_or_name(connect: Connect, caplog):
    caplog.set_level(logging.DEBUG)
    connected = connect(refusal(f"the key {SECRET} may not do this", 403))
    backbone = backbone_of(connected)
    with pytest.raises(EndpointError) as caught:
        backbone.generate([prompt_of(backbone)], [None], GREEDY)
    texts = [str(caught.value), repr(caught.value), caught.value.detail, repr(backbone), backbone.name, caplog.text]
    texts += [json.dumps(backbone.facts("answer")), repr(backbone.config)]
    assert [text for text in texts if SECRET in text or re.search("base64,[A-Za-z0-9]", text)] == []
    assert connected.server.requests[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr(KEY)


def test_content_of_a_window_is_not_kept_on_disk(connect: Connect):
    backbone = backbone_of(connect(answering()))
    content, _ = backbone.encode(gray_frames([0.0]))
    assert backbone.pack(content) is None
    assert backbone.verify([], [], preset="timechat@1") is None
    with pytest.raises(ValueError, match="the pictures of an endpoint are not kept on the disk"):
        backbone.unpack({})


def test_encoding_reports_progress_and_can_be_cancelled(connect: Connect):
    backbone = backbone_of(connect(answering()))
    reports: list[tuple[int, int]] = []
    backbone.encode(gray_frames(IRREGULAR), progress=lambda done, total: reports.append((done, total)))
    assert reports == [(5, 5)]

    def check():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        backbone.with_check(check).encode(gray_frames(IRREGULAR))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wording": "Frame:"}, "the wording of a time must contain"),
        ({"max_frames": 0}, "max_frames must be at least 1, got 0"),
        ({"fps": 0.0}, r"fps must be above 0, got 0\.0"),
        ({"window_seconds": -1.0}, r"window_seconds must be above 0, got -1\.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EndpointOptions(**options)


# ------------------------------------------------------------------------------------------ loading


def test_loading_asks_for_the_list_of_models_with_the_key(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    with StubServer(answering()) as server:
        backbone: Backbone = load_endpoint(server.url, settings=EndpointSettings("MY_KEY"))
        assert (backbone.name, server.num_lists, server.requests) == ("tiny", 1, [])
        backbone.generate([prompt_of(backbone)], [None], GREEDY)
        backbone.close()
        assert server.requests[0].headers["Authorization"] == f"Bearer {SECRET}"


def test_named_model_needs_no_list(connect: Connect):
    with StubServer(answering()) as server:
        server.models = ()
        backbone = load_endpoint(f"{server.url}#other")
        assert (backbone.name, backbone.config.context) == ("other", None)
        backbone.close()


def test_wrong_address_is_an_error_at_once():
    with pytest.raises(EndpointError, match="cannot be reached"):
        load_endpoint("http://127.0.0.1:9/v1#tiny")
    with pytest.raises(ValueError, match="the address of an endpoint cannot be read"):
        load_endpoint("http:///v1")


def test_several_models_need_a_name_in_the_address():
    with StubServer(answering(), models=("a", "b")) as server, pytest.raises(EndpointError, match="has 2 models"):
        load_endpoint(server.url)
