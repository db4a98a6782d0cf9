"""Memory of a training run in several processes: while it loads, trains and saves, and when it is resumed.

    python perf/training_machines.py --out memory.json
    python perf/training_machines.py --checkout ../other --out before.json    # another checkout of this repository

A random model of 38 M parameters is trained as a whole, with Gloo on the loopback interface. The memory is that of one
process alone (USS), sampled every 10 ms: the highest value of all processes. `resumed` runs load the checkpoint of the
run before. The script imports `tests/` of the checkout, so it runs in a clone and not from an installed package.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ARRANGEMENTS = {  # name: (processes, settings)
    "one process": (1, ("run.parallel=none",)),
    "ddp, 2": (2, ("run.parallel=ddp",)),
    "fsdp2, 2": (2, ("run.parallel=fsdp2",)),
}
LENGTH, STEPS = 96, 3


class Memory:
    """The highest memory of this process in each phase of a run, in MB."""

    def __init__(self) -> None:
        self.phase, self.peaks = "load", dict[str, float]()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0.0), unique_megabytes())
            time.sleep(0.01)

    def during(self, phase: str, function: Any) -> Any:
        """Return a function that belongs to a phase."""

        def call(*arguments: Any, **options: Any) -> Any:
            before, self.phase = self.phase, phase
            self.peaks[phase] = max(self.peaks.get(phase, 0.0), unique_megabytes())
            try:
                return function(*arguments, **options)
            finally:
                self.phase = "train" if before == "load" else before

        return call


def unique_megabytes() -> float:
    """Return the memory that belongs to this process alone."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def train(folder: str, results: str, stop_after: int, settings: list[str]) -> None:
    """Train in this process, started by `torchrun` or alone."""
    import torch
    from tests.model.tiny import tiny_model
    from tests.training.small import small_recipe, with_config

    from timechat.training import loop
    from timechat.training.distributed import rank
    from timechat.training.run import train_recipe

    memory = Memory()
    torch.set_num_threads(1)

    class Source:
        def batches(self, first_iteration: int) -> Iterator[dict[str, Any]]:
            while True:
                generator = torch.Generator().manual_seed(first_iteration)
                ids = torch.randint(1, 4000, (1, LENGTH), generator=generator)
                ids[:, 2:6] = 4000
                labels = ids.clone()
                labels[:, :8] = -100
                yield {
                    "input_ids": ids,
                    "attention_mask": torch.ones_like(ids),
                    "labels": labels,
                    "pixel_values": torch.randn(1, 4, 3, 28, 28, generator=generator),
                    "qformer_input_ids": torch.randint(1, 100, (1, 4, 5), generator=generator),
                    "qformer_attention_mask": torch.ones(1, 4, 5, dtype=torch.long),
                }
                first_iteration += 1

    text = {"model_type": "llama", "vocab_size": 4000, "hidden_size": 512, "intermediate_size": 2048}
    text |= {"num_hidden_layers": 8, "num_attention_heads": 8, "max_position_embeddings": 512}

    def make_model(_settings: Any) -> Any:
        return with_config(tiny_model(text_config=text, image_token_id=4000))

    loop.take_step = memory.during("train", loop.take_step)
    if hasattr(loop, "CheckpointSaver"):
        loop.CheckpointSaver.save = memory.during("save", loop.CheckpointSaver.save)
    else:  # version 0.2.0
        loop.save_checkpoint = memory.during("save", loop.save_checkpoint)
    asked = iter(range(1, 100))
    parts = 'model.train=["image_qformer", "video_qformer", "projection", "language_model"]'
    stages = small_recipe(folder, parts, "run.batch_size=1", f"run.steps={2 * STEPS}", "run.save_every=1", *settings)
    begun = time.perf_counter()
    train_recipe(stages, lambda *_: Source(), make_model=make_model, should_stop=lambda: next(asked) >= stop_after)  # type: ignore[arg-type]
    peaks = memory.peaks | {"seconds": time.perf_counter() - begun}
    Path(results, f"{os.environ.get('RANK', rank())}.json").write_text(json.dumps(peaks), encoding="utf-8")


def measure(checkout: Path, name: str, folder: Path, *, stop_after: int) -> dict[str, float]:
    """Run one arrangement in processes of their own; return the highest memory of each phase."""
    processes, settings = ARRANGEMENTS[name]
    with tempfile.TemporaryDirectory() as results:
        arguments = [str(Path(__file__).absolute()), "--train", str(folder), results, str(stop_after), *settings]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), *arguments]
        environment = os.environ | {"PYTHONPATH": f"{checkout}:{checkout / 'src'}"}
        subprocess.run(command, cwd=checkout, env=environment, check=True, timeout=600, stderr=subprocess.DEVNULL)
        found = [json.loads(path.read_text(encoding="utf-8")) for path in Path(results).iterdir()]
    assert len(found) == processes
    return {phase: max(peaks.get(phase, 0.0) for peaks in found) for phase in found[0]}


def main() -> None:
    """Measure all arrangements and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[1], help="Clone to measure.")
    parser.add_argument("--only", choices=ARRANGEMENTS, help="Arrangement to measure.")
    parser.add_argument("--out", type=Path, help="File for the results.")
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        folder, results, stop_after, *settings = options.train
        train(folder, results, int(stop_after), settings)
        return
    rows: dict[str, dict[str, float]] = {}
    for name in [options.only] if options.only else ARRANGEMENTS:
        with tempfile.TemporaryDirectory() as folder:
            for run, steps in ((name, STEPS), (f"{name}, resumed", 99)):
                rows[run] = measure(options.checkout.absolute(), name, Path(folder) / "run", stop_after=steps)
        first, resumed = rows[name], rows[f"{name}, resumed"]
        first["save/train"] = first["save"] / first["train"]
        resumed["highest/train"] = max(resumed[phase] for phase in ("load", "train", "save")) / first["train"]
        for run in (name, f"{name}, resumed"):
            print(run, {key: round(value, 2) for key, value in rows[run].items()}, flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
