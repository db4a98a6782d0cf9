"""Two processes are one with twice the batch."""

import gc
import subprocess
import weakref
from pathlib import Path

import pytest
import torch

from tests.model.tiny import tiny_model
from tests.training.small import EVERYTHING, make_still_model, run_module, small_recipe, train_small
from timechat.training import distributed, parallel
from timechat.training.checkpoint import find_checkpoints
from timechat.training.logs import read_log
from timechat.training.objectives import ObjectiveModule

SETTINGS = ("run.steps=3", "run.accumulation=2")


def numbers(folder, name="loss") -> list[float]:
    return [line[name] for line in read_log(folder) if "loss" in line]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two processes of torchrun: the command, which stops after its first step, and small models."""
    folder = tmp_path_factory.mktemp("parallel")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "model: {checkpoint: nano, train: [vision]}\n"
        "objective: nano_frames\n"
        "data: {films: {seed: 0}}\n"
        f"run: {{output: {folder}/stopped, parallel: ddp, batch_size: 4, steps: 9, device: cpu, plot: false}}\n"
    )
    return folder, run_module("parallel", folder, recipe, "run.batch_size=1", *SETTINGS, processes=2)


def test_two_processes_equal_one_process_with_twice_the_batch(two_processes, tmp_path):
    folder, _ = two_processes
    for kind, trained in (("ddp", ()), ("fsdp2", (EVERYTHING,))):
        one = tmp_path / f"one-{kind}"
        train_small(small_recipe(one, "run.batch_size=2", *SETTINGS, *trained), make_model=make_still_model)
        for name in ("loss", "grad_norm"):
            assert numbers(folder / kind, name) == pytest.approx(numbers(one, name), abs=1e-5, rel=1e-5)
        assert find_checkpoints(folder / kind)[-1].num_processes == 2


def test_stopping_under_torchrun_is_not_a_crash(two_processes):
    folder, result = two_processes
    assert result.returncode == 0, result.stderr[-3000:]
    assert "the same command resumes" in result.stderr + result.stdout
    assert [checkpoint.step for checkpoint in find_checkpoints(folder / "stopped")] == [1]


def test_torchrun_refuses_a_recipe_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"torchrun started 2 processes, but run.parallel is none"):
        train_small(small_recipe(tmp_path))


def test_a_sharded_tower_reads_all_frames_of_a_video_at_once(monkeypatch):
    """Otherwise the processes call its layers a different number of times, if their videos differ in length."""
    for name in ("fully_shard", "init_device_mesh"):
        monkeypatch.setattr(parallel, name, lambda *_, **__: None)
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    model = tiny_model()
    (recipe,) = small_recipe("out", "run.parallel=fsdp2")
    parallel.parallelize(ObjectiveModule(model, lambda *_: None), recipe.run, torch.device("cpu"))
    assert model.frame_encoder.frames_per_batch is None


def test_a_destroyed_process_group_ends_with_the_group_that_saves():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        saving = weakref.ref(distributed.saving_group())
        assert saving() is distributed.saving_group()
    finally:
        torch.distributed.destroy_process_group()
    gc.collect()
    assert saving() is None  # its threads would abort the process when Python ends


def test_one_process_needs_no_communication():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert list(distributed.shard([1, 2, 3])) == distributed.gather([1, 2, 3]) == [1, 2, 3]
    assert distributed.sum_over_processes([1.5, 2.0]) == [1.5, 2.0]
    assert distributed.from_first("word") == "word"
