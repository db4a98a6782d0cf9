"""A server of a model of `transformers`, whose requests are scheduled by its lock."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.backbones.transformers.tiny import tiny_backbone
from tests.serving.conftest import Running, serving
from timechat.files.cache import DiskCache
from timechat.pipeline import DecodingOptions, Request, TimeChat
from timechat.serving.http import ServerSettings

SHORT = DecodingOptions(max_new_tokens=60)


@pytest.fixture(scope="module")
def tiny() -> TimeChat:
    return TimeChat(tiny_backbone("smolvlm"), cache=DiskCache(max_bytes=0))


@pytest.fixture(scope="module")
def other(tiny, films, tmp_path_factory) -> Iterator[Running]:
    with serving(tiny, ServerSettings(data=tmp_path_factory.mktemp("data"), folders=(films,))) as running:
        yield running


def body_of(path: Path, **more: object) -> dict[str, object]:
    return {"video": path.as_uri(), "max_new_tokens": SHORT.max_new_tokens, **more}


def chat_of(path: Path, question: str, **more: object) -> dict[str, object]:
    content = [{"type": "video_url", "video_url": {"url": path.as_uri()}}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 12, **more}


def test_the_list_of_models_has_its_real_name(other):
    (model,) = other.client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny-smolvlm"


def test_a_route_answers_as_the_engine_alone(other, tiny, films):
    told = other.client.post("/v1/moments", json=body_of(films / "film.mp4", query="a red ball", find_all=True)).json()
    alone = tiny.ground(films / "film.mp4", "a red ball", find_all=True, decoding=SHORT, by="model")
    assert told["text"] == alone.text
    assert [(event["start"], event["end"]) for event in told["events"]] == [(e.start, e.end) for e in alone.events]
    assert told["model"] == "tiny-smolvlm"


def test_requests_at_the_same_time_are_answered_as_alone(other, tiny, films):
    def ask(i: int) -> tuple[int, str]:
        path = films / ("film.mp4" if i % 2 else "inner/second.mp4")
        answer = other.client.post("/v1/chat/completions", json=chat_of(path, f"What happens? {i}"))
        return i, answer.json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(4) as threads:
        told = dict(threads.map(ask, range(4)))
    for i, text in told.items():
        path = films / ("film.mp4" if i % 2 else "inner/second.mp4")
        request = Request("ask", f"What happens? {i}", decoding=DecodingOptions(max_new_tokens=12))
        assert text == tiny.run(request, path).text


def test_a_streamed_answer_is_the_whole_one(other, films):
    body = chat_of(films / "film.mp4", "What is this?")
    whole = other.client.post("/v1/chat/completions", json=body).json()
    pieces = []
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    with other.client.stream("POST", "/v1/chat/completions", json=streamed) as response:
        events = [line[6:] for line in response.iter_lines() if line.startswith("data: ") and line != "data: [DONE]"]
    for event in map(json.loads, events):
        pieces += [choice["delta"].get("content") or "" for choice in event["choices"]]
    assert "".join(pieces).strip() == whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == 12
    assert whole["usage"]["prompt_tokens"] > 100


def test_a_request_ends_at_its_deadline(tiny, films, tmp_path):
    settings = ServerSettings(data=tmp_path, folders=(films,), request_timeout=0.001)
    with serving(tiny, settings) as running:
        answer = running.client.post("/v1/captions", json=body_of(films / "film.mp4"))
    assert answer.status_code == 504
    assert "longer than this server allows" in answer.json()["error"]["message"]
