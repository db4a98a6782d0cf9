"""`/v1/responses` by the official client."""

import json

import openai
import pytest

from timechat.serving.service import Service

QUESTION = "What happens in the video?"


@pytest.fixture(scope="module")
def client(running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def about(part: dict, text: str = QUESTION) -> list[dict]:
    return [{"role": "user", "content": [part, {"type": "input_text", "text": text}]}]


def video(url: str, **options) -> dict:
    return {"type": "input_video", "video_url": url, **options}


def chat_answer(client, film_id, **options):
    content = [{"type": "video_url", "video_url": {"url": film_id}}, {"type": "text", "text": QUESTION}]
    return client.chat.completions.create(model="nano", messages=[{"role": "user", "content": content}], **options)


def test_a_response_equals_the_chat_completion(client, film_id):
    completion = chat_answer(client, film_id)
    response = client.responses.create(model="nano", input=about(video(film_id)), metadata={"a": "b"})
    assert response.output_text == completion.choices[0].message.content
    assert (response.object, response.status, response.model) == ("response", "completed", "nano")
    assert (response.metadata, response.error, response.incomplete_details) == ({"a": "b"}, None, None)
    assert [item.type for item in response.output] == ["message"]
    assert response.timechat["events"] == completion.timechat["events"]
    usage = response.usage
    assert usage.input_tokens == completion.usage.prompt_tokens
    assert usage.output_tokens == completion.usage.completion_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.input_tokens_details.cached_tokens <= usage.input_tokens


def test_a_stream_has_the_events_of_openai_in_order(client, film_id):
    events = list(client.responses.create(model="nano", input=about(video(film_id)), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    num_deltas = kinds.count("output_text.delta")
    assert num_deltas > 1
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * num_deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response
    assert events[-4].text == text == last.output_text
    assert text.strip() == client.responses.create(model="nano", input=about(video(film_id))).output_text
    assert last.timechat["video"] == film_id
    assert last.usage.output_tokens > 1
    assert {event.response.id for event in (events[0], events[1], events[-1])} == {last.id}


def test_the_stream_helper_of_the_client_works(client, film_id):
    with client.responses.stream(model="nano", input=about(video(film_id))) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text


@pytest.mark.parametrize("key", ["video_url", "file_id"])
def test_a_video_is_named_in_every_format(client, film_id, uploaded, key):
    parts = {
        "video_url": [video(film_id), {"type": "input_video", "video_url": {"url": film_id}}],
        "file_id": [{"type": kind, "file_id": uploaded} for kind in ("input_video", "input_file")],
    }
    texts = [client.responses.create(model="nano", input=about(part)).output_text for part in parts[key]]
    assert texts[0] == texts[1] != ""


def test_chat_requests_take_input_video_too(client, film_id):
    content = [video(film_id, fps=1), {"type": "text", "text": QUESTION}]
    completion = client.chat.completions.create(model="nano", messages=[{"role": "user", "content": content}])
    assert completion.timechat["step"] == 1.0


def test_instructions_and_history_reach_the_model(client, film_id, monkeypatch):
    requests = []
    open_request = Service.open_request
    monkeypatch.setattr(Service, "open_request", lambda self, r, c: (requests.append(r), open_request(self, r, c))[1])
    first = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A ball."}]}
    turns = [*about(video(film_id), "What is there?"), first, {"role": "user", "content": "And when?"}]
    client.responses.create(model="nano", input=turns, instructions="Answer in one word.", max_output_tokens=4)
    request = requests[-1].request
    assert (request.system, request.query) == ("Answer in one word.", "And when?")
    assert list(request.history) == [("What is there?", "A ball.")]
    assert request.decoding.max_new_tokens == 4


def test_our_fields_are_taken_at_the_top_level(client, film_id):
    fields = {"task": "grounding", "threshold": 1.0, "fps": 1}
    response = client.responses.create(model="nano", input=about(video(film_id), "the red ball"), extra_body=fields)
    assert (response.timechat["task"], response.timechat["step"]) == ("grounding", 1.0)
    assert (response.timechat["found"], response.timechat["events"]) == (False, [])  # no score reaches the threshold


def test_a_truncated_response_is_incomplete(client, film_id):
    options = {"model": "nano", "input": about(video(film_id)), "max_output_tokens": 2}
    response = client.responses.create(**options)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.output_tokens == 2
    last = list(client.responses.create(**options, stream=True))[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")


def test_a_response_follows_its_json_schema(client, film_id):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "seen", "schema": schema, "strict": True}}
    response = client.responses.create(model="nano", input=about(video(film_id)), text=text)
    assert json.loads(response.output_text)["colour"] in ("red", "green", "blue")
    assert response.text.format.schema_ == schema


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "hello"}, "no message holds a video"),
        ({"previous_response_id": "resp_1"}, "previous_response_id is not offered"),
        ({"background": True}, "background is not offered"),
        ({"tools": [{"type": "function", "name": "x", "parameters": {}, "strict": True}]}, "tools is not offered"),
        ({"include": ["message.output_text.logprobs"]}, "log probabilities are offered by /v1/chat/completions only"),
        ({"extra_body": {"logprobs": True}}, "log probabilities are offered by /v1/chat/completions only"),
        ({"extra_body": {"guided_regex": "a"}}, "guided_regex is not offered"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference' are not accepted"),
        ({"input": about({"type": "input_video"})}, "needs video_url, file_id"),
        ({"input": about({"type": "input_image", "image_url": "x"})}, "needs its time"),
        ({"temperature": 3}, "temperature"),
        ({"model": "gpt-9"}, "there is no model 'gpt-9' here"),
    ],
)
def test_unsupported_requests_get_clear_errors(client, film_id, options, message):
    with pytest.raises(openai.APIStatusError, match=message) as error:
        client.responses.create(**{"model": "nano", "input": about(video(film_id))} | options)
    assert error.value.status_code in (400, 404)


def test_a_late_error_is_an_event(client, film_id, monkeypatch):
    monkeypatch.setattr("timechat.serving.http.answering.OPEN_SECONDS", 0.0)
    events = list(client.responses.create(model="nano", input=about(video("film-0")), stream=True))
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.message == "there is no such video in the allowed folders"
