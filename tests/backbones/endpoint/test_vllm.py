"""A real vLLM server with a tiny random Qwen3-VL as the endpoint; see `perf/vllm_environment.sh`.

The same model runs here through `transformers`. Pictures have sides that no resizer changes, so both read equal pixels.
"""

import io
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.backbones.transformers.tiny import save_tiny, tiny_frames
from tests.clips import RECIPES, draw_clip
from timechat.answers.events import Event
from timechat.answers.forms import AnswerForm, answer_form
from timechat.answers.grammar import AnswerGrammar
from timechat.answers.tasks import DecodingOptions, build_question, parse_events
from timechat.backbones.backbone import EncodedVideo, Question
from timechat.backbones.endpoint.abilities import forget_abilities
from timechat.backbones.endpoint.backbone import EndpointBackbone, load_endpoint
from timechat.backbones.transformers.backbone import TransformersBackbone
from timechat.backbones.transformers.families import QWEN3_IMAGES
from timechat.backbones.transformers.loading import load_model_files
from timechat.files.cache import DiskCache
from timechat.pipeline import TimeChat
from timechat.video import Frames

PYTHON = os.environ.get("TIMECHAT_VLLM")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="TIMECHAT_VLLM names no Python with vLLM, see perf/vllm_environment.sh"),
]

HEADS_FOR_VLLM = {
    "head_dim": 32,
    "max_position_embeddings": 8192,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}
"""The attention of vLLM on a CPU takes heads of 32 and more."""
TIMES = (0.0, 0.52, 3.04, 3.08, 9.96, 14.2)
QUESTIONS = {"grounding": "a person opens a door", "dense_caption": None, "highlights": "a door"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("model") / "tiny", text=HEADS_FOR_VLLM)


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "16", "--limit-mm-per-prompt", '{"image": 64}']
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    # This engine of forms is the one of local models. Another one lets the model write fixed words in other tokens.
    command += ["--structured-outputs-config", '{"backend": "guidance"}']
    settings = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=settings) as server:
        try:
            base = f"http://127.0.0.1:{port}/v1"
            end = time.monotonic() + 300
            while time.monotonic() < end and server.poll() is None:
                try:
                    httpx.get(f"{base}/models", timeout=5).raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(1)
            else:
                pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
            yield base
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture(scope="module")
def endpoint(url) -> Iterator[EndpointBackbone]:
    forget_abilities()
    backbone = load_endpoint(f"{url}#tiny")
    yield backbone
    backbone.close()


@pytest.fixture(scope="module")
def local(folder) -> TransformersBackbone:
    return TransformersBackbone(
        load_model_files(str(folder), device="cpu", dtype="float32"), "tiny", family=QWEN3_IMAGES
    )


@pytest.fixture(scope="module")
def videos(endpoint, local) -> tuple[EncodedVideo, EncodedVideo]:
    """The same JPEG pictures at irregular times, encoded for the server and for the local model."""
    frames = tiny_frames(TIMES, size=(96, 128))
    content, _ = endpoint.encode(frames)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in content.jpegs])
    same = Frames(pixels, frames.timestamps, frames.duration)
    here, _ = local.encode(same)
    return (
        EncodedVideo(content, frames.timestamps, frames.duration),
        EncodedVideo(here, frames.timestamps, frames.duration),
    )


@contextmanager
def recorded(endpoint: EndpointBackbone) -> Iterator[list[tuple[dict, dict]]]:
    """Record the body and the response of each request."""
    exchanges: list[tuple[dict, dict]] = []
    post = endpoint.client.post

    def record(body, check=lambda: None):
        exchanges.append((body, post(body, check)))
        return exchanges[-1][1]

    endpoint.client.post = record  # type: ignore[method-assign]
    try:
        yield exchanges
    finally:
        endpoint.client.post = post  # type: ignore[method-assign]


def question(task: str) -> Question:
    return Question(build_question(task, QUESTIONS[task], preset="qwen3-vl@1"))


@pytest.mark.parametrize("task", QUESTIONS)
def test_vllm_reads_the_same_prompt_and_pictures(endpoint, local, videos, task):
    free = DecodingOptions(max_new_tokens=8, is_free=True)
    with recorded(endpoint) as exchanges:
        [there] = endpoint.generate([endpoint.prompt(videos[0], question(task), 8)], [None], free)
    [here] = local.generate([local.prompt(videos[1], question(task), 8)], [None], free)
    assert there.num_prompt_tokens == here.num_prompt_tokens
    # A token of half a character has no place in the text of a server, so `there` may have no tokens.
    written = exchanges[-1][1]["choices"][0]["logprobs"]["content"]
    assert len(written) == len(here.tokens) == 8
    assert max(abs(a["logprob"] - b.logprob) for a, b in zip(written, here.tokens, strict=True)) < 1e-3


@pytest.mark.parametrize("preset", ["qwen3-vl@1", "timechat@1"])
def test_vllm_verifies_a_caption_like_the_local_model(endpoint, local, videos, preset):
    event = Event(3.0, 9.9, "a man opens the door.")
    asks = replace(endpoint, options=replace(endpoint.options, verify=True))
    [there] = asks.verify([videos[0]], [event], preset=preset) or [None]
    [here] = local.verify([videos[1]], [event], preset=preset) or [None]
    assert there == pytest.approx(here, abs=1e-3)


@pytest.mark.parametrize("task", QUESTIONS)
def test_vllm_writes_the_same_answer_in_the_same_form(endpoint, local, videos, task):
    form = answer_form(task, duration=videos[0].duration, preset="qwen3-vl@1")
    assert form is not None
    # A server keeps the words of a form only; the same words without the order of times here.
    regex = form.regex.replace("/", r"\/")
    words = AnswerForm(grammar=AnswerGrammar(f"start: /{regex}/", None))
    decoding = DecodingOptions(max_new_tokens=70)
    [there] = endpoint.generate([endpoint.prompt(videos[0], question(task), 70)], [form], decoding)
    [here] = local.generate([local.prompt(videos[1], question(task), 70)], [words], decoding)
    assert there.text == here.text
    events = [parse_events(one.text, task=task, duration=videos[0].duration).events for one in (there, here)]
    assert events[0] == events[1]


def test_answers_of_vllm_are_valid_and_in_range(url, tmp_path):
    timechat = TimeChat(load_endpoint(f"{url}#tiny"), cache=DiskCache(max_bytes=0))
    path = tmp_path / "clock.mp4"
    draw_clip(RECIPES["variable rate"], path)
    decoding = DecodingOptions(max_new_tokens=80)
    found = timechat.ground(path, "the clock shows two", by="model", decoding=decoding)
    captions = timechat.dense_caption(path, decoding=decoding)
    for event in (*found.events, *captions.events):
        assert 0 <= event.start <= event.end <= (found.duration or 0)


def test_sixteen_clients_get_the_answers_of_one(endpoint, videos):
    form = answer_form("grounding", duration=videos[0].duration, preset="qwen3-vl@1")
    decoding = DecodingOptions(max_new_tokens=40)

    def ask(i: int) -> str:
        words = Question(f"{question('grounding').text} ({i % 4})")
        return endpoint.generate([endpoint.prompt(videos[0], words, 40)], [form], decoding)[0].text

    alone = [ask(i) for i in range(4)]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(16))) == alone * 4


def test_the_times_before_the_pictures_are_the_true_ones(endpoint, videos):
    with recorded(endpoint) as exchanges:
        endpoint.generate([endpoint.prompt(videos[0], Question("When?"), 4)], [None], DecodingOptions(max_new_tokens=4))
    texts = [part["text"] for part in exchanges[-1][0]["messages"][-1]["content"] if part["type"] == "text"]
    times = [float(match[1]) for text in texts if (match := re.fullmatch(r"<(\d+\.\d) seconds>", text.strip()))]
    assert times == [round(seconds, 1) for seconds in TIMES]
