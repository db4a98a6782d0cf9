"""A tiny model and random batches; run as a module, it trains in separate processes."""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.model.tiny import tiny_config, tiny_model
from timechat.training.config import TrainingRecipe
from timechat.training.distributed import rank, world_size
from timechat.training.recipes import build_recipe
from timechat.training.run import train_recipe

IMAGE = 90  # the tiny model's image_token_id
NUM_FRAMES, NUM_VIDEO_TOKENS = 4, 4
EVERYTHING = 'model.train=["image_qformer", "video_qformer", "projection", "language_model"]'


def small_recipe(output: Path | str, *overrides: str, **content) -> list[TrainingRecipe]:
    base = {
        "model": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}},
        "optimizer": {"lr": 1e-2, "min_lr": 1e-3, "warmup_lr": 1e-4, "warmup_iters": 1},
        "run": {"steps": 4, "batch_size": 2, "tensorboard": False, "plot": False, "export": [], "device": "cpu"},
    }
    return build_recipe(base | content, [f"run.output={output}", *overrides])


def sample(number: int) -> dict[str, torch.Tensor]:
    """Return a sample that depends on its number only; answers differ in length."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(1, 90, (14,), generator=generator)
    ids[2 : 2 + NUM_VIDEO_TOKENS] = IMAGE
    labels = ids.clone()
    labels[: 7 + number % 5] = -100
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "pixel_values": torch.randn(NUM_FRAMES, 3, 28, 28, generator=generator),
        "qformer_input_ids": torch.randint(1, 100, (NUM_FRAMES, 5), generator=generator),
        "qformer_attention_mask": torch.ones(NUM_FRAMES, 5, dtype=torch.long),
    }


class SmallSource:
    """Samples 0, 1, 2, ... without end, divided among the processes."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def batches(self, first_iteration: int) -> Iterator[dict[str, Any]]:
        iteration = first_iteration
        while True:
            start = (iteration * world_size() + rank()) * self.batch_size
            numbers = range(start, start + self.batch_size)
            samples = [sample(number) for number in numbers]
            batch = {name: torch.stack([one[name] for one in samples]) for name in samples[0]}
            yield batch | {"record_ids": [f"record-{number}" for number in numbers]}
            iteration += 1


def make_model(_settings):
    return with_config(tiny_model())


def make_still_model(_settings):
    """Make a model without dropout, so that results do not depend on the distribution of samples."""
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = tiny_config()
    qformers = {name: getattr(config, name).to_dict() | off for name in ("qformer_config", "video_qformer_config")}
    return with_config(tiny_model(**qformers))


def train_small(stages: list[TrainingRecipe], *, source=SmallSource, **options) -> bool:
    options = {"make_model": make_model} | options
    return train_recipe(stages, lambda recipe, *_: source(recipe.run.samples_per_process(world_size())), **options)


def run_module(*arguments: object, processes: int = 1, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run this file in one process, or in several with torchrun."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options, "-m"]
    command = [sys.executable, "-m", *(launcher if processes > 1 else []), __name__, *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=290)


def with_config(model: Any) -> tuple[Any, Any]:
    """A model, and what stands for its processor: these runs read no text and no frames."""
    return model, SimpleNamespace(config=model.config)


def _train_and_die(folder: str, iteration: str, *overrides: str) -> None:
    """Train, and kill the process at a given batch."""

    class DeadlySource(SmallSource):
        def batches(self, first_iteration: int) -> Iterator[dict[str, Any]]:
            for number, batch in enumerate(super().batches(first_iteration), start=first_iteration):
                if number == int(iteration):
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

    train_small(small_recipe(folder, *overrides), source=DeadlySource)


def _train_and_stop(folder: str, steps: str, *overrides: str) -> None:
    """Train a model without dropout, all of its language model included; stop after some steps, or at the end."""
    asked = iter(range(1, 100))
    stages = small_recipe(folder, EVERYTHING, *overrides)
    train_small(stages, make_model=make_still_model, should_stop=lambda: next(asked) >= int(steps))


def _train_records(folder: str, records: str, *overrides: str) -> None:
    """Train the built-in model, as a recipe loads it, on a file of records."""
    data = {"sources": [{"records": records}], "num_frames": 4, "max_length": 512}
    train_recipe(small_recipe(folder, *overrides, data=data))


def _train_and_lose_one(folder: str, step: str, *overrides: str) -> None:
    """Train with DDP; the last process of the first start kills itself before a step."""

    class DeadlySource(SmallSource):
        def batches(self, first_iteration: int) -> Iterator[dict[str, Any]]:
            for number, batch in enumerate(super().batches(first_iteration), start=first_iteration):
                marker = Path(folder, "killed")
                if number == int(step) and rank() == world_size() - 1 and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

    Path(folder).mkdir(parents=True, exist_ok=True)
    stages = small_recipe(f"{folder}/run", "run.parallel=ddp", "run.batch_size=1", *overrides)
    train_small(stages, source=DeadlySource)


def _train_in_parallel(folder: str, recipe: str, *overrides: str) -> None:
    """Train on all processes: by the command, then an adapter with DDP, and all of the language model with FSDP.

    The command stops after its first step. Its process group stays, because the processes of one torchrun cannot join a
    second one. FSDP is stopped and resumed.
    """
    sys.argv = ["timechat.training", recipe, "--minutes", "0"]
    with patch.object(torch.distributed, "destroy_process_group"), pytest.raises(SystemExit) as ended:
        runpy.run_module("timechat.training", run_name="__main__", alter_sys=True)
    assert not ended.value.code
    assert torch.distributed.is_initialized()
    train_small(small_recipe(f"{folder}/ddp", "run.parallel=ddp", *overrides), make_model=make_still_model)
    stages = small_recipe(f"{folder}/fsdp2", "run.parallel=fsdp2", EVERYTHING, *overrides)
    asked = iter([False, True])
    assert not train_small(stages, make_model=make_still_model, should_stop=lambda: next(asked))
    assert train_small(stages, make_model=make_still_model)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    commands: dict[str, Callable[..., None]] = {"die": _train_and_die, "parallel": _train_in_parallel}
    commands["stop"] = _train_and_stop
    commands["records"] = _train_records
    commands["lose"] = _train_and_lose_one
    commands[sys.argv[1]](*sys.argv[2:])
