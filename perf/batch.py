"""Batches on Ray: answers, kills, bad videos, bytes, and CPU time, beside the command and the plain loop.

    PYTHONPATH=src python perf/batch.py videos WORK          # write the videos once: short, 20 minutes, 5 hours
    PYTHONPATH=src python perf/batch.py MEASURE... WORK      # equal, nodes, kills, bad, limits, long, cpu

Every run is a process `timechat batch`. CPU seconds are those of all its processes, with those of Ray, which are found
by a variable of their environment and read twice a second. The result is one JSON object a line.

equal   answers of the loop, and of Ray with 1 and 2 actors, equal those of `timechat caption --json` but for timings
nodes   the same on two nodes of Ray on this machine, and with the second node killed
kills   an actor, and the driver with the same command again: each row once, number of pieces that were answered twice
bad     damaged videos, a FIFO, and others, among good ones, and `--retry`
limits  more actors than CPUs, and two actors on two CPUs
long    bytes that planning and decoding all pieces of a file of 5 hours read, and their memory; no model
cpu     fixed cost of Ray, and CPU seconds of a window on Ray and in the loop
"""

import argparse
import json
import os
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
RUN_LIMIT = 900.0  # seconds
SHORT_VIDEOS = 6
TICKS = os.sysconf("SC_CLK_TCK")


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
    from timechat.synthetic.scene import write_scene
    from timechat.synthetic.write import write_video

    videos = work / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    levels: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)
    for number in range(SHORT_VIDEOS):
        write_video(write_scene(7, number, level=levels[number % 3], split="test"), videos / f"short{number}.mp4")
    scene = write_scene(7, 0, level=1, split="test")
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
    during: Callable[[Processes, Path], object] | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Run `timechat batch`; return its exit status, wall and CPU seconds, and the counts of its report."""
    output = work / f"out-{name}"
    if not keep:
        shutil.rmtree(output, ignore_errors=True)
    processes = Processes(f"{name}-{os.getpid()}")
    environment = {**os.environ, MARK: f"{name}-{os.getpid()}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "timechat", "batch", *arguments, "--task", "caption", "--output", str(output)]
    began = time.monotonic()
    log = (work / f"{name}.log").open("w")
    process = subprocess.Popen([*command, "--device", "cpu"], env=environment, stdout=log, stderr=subprocess.STDOUT)
    status: int | str
    try:
        if during is not None:
            during(processes, output)
        status = process.wait(RUN_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        status = "hung"
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


def reference(work: Path) -> dict[str, dict[str, Any]]:
    """Return the JSON of `timechat caption` about each video, made once."""
    folder = work / "reference"
    videos = sorted((work / "videos").glob("*.mp4"))
    if not all((folder / f"{video.stem}.json").exists() for video in videos):
        command = [sys.executable, "-m", "timechat", "caption", *map(str, videos), "--json", "--no-cache"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--device", "cpu", "--output-dir", str(folder)], env=environment, check=True)
    return {video.name: json.loads((folder / f"{video.stem}.json").read_text()) for video in videos}


def compare(work: Path, name: str) -> dict[str, Any]:
    """Return how many rows of a run equal the answers of the command, in all fields but the timings."""
    expected, found = reference(work), answers(work, name)
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
    videos = str(work / "videos")

    def kill_actor(processes: Processes, output: Path) -> None:
        _wait(lambda: _pieces_of(output))
        for pid in processes.find("ray::MapWorker"):
            os.kill(pid, signal.SIGKILL)

    options = (videos, "--ray", "local", "--actors", "2")
    report(**run_batch(work, "actor-killed", *options, during=kill_actor), **compare(work, "actor-killed"))

    def kill_driver(processes: Processes, output: Path) -> None:
        _wait(lambda: _pieces_of(output))
        for pid in processes.find("timechat batch"):
            os.kill(pid, signal.SIGKILL)

    first = run_batch(work, "driver-killed", *options, during=kill_driver)
    stored = _pieces_of(work / "out-driver-killed")
    report(**first, pieces_stored=stored)
    _wait(lambda: not Processes(f"driver-killed-{os.getpid()}").find("raylet"), 60)
    second = run_batch(work, "driver-killed", *options, keep=True)
    report(**second, **compare(work, "driver-killed"))


def measure_bad(work: Path) -> None:
    bad = work / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    bad.mkdir()
    good = sorted((work / "videos").glob("short*.mp4"))[:2]
    for video in good:
        shutil.copy(video, bad)
    (bad / "cut.mp4").write_bytes(good[0].read_bytes()[:2000])
    (bad / "text.mp4").write_text("no video\n" * 100)
    os.mkfifo(bad / "pipe.mp4")
    lines = [{"video": path.name} for path in sorted(bad.iterdir())] + [{"video": "missing.mp4"}]
    manifest = bad / "m.jsonl"
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = (str(manifest), "--ray", "local", "--timeout", "10")
    result = run_batch(work, "bad", *options)
    kinds = {Path(name).name: row["error_kind"] for name, row in answers(work, "bad").items()}
    report(**result, kinds=kinds)
    report(**run_batch(work, "bad", *options, "--retry", keep=True))


def measure_limits(work: Path) -> None:
    videos = str(work / "videos" / "short0.mp4")
    result = run_batch(work, "three-actors", videos, "--ray", "local", "--actors", "99")
    report(**result, says=(work / "three-actors.log").read_text().strip().splitlines()[-1])


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
    "nodes": measure_nodes,
    "kills": measure_kills,
    "bad": measure_bad,
    "limits": measure_limits,
    "long": measure_long,
    "cpu": measure_cpu,
}


# ------------------------------------------------------------------------------------------------ Ray's nodes


@contextmanager
def _cluster() -> Iterator[str]:
    """Start two nodes of Ray with one CPU each on this machine; yield the address of the first."""
    port = 6411
    ray = str(Path(sys.executable).with_name("ray"))
    common = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "perf-batch-" + "0" * 32}
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=common["RAY_AUTH_TOKEN"])
    first = [ray, "start", "--head", "--port", str(port), "--num-cpus", "1", "--include-dashboard", "false"]
    second = [ray, "start", "--address", f"127.0.0.1:{port}", "--num-cpus", "1"]
    common["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    for node, command in (("first", first), ("second", second)):
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


def _wait(condition: Callable[[], object], seconds: float = 300.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise SystemExit("the moment did not come")
        time.sleep(0.1)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def report(**values: object) -> None:
    print(json.dumps(values), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="+", choices=MEASURES, metavar="MEASURE")
    parser.add_argument("work", type=Path)
    options = parser.parse_args(arguments)
    for name in options.measures:
        MEASURES[name](options.work.absolute())


if __name__ == "__main__":
    main()
