"""This server as the endpoint of another TimeChat: times, pictures, texts and log probabilities arrive as they are."""

import base64
from collections.abc import Iterator

import numpy as np
import pytest

from tests.serving.conftest import serving
from timechat.answers.prompts import time_text
from timechat.answers.tasks import GREEDY, DecodingOptions, build_question, find_preset, parse_events
from timechat.backbones.backbone import EncodedVideo, Question
from timechat.backbones.endpoint.abilities import forget_abilities
from timechat.backbones.endpoint.backbone import EndpointBackbone, load_endpoint
from timechat.backbones.endpoint.client import EndpointClient
from timechat.backbones.endpoint.messages import chat_messages
from timechat.backbones.endpoint.pictures import EncodedPictures
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline import Request, TimeChat
from timechat.serving.http import ServerSettings
from timechat.serving.inline_frames import InlineFrames
from timechat.video import Frames, load_frames

QUERY = "an orange star becomes larger"
PRESET = find_preset("timechat@1")
QUESTION = Question(build_question("grounding", QUERY, preset=PRESET.name), system=PRESET.system)


@pytest.fixture(scope="module")
def endpoint(running) -> Iterator[EndpointBackbone]:
    forget_abilities()
    backbone = load_endpoint(f"{running.url}/v1")
    yield backbone
    backbone.close()


@pytest.fixture(scope="module")
def frames(films) -> Frames:
    """Frames of a video at irregular times."""
    regular = load_frames(films / "film.mp4", fps=4)
    chosen = np.array([0, 1, 5, 6, 13, 20, 21, 22, 30, 37])
    return Frames(regular.pixels[chosen], regular.timestamps[chosen], regular.duration)


@pytest.fixture(scope="module")
def local(nano, endpoint, frames) -> EncodedVideo:
    """The same JPEG pictures and times, encoded by the model itself."""
    content, _ = endpoint.encode(frames)
    assert isinstance(content, EncodedPictures)
    urls = tuple(f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" for jpeg in content.jpegs)
    times = tuple(float(time_text(seconds)) for seconds in content.times)
    sent = InlineFrames(urls, times, None).decode(nano.backbone.frame_size)
    return nano.encode(sent)


def message_of(endpoint: EndpointBackbone, frames: Frames):
    content, _ = endpoint.encode(frames)
    return chat_messages(content, "What happens?")[0]


def prompt_of(endpoint: EndpointBackbone, frames: Frames):
    content, _ = endpoint.encode(frames)
    return endpoint.prompt(EncodedVideo(content, frames.timestamps, frames.duration), QUESTION, 64)


def test_times_of_frames_arrive_in_the_prompt_of_the_model(endpoint, frames, monkeypatch):
    shown: list[list[str]] = []
    render = TimeChatProcessor.render_prompt

    def record(self, timestamps, *args, **options):
        shown.append([time_text(seconds) for seconds in timestamps])
        return render(self, timestamps, *args, **options)

    monkeypatch.setattr(TimeChatProcessor, "render_prompt", record)
    endpoint.generate([prompt_of(endpoint, frames)], [None], DecodingOptions(max_new_tokens=2))
    assert shown
    assert {tuple(times) for times in shown} == {tuple(time_text(seconds) for seconds in frames.timestamps)}
    assert len(set(shown[0])) == len(frames)


@pytest.mark.parametrize("streams", [False, True])
def test_text_and_log_probabilities_equal_those_of_the_model(nano, endpoint, frames, local, streams):
    shown: list[str] = []
    options = {"on_text": shown.append} if streams else {}
    remote = endpoint.generate([prompt_of(endpoint, frames)], [None], GREEDY, **options)[0]
    expected = nano.backbone.generate([nano.backbone.prompt(local, QUESTION, 64)], [None], GREEDY)[0]
    assert remote.text == expected.text
    assert "".join(shown) == (remote.text if streams else "")
    written = [token for token in expected.tokens if token.end > token.first]
    assert [(token.first, token.end) for token in remote.tokens] == [(token.first, token.end) for token in written]
    assert max(abs(a.logprob - b.logprob) for a, b in zip(remote.tokens, written, strict=True)) < 1e-5
    assert (remote.num_prompt_tokens, remote.num_tokens) == (expected.num_prompt_tokens, expected.num_tokens)
    assert remote.notes == ()


def test_whole_pipeline_runs_over_the_server(nano, endpoint, frames, local):
    pipeline = TimeChat(endpoint)
    with pipeline.open(frames) as video:
        remote = pipeline.run(Request("grounding", QUERY), video)
    expected = nano.run(Request("grounding", QUERY, decoding=DecodingOptions(is_free=True)), local)
    assert remote.text == expected.text
    read = parse_events(expected.text, task="grounding", duration=frames.duration).events
    assert [(event.start, event.end) for event in remote.events] == [(event.start, event.end) for event in read] != []
    assert remote.model == "nano"


def test_context_of_the_model_is_listed(nano, endpoint):
    assert endpoint.config.context == nano.backbone.config.context > 0


def test_server_can_serve_the_model_of_another_server(endpoint, frames, running, films, tmp_path):
    settings = ServerSettings(data=tmp_path / "data", folders=(films,))
    forwarding = EndpointBackbone(EndpointClient(endpoint.client.address), "nano at home", endpoint.options)
    body = {"messages": [message_of(forwarding, frames)], "max_tokens": 12, "logprobs": True}
    with serving(TimeChat(forwarding), settings) as second:
        listed = second.client.get("/v1/models").json()["data"]
        answer = second.client.post("/v1/chat/completions", json={"model": "nano at home", **body}).json()
    expected = running.client.post("/v1/chat/completions", json={"model": "nano", **body}).json()
    assert [model["id"] for model in listed] == ["nano at home"]
    assert answer["choices"][0]["message"] == expected["choices"][0]["message"]
    tokens = [[entry["token"] for entry in each["choices"][0]["logprobs"]["content"]] for each in (answer, expected)]
    assert tokens[0] == tokens[1]
    assert answer["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


def test_plan_counts_the_tokens_that_the_model_reads(endpoint, frames):
    cost = endpoint.measure(frames, frames.duration, QUESTION, None, GREEDY, 24)
    written = endpoint.generate([prompt_of(endpoint, frames)], [None], DecodingOptions(max_new_tokens=2))[0]
    assert cost.prompt_tokens == written.num_prompt_tokens > 0
