"""The official client, unchanged, against the real server."""

import base64
import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from PIL import Image

from tests.serving.conftest import serving
from timechat.files.cache import DiskCache
from timechat.pipeline import Request
from timechat.pipeline.window_answering import WindowAnswerer
from timechat.serving.http import ServerSettings
from timechat.serving.service import Service


@pytest.fixture(scope="module")
def client(running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def about(url: str, text: str = "What happens in the video?", **options) -> list[dict]:
    return [
        {
            "role": "user",
            "content": [{"type": "video_url", "video_url": {"url": url, **options}}, {"type": "text", "text": text}],
        }
    ]


def ask(client, messages, **options):
    return client.chat.completions.create(model="nano", messages=messages, **options)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").owned_by == "timechat"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9' here"):
        client.models.retrieve("gpt-9")


def test_an_answer_equals_that_of_the_pipeline(client, nano, films):
    path = films / "film.mp4"
    completion = ask(client, about(path.as_uri()))
    with nano.open(path) as video:
        expected = nano.run(Request("ask", "What happens in the video?"), video)
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert choice.finish_reason == "stop"
    assert completion.usage.completion_tokens > 1
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.timechat["events"] == [event.to_dict() for event in expected.events]


def test_a_stream_is_the_same_answer_in_pieces(client, film_id):
    whole = ask(client, about(film_id)).choices[0].message.content
    chunks = list(ask(client, about(film_id), stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 1
    assert "".join(pieces).strip() == whole
    assert chunks[-1].usage.completion_tokens > 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].timechat["video"] == film_id
    assert chunks[-2].timechat["timings"]["answer"] > 0


def test_fields_may_be_null_as_in_openai(client, film_id):
    names = ["stream", "stream_options", "stop", "seed", "temperature", "top_p", "n", "max_tokens", "response_format"]
    completion = ask(client, about(film_id), extra_body=dict.fromkeys(names))
    assert completion.choices[0].finish_reason


def test_one_upload_serves_many_questions(client, films):
    with (films / "film.mp4").open("rb") as file:
        stored = client.files.create(file=file, purpose="user_data")
    assert (stored.filename, stored.bytes) == ("film.mp4", (films / "film.mp4").stat().st_size)
    assert stored.id in [file.id for file in client.files.list()]
    assert client.files.retrieve(stored.id).video["width"] > 0
    part = {"type": "file", "file": {"file_id": stored.id}}
    for text in ("What is there?", "And then?"):
        completion = ask(client, [{"role": "user", "content": [part, {"type": "text", "text": text}]}])
        assert completion.choices[0].message.content
    assert client.files.content(stored.id).read() == (films / "film.mp4").read_bytes()
    assert client.files.delete(stored.id).deleted
    with pytest.raises(openai.NotFoundError, match="upload it first"):
        ask(client, about(stored.id))


def test_files_are_listed_page_by_page(client):
    everything = [file.id for file in client.files.list()]
    page = client.files.list(limit=1)
    assert [file.id for file in page.data] == everything[:1]
    assert [file.id for file in page] == everything  # which asks for the next pages
    assert [file.id for file in client.files.list(after=everything[0])] == everything[1:]
    with pytest.raises(openai.NotFoundError, match="to continue after"):
        client.files.list(after="file-0")


def test_a_conversation_has_a_history(client, film_id, nano, films):
    messages = about(film_id, "What is there?")
    first = ask(client, messages).choices[0].message.content
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "And when?"}]
    second = ask(client, messages).choices[0].message.content
    with nano.open(films / "film.mp4") as video:
        assert second == nano.run(Request("ask", "And when?", [("What is there?", first)]), video).text


def test_the_client_sets_the_system_prompt(client, film_id, monkeypatch):
    prompts = []
    prompt = WindowAnswerer.prompt
    monkeypatch.setattr(WindowAnswerer, "prompt", lambda self, q, e: (prompts.append(q), prompt(self, q, e))[1])
    ask(client, [{"role": "system", "content": "Answer in one word."}, *about(film_id, "Why?")])
    assert prompts[-1].system == "Answer in one word."
    assert prompts[-1].query == "Why?"


def test_data_addresses_are_accepted(client, films):
    path = films / "film.mp4"
    content = base64.b64encode(path.read_bytes()).decode()
    completion = ask(client, about(f"data:video/mp4;base64,{content}"))
    assert completion.choices[0].message.content == ask(client, about(path.as_uri())).choices[0].message.content
    assert completion.timechat["video"] == "data:video/mp4"


def test_frames_with_times_are_accepted_in_every_format(client):
    pictures = []
    for shade in range(6):
        content = io.BytesIO()
        Image.new("RGB", (64, 48), (40 * shade, 0, 0)).save(content, "JPEG")
        pictures.append(base64.b64encode(content.getvalue()).decode())
    urls = [f"data:image/jpeg;base64,{picture}" for picture in pictures]
    times = [0.5 * i for i in range(6)]
    text = {"type": "text", "text": "What happens?"}
    ours = {
        "type": "frames",
        "frames": [{"url": u, "time": t} for u, t in zip(urls, times, strict=True)],
        "duration": 3.0,
    }
    qwen = {"type": "video", "video": urls, "fps": 2, "duration": 3.0}
    vllm = {
        "type": "video_url",
        "video_url": {"url": f"data:video/jpeg;base64,{','.join(pictures)}"},
        "timestamps": times,
    }
    vllm["video_url"]["duration"] = 3.0
    answers = [ask(client, [{"role": "user", "content": [part, text]}]) for part in (ours, qwen, vllm)]
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert {answer.timechat["duration"] for answer in answers} == {3.0}


def test_one_image_with_a_duration_is_a_video(client):
    content = io.BytesIO()
    Image.new("RGB", (64, 48)).save(content, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"

    def duration(**options):
        part = {"type": "video", "video": [url], **options}
        content = [part, {"type": "text", "text": "What happens?"}]
        return ask(client, [{"role": "user", "content": content}]).timechat["duration"]

    assert duration(fps=2) == 0.5
    assert duration(timestamps=[0], duration=3) == 3
    with pytest.raises(openai.BadRequestError, match="have no duration") as error:
        duration(timestamps=[0])
    assert error.value.param == "duration"
    with pytest.raises(openai.UnprocessableEntityError, match=r"frames: ends at 0\.500 s, before the start at 1 s"):
        duration(fps=2, start=1)


def test_frame_options_stand_beside_the_video_or_in_the_request(client, film_id, running):
    def steps(messages, **options):
        return ask(client, messages, **options).timechat["step"]

    assert steps(about(film_id)) == 0.5
    assert steps(about(film_id, fps=1)) == 1.0
    assert steps(about(film_id, fps=1, num_frames=-1, max_frames=-1)) == 1.0
    assert steps(about(film_id), extra_body={"mm_processor_kwargs": {"fps": 1}}) == 1.0
    assert steps(about(film_id), extra_body={"media_io_kwargs": {"video": {"fps": 1}}}) == 1.0
    assert steps(about(film_id, fps=1), extra_body={"mm_processor_kwargs": {"fps": 4}}) == 1.0
    duration = ask(client, about(film_id)).timechat["duration"]
    assert steps(about(film_id), extra_body={"media_io_kwargs": {"video": {"num_frames": 8}}}) == pytest.approx(
        duration / 8
    )
    assert steps(about(film_id, start=2.0, end=6.0, fps=1, max_frames=2)) == 2.0


def test_frame_options_of_the_request_have_lowest_priority(client, film_id):
    def step(messages, **fields):
        return ask(client, messages, extra_body=fields).timechat["step"]

    assert step(about(film_id), fps=1) == 1.0
    assert step(about(film_id), fps=1, num_frames=None) == 1.0
    assert step(about(film_id, fps=4), fps=1) == 0.25
    assert step(about(film_id), fps=1, mm_processor_kwargs={"fps": 4}) == 0.25
    duration = ask(client, about(film_id)).timechat["duration"]
    assert step(about(film_id, num_frames=8), fps=1) == pytest.approx(duration / 8)
    assert step(about(film_id, fps=1), num_frames=8) == 1.0
    assert step(about(film_id), start=2.0, end=6.0, fps=1, max_frames=2) == 2.0


def test_neutral_values_of_unsupported_fields_are_accepted(client, film_id):
    fields = {
        "guided_json": None,
        "min_p": 0.0,
        "best_of": 1,
        "num_beams": 1,
        "min_tokens": 0,
        "repetition_penalty": 1,
        "length_penalty": 1.0,
        "stop_token_ids": [],
        "user": "me",
    }
    assert ask(client, about(film_id), max_tokens=4, extra_body=fields).choices[0].finish_reason


def test_penalty_and_minimum_length_change_the_answer(client, film_id):
    fields = {"repetition_penalty": 2.0, "min_tokens": 20}
    found = ask(client, about(film_id), max_tokens=24, temperature=0, extra_body=fields)
    usual = ask(client, about(film_id), max_tokens=24, temperature=0)
    assert found.choices[0].message.content != usual.choices[0].message.content
    assert found.usage.completion_tokens >= 20


def test_a_transcript_is_part_of_the_prompt(client, film_id, monkeypatch):
    spoken = []
    prompt = WindowAnswerer.prompt

    def noted(self, request, encoded):
        spoken.append(request.transcript)
        return prompt(self, request, encoded)

    monkeypatch.setattr(WindowAnswerer, "prompt", noted)
    lines = [{"start": 1.0, "end": 2.0, "text": "look at the red ball"}]
    ask(client, about(film_id, transcript=lines))
    ask(client, about(film_id, transcript="1\n00:00:01,000 --> 00:00:02,000\nlook at the red ball\n"))
    assert [(line.start, line.end, line.caption) for line in spoken[0]] == [(1.0, 2.0, "look at the red ball")]
    assert spoken[1] == spoken[0]


def test_a_chat_request_can_name_a_task(client, film_id):
    completion = ask(client, about(film_id, "the red ball"), extra_body={"task": "grounding", "threshold": 0.0})
    told = completion.timechat
    assert (told["task"], told["question"]) == ("grounding", "the red ball")
    captions = ask(client, about(film_id, "x"), extra_body={"task": "dense_caption"}, max_tokens=150)
    assert captions.timechat["events"]


def test_an_answer_follows_its_json_schema(client, film_id):
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green", "blue"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema, "strict": True}}
    completion = ask(client, about(film_id), response_format=form, max_tokens=60)
    told = json.loads(completion.choices[0].message.content)
    assert set(told) == {"colour", "count"}
    assert told["colour"] in ("red", "green", "blue")
    assert isinstance(told["count"], int)
    streamed = ask(client, about(film_id), response_format=form, max_tokens=60, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert json.loads(text) == told


# Compiling this one takes minutes.
_SLOW = {
    "type": "string",
    "allOf": [{"pattern": f"a.{{{number}}}b"} for number in range(20, 40)],
}
_ENDLESS = {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "required": ["x"]}


_REFUSED = [{"type": "no such type"}, {"$defs": {"x": _ENDLESS}, "$ref": "#/$defs/x"}, _SLOW]


@pytest.mark.parametrize("schema", _REFUSED, ids=["unknown type", "endless", "slow to compile"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}], ids=["greedy", "sampled"])
def test_a_schema_that_cannot_be_followed_is_refused(client, film_id, schema, options):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=r"grammar of the answer|JSON schema"):
        ask(client, about(film_id), response_format=form, **options)


def test_a_truncated_answer_has_the_finish_reason_length(client, film_id):
    completion = ask(client, about(film_id), max_tokens=2)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 2


def test_a_long_answer_is_limited_and_the_answer_says_so(nano, films, tmp_path):
    settings = ServerSettings(data=tmp_path / "own", folders=(films,), max_new_tokens=3)
    note = "the request allows 5000 tokens for an answer; this server allows 3, which were used"
    with serving(nano, settings) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        url = (films / "film.mp4").as_uri()
        completion = ask(client, about(url), max_tokens=5000)
        chunks = list(ask(client, about(url), max_tokens=5000, stream=True))
        route = running.client.post("/v1/captions", json={"video": url, "max_new_tokens": 5000}).json()
    assert (completion.usage.completion_tokens, completion.choices[0].finish_reason) == (3, "length")
    for answer in (completion.timechat, chunks[-1].timechat, route):
        assert answer["notes"][-1] == note


def test_without_a_seed_a_sampled_answer_is_random(client, film_id, running, monkeypatch):
    seeds = []
    answer = Service.open_request

    def kept(self, request, context):
        seeds.append(request.request.decoding.seed)
        return answer(self, request, context)

    monkeypatch.setattr(Service, "open_request", kept)
    for seed in (None, None, 7):
        ask(client, about(film_id), temperature=1.5, max_tokens=2, seed=seed)
    assert seeds[0] != seeds[1]
    assert seeds[2] == 7


def test_a_stream_opens_with_comments_while_the_work_waits(running, film_id, held_requests):
    body = {"messages": about(film_id), "stream": True, "max_tokens": 4}
    with running.client.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": still at work"
        seen = []
        while len(seen) < 2:
            if (line := next(lines)).startswith(":"):
                seen.append(line)
        held_requests.set()
        rest = [line for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def test_an_answer_ends_at_a_stop(client, film_id):
    whole = ask(client, about(film_id)).choices[0].message.content
    stop = whole[6:9]
    assert ask(client, about(film_id), stop=[stop]).choices[0].message.content == whole[: whole.index(stop)]
    chunks = ask(client, about(film_id), stop=stop, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole[: whole.index(stop)]


def test_a_stop_text_ends_generation_with_and_without_streaming(client, film_id):
    whole = ask(client, about(film_id)).choices[0].message.content
    options = {"stop": [whole[6:9]], "max_tokens": 12}
    at_once = ask(client, about(film_id), **options)
    chunks = list(ask(client, about(film_id), **options, stream=True, stream_options={"include_usage": True}))
    assert at_once.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "stop"
    assert at_once.usage.completion_tokens < 12
    assert abs(at_once.usage.completion_tokens - chunks[-1].usage.completion_tokens) <= 2


def test_a_cached_answer_is_the_same(nano, films, tmp_path):
    cached = copy.copy(nano)
    cached.cache = DiskCache(tmp_path / "cache", 10**9)
    with serving(cached, ServerSettings(data=tmp_path / "own", folders=(films,))) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        messages = about((films / "film.mp4").as_uri())
        first, second = (ask(client, messages, max_tokens=3) for _ in range(2))
        assert running.server.service.engine.state.tokens == 3
    assert first.choices[0].finish_reason == second.choices[0].finish_reason == "length"
    assert first.usage.completion_tokens == second.usage.completion_tokens == 3
    assert first.usage.prompt_tokens == second.usage.prompt_tokens > 0
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == second.usage.prompt_tokens


def test_usage_counts_the_prompt_tokens_in_the_prefix_cache(served, films):
    running = served()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    url = (films / "film.mp4").as_uri()
    first, second = (ask(client, about(url, text), max_tokens=3).usage for text in ("What is there?", "What happens?"))
    assert first.prompt_tokens_details.cached_tokens == 0
    assert 0 < second.prompt_tokens_details.cached_tokens < second.prompt_tokens


def test_sampled_answers_depend_on_the_seed(client, film_id):
    def draw(seed):
        options = {"temperature": 1.5, "seed": seed, "max_tokens": 24}
        return ask(client, about(film_id), **options).choices[0].message.content

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([{"role": "user", "content": "hello"}], {}, "no message holds a video"),
        (about("nonsense"), {}, "names no video"),
        (about("http://example.org/film.mp4"), {}, "no host is allowed"),
        (about("file:///etc/passwd"), {}, "only files in the allowed folders"),
        ([*about("film-0"), {"role": "assistant", "content": "x"}], {}, "the last message must be the user's"),
        (about("film-0"), {"n": 2}, "n is not offered"),
        (about("film-0"), {"functions": [{"name": "x"}]}, "functions is not offered"),
        (about("film-0"), {"modalities": ["text", "audio"]}, "modalities is not offered"),
        (about("film-0"), {"top_logprobs": 2}, "top_logprobs must be 0 or left out, got 2"),
        (about("film-0"), {"extra_body": {"repetition_penalty": 3}}, "repetition_penalty"),
        (about("film-0"), {"extra_body": {"min_tokens": 9}, "max_tokens": 8}, "min_tokens.*max_tokens"),
        (about("film-0"), {"extra_body": {"num_beams": 2}}, "num_beams is not offered.*--num-beams.*leave it out"),
        (about("film-0"), {"extra_body": {"use_beam_search": True}}, "use_beam_search is not offered.*--num-beams"),
        (about("film-0"), {"extra_body": {"length_penalty": 2.0}}, "length_penalty is not offered.*--num-beams"),
        (about("film-0", start=-1), {}, "start"),
        (about("film-0", end=-1), {}, "end"),
        (about("film-0"), {"extra_body": {"guided_regex": "a"}}, "guided_regex is not offered.*response_format"),
        (about("film-0"), {"extra_body": {"guided_choice": ["a", "b"]}}, "guided_choice is not offered"),
        (
            about("film-0"),
            {"extra_body": {"structured_outputs": {"regex": "a"}}},
            "structured_outputs.regex is not offered",
        ),
        (about("film-0"), {"extra_body": {"min_p": 0.1}}, "min_p is not offered"),
        (about("film-0"), {"extra_body": {"fps": -2}}, "fps"),
        (about("film-0"), {"temperature": 3}, "temperature"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            {},
            "needs its time",
        ),
    ],
)
def test_unsupported_requests_get_clear_errors(client, messages, options, message):
    with pytest.raises(openai.APIStatusError, match=message) as error:
        ask(client, messages, **options)
    assert error.value.status_code in (400, 403, 404)
    assert error.value.type


def test_the_example_runs_against_the_server(running, films):
    script = Path(__file__).parents[2] / "examples" / "openai_client.py"
    command = [sys.executable, script, films / "film.mp4", "What happens?", "--url", running.url]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert [line.split(":")[0] for line in told[:6]] == ["model", "uploaded", "answer", "tokens", "stream", "json"]
    assert told[6].startswith("event: ")
