"""Write the files of version 0.1 that `tests/test_files_of_0_1.py` reads. It runs with version 0.1 only:

PYTHONPATH=CHECKOUT_OF_0_1/src TIMECHAT_CACHE= OMP_NUM_THREADS=1 python make.py FOLDER [PART...]

It uses the command line where it can. See README.md for what each file is.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import GenerationConfig

from timechat import TimeChatConfig, TimeChatForConditionalGeneration, TimeChatProcessor, __version__
from timechat.model.loading import NANO_FOLDER

QUERIES = ("the white square moves", "the red circle blinks")
QUESTION = "What happens in the video?"
STEPS = 4
QUEUED_JOBS = 4

TRAIN = """\
name: small
model:
  checkpoint: model
  train: [projection, lora]
  lora: {rank: 2, alpha: 4, dropout: 0.0, targets: [q_proj, v_proj]}
data:
  sources: [{records: train.jsonl, videos: drawn}]
  num_frames: 6
  max_length: 256
  sampling: uniform
  augmentation: false
  max_bad_share: 1.0
optimizer: {lr: 1.0e-2, min_lr: 1.0e-3}
run: {steps: 4, device: cpu, export: [], tensorboard: false, plot: false}
"""
EVALUATE = """\
name: small
benchmark: {name: charades_sta, annotations: queries.txt, videos: drawn/videos, split: test}
model: {checkpoint: model, device: cpu}
frames: {num_frames: 8}
decoding: {max_new_tokens: 24}
run: {batch_size: 1, resamples: 20}
"""
EVALUATE_DRAWN = """\
name: small-drawn
benchmark: {name: drawn, annotations: drawn, videos: drawn, split: test}
model: {checkpoint: model, device: cpu}
frames: {num_frames: 8}
decoding: {max_new_tokens: 24}
run: {batch_size: 1, resamples: 20}
"""


def timechat(*arguments: object, status: int = 0, **environment: str) -> str:
    """Run a command and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "timechat", *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_model(folder: Path) -> None:
    """Write a very small model with random weights and the tokenizers of nano."""
    nano = TimeChatProcessor.from_pretrained(str(NANO_FOLDER))
    qformer = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = TimeChatConfig(
        vision_config={
            "model_type": "instructblip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "initializer_range": 0.02,
        },
        qformer_config=qformer
        | {"vocab_size": len(nano.qformer_tokenizer), "num_hidden_layers": 1, "max_position_embeddings": 64},
        video_qformer_config=qformer | {"num_hidden_layers": 1},
        text_config={
            "model_type": "llama",
            "vocab_size": len(nano.tokenizer) - 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 4096,
        },
        num_query_tokens=2,
        num_video_query_tokens=2,
        window_size=4,
        stride=4,
        max_frame_positions=16,
        fps=1,
        max_frames=100,
        window_seconds=12,
        image_token_id=nano.config.image_token_id,
    )
    torch.manual_seed(0)
    model = TimeChatForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.generation_config = GenerationConfig(
        bos_token_id=nano.tokenizer.bos_token_id,
        eos_token_id=nano.tokenizer.eos_token_id,
        pad_token_id=nano.tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    TimeChatProcessor(nano.tokenizer, nano.qformer_tokenizer, config).save_pretrained(str(folder))


def make_videos() -> None:
    """Draw two short videos, and write training records, one of which names a video that is not there."""
    timechat(
        "data", "draw", "drawn", "--clips", 2, "--seed", 242, "--split", "test", "--part", "standard", "--workers", 1
    )
    rows = [json.loads(line) for line in Path("drawn/records.jsonl").read_text().splitlines()]
    grounding = [row for row in rows if row["task"] == "grounding" and row["events"]][:2]
    missing = grounding[0] | {"id": "missing", "video": "videos/missing.mp4"}
    lines = [json.dumps(row) + "\n" for row in [*grounding, missing]]
    Path("train.jsonl").write_text("".join(lines))


def make_training() -> None:
    """Train an adapter, keep its folder as the model of all other parts, then make a finished and a stopped run."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "start")
        changes = ["--set", f"model.checkpoint={folder}/start", "--set", "run.export=[folder]", "--set", "run.steps=1"]
        timechat("train", "train.yaml", *changes, "--output", f"{folder}/run")
        shutil.copytree(f"{folder}/run/model", "model")
    timechat("train", "train.yaml", "--output", "train-finished")
    timechat("train", "train.yaml", "--output", "train-stopped", "--minutes", 0, status=75)


def make_evaluations() -> None:
    """Evaluate: to the end, stopped after the first video, one share of two, and on drawn videos."""
    names = sorted(path.stem for path in Path("drawn/videos").glob("*.mp4"))
    Path("queries.txt").write_text("".join(f"{name} 2.0 9.0##{query}.\n" for name in names for query in QUERIES))
    timechat("evaluate", "evaluate.yaml", "--output", "eval-finished")
    timechat("evaluate", "evaluate.yaml", "--output", "eval-stopped", "--minutes", 0, status=75)
    timechat("evaluate", "evaluate.yaml", "--output", "eval-share", "--shard", "1/2")
    timechat("evaluate", "evaluate_drawn.yaml", "--output", "eval-drawn")


def make_cache() -> None:
    """Answer questions with a cache folder of their own, and note the answers that must be found again."""
    video = sorted(Path("drawn/videos").glob("*.mp4"))[0]
    commands = [
        ["ground", video, QUERIES[0], "--no-refine"],
        ["ground", video, QUERIES[0], "--no-refine", "--all", "--window", 8, "--overlap", 2],
        ["ground", video, QUERIES[0], "--refine"],
        ["ask", video, QUESTION],
        ["caption", video, "--step", 2, "--refine"],
        ["highlights", video, "--num-frames", 8, "--window", 0],
        ["summarize", video, "--cite", "--start", 4, "--end", 18],
    ]
    rows = []
    for command in commands:
        command = [*map(str, command), "--model", "model", "--device", "cpu", "--max-new-tokens", "24", "--quiet"]
        answer = json.loads(timechat(*command, "--json", TIMECHAT_CACHE="cache"))
        del answer["timings"]
        plan = json.loads(timechat(*command, "--plan", "--json", TIMECHAT_CACHE="cache"))
        assert "--cite" in command or plan["done"] == plan["windows"], plan  # --plan does not consider --cite
        rows.append({"command": command, "plan": {name: plan[name] for name in ("windows", "done")}, "answer": answer})
    for path in Path("cache").glob("*/*"):
        if path.stat().st_size == 64:  # the hash of a file, found by where the file lies: of no use on other machines
            path.unlink()
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    Path("cached.json").write_text(json.dumps({"versions": versions, "questions": rows}, indent=1) + "\n")


def make_server() -> None:
    """Upload a video, let one job succeed, one fail, cancel one, then kill the server while others run and wait."""
    video = sorted(Path("drawn/videos").glob("*.mp4"))[0]
    command = [sys.executable, "-m", "timechat", "serve", "--model", "model", "--device", "cpu", "--port", "0"]
    process = subprocess.Popen([*command, "--data", "server"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = next(line.split()[-1] for line in process.stderr if "http://" in line)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    with httpx.Client(base_url=url, timeout=60) as client:
        with video.open("rb") as file:
            form = {"files": {"file": ("my clip.mp4", file)}, "data": {"purpose": "user_data"}}
            uploaded = client.post("/v1/files", **form).json()["id"]

        def add(**request: Any) -> str:
            body = {"task": "grounding", "video": uploaded, "query": QUERIES[0], "max_new_tokens": 24} | request
            return str(client.post("/v1/jobs", json=body).raise_for_status().json()["id"])

        def wait(job: str) -> str:
            while True:
                status = str(client.get(f"/v1/jobs/{job}").json()["status"])
                if status in ("succeeded", "failed", "cancelled"):
                    return status
                time.sleep(0.05)

        assert wait(add()) == "succeeded"
        assert wait(add(video="http://127.0.0.1:9/video.mp4")) == "failed"  # no host is allowed
        slow = {"task": "dense_caption", "query": None, "window": 2, "overlap": 0, "max_new_tokens": 40}
        jobs = [add(**slow) for _ in range(2)]  # as many as run at once
        jobs += [add(query=QUERIES[1]) for _ in range(QUEUED_JOBS)]
        client.post(f"/v1/jobs/{jobs.pop()}/cancel")
        process.send_signal(signal.SIGKILL)
        process.wait()
    (database,) = Path("server").glob("*.sqlite3")
    with sqlite3.connect(database) as connection:
        statuses = [row[0] for row in connection.execute("SELECT status FROM jobs ORDER BY created_at")]
        assert statuses == ["succeeded", "failed", "running", "running", *["queued"] * 3, "cancelled"], statuses
        connection.execute("PRAGMA journal_mode = DELETE")  # everything in one file
    connection.close()
    shutil.rmtree("server/fetched", ignore_errors=True)
    Path("server/lock").unlink()


def make_features() -> None:
    """Compute features of the frozen vision tower."""
    timechat(
        "data",
        "encode",
        "train.jsonl",
        "--videos",
        "drawn",
        "--out",
        "features",
        "--model",
        "model",
        "--device",
        "cpu",
        "--num-frames",
        6,
    )


class Hub(BaseHTTPRequestHandler):
    """A hub that lists and gives one file; the second time it breaks off."""

    content = "".join(f"word{i}\n" for i in range(2000)).encode()
    breaks_off = False

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            body = json.dumps([{"type": "file", "path": "vocab.txt", "size": len(self.content)}]).encode()
        else:
            body = self.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        if self.breaks_off and body is self.content:
            self.wfile.write(body[:5000])
            self.wfile.flush()
            time.sleep(60)
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def make_downloads() -> None:
    """Fetch a file, and begin to fetch it into another folder, from a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    timechat("download", "download-finished", "--only", "bert-vocab", HF_ENDPOINT=address)
    Hub.breaks_off = True
    command = [sys.executable, "-m", "timechat", "download", "download-stopped", "--only", "bert-vocab"]
    process = subprocess.Popen(command, env=os.environ | {"HF_ENDPOINT": address}, stderr=subprocess.DEVNULL)
    part = Path("download-stopped/bert-base-uncased/vocab.txt.part")
    while not (part.exists() and part.stat().st_size == 5000):
        time.sleep(0.1)
    process.kill()
    process.wait()
    server.shutdown()
    for path in Path().glob("download-*/downloads.json"):
        path.write_text(path.read_text().replace(address, "http://127.0.0.1:9"))


def main() -> None:
    assert __version__ == "0.1.0", f"this is {__version__}; run it with version 0.1.0"
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    Path("train.yaml").write_text(TRAIN)
    Path("evaluate.yaml").write_text(EVALUATE)
    Path("evaluate_drawn.yaml").write_text(EVALUATE_DRAWN)
    parts = {
        "videos": (make_videos, ("drawn",)),
        "training": (make_training, ("model", "train-*")),
        "evaluations": (make_evaluations, ("eval-*",)),
        "cache": (make_cache, ("cache",)),
        "server": (make_server, ("server",)),
        "features": (make_features, ("features",)),
        "downloads": (make_downloads, ("download-*",)),
    }
    for name in sys.argv[2:] or parts:
        make, folders = parts[name]
        for path in (path for pattern in folders for path in Path().glob(pattern) if path.is_dir()):
            shutil.rmtree(path)
        began = time.monotonic()
        make()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
