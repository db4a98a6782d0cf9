"""Files that version 0.1 wrote are loaded, resumed and found again; see tests/data/v01/README.md."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.serving.conftest import serving
from timechat import TimeChat
from timechat.cli import main
from timechat.serving.http import ServerSettings

V01 = Path(__file__).parent / "data" / "v01"
CACHED = json.loads((V01 / "cached.json").read_text())

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files of 0.1 as the current folder; paths inside the files are relative to it."""
    shutil.copytree(V01, tmp_path / "v01")
    monkeypatch.chdir(tmp_path / "v01")
    return tmp_path / "v01"


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `timechat` in this process; returns exit status, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["timechat", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def hashes_of(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ------------------------------------------------------------------------------------------------------------- model


def test_a_model_folder_of_0_1_answers_as_before(folder: Path) -> None:
    expected = CACHED["questions"][0]
    timechat = TimeChat.from_pretrained("model", device="cpu")
    assert any("lora_" in name for name, _ in timechat.model.named_parameters())
    answer = timechat.ground(expected["command"][1], expected["command"][2])
    assert answer.text == expected["answer"]["text"]
    event = expected["answer"]["events"][0]
    assert (answer.events[0].start, answer.events[0].end) == (event["start"], event["end"])


# ---------------------------------------------------------------------------------------------------------- training


def test_a_stopped_training_run_of_0_1_resumes(folder: Path, command: Command) -> None:
    shutil.copy("train-finished/lost-records-0.jsonl", "train-stopped")
    status, out, err = command("train", "train.yaml", "--output", "train-stopped")
    assert (status, out) == (0, "train-stopped\n"), err
    ours, whole = (lines_of(folder / name / "log.jsonl") for name in ("train-stopped", "train-finished"))
    assert [line["step"] for line in ours] == [1, 2, 3, 4]
    assert ours[0] == lines_of(V01 / "train-stopped" / "log.jsonl")[0]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in whole], rel=1e-4)
    assert json.loads(Path("train-stopped/finished.json").read_text())["step"] == 4
    info = json.loads(Path("train-stopped/checkpoints/step-0000004/info.json").read_text())
    assert info["inputs"]["frame interpolation"] == "bicubic"
    lost = lines_of(folder / "train-stopped" / "lost-records-0.jsonl")
    assert [(row["kind"], row["record"]) for row in lost] == [("missing", "missing")]


def test_the_objective_answers_loads_or_one_line_helps(command: Command) -> None:
    status, _, err = command("train", "train.yaml", "--set", "objective=answers", "--output", "train-stopped")
    if status == 0:
        assert json.loads(Path("train-stopped/finished.json").read_text())["step"] == 4
    else:
        assert status == 2
        assert len(err.splitlines()) == 1
        assert "next_token" in err


def test_a_finished_training_run_of_0_1_is_known(folder: Path, command: Command) -> None:
    before = hashes_of(folder / "train-finished")
    status, out, err = command("train", "train.yaml", "--output", "train-finished")
    assert (status, out) == (0, "train-finished\n"), err
    assert "already finished" in err
    del before["recipe.yaml"]  # written again, with the keys of today
    assert before.items() <= hashes_of(folder / "train-finished").items()


def test_a_run_of_0_1_becomes_an_original_file(command: Command) -> None:
    status, _, err = command("train", "--export-original", "train-finished", "original.pth")
    assert status == 0, err
    weights = torch.load("original.pth", weights_only=True)["model"]
    assert "llama_proj.weight" in weights


# -------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("name", ["finished", "drawn"])
def test_a_finished_evaluation_is_scored_without_a_model(
    name: str, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("model")
    monkeypatch.setenv("PATH", "")  # no Java, whose programs take longer than all other tests here
    recipe = "evaluate_drawn.yaml" if name == "drawn" else "evaluate.yaml"
    status, out, err = command("evaluate", recipe, "--output", f"eval-{name}", "--json")
    assert status == 0, err
    metrics, expected = json.loads(out), json.loads((V01 / f"eval-{name}" / "metrics.json").read_text())
    for content in (metrics, expected):
        content["scores"].get("dense_caption", {}).clear()  # captions are scored otherwise without Java
    assert metrics == expected


def test_a_stopped_evaluation_keeps_its_answers(folder: Path, command: Command) -> None:
    path = folder / "eval-stopped" / "predictions-0-of-1.jsonl"
    rows = lines_of(path)
    rows[0]["text"] = "Kept from version 0.1."
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = command("evaluate", "evaluate.yaml", "--output", "eval-stopped")
    assert status == 0, err
    ours, whole = (lines_of(folder / name / "predictions.jsonl") for name in ("eval-stopped", "eval-finished"))
    assert [row["id"] for row in ours] == [row["id"] for row in whole]
    assert ours[:2] == rows
    assert [row["text"] for row in ours[2:]] == [row["text"] for row in whole[2:]]


def test_a_share_of_an_evaluation_is_completed(folder: Path, command: Command) -> None:
    rows = lines_of(folder / "eval-share" / "predictions-0-of-2.jsonl")
    status, _, err = command("evaluate", "evaluate.yaml", "--output", "eval-share", "--shard", "2/2")
    assert status == 0, err
    ours = lines_of(folder / "eval-share" / "predictions.jsonl")
    assert ours[:2] == rows
    assert len(ours) == 4


# -------------------------------------------------------------------------------------------------------------- data


def test_drawn_videos_of_0_1_are_kept(folder: Path, command: Command) -> None:
    before = hashes_of(folder / "drawn")
    times = {path: path.stat().st_mtime_ns for path in (folder / "drawn" / "videos").iterdir()}
    options = ["--clips", 2, "--seed", 242, "--split", "test", "--part", "standard", "--workers", 1]
    status, _, err = command("data", "draw", "drawn", *options)
    assert status == 0, err
    assert hashes_of(folder / "drawn") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_records_of_0_1_pass_the_check(command: Command) -> None:
    status, out, err = command("data", "check", "drawn/records.jsonl", "--num-frames", 8, "--json", "--strict")
    assert status == 0, err
    assert json.loads(out)["files"][0]["records"] == len(lines_of(V01 / "drawn" / "records.jsonl"))


def test_features_of_0_1_are_kept_and_trained_from(folder: Path, command: Command) -> None:
    (file,) = (folder / "features").glob("*/*.safetensors")
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    encode = ["data", "encode", "train.jsonl", "--videos", "drawn", "--out", "features", "--model", "model"]
    status, _, err = command(*encode, "--device", "cpu", "--num-frames", 6)
    assert status == 2
    assert "interpolation is 'bicubic', not 'bilinear'" in err
    config = folder / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"frame_interpolation": "bicubic"}))
    status, _, err = command(*encode, "--device", "cpu", "--num-frames", 6)
    assert status == 0, err
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    file.write_bytes(before[0])
    changes = ["--set", "data.features=features", "--set", "run.steps=1", "--output", "from-features"]
    shutil.rmtree(folder / "drawn" / "videos")
    status, _, err = command("train", "train.yaml", *changes)
    assert status == 0, err
    (ours,) = lines_of(folder / "from-features" / "log.jsonl")
    assert ours["loss"] == pytest.approx(lines_of(V01 / "train-finished" / "log.jsonl")[0]["loss"], rel=1e-4)


# --------------------------------------------------------------------------------------------------------- downloads


REPOSITORY = "google-bert/bert-base-uncased"
COMMIT = "1" * 40


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository of one file, the one that 0.1 fetched."""

    content: ClassVar[bytes] = "".join(f"word{i}\n" for i in range(2000)).encode()

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path, start = self.path.partition("?")[0], 0
        size = len(self.content)
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            body = json.dumps([{"type": "file", "path": "vocab.txt", "size": size, "oid": "2" * 40}]).encode()
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": "vocab.txt", "size": size, "blobId": "2" * 40}]
            body = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
        elif re.fullmatch(rf"/{REPOSITORY}/resolve/\w+/vocab.txt", path):
            body = self.content
            if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start = int(wanted[1])
        else:
            self.send_error(404)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["download-finished", "download-stopped"])
def test_a_download_of_0_1_is_kept_or_completed(name: str, folder: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    manifest = folder / name / "downloads.json"
    manifest.write_text(manifest.read_text().replace("http://127.0.0.1:9", address))
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub")}
    command = [sys.executable, "-m", "timechat", "download", name, "--only", "bert-vocab"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    assert (folder / name / "bert-base-uncased" / "vocab.txt").read_bytes() == Hub.content
    assert hashlib.sha256(Hub.content).hexdigest() in done.stdout


# ------------------------------------------------------------------------------------------------------------ server


def test_uploads_and_jobs_of_0_1_survive_in_a_server(folder: Path) -> None:
    (upload,) = (folder / "server" / "uploads").iterdir()
    timechat = TimeChat.from_pretrained("model", device="cpu")
    with serving(timechat, ServerSettings(data=folder / "server")) as running:
        client = running.client
        (file,) = client.get("/v1/files").json()["data"]
        assert (file["id"], file["filename"], file["purpose"]) == (upload.name, "my clip.mp4", "user_data")
        assert (file["bytes"], file["video"]["duration"]) == (upload.stat().st_size, 20.0)
        assert client.get(f"/v1/files/{upload.name}/content").content == upload.read_bytes()

        def jobs() -> list[dict[str, Any]]:
            listed = client.get("/v1/jobs").json()["data"]
            return [client.get(f"/v1/jobs/{job['id']}").json() for job in reversed(listed)]

        end = time.monotonic() + 60
        while any(job["status"] in ("queued", "running") for job in jobs()):
            assert time.monotonic() < end, jobs()
            time.sleep(0.1)
        done = jobs()
    # When 0.1 was killed, jobs 3 and 4 were running and the next three were queued.
    expected = ["succeeded", "failed", *["succeeded"] * 5, "cancelled"]
    assert [job["status"] for job in done] == expected
    assert done[0]["result"]["events"][0]["caption"] == "the white square moves"
    assert done[1]["error"]["code"] == "forbidden"
    assert [job["task"] for job in done[2:4]] == ["dense_caption"] * 2
    assert all(job["result"]["text"] for job in done[2:7])
