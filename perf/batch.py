"""Batches on Ray: answers, kills, bad videos, bytes, and CPU time, beside the command and the plain loop.

    PYTHONPATH=src python perf/batch.py videos WORK          # write the videos once: short, 20 minutes, 5 hours
    PYTHONPATH=src python perf/batch.py MEASURE... WORK      # equal, read, nodes, kills, often, bad, limits, ...

Every run is a process `timechat batch`. CPU seconds are those of all its processes, with those of Ray, which are found
by a variable of their environment and read twice a second. The result is one JSON object a line, with the mean number
of processes that wanted a core at its end (`load`).

equal   answers of the loop, and of Ray with 1 and 2 actors, equal those of `timechat caption --json` but for timings
read    the same for `ground --read 0.5` about a video of ten minutes
nodes   the same as `equal` on two nodes of Ray on this machine, and with the second node killed
kills   an actor, and the driver with the same command again: each row once, number of windows that were answered twice
often   the plain loop killed twenty times: whole parts and one open file at any moment, each row once at the end
bad     damaged videos, a FIFO, a crash and a hang in native code, and others, among good ones, and `--retry`
limits  more actors than CPUs; two actors on two CPUs, stopped and resumed
store   an object store of 80 MB and a slow actor: bytes in it, and whether something was spilled to disk
long    bytes that planning and decoding all pieces of a file of 5 hours read, and their memory; no model
cpu     fixed cost of Ray, and CPU seconds of a window on Ray and in the loop
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import av

ROOT = Path(__file__).parents[1]
MARK = "TIMECHAT_PERF_BATCH"
RUN_LIMIT = 1800.0  # seconds
SHORT_VIDEOS = 6
OFTEN_ROWS, OFTEN_KILLS = 6000, 20
BAD_LIMIT = 60  # seconds; a busy machine needs some for a good piece
TICKS = os.sysconf("SC_CLK_TCK")

_CHANGE = """
import importlib.abc, importlib.util, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""
CRASHES = (
    """
import ctypes, os, signal
NAME = "timechat.video.source"

def change(module):
    opened = module.VideoHandle.open
    def open_or_end(self):
        if self.name.endswith("crashes.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.name.endswith("hangs.mp4"):
            ctypes.PyDLL(None).sleep(100000)  # without the lock of the interpreter being released
        return opened(self)
    module.VideoHandle.open = open_or_end
"""
    + _CHANGE
)
"""Change of a process: videos of two names crash and hang in native code."""

SLOW = (
    """
import time
NAME = "timechat.pipeline.answering"

def change(module):
    answered = module.Answerer.answer_windows
    def answer_slowly(self, *arguments):
        time.sleep(2.0)
        return answered(self, *arguments)
    module.Answerer.answer_windows = answer_slowly
"""
    + _CHANGE
)
"""Change of a process: a piece takes two seconds longer."""


def remux(source: Path, target: Path, times: int) -> None:
    """Write the packets of a video repeatedly, one copy after the other, without decoding them."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        packets = [packet for packet in reader.demux(stream) if packet.dts is not None]
        starts = [packet.pts or 0 for packet in packets]
        length = max(start + (packet.duration or 0) for start, packet in zip(starts, packets, strict=True)) - min(
            starts
        )
        output = writer.add_stream_from_template(stream)
        for number in range(times):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts = (packet.pts or 0) + number * length, (packet.dts or 0) + number * length
                copy.time_base, copy.duration, copy.stream = packet.time_base, packet.duration, output
                copy.is_keyframe = packet.is_keyframe
                writer.mux(copy)


def write_videos(work: Path) -> None:
    """Write synthetic videos of nano's domain."""
    from timechat.synthetic.long import write_long_scene
    from timechat.synthetic.scene import write_scene
    from timechat.synthetic.write import write_video

    videos = work / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    levels: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
    for number in range(SHORT_VIDEOS):
        write_video(write_scene(7, number, level=levels[number % 3], split="test"), videos / f"short{number}.mp4")
    scene = write_scene(7, 0, level=1, split="test")
    write_video(write_long_scene(7, 0, minutes=10, split="test"), work / "long.mp4")
    remux(videos / "short0.mp4", videos / "minutes.mp4", round(1200 / scene.duration))
    remux(videos / "short1.mp4", work / "hours.mp4", round(18000 / write_scene(7, 1, level=2, split="test").duration))


# ------------------------------------------------------------------------------------------------------- runs


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
    """Return the JSON of `timechat COMMAND` about each video, made once."""
    folder = work / name
    if not all((folder / f"{video.stem}.json").exists() for video in videos):
        words = [sys.executable, "-m", "timechat", *command, "--json", "--no-cache", "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*words, "--output-dir", str(folder)], env=environment, check=True)
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


# --------------------------------------------------------------------------------------------------- measures


def measure_equal(work: Path) -> None:
    videos = str(work / "videos")
    for name, options in {
        "loop": (),
        "ray1": ("--ray", "local"),
        "ray2": ("--ray", "local", "--actors", "2"),
    }.items():
        report(**run_batch(work, name, videos, *options), **compare(work, name))


def measure_read(work: Path) -> None:
    query, video = "the green cross shrinks", work / "long.mp4"
    options = ("--read", "0.5", "--by", "model", "--batch-size", "2")
    answer = json_of_commands(work, [video], "read", ("ground", str(video), query, *options))[video.name]
    for name, machines in {"read-loop": (), "read-ray2": ("--ray", "local", "--actors", "2")}.items():
        result = run_batch(work, name, str(video), "--query", query, *options, *machines, task="ground")
        found = {key: answer[key] for key in ("read_share", "events")}
        report(**result, **compare(work, name, {str(video): answer}), **found)


def measure_nodes(work: Path) -> None:
    with _cluster() as port:
        report(**_on_nodes(work, "nodes", port), **compare(work, "nodes"))
    with _cluster() as port:

        def kill_node(_: Processes, output: Path) -> None:
            _wait(lambda: _pieces_of(output))
            for pid in _node_processes("second"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        report(**_on_nodes(work, "node-killed", port, kill_node), **compare(work, "node-killed"))


def measure_kills(work: Path) -> None:
    manifest, expected = _some_videos(work, "minutes.mp4", "short0.mp4", "short3.mp4")
    options = (str(manifest), "--ray", "local", "--actors", "2")

    def kill(name: str) -> Callable[[Processes, Path], None]:
        """Return a function that kills processes of a name after the first piece."""

        def wait_and_kill(processes: Processes, output: Path) -> None:
            _wait(lambda: _pieces_of(output))
            for pid in processes.find(name):
                os.kill(pid, signal.SIGKILL)

        return wait_and_kill

    actors = run_batch(work, "actors-killed", *options, during=kill("ray::MapWorker"))
    report(**actors, **compare(work, "actors-killed", expected))
    first = run_batch(work, "driver-killed", *options, during=kill("timechat batch"))
    output = work / "out-driver-killed"
    stored = _windows_of(output)
    report(**first, windows_stored=stored)
    second = run_batch(work, "driver-killed", *options, keep=True)
    now = json.loads((output / "progress.json").read_text())["windows"]
    # Windows that were stored are not answered again; those of the pieces that the two actors were at are.
    again = {"windows_answered_again": stored + now - second["windows"]}
    report(**second, **again, **compare(work, "driver-killed", expected))


def _some_videos(work: Path, *names: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Write a manifest of some of the videos; return its path, and their answers by the command."""
    manifest = work / "some.jsonl"
    manifest.write_text("".join(json.dumps({"video": f"videos/{name}", "id": name}) + "\n" for name in names))
    return manifest, {name: answer for name, answer in reference(work).items() if name in names}


def measure_often(work: Path) -> None:
    """Kill a loop over rows that need no window, so that many rows and parts are written."""
    folder = work / "often"
    folder.mkdir(exist_ok=True)
    (folder / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello.\n")
    manifest = folder / "m.jsonl"
    row = {"video": str(work / "videos" / "short0.mp4"), "transcript": "a.srt"}
    manifest.write_text("".join(json.dumps({**row, "id": f"r{i}"}) + "\n" for i in range(OFTEN_ROWS)))
    output, dice = work / "out-often", random.Random(0)
    problems: list[str] = []

    def kill(processes: Processes, _: Path) -> None:
        _wait(lambda: (output / "open.jsonl").exists())
        time.sleep(dice.uniform(0.0, 10.0))
        for pid in processes.find("timechat batch"):
            os.kill(pid, signal.SIGKILL)

    for number in range(OFTEN_KILLS):
        run_batch(work, "often", str(manifest), task="transcribe", during=kill, keep=number > 0)
        problems += _damage(output)
    result = run_batch(work, "often", str(manifest), task="transcribe", keep=True)
    report(**result, kills=OFTEN_KILLS, parts=len(list(output.glob("answers/*.parquet"))), problems=problems)
    if len(answers(work, "often")) != OFTEN_ROWS:
        raise SystemExit("rows are missing")


def _damage(output: Path) -> list[str]:
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


def measure_bad(work: Path) -> None:
    bad = work / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    bad.mkdir()
    good = sorted((work / "videos").glob("short*.mp4"))[:2]
    for video in good:
        shutil.copy(video, bad)
    content = good[0].read_bytes()
    (bad / "cut.mp4").write_bytes(content[:2000])
    (bad / "text.mp4").write_text("no video\n" * 100)
    middle = len(content) // 2
    (bad / "damaged.mp4").write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    for name in ("crashes.mp4", "hangs.mp4"):
        (bad / name).write_bytes(content)
    (bad / "sitecustomize.py").write_text(CRASHES)
    os.mkfifo(bad / "pipe.mp4")
    lines = [{"video": path.name} for path in sorted(bad.glob("*.mp4"))] + [{"video": "missing.mp4"}]
    manifest = bad / "m.jsonl"
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    same = {str(bad / video.name): {**reference(work)[video.name], "video": str(bad / video.name)} for video in good}
    options = (str(manifest), "--ray", "local", "--timeout", str(BAD_LIMIT))
    for retry in ((), ("--retry",)):
        result = run_batch(work, "bad", *options, *retry, keep=bool(retry), path=str(bad))
        rows = answers(work, "bad").items()
        kinds = {Path(name).name: f"{row['error_kind']} ({row['attempts']})" for name, row in rows if row["error_kind"]}
        done = json.loads((work / "out-bad" / "progress.json").read_text())
        report(**result, kinds=kinds, done_now=done["done"] + done["failed"], **compare(work, "bad", same))


def measure_limits(work: Path) -> None:
    """Answer with as many actors as this machine has CPUs; stop after the first row, and resume."""
    cpus = str(len(os.sched_getaffinity(0)))
    manifest, expected = _some_videos(work, "short0.mp4", "short3.mp4", "short4.mp4")
    result = run_batch(work, "many-actors", str(manifest), "--ray", "local", "--actors", "99")
    report(**result, says=(work / "many-actors.log").read_text().splitlines()[0])

    def stop(processes: Processes, output: Path) -> None:
        _wait((output / "open.jsonl").exists)
        for pid in processes.find("timechat batch"):
            os.kill(pid, signal.SIGTERM)

    options = (str(manifest), "--ray", "local", "--actors", cpus)
    report(**run_batch(work, "stopped", *options, during=stop), actors=cpus)
    report(**run_batch(work, "stopped", *options, keep=True), actors=cpus, **compare(work, "stopped", expected))


def measure_store(work: Path) -> None:
    """Answer 6 pieces of 24 MB, each delayed by two seconds, and read the state of the object store."""
    slow = work / "slow"
    slow.mkdir(exist_ok=True)
    (slow / "sitecustomize.py").write_text(SLOW)
    manifest = slow / "m.jsonl"
    row = {"video": str(work / "videos" / "minutes.mp4")}
    manifest.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i in range(2)))
    states: list[tuple[float, bool]] = []
    with _cluster("--num-cpus", "2", "--object-store-memory", "80000000", path=str(slow), nodes=1) as port:

        def watch(_: Processes, output: Path) -> None:
            import ray
            from ray._private.internal_api import memory_summary

            ray.init(address=port, log_to_driver=False, logging_level="ERROR")
            while not (output / "report.json").exists():
                text = memory_summary(stats_only=True)
                used = re.search(r"Plasma memory usage (\d+) MiB", text)
                states.append((float(used[1]) if used else 0.0, "Spilled" in text))
                time.sleep(1.0)
            ray.shutdown()

        result = run_batch(work, "store", str(manifest), "--ray", port, during=watch, path=str(slow))
    largest = max(used for used, _ in states)
    report(**result, states=len(states), largest_mib=largest, spilled=any(spilled for _, spilled in states))


def measure_long(work: Path) -> None:
    """Plan and decode all pieces in this process."""
    from timechat.batch import BatchSettings, Row
    from timechat.batch.pieces import DecodePiece, PlanPieces
    from timechat.batch.stages import read_config

    settings = BatchSettings(task="caption", output=work)
    config = read_config(settings)
    for path in (work / "videos" / "minutes.mp4", work / "hours.mp4"):
        before, cpu = _bytes_read(), time.process_time()
        tasks = PlanPieces(settings, config)(Row("x", str(path), "dense_caption"), [], lambda _: None)["tasks"]
        planned, plan_cpu = _bytes_read() - before, time.process_time() - cpu
        decode = DecodePiece(settings, config)
        before, cpu = _bytes_read(), time.process_time()
        for task in tasks:
            decode(task, [], lambda _: None)
        decoded, decode_cpu = _bytes_read() - before, time.process_time() - cpu
        report(
            file=path.name,
            size=path.stat().st_size,
            pieces=len(tasks),
            windows=sum(len(task.windows) for task in tasks),
            index=len(tasks[0].index),
            read_to_plan=planned,
            read_to_decode=decoded,
            decode_times_size=round(decoded / path.stat().st_size, 2),
            plan_cpu=round(plan_cpu, 2),
            decode_cpu_a_window=round(decode_cpu / sum(len(task.windows) for task in tasks), 3),
            memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )


def measure_cpu(work: Path) -> None:
    """Runs about one short video and about 20 minutes; the difference is the cost of windows."""
    short, long = (str(work / "videos" / f"{name}.mp4") for name in ("short0", "minutes"))
    for name, options in {"loop": (), "ray": ("--ray", "local")}.items():
        first = run_batch(work, f"{name}-short", short, *options)
        second = run_batch(work, f"{name}-long", long, *options)
        window = (second["cpu"] - first["cpu"]) / (second["windows"] - first["windows"])
        report(
            run=name, fixed=first["cpu"], cpu_of_all=second["cpu"], windows=second["windows"], window=round(window, 3)
        )


MEASURES: dict[str, Callable[[Path], None]] = {
    "videos": write_videos,
    "equal": measure_equal,
    "read": measure_read,
    "nodes": measure_nodes,
    "kills": measure_kills,
    "often": measure_often,
    "bad": measure_bad,
    "limits": measure_limits,
    "store": measure_store,
    "long": measure_long,
    "cpu": measure_cpu,
}


# ------------------------------------------------------------------------------------------------ Ray's nodes


@contextmanager
def _cluster(*options: str, path: str = "", nodes: int = 2) -> Iterator[str]:
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
            for pid in _node_processes(node):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _node_processes(node: str) -> list[int]:
    mark, found = f"{MARK}_NODE={node}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _on_nodes(
    work: Path, name: str, address: str, during: Callable[[Processes, Path], object] | None = None
) -> dict[str, Any]:
    return run_batch(work, name, str(work / "videos"), "--ray", address, "--actors", "2", during=during)


def _pieces_of(output: Path) -> int:
    """Return the number of pieces of unfinished videos that are stored."""
    return sum(len(path.read_text().splitlines()) for path in output.glob("pieces/*.jsonl"))


def _windows_of(output: Path) -> int:
    """Return the number of windows that are stored: of rows, and of pieces of unfinished videos."""
    rows = [path.read_text().splitlines() for path in (*output.glob("answers/*.jsonl"), *output.glob("open.jsonl"))]
    pieces = [path.read_text().splitlines() for path in output.glob("pieces/*.jsonl")]
    return sum(json.loads(line)["windows"] for lines in rows for line in lines) + sum(
        len(json.loads(line)["answers"]) for lines in pieces for line in lines
    )


def _wait(condition: Callable[[], object], seconds: float = RUN_LIMIT) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise SystemExit("the moment did not come")
        time.sleep(0.1)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def report(**values: object) -> None:
    print(json.dumps({**values, "load": round(os.getloadavg()[0], 1)}), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="+", choices=MEASURES, metavar="MEASURE")
    parser.add_argument("work", type=Path)
    options = parser.parse_args(arguments)
    for name in options.measures:
        MEASURES[name](options.work.absolute())


if __name__ == "__main__":
    main()
