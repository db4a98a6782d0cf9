"""Training on several machines: agents of torchrun on the loopback interface, restarts, and folders that differ."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.small import run_module
from timechat.training.logs import read_log

pytestmark = pytest.mark.slow
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
