"""Compute with this version and with an earlier one, alternating, and compare CPU seconds and peak memory.

    python perf/model_versions.py VIDEO [--baseline COMMIT] [--runs 5] [--only tokens wide ...] [--json FILE]

Both versions run with the libraries of this environment, on the same random weights. Every measurement is one process.
The first two workloads turn frames into video tokens, with `OMP_WAIT_POLICY=PASSIVE` and with the default of OpenMP
beside two busy processes. `wide` does the same with layers of ViT-g's width. `train` takes training steps (frozen
vision tower, LoRA, trained Q-Former and projection). `question` opens a video and asks the first question.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from perf.earlier_version import ROOT, VERSION_0_1, check_out


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        title: Row title.
        model: Name of the model, a key of `_MODELS`.
        work: Name of the work in `perf/model_versions_work.py`.
        policy: `OMP_WAIT_POLICY` of both versions; None leaves it unset.
        busy: Number of busy processes beside the measurement.
    """

    title: str
    model: str
    work: str
    policy: str | None = None
    busy: int = 0


_VISION = {
    "model_type": "instructblip_vision_model",
    "image_size": 224,
    "patch_size": 14,
    "qkv_bias": True,
    "initializer_range": 0.02,
}
_MODELS: dict[str, dict[str, Any]] = {
    "mid": {
        "vision_config": _VISION
        | {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6},
        "qformer_config": {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        "video_qformer_config": {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    },
    "wide": {
        "vision_config": _VISION
        | {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 3, "num_attention_heads": 16},
        "qformer_config": {
            "hidden_size": 768,
            "num_hidden_layers": 2,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        "video_qformer_config": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    },
}
_TEXT = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8}
WORKLOADS = {
    "tokens": Workload("frames to video tokens, passive wait policy", "mid", "tokens", policy="PASSIVE"),
    "busy": Workload("the same, default OpenMP, beside two busy processes", "mid", "tokens", busy=2),
    "wide": Workload("the same, width of ViT-g, passive", "wide", "tokens", policy="PASSIVE"),
    "wide_busy": Workload("the same, width of ViT-g, default, beside two busy", "wide", "tokens", busy=2),
    "train": Workload("training step", "mid", "train", policy="PASSIVE"),
    "question": Workload("first question", "mid", "question", policy="PASSIVE"),
}


def write_model(name: str, folder: Path) -> Path:
    """Write a model of random weights with the processor of nano, which both versions can load."""
    import torch

    from timechat.model.configuration import TimeChatConfig
    from timechat.model.loading import load_model
    from timechat.model.modeling import TimeChatForConditionalGeneration

    target = folder / name
    if (target / "config.json").exists():
        return target
    network, processor = load_model("nano", device="cpu", dtype="float32")
    vocabulary = network.config.text_config.vocab_size
    qformer_vocabulary = network.config.qformer_config.vocab_size
    sizes = json.loads(json.dumps(_MODELS[name]))
    sizes["qformer_config"]["vocab_size"] = qformer_vocabulary
    text = _TEXT | {"model_type": "llama", "vocab_size": vocabulary, "max_position_embeddings": 4096}
    config = TimeChatConfig(**sizes, text_config=text, image_token_id=network.config.image_token_id, is_trained=False)
    config.timestamp_tokenizer = network.config.timestamp_tokenizer
    config.frame_interpolation = "bicubic"  # the only filter of version 0.1
    torch.manual_seed(0)
    model = TimeChatForConditionalGeneration(config).eval()
    processor.config = config
    model.save_pretrained(target)
    processor.save_pretrained(target)
    return target


def measure(root: Path, workload: Workload, model: Path, video: Path, threads: int) -> dict[str, Any]:
    """Return `seconds` of CPU, `peak` bytes and `digest` of one measurement with the version in `root`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    environment |= {"PYTHONPATH": str(root / "src"), "TOKENIZERS_PARALLELISM": "false"}
    if workload.policy is not None:
        environment["OMP_WAIT_POLICY"] = workload.policy
    with tempfile.TemporaryDirectory() as cache:
        environment["TIMECHAT_CACHE"] = cache
        script = Path(__file__).with_name("model_versions_work.py")
        command = [sys.executable, "-P", str(script), workload.work, str(model), str(video), str(threads)]
        result = subprocess.run(command, env=environment, cwd=cache, check=False, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{root}: {workload.work} failed:\n{result.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare(workload: Workload, baseline: Path, model: Path, video: Path, *, runs: int, threads: int) -> dict[str, Any]:
    """Measure both versions in turn, and return medians and ratios."""
    before, now = [], []
    with busy_processes(workload.busy):
        for _ in range(runs):
            before.append(measure(baseline, workload, model, video, threads))
            now.append(measure(ROOT, workload, model, video, threads))
    row: dict[str, Any] = {"title": workload.title}
    for name in ("seconds", "peak"):
        medians = [statistics.median(float(one[name]) for one in version) for version in (before, now)]
        row |= {f"{name}_before": medians[0], f"{name}_now": medians[1], f"{name}_ratio": medians[1] / medians[0]}
    row["difference"] = abs(before[0]["checksum"] - now[0]["checksum"]) / abs(before[0]["checksum"])
    return row


def main() -> None:
    """Print one line per workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, metavar="VIDEO", help="Video for the frames and the question.")
    parser.add_argument("--baseline", default=VERSION_0_1, metavar="COMMIT", help="Earlier version; default: 0.1.")
    parser.add_argument("--runs", type=int, default=5, help="Measurements of each version per workload.")
    parser.add_argument("--threads", type=int, default=0, help="Threads of torch; 0 takes its default.")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="Workloads.")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "timechat-model-versions",
        metavar="DIR",
        help="Folder for the earlier version and the models.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="Output file for the results.")
    options = parser.parse_args()
    baseline = check_out(options.baseline, options.cache)
    rows = []
    print(f"{'CPU seconds':<54}{'before':>9}{'now':>9}{'ratio':>7}{'peak MB':>9}{'now':>7}{'ratio':>7}  checksum")
    for name in options.only:
        workload = WORKLOADS[name]
        model = write_model(workload.model, options.cache)
        row = compare(workload, baseline, model, options.video.resolve(), runs=options.runs, threads=options.threads)
        rows.append(row)
        print(
            f"{row['title']:<54}{row['seconds_before']:>9.2f}{row['seconds_now']:>9.2f}{row['seconds_ratio']:>7.2f}"
            f"{row['peak_before'] / 1e6:>9.0f}{row['peak_now'] / 1e6:>7.0f}{row['peak_ratio']:>7.2f}"
            f"  {row['difference']:.0e}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
