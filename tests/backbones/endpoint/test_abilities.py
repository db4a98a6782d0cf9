"""What a server can do, learned from its refusals and from answers without their form."""

import re
import threading
from dataclasses import replace

import pytest

from tests.backbones.endpoint.conftest import Connect
from tests.backbones.endpoint.stub import Reply, answering, chunks, completion, refusal, streaming
from timechat.answers.forms import AnswerForm
from timechat.backbones.endpoint.abilities import (
    CompletionRequest,
    complete,
    complete_streamed,
    known_abilities,
)
from timechat.backbones.endpoint.pictures import stated_picture_limit
from timechat.errors import EndpointError

FORM = AnswerForm(r"[0-9]{1,3}", {"type": "object"})
MESSAGES = ({"role": "user", "content": "When?"},)
OPTIONAL = {
    *("structured_outputs", "guided_regex", "response_format", "logprobs", "top_logprobs", "chat_template_kwargs"),
    *("media_io_kwargs", "stream_options", "seed", "temperature", "max_tokens", "max_completion_tokens"),
    *("top_p", "top_k"),
}


def asked(**fields):
    return CompletionRequest(MESSAGES, 50, **fields)


def sent(connected):
    """The optional fields of each request."""
    return [OPTIONAL & set(request.body) for request in connected.server.requests]


def refusing(*names, message="Unrecognized request argument supplied: {}", content="12"):
    """A server that refuses fields, one at a time."""

    def answer(body):
        refused = next((name for name in names if name in body), None)
        return answering(content) if refused is None else refusal(message.format(refused))

    return answer


BASIC = {"temperature", "max_tokens", "chat_template_kwargs"}


def test_first_request_has_the_best_spelling_of_each_field(connect: Connect):
    connected = connect(answering("12"))
    answer = complete(connected.client, asked(form=FORM, top_logprobs=5, seed=3))
    assert (answer.text, answer.form) == ("12", "structured_outputs")
    assert connected.server.requests[0].body == {
        "model": "tiny",
        "messages": list(MESSAGES),
        "structured_outputs": {"regex": "[0-9]{1,3}"},
        "logprobs": True,
        "top_logprobs": 5,
        "chat_template_kwargs": {"enable_thinking": False},
        "seed": 3,
        "temperature": 0.0,
        "max_tokens": 50,
    }


def test_plain_question_has_no_field_that_it_does_not_need(connect: Connect):
    connected = connect(answering())
    complete(connected.client, asked(thinks=True))
    assert sent(connected) == [{"temperature", "max_tokens"}]


@pytest.mark.parametrize(
    ("refused", "last_fields", "form"),
    [
        (["structured_outputs"], {"guided_regex"}, "guided_regex"),
        (["structured_outputs", "guided_regex"], {"response_format"}, "response_format"),
        (["structured_outputs", "guided_regex", "response_format"], set(), None),
    ],
)
def test_refused_form_gets_its_next_spelling(connect: Connect, refused, last_fields, form):
    connected = connect(refusing(*refused, content="{}" if form == "response_format" else "12"))
    assert complete(connected.client, asked(form=FORM)).form == form
    assert len(connected.server.requests) == len(refused) + 1
    assert sent(connected)[-1] == BASIC | last_fields
    complete(connected.client, asked(form=FORM))  # the next request is right at once
    assert len(connected.server.requests) == len(refused) + 2
    assert sent(connected)[-1] == BASIC | last_fields


@pytest.mark.parametrize(
    ("refused", "request_fields", "left"),
    [
        ("top_logprobs", {"top_logprobs": 20}, BASIC | {"logprobs"}),
        ("logprobs", {"top_logprobs": 20}, BASIC),
        ("logprobs", {"top_logprobs": 0}, BASIC),
        ("chat_template_kwargs", {}, BASIC - {"chat_template_kwargs"}),
        ("seed", {"seed": 1}, BASIC),
        ("temperature", {}, BASIC - {"temperature"}),
        ("max_tokens", {}, BASIC - {"max_tokens"} | {"max_completion_tokens"}),
    ],
)
def test_other_refused_fields_are_left_out(connect: Connect, refused, request_fields, left):
    connected = connect(refusing(refused))
    complete(connected.client, asked(**request_fields))
    num_first = len(connected.server.requests)
    complete(connected.client, asked(**request_fields))
    assert sent(connected)[-1] == left
    assert len(connected.server.requests) == num_first + 1


def test_refusals_of_fastapi_name_all_fields_at_once(connect: Connect):
    def answer(body):
        extra = [name for name in ("structured_outputs", "logprobs", "chat_template_kwargs") if name in body]
        detail = [
            {"type": "extra_forbidden", "loc": ["body", n], "msg": "Extra inputs are not permitted"} for n in extra
        ]
        return Reply(422, {"detail": detail}) if extra else answering("12")

    connected = connect(answer)
    assert complete(connected.client, asked(form=FORM, top_logprobs=0)).form == "guided_regex"
    assert len(connected.server.requests) == 2


def test_refusal_without_a_name_costs_only_the_refused_field(connect: Connect):
    connected = connect(refusing("logprobs", message="bad request"))
    assert complete(connected.client, asked(form=FORM, top_logprobs=0)).form == "structured_outputs"
    assert sent(connected)[-1] == BASIC | {"structured_outputs"}
    complete(connected.client, asked(form=FORM, top_logprobs=0))
    assert sent(connected)[-1] == BASIC | {"structured_outputs"}
    assert known_abilities(connected.address.base_url, "tiny").missing == ("logprobs",)


def test_server_that_takes_nothing_gets_a_plain_request(connect: Connect):
    fields = ("structured_outputs", "guided_regex", "response_format", "logprobs", "chat_template_kwargs")
    connected = connect(refusing(*fields, message="bad request"))
    assert complete(connected.client, asked(form=FORM, top_logprobs=2)).form is None
    assert sent(connected)[-1] == {"temperature", "max_tokens"}
    num_first = len(connected.server.requests)
    complete(connected.client, asked(form=FORM, top_logprobs=2))
    assert len(connected.server.requests) == num_first + 1
    missing = known_abilities(connected.address.base_url, "tiny").missing
    assert missing == ("regex", "json_schema", "logprobs", "thinking")


def test_request_that_is_wrong_in_itself_teaches_nothing(connect: Connect):
    connected = connect(refusal("the logprobs are fine, the picture is not"))
    with pytest.raises(EndpointError, match="the picture is not"):
        complete(connected.client, asked(form=FORM, top_logprobs=0))
    assert known_abilities(connected.address.base_url, "tiny").levels() == {}


def test_limit_of_tokens_is_never_left_out(connect: Connect):
    connected = connect(refusing("max_tokens", "max_completion_tokens"))
    with pytest.raises(EndpointError, match="max_completion_tokens"):
        complete(connected.client, asked())
    assert all({"max_tokens", "max_completion_tokens"} & fields for fields in sent(connected))


def test_field_that_is_ignored_gets_its_next_spelling(connect: Connect):
    def answer(body):
        return answering("12" if "guided_regex" in body else "At about twelve seconds.")

    connected = connect(answer)
    answered = complete(connected.client, asked(form=FORM))
    assert (answered.text, answered.form) == ("12", "guided_regex")
    complete(connected.client, asked(form=FORM))
    assert len(connected.server.requests) == 3


def test_server_that_ignores_all_forms_gives_its_answer(connect: Connect):
    connected = connect(answering("At about twelve seconds."))
    answered = complete(connected.client, asked(form=FORM))
    assert (answered.text, answered.form) == ("At about twelve seconds.", None)
    assert len(connected.server.requests) == 4
    assert sent(connected)[-1] == BASIC


def test_answer_that_was_cut_says_nothing_about_its_form(connect: Connect):
    connected = connect(answering("12 and", finish_reason="length"))
    answered = complete(connected.client, asked(form=FORM))
    assert (answered.form, answered.was_cut) == ("structured_outputs", True)
    assert len(connected.server.requests) == 1


def test_server_that_ignores_log_probabilities_gives_none(connect: Connect):
    connected = connect(answering("Yes.", logprobs=None))
    assert complete(connected.client, asked(top_logprobs=5)).tokens == ()
    assert len(connected.server.requests) == 1


def test_schema_is_sent_where_the_form_has_no_regex(connect: Connect):
    connected = connect(answering('{"a": 1}'))
    assert complete(connected.client, asked(form=AnswerForm(None, {"type": "object"}))).form == "response_format"
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert connected.server.requests[0].body["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_native_video_falls_back_to_pictures(connect: Connect):
    video = [{"role": "user", "content": "video"}]
    connected = connect(refusing("media_io_kwargs", message="Per-request {} are disabled by default"))
    for _ in range(2):
        complete(connected.client, asked(native_video=(video, {"video": {"fps": 1000}})))
    bodies = [request.body for request in connected.server.requests]
    assert [body["messages"] for body in bodies] == [video, list(MESSAGES), list(MESSAGES)]
    assert bodies[0]["media_io_kwargs"] == {"video": {"fps": 1000}}


def test_two_models_of_a_server_are_learned_apart(connect: Connect):
    connected = connect(refusing("logprobs"))
    complete(connected.client, asked(top_logprobs=0))
    assert known_abilities(connected.address.base_url, "tiny").missing == ("logprobs",)
    assert known_abilities(connected.address.base_url, "other").missing == ()


def test_two_threads_learn_the_same(connect: Connect):
    connected = connect(refusing("structured_outputs", "logprobs"))
    threads = [
        threading.Thread(target=complete, args=(connected.client, asked(form=FORM, top_logprobs=1))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    levels = known_abilities(connected.address.base_url, "tiny").levels()
    assert levels == {"regex": 1, "logprobs": 2}


def test_streamed_answer_equals_the_one_at_once(connect: Connect):
    parts = [*chunks("1", "2"), {"choices": [], "usage": completion()["usage"]}]
    parts[0]["system_fingerprint"] = "fp_1"
    connected = connect(refusing("structured_outputs"))
    at_once = complete(connected.client, asked(form=FORM))
    streamed = connect(refusal("what is stream_options?"), streaming(parts))
    shown: list[str] = []
    assert complete_streamed(streamed.client, asked(form=AnswerForm("12")), shown.append).form == "structured_outputs"
    assert shown == ["1", "2"]
    again = connect(streaming(parts))
    assert complete_streamed(again.client, asked(form=FORM), shown.append) == replace(
        at_once, form="structured_outputs"
    )
    assert again.server.requests[0].body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in streamed.server.requests[1].body


def test_streamed_answer_without_its_form_is_kept(connect: Connect):
    connected = connect(streaming(chunks("no")), streaming(chunks("12")))
    shown: list[str] = []
    assert complete_streamed(connected.client, asked(form=FORM), shown.append).form is None
    assert complete_streamed(connected.client, asked(form=FORM), shown.append).form == "guided_regex"
    assert shown == ["no", "12"]


def test_response_without_an_answer_is_named(connect: Connect):
    connected = connect(Reply(body={"choices": []}))
    with pytest.raises(EndpointError, match=re.escape("the response has no choices with a message")) as caught:
        complete(connected.client, asked())
    assert caught.value.reason == "bad_response"


def test_picture_limit_is_read_from_a_refusal(connect: Connect):
    connected = connect(refusal("At most 8 image(s) may be provided in one prompt."))
    with pytest.raises(EndpointError) as caught:
        complete(connected.client, asked(form=FORM))
    assert len(connected.server.requests) == 1  # it is no refusal of a field
    assert (caught.value.reason, stated_picture_limit(caught.value)) == ("too_large", 8)
    assert stated_picture_limit(EndpointError("no", "too_large", "too many tokens")) is None


# --------------------------------------------------------------------------------------- sampling and fixed fields


def test_sampling_fields_are_left_out_where_they_are_refused(connect: Connect):
    connected = connect(refusing("top_k", "top_p"))
    assert complete(connected.client, asked(temperature=0.7, top_p=0.9, top_k=50)).text == "12"
    assert sent(connected) == [BASIC | {"top_p", "top_k"}, BASIC | {"top_p"}, BASIC]
    assert known_abilities(connected.address.base_url, "tiny").missing == ("top_p", "top_k")


def test_fixed_fields_are_never_left_out(connect: Connect):
    connected = connect(refusing("repetition_penalty"))
    with pytest.raises(EndpointError, match="repetition_penalty"):
        complete(connected.client, asked(fixed={"repetition_penalty": 1.2}))
    assert [request.body["repetition_penalty"] for request in connected.server.requests] == [1.2]


def test_stream_ends_where_its_reader_has_enough(connect: Connect):
    connected = connect(streaming(chunks(*"abcdef")))
    shown: list[str] = []
    answer = complete_streamed(connected.client, asked(), shown.append, should_stop=lambda: len(shown) == 3)
    assert (answer.text, answer.finish_reason, shown) == ("abc", None, ["a", "b", "c"])
