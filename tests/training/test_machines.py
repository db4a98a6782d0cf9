"""Training on several machines: agents of torchrun on the loopback interface, restarts, and folders that differ."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from tests.clips import RECIPES, draw_clip
from tests.training.small import EVERYTHING, make_still_model, run_module, small_recipe, train_small
from timechat.training.checkpoint import find_checkpoints
from timechat.training.logs import read_log
from timechat.training.run import train_recipe

pytestmark = pytest.mark.slow
SHARDED = ("run.global_batch_size=4", "run.steps=4", "run.save_every=9")
SETTINGS = ("run.steps=6", "run.save_every=2", "model.lora.dropout=0.1")


def losses(folder: Path) -> list[str]:
    return [line["loss_hex"] for line in read_log(folder) if "loss" in line]


def agents(folders: list[Path], *arguments: object, options: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
    """Start one agent of torchrun for each machine, each with one process, in its own working folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "--rdzv-id=small", *options]
    command += ["-m", "tests.training.small", *map(str, arguments)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'src'}"}
    started = []
    for folder in folders:
        folder.mkdir(exist_ok=True)
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True))
    return started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Losses of two processes that live."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = run_module("lose", folder, 99, *SETTINGS, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    return losses(folder / "run")


def test_torchrun_restarts_after_a_killed_process(undisturbed, tmp_path):
    options = ("--max-restarts=2",)
    result = run_module("lose", tmp_path, 3, *SETTINGS, processes=2, options=options)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "killed").exists()
    assert len(undisturbed) == 6
    assert losses(tmp_path / "run") == undisturbed


def test_both_machines_restart_after_a_killed_process(undisturbed, tmp_path):
    options = ("--max-restarts=2",)
    started = agents([tmp_path / "a", tmp_path / "b"], "lose", tmp_path, 3, *SETTINGS, options=options)
    outputs = [agent.communicate(timeout=240) for agent in started]
    assert [agent.returncode for agent in started] == [0, 0], outputs[0][1][-3000:]
    assert (tmp_path / "killed").exists()
    assert losses(tmp_path / "run") == undisturbed


def test_two_machines_with_two_folders_end_in_30_seconds(tmp_path):
    started = agents([tmp_path / "a", tmp_path / "b"], "lose", "out", 99, *SETTINGS)
    outputs = [agent.communicate(timeout=120)[1] for agent in started]
    [made] = list(tmp_path.glob("*/out/run"))  # by the first process, when both have joined
    seconds = time.time() - made.stat().st_ctime
    print(f"ended {seconds:.1f} s after the processes have joined")
    assert seconds < 30
    assert all(agent.returncode for agent in started)
    message = (
        r"run\.output must be a folder that all machines share, but 1 of 2 processes do not see the files .*: .*/out"
    )
    assert any(re.search(message, output) for output in outputs), outputs[0][-3000:]


@pytest.fixture(scope="module")
def saved_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes with a sharded model that was stopped after two of four steps."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    result = run_module("stop", folder, 2, *SHARDED, "run.parallel=fsdp2", processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    [saved] = find_checkpoints(folder)
    assert (saved.step, saved.num_processes) == (2, 2)
    return folder


@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (1, ("run.parallel=none",)),
        (4, ("run.parallel=fsdp2",)),
        (4, ("run.parallel=hsdp", "run.shard_size=2")),
        (2, ("run.parallel=ddp",)),
    ],
)
def test_other_processes_resume_with_the_same_losses(saved_by_two, tmp_path, processes, settings):
    one = tmp_path / "one"
    train_small(small_recipe(one, EVERYTHING, *SHARDED), make_model=make_still_model)
    shutil.copytree(saved_by_two, tmp_path / "run")
    result = run_module("stop", tmp_path / "run", 99, *SHARDED, *settings, processes=processes)
    assert result.returncode == 0, result.stderr[-3000:]
    ours, want = ([line["loss"] for line in read_log(folder) if "loss" in line] for folder in (tmp_path / "run", one))
    assert len(want) == 4
    difference = max(abs(a - b) for a, b in zip(ours, want, strict=True))
    print(f"{processes} processes, {settings[0]}: largest difference {difference:.1e}")
    assert difference < 1e-5


def write_records(folder: Path) -> None:
    draw_clip(RECIPES["constant rate"], folder / "clock.mp4")
    turns = [{"q": "When does it turn?", "a": "The given query happens in 0.5 - 1.5 seconds."}]
    (folder / "records.jsonl").write_text((json.dumps({"video": "clock.mp4", "QA": turns}) + "\n") * 2)


def test_one_process_loads_the_start_weights_for_all(tmp_path):
    write_records(tmp_path)
    settings = ("run.steps=2", "run.global_batch_size=2", 'model.train=["projection", "lora"]')
    for name, processes, parallel in (("one", 1, "none"), ("two", 2, "fsdp2")):
        arguments = ("records", tmp_path / name, tmp_path / "records.jsonl", *settings, f"run.parallel={parallel}")
        result = run_module(*arguments, processes=processes)
        assert result.returncode == 0, result.stderr[-3000:]
    ours, want = ([line["loss"] for line in read_log(tmp_path / name)] for name in ("two", "one"))
    assert ours == pytest.approx(want, abs=1e-5)


def test_records_and_videos_in_a_store_train_the_same(tmp_path):
    write_records(tmp_path)
    store = fsspec.filesystem("memory")
    store.pipe({f"/set/{name}": (tmp_path / name).read_bytes() for name in ("clock.mp4", "records.jsonl")})
    for name, records in (("local", f"{tmp_path}/records.jsonl"), ("store", "memory://set/records.jsonl")):
        content = {"sources": [{"records": records}], "num_frames": 4, "max_length": 512}
        assert train_recipe(small_recipe(tmp_path / name, "run.steps=2", data=content))
    assert losses(tmp_path / "store") == losses(tmp_path / "local")
    digests = [find_checkpoints(tmp_path / name)[-1].inputs["records"] for name in ("store", "local")]
    assert digests[0] == digests[1]
