"""Runs of `timechat batch` for `perf/batch.py`: CPU time of all processes, results, comparison, nodes of Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MARK = "TIMECHAT_PERF_BATCH"
RUN_LIMIT = 1800.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")


class Processes:
    """All processes with a mark in their environment: their CPU seconds, and their names."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self.seconds: dict[str, float] = {}
        self.names: dict[str, str] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self.read()

    def read(self) -> list[int]:
        """Read all processes; return the identifiers of those that run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                if self._mark not in (folder / "environ").read_bytes():
                    continue
                text = (folder / "stat").read_text()
                fields = text.rpartition(")")[2].split()
                key = f"{folder.name}-{fields[19]}"  # with the start time, as identifiers are used again
                self.seconds[key] = (int(fields[11]) + int(fields[12])) / TICKS
                self.names[key] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(int(folder.name))
        return found

    def find(self, name: str) -> list[int]:
        """Return the identifiers of running processes whose command contains a word."""
        self.read()
        running = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_ours = self._mark in (folder / "environ").read_bytes()
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if is_ours and name in words:
                    running.append(int(folder.name))
        return running

    def stop(self) -> float:
        """End the reading; return the CPU seconds of all processes."""
        self.read()
        self._done.set()
        self._thread.join()
        return sum(self.seconds.values())


def run_batch(
    work: Path,
    name: str,
    *arguments: str,
    task: str = "caption",
    during: Callable[[Processes, Path], object] | None = None,
    keep: bool = False,
    path: str = "",
) -> dict[str, Any]:
    """Run `timechat batch`; return its exit status, wall and CPU seconds, and the counts of its report."""
    output = work / f"out-{name}"
    if not keep:
        shutil.rmtree(output, ignore_errors=True)
    processes = Processes(f"{name}-{os.getpid()}")
    environment = {**os.environ, MARK: f"{name}-{os.getpid()}", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "timechat", "batch", *arguments, "--task", task, "--output", str(output)]
    began = time.monotonic()
    log = (work / f"{name}.log").open("w")
    process = subprocess.Popen([*command, "--device", "cpu"], env=environment, stdout=log, stderr=subprocess.STDOUT)
    status: int | str
    try:
        if during is not None:
            during(processes, output)
        status = process.wait(RUN_LIMIT)
    except subprocess.TimeoutExpired:
        status = "hung"
    finally:
        if process.poll() is None:
            process.kill()
    wall = time.monotonic() - began
    time.sleep(1.0)
    seconds = processes.stop()
    top = sorted(processes.seconds.items(), key=lambda each: -each[1])[:15]
    with (work / f"{name}.log").open("a") as log:
        log.writelines(f"{value:6.1f} CPU s  {processes.names[key][:110]}\n" for key, value in top)
    counts = {}
    if (output / "report.json").exists():
        report = json.loads((output / "report.json").read_text())
        counts = {key: report[key] for key in ("rows", "ok", "failed", "lost", "windows")}
    return {"run": name, "status": status, "wall": round(wall, 1), "cpu": round(seconds, 1), **counts}


def answers(work: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a run by their identifiers; a row that occurs twice is an error."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((work / f"out-{name}" / "answers").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["id"] in found:
                raise SystemExit(f"{name}: the row {row['id']} is there twice")
            found[row["id"]] = row
    return found


def json_of_commands(work: Path, videos: Sequence[Path], name: str, command: Sequence[str]) -> dict[str, Any]:
    """Return the JSON of `timechat COMMAND` about each video, made once for a command."""
    folder, note = work / name, work / name / "command.txt"
    words = [sys.executable, "-m", "timechat", *command, "--json", "--no-cache", "--device", "cpu"]
    words += ["--output-dir", str(folder)]
    if not note.exists() or note.read_text() != str(words):
        subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        note.write_text(str(words))
    return {video.name: json.loads((folder / f"{video.stem}.json").read_text()) for video in videos}


def reference(work: Path) -> dict[str, dict[str, Any]]:
    """Return the JSON of `timechat caption` about each video."""
    videos = sorted((work / "videos").glob("*.mp4"))
    return json_of_commands(work, videos, "reference", ("caption", *map(str, videos)))


def compare(work: Path, name: str, expected: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return how many rows of a run equal the answers of the command, in all fields but the timings."""
    found = answers(work, name)
    expected = reference(work) if expected is None else expected
    differing = []
    for video, answer in expected.items():
        row = found.get(video, {})
        row = {**row, "question": row.get("query") or ""}
        if unequal := [key for key in answer if key != "timings" and row.get(key) != answer[key]]:
            differing.append({video: unequal})
    return {"equal": len(expected) - len(differing), "of": len(expected), "differing": differing}


def damage(output: Path) -> list[str]:
    """Return what is wrong with the files of a killed run; the last line of an open file may be cut."""
    import pyarrow.parquet

    problems = []
    for path in output.glob("answers/part-*.parquet"):
        try:
            if not pyarrow.parquet.read_table(path).num_rows:
                problems.append(f"{path.name} is empty")
        except Exception as error:
            problems.append(f"{path.name}: {error}")
    for line in (output / "open.jsonl").read_text().splitlines()[:-1] if (output / "open.jsonl").exists() else ():
        try:
            json.loads(line)
        except ValueError:
            problems.append(f"open.jsonl: {line[:80]}")
    return problems


def stored_ids(output: Path) -> set[str]:
    """Return the identifiers of the rows that are stored: in parts, and in whole lines of the open file."""
    import pyarrow.parquet

    found: set[str] = set()
    for path in output.glob("answers/part-*.parquet"):
        found |= set(pyarrow.parquet.read_table(path, columns=["id"])["id"].to_pylist())
    with suppress(FileNotFoundError):
        lines = (output / "open.jsonl").read_text()
        found |= {json.loads(line)["id"] for line in lines[: lines.rfind("\n") + 1].splitlines()}
    return found


def pieces_of(output: Path) -> int:
    """Return the number of pieces of unfinished videos that are stored."""
    return sum(len(path.read_text().splitlines()) for path in output.glob("pieces/*.jsonl"))


def windows_of(output: Path) -> int:
    """Return the number of windows that are stored: of rows, and of pieces of unfinished videos."""
    rows = [path.read_text().splitlines() for path in (*output.glob("answers/*.jsonl"), *output.glob("open.jsonl"))]
    pieces = [path.read_text().splitlines() for path in output.glob("pieces/*.jsonl")]
    return sum(json.loads(line)["windows"] for lines in rows for line in lines) + sum(
        len(json.loads(line)["answers"]) for lines in pieces for line in lines
    )


def wait_for(condition: Callable[[], object], seconds: float = RUN_LIMIT, poll: float = 0.1) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise SystemExit("the moment did not come")
        time.sleep(poll)


@contextmanager
def cluster(*options: str, path: str = "", nodes: int = 2) -> Iterator[str]:
    """Start nodes of Ray on this machine, with one CPU each by default; yield the address of the first."""
    port = 6411
    options = options or ("--num-cpus", "1")
    ray = str(Path(sys.executable).with_name("ray"))
    common = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "perf-batch-" + "0" * 32}
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=common["RAY_AUTH_TOKEN"])
    first = [ray, "start", "--head", "--port", str(port), "--include-dashboard", "false", *options]
    second = [ray, "start", "--address", f"127.0.0.1:{port}", *options]
    common["PYTHONPATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))
    for node, command in (("first", first), ("second", second))[:nodes]:
        environment = {**common, f"{MARK}_NODE": node, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        for node in ("second", "first"):
            for pid in node_processes(node):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def node_processes(node: str) -> list[int]:
    mark, found = f"{MARK}_NODE={node}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def report(**values: object) -> None:
    print(json.dumps({**values, "load": round(os.getloadavg()[0], 1)}), flush=True)
