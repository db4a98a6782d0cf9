"""The plug-in of vLLM: its own server answers as this package does, with the built-in model."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer

from tests.clips import RECIPES, draw_clip
from timechat.answers.prompts import SYSTEM_PROMPT, Message, render_chat, video_message
from timechat.answers.tasks import DecodingOptions, build_question
from timechat.answers.windows import WindowConfig
from timechat.backbones.timechat.vllm_plugin import CHAT_TEMPLATE, media_options
from timechat.files.cache import DiskCache
from timechat.model.configuration import TimeChatConfig
from timechat.pipeline import TimeChat

NANO = Path(__file__).parents[3] / "src" / "timechat" / "model" / "weights" / "nano"
CLIPS = ("constant rate", "variable rate", "starts at 7 s", "transport stream")
QUERY = "the red ball rolls to the right"
TASKS = {"dense_caption": (), "ground": (QUERY,), "highlights": (QUERY,), "ask": ("What is shown in the video?",)}
TOKENS = 24  # log probabilities differ by some 1e-3 nats; a longer answer can part where two tokens are as likely
needs_vllm = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]


def test_chat_template_writes_the_prompt_of_this_package():
    tokenizer = AutoTokenizer.from_pretrained(str(NANO))
    turns = [
        Message("user", "Who?"),
        Message("assistant", "A man."),
        Message("user", "When?"),
        Message("assistant", None),
    ]
    opening = video_message([0.0], names_times=False)
    expected = render_chat(SYSTEM_PROMPT, [Message("user", f"{opening} Who?"), *turns[1:]])
    content = [{"type": "video"}, {"type": "text", "text": "Who?"}]
    messages = [{"role": "user", "content": content}] + [
        {"role": turn.role, "content": turn.text} for turn in turns[1:] if turn.text is not None
    ]
    written = tokenizer.apply_chat_template(
        messages, chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"), tokenize=False
    )
    assert written == tokenizer.bos_token + expected


def test_media_options_are_the_sampling_of_the_model():
    options = media_options(TimeChatConfig.from_pretrained(NANO))
    assert options == {
        "video": {
            "video_backend": "timechat",
            "num_frames": -1,
            "fps": 2,
            "max_frames": 600,
            "size": 96,
            "interpolation": "bicubic",
        }
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = {name: folder / f"{i}{RECIPES[name].suffix}" for i, name in enumerate(CLIPS)}
    for name, path in paths.items():
        draw_clip(RECIPES[name], path)
    return paths


@pytest.fixture(scope="module")
def url(clips, tmp_path_factory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    media = json.dumps(media_options(TimeChatConfig.from_pretrained(NANO)))
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(NANO)]
    command += ["--served-model-name", "nano", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "4", "--chat-template", str(CHAT_TEMPLATE)]
    command += ["--media-io-kwargs", media, "--allowed-local-media-path", str(clips["constant rate"].parent)]
    log = tmp_path_factory.mktemp("log") / "vllm.log"
    settings = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=settings) as server:
        try:
            base = f"http://127.0.0.1:{port}/v1"
            end = time.monotonic() + 280
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
def timechat() -> TimeChat:
    return TimeChat(TimeChat.from_pretrained("nano", device="cpu").backbone, cache=DiskCache(max_bytes=0))


def answer_here(timechat: TimeChat, path: Path, task: str) -> str:
    decoding = DecodingOptions(max_new_tokens=TOKENS, is_free=True)
    more = {"by": "model"} if task == "ground" else {}
    windows = WindowConfig(window=0, refine=False)
    return getattr(timechat, task)(path, *TASKS[task], decoding=decoding, windows=windows, **more).text


def answer_there(url: str, address: str, task: str) -> str:
    name = {"ground": "grounding"}.get(task, task)
    question = TASKS["ask"][0] if task == "ask" else build_question(name, *TASKS[task])
    content = [{"type": "video_url", "video_url": {"url": address}}, {"type": "text", "text": question}]
    body = {"model": "nano", "max_tokens": TOKENS, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    response = httpx.post(f"{url}/chat/completions", json=body, timeout=280)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"].strip()


@pytest.mark.parametrize("task", [pytest.param(task, marks=needs_vllm) for task in TASKS])
def test_vllm_answers_as_this_package_does(url, timechat, clips, task):
    for path in clips.values():
        assert answer_there(url, f"file://{path}", task) == answer_here(timechat, path, task)


@pytest.mark.parametrize("clip", [pytest.param(clip, marks=needs_vllm) for clip in CLIPS[:2]])
def test_a_video_in_the_request_gives_the_answer_of_its_file(url, clips, clip):
    content = base64.b64encode(clips[clip].read_bytes()).decode()
    answers = {
        answer_there(url, address, "ground")
        for address in (f"data:video/mp4;base64,{content}", f"file://{clips[clip]}")
    }
    assert len(answers) == 1
