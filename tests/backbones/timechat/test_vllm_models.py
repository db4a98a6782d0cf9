"""Other models than nano, and other ways to start them, each with a real vLLM engine of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from tests.backbones.timechat.test_vllm_engine import workers_of
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.timechat.vllm.executor import VllmExecutor
from timechat.backbones.timechat.vllm.owner import is_running
from timechat.model import NANO_FOLDER
from timechat.model.convert.quantize import quantize_folder
from timechat.model.loading import load_model
from timechat.model.lora import attach_adapter
from timechat.pipeline import Request, TimeChat

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

REQUESTS = (
    Request("dense_caption", decoding=DecodingOptions(max_new_tokens=120)),
    Request("grounding", "the orange cross moves"),
    Request("ask", "What is there?", decoding=DecodingOptions(max_new_tokens=60)),
)


def answers(timechat: TimeChat, video: Path) -> list[str]:
    encoded = timechat.encode(video)
    return [timechat.run(request, encoded).text for request in REQUESTS]


def by_vllm(model: object, video: Path, **options: object) -> list[str]:
    timechat = TimeChat.from_pretrained(str(model), device="cpu", dtype="float32", engine="vllm", **options)
    try:
        return answers(timechat, video)
    finally:
        timechat.backbone.close()


def save_with_adapter(folder: Path, seed: int, targets: list[str]) -> None:
    """Write nano with a random adapter beside it."""
    network, processor = load_model("nano", device="cpu", dtype="float32")
    attach_adapter(network.language_model, LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    network.config.lora_alpha = 4
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.language_model.named_parameters():
        if ".lora_" in name:
            weight.data.normal_(std=0.2, generator=generator)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def test_an_adapter_is_merged_at_its_strength(video_path, tmp_path) -> None:
    plain = answers(TimeChat.from_pretrained("nano", device="cpu", dtype="float32"), video_path)
    save_with_adapter(tmp_path / "model", 1, ["q_proj", "v_proj"])
    own = TimeChat.from_pretrained(tmp_path / "model", device="cpu", dtype="float32", lora_scale=0.7)
    expected = answers(own, video_path)
    assert expected != plain
    assert by_vllm(tmp_path / "model", video_path, lora_scale=0.7) == expected


def test_two_adapters_and_the_model_answer_together(video_path, tmp_path) -> None:
    """Each answers as a model of its own does, also in one batch and with cached prompts of the others."""
    models = {"": "nano", "a": str(tmp_path / "a"), "b": str(tmp_path / "b")}
    save_with_adapter(tmp_path / "a", 1, ["q_proj", "v_proj"])
    save_with_adapter(tmp_path / "b", 2, ["k_proj", "o_proj", "down_proj"])
    expected = {
        name: answers(TimeChat.from_pretrained(model, device="cpu", dtype="float32"), video_path)
        for name, model in models.items()
    }
    assert len({tuple(texts) for texts in expected.values()}) == 3
    options = {"lora_modules": {name: str(tmp_path / name / "lora") for name in "ab"}}
    timechat = TimeChat.from_pretrained("nano", device="cpu", dtype="float32", engine="vllm", engine_options=options)
    backbone = timechat.own_backbone
    writer = backbone.executor.writer

    def ask(name: str) -> list[str]:
        chosen = backbone.with_executor(VllmExecutor(backbone.model, writer, adapter=name))
        return answers(timechat.with_backbone(chosen), video_path)

    try:
        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(ask, [*models, *models]))
    finally:
        backbone.close()
    assert found == [*expected.values()] * 2


_HAS_AMX = "amx_int8" in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "")


@pytest.mark.skipif(_HAS_AMX, reason="vLLM 0.32 does not start with int8 weights and float32 on CPUs with AMX")
def test_an_int8_folder_answers_in_form(video_path, tmp_path) -> None:
    quantize_folder(NANO_FOLDER, tmp_path / "int8", "int8")
    captions, grounding, _ = by_vllm(tmp_path / "int8", video_path)
    own = TimeChat.from_pretrained(tmp_path / "int8", device="cpu")
    print(
        "\nequal to our int8:", [a == b for a, b in zip((captions, grounding), answers(own, video_path), strict=False)]
    )
    assert " seconds, " in captions
    assert grounding.startswith("The given query happens in ")


def test_a_batch_has_the_answers_of_the_own_engine(video_path, tmp_path) -> None:
    pytest.importorskip("pyarrow")
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (videos / name).write_bytes(video_path.read_bytes())
    rows = {}
    for name, options in {"own": [], "vllm": ["--engine", "vllm"]}.items():
        command = [sys.executable, "-m", "timechat", "batch", str(videos), "--task", "caption", "--output"]
        ended = subprocess.run(
            [*command, str(tmp_path / name), *options], check=True, timeout=900, capture_output=True, text=True
        )
        assert "Traceback" not in ended.stderr
        assert "ended unexpectedly" not in ended.stderr
        parts = sorted((tmp_path / name).rglob("*.jsonl"))
        lines = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
        rows[name] = sorted((row["id"], row["text"]) for row in lines if "text" in row)
    assert rows["own"] == rows["vllm"]
    assert len(rows["vllm"]) == 2


def test_the_processes_end_when_their_owner_is_killed(tmp_path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import time\n"
        "from timechat.pipeline import TimeChat\n"
        "if __name__ == '__main__':\n"
        "    timechat = TimeChat.from_pretrained('nano', device='cpu', engine='vllm')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    workers = workers_of(owner.pid)
    assert workers
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    end = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < end:
        time.sleep(0.5)
    assert not any(map(is_running, workers))
