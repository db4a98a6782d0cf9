"""A server whose answers are written by vLLM, with a stand-in of its engine."""

from pathlib import Path

import pytest
import torch

from tests.backbones.timechat.stand_in import StandInEngine
from tests.serving.conftest import serving
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.vllm.adapters import Adapter
from timechat.backbones.timechat.vllm.executor import VllmExecutor, VllmWriter
from timechat.backbones.timechat.vllm.folder import export_language_model
from timechat.errors import EngineError
from timechat.files.cache import DiskCache
from timechat.model import NANO_FOLDER
from timechat.model.loading import load_model
from timechat.pipeline import Request, TimeChat
from timechat.serving.context import RequestContext
from timechat.serving.engines import VisionEngine, make_engine
from timechat.serving.errors import CancelledRequestError, as_request_error
from timechat.serving.settings import ServerSettings
from timechat.video import Frames

REQUEST = Request("dense_caption", decoding=DecodingOptions(max_new_tokens=40))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    network, processor = load_model("nano", device="cpu", dtype="float32")
    return network, processor, export_language_model(NANO_FOLDER, network, processor, tmp_path_factory.mktemp("m")).path


@pytest.fixture
def stand_in(parts) -> StandInEngine:
    return StandInEngine(parts[0], parts[2])


@pytest.fixture
def engine(parts, stand_in, tmp_path):
    writer = VllmWriter(*parts[:2], stand_in, dtype=torch.float32, facts={})
    backbone = TimeChatBackbone(*parts[:2], name="nano", executor=VllmExecutor(parts[0], writer))
    with make_engine(backbone, ServerSettings(data=tmp_path)) as engine:
        assert isinstance(engine, VisionEngine)
        yield engine


def frames() -> Frames:
    pixels = torch.randint(0, 255, (8, 56, 56, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Frames(pixels.numpy(), [i / 2 for i in range(8)], 4.0)


def test_a_request_is_answered_and_counted(parts, engine, stand_in) -> None:
    plain = TimeChat(TimeChatBackbone(*parts[:2], name="nano"))
    context = RequestContext(client="a client")
    timechat = plain.with_backbone(plain.backbone.with_executor(engine.executor(context)))
    video = timechat.encode(frames())
    assert timechat.run(REQUEST, video).text == plain.run(REQUEST, video).text
    (sent,) = stand_in.requests
    assert (sent.client, sent.is_scored) == ("a client", False)
    assert context.prompt_tokens == len(sent.prompt.token_ids)
    assert context.written_tokens == engine.state.tokens > 10
    assert context.cached_tokens == 3
    assert engine.state.frames == 8


def test_a_cancelled_context_ends_its_requests(parts, engine) -> None:
    context = RequestContext()
    plain = TimeChat(TimeChatBackbone(*parts[:2], name="nano"))
    timechat = plain.with_backbone(plain.backbone.with_executor(engine.executor(context)))
    video = timechat.encode(frames())
    context.cancel()
    with pytest.raises(CancelledRequestError):
        timechat.run(REQUEST, video)


def test_a_dead_engine_of_vllm_is_not_ready(engine, stand_in) -> None:
    assert engine.is_alive
    stand_in.is_alive = False
    assert not engine.is_alive
    error = as_request_error(
        EngineError("the engine that writes answers is being started again; try again in a minute")
    )
    assert error is not None
    assert (error.status, error.code, error.headers) == (503, "model_failed", {"Retry-After": "30"})


def test_stopping_the_service_stops_vllm(engine, stand_in) -> None:
    engine.stop()
    assert stand_in.is_stopped


@pytest.fixture
def with_adapter(parts, stand_in, films, tmp_path):
    adapters = {"cooking": Adapter("cooking", Path("adapter"), 4, frozenset(["q_proj"]), 1.0, "abc")}
    writer = VllmWriter(*parts[:2], stand_in, dtype=torch.float32, facts={"weights": "w"}, adapters=adapters)
    backbone = TimeChatBackbone(*parts[:2], name="nano", executor=VllmExecutor(parts[0], writer))
    settings = ServerSettings(data=tmp_path / "data", folders=(films,), opens_paths=True)
    with serving(TimeChat(backbone, cache=DiskCache(tmp_path / "cache")), settings) as running:
        yield running


def test_the_list_of_models_names_the_adapters(with_adapter) -> None:
    models = with_adapter.client.get("/v1/models").json()["data"]
    assert [(model["id"], model.get("parent")) for model in models] == [("nano", None), ("cooking", "nano")]
    assert with_adapter.client.get("/v1/models/cooking").json()["id"] == "cooking"


def test_a_request_is_answered_with_the_adapter_that_it_names(with_adapter, stand_in, films) -> None:
    """Also if the model has answered the same request before, and its answer is cached."""
    video = {"type": "video_url", "video_url": {"url": f"file://{films / 'film.mp4'}"}}
    messages = [{"role": "user", "content": [video, {"type": "text", "text": "What is there?"}]}]
    for model in ("nano", "cooking", "nano", "cooking"):
        body = {"model": model, "messages": messages, "max_tokens": 8}
        assert with_adapter.client.post("/v1/chat/completions", json=body).json()["model"] == model
    assert [request.adapter for request in stand_in.requests] == ["", "cooking"]
    with_adapter.client.post("/v1/responses", json={"model": "cooking", "input": messages, "max_output_tokens": 9})
    body = {"model": "cooking", "video": str(films / "film.mp4"), "max_new_tokens": 9}
    assert with_adapter.client.post("/v1/captions", json=body).status_code == 200
    assert {request.adapter for request in stand_in.requests[2:]} == {"cooking"}


@pytest.mark.parametrize("route", ["captions", "jobs"])
def test_a_model_that_is_not_served_is_refused(with_adapter, films, route) -> None:
    body = {"model": "dancing", "video": str(films / "film.mp4"), "task": "dense_caption"}
    answer = with_adapter.client.post(f"/v1/{route}", json=body)
    assert answer.status_code == 404
    assert "there is no model 'dancing' here; this server has nano, cooking" in answer.text
