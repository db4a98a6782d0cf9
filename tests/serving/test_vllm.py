"""A server whose answers are written by vLLM, with a stand-in of its engine."""

import pytest
import torch

from tests.backbones.timechat.stand_in import StandInEngine
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.vllm.executor import VllmExecutor, VllmWriter
from timechat.backbones.timechat.vllm.folder import export_language_model
from timechat.errors import EngineError
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
