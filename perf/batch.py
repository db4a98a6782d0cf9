"""Batches on Ray: answers, kills, bad videos, bytes, and CPU time, beside the command and the plain loop.

    PYTHONPATH=src python perf/batch.py videos WORK          # write the videos once: short, 20 minutes, 5 hours
    PYTHONPATH=src python perf/batch.py MEASURE... WORK      # equal, read, nodes, kills, often, bad, limits, ...

Every run is a process `timechat batch`. CPU seconds are those of all its processes, with those of Ray, which are found
by a variable of their environment and read twice a second. The result is one JSON object a line, with the mean number
of processes that wanted a core at its end (`load`).

equal   answers of the loop, and of Ray with 1 and 2 actors, equal those of `timechat caption --json` but for timings
read    the same for `ground --read 0.5` about a video of ten minutes
nodes   the same as `equal` on two nodes of Ray on this machine, and with the second node killed
kills   one of two actors, both, and the driver with the same command again: each row once, windows answered twice
often   the plain loop killed twenty times: whole parts and one open file at any moment, each row once at the end
bad     damaged videos, a FIFO, a crash and a hang in native code, and others, among good ones, and `--retry`
limits  more actors than CPUs; two actors on two CPUs, stopped and resumed
store   an object store of 80 MB and a slow actor: bytes in it, and whether something was spilled to disk
long    bytes that planning and decoding all pieces of a file of 5 hours read, and their memory; no model
cpu     fixed cost of Ray, and CPU seconds of a window, and of a further one, on Ray and in the loop
"""

import argparse
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from perf.batch_faults import CRASHES, SLOW
from perf.batch_runs import (
    Processes,
    answers,
    cluster,
    compare,
    damage,
    json_of_commands,
    node_processes,
    pieces_of,
    reference,
    report,
    run_batch,
    stored_ids,
    wait_for,
    windows_of,
)
from perf.batch_videos import write_videos

OFTEN_ROWS, OFTEN_KILLS = 8000, 20
BAD_LIMIT = 60  # seconds; a busy machine needs some for a good piece


def measure_equal(work: Path) -> None:
    videos = str(work / "videos")
    for name, options in {
        "loop": (),
        "ray1": ("--ray", "local"),
        "ray2": ("--ray", "local", "--actors", "2"),
    }.items():
        report(**run_batch(work, name, videos, *options), **compare(work, name))


def measure_read(work: Path) -> None:
    query, video = "the yellow circle moves to a new place", work / "long.mp4"
    options = ("--read", "0.5", "--by", "model", "--batch-size", "2")
    answer = json_of_commands(work, [video], "read", ("ground", str(video), query, *options))[video.name]
    for name, machines in {"read-loop": (), "read-ray2": ("--ray", "local", "--actors", "2")}.items():
        result = run_batch(work, name, str(video), "--query", query, *options, *machines, task="ground")
        found = {key: answer[key] for key in ("read_share", "events")}
        report(**result, **compare(work, name, {str(video): answer}), **found)


def measure_nodes(work: Path) -> None:
    with cluster() as port:
        report(**_on_nodes(work, "nodes", port), **compare(work, "nodes"))
    with cluster() as port:

        def kill_node(_: Processes, output: Path) -> None:
            wait_for(lambda: pieces_of(output))
            for pid in node_processes("second"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        report(**_on_nodes(work, "node-killed", port, kill_node), **compare(work, "node-killed"))


def _on_nodes(
    work: Path, name: str, address: str, during: Callable[[Processes, Path], object] | None = None
) -> dict[str, Any]:
    return run_batch(work, name, str(work / "videos"), "--ray", address, "--actors", "2", during=during)


def measure_kills(work: Path) -> None:
    manifest, expected = _some_videos(work, "minutes.mp4", "short0.mp4", "short3.mp4")
    options = (str(manifest), "--ray", "local", "--actors", "2")

    def kill(name: str, count: int | None = None) -> Callable[[Processes, Path], None]:
        """Return a function that kills processes of a name after the first piece."""

        def wait_and_kill(processes: Processes, output: Path) -> None:
            wait_for(lambda: pieces_of(output))
            for pid in processes.find(name)[:count]:
                os.kill(pid, signal.SIGKILL)

        return wait_and_kill

    for name, count in {"actor-killed": 1, "actors-killed": None}.items():
        actors = run_batch(work, name, *options, during=kill("ray::MapWorker", count))
        report(**actors, **compare(work, name, expected))
    first = run_batch(work, "driver-killed", *options, during=kill("timechat batch"))
    output = work / "out-driver-killed"
    stored = windows_of(output)
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
        """Kill the command while it writes a part (every fourth time), or at any moment after its first row."""
        wait_for(lambda: len(stored_ids(output)) > len(stored), 300.0)
        pids = processes.find("timechat batch")
        if number % 4 == 3:
            wait_for(lambda: any(output.glob("answers/.*.unfinished")), 300.0, poll=0.001)
        else:
            time.sleep(dice.uniform(0.0, 5.0))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    stored: set[str] = set()
    halves = 0
    for number in range(OFTEN_KILLS):
        run_batch(work, "often", str(manifest), task="transcribe", during=kill, keep=number > 0)
        problems += damage(output)
        halves += any(output.glob("answers/.*.unfinished"))
        if lost := stored - (now := stored_ids(output)):
            problems.append(f"kill {number}: {len(lost)} stored rows are lost")
        stored = now
    result = run_batch(work, "often", str(manifest), task="transcribe", keep=True)
    parts = len(list(output.glob("answers/*.parquet")))
    report(**result, kills=OFTEN_KILLS, stored_at_the_last=len(stored), parts=parts, halves=halves, problems=problems)
    if len(answers(work, "often")) != OFTEN_ROWS:
        raise SystemExit("rows are missing")


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
        wait_for((output / "open.jsonl").exists)
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
    with cluster("--num-cpus", "2", "--object-store-memory", "80000000", path=str(slow), nodes=1) as port:

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


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def measure_cpu(work: Path) -> None:
    """Runs about one window, about a video of 24 windows, and about nine rows with it.

    The first difference contains the start of the processes that decode, the second one only windows.
    """
    short, long = (str(work / "videos" / f"{name}.mp4") for name in ("short0", "minutes"))
    nine = work / "nine.jsonl"
    nine.write_text("".join(json.dumps({"video": long, "id": str(i)}) + "\n" for i in range(9)))
    for name, options in {"loop": (), "ray": ("--ray", "local")}.items():
        runs = [
            run_batch(work, f"{name}-{part}", videos, *options)
            for part, videos in (("short", short), ("long", long), ("nine", str(nine)))
        ]
        costs = [
            round((after["cpu"] - before["cpu"]) / (after["windows"] - before["windows"]), 3)
            for before, after in itertools.pairwise(runs)
        ]
        keys = ("cpu", "wall", "windows", "status")
        counts = {key: [each[key] for each in runs] for key in keys}
        report(run=name, **counts, window=costs[0], further_window=costs[1])


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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="+", choices=MEASURES, metavar="MEASURE")
    parser.add_argument("work", type=Path)
    options = parser.parse_args(arguments)
    for name in options.measures:
        MEASURES[name](options.work.absolute())


if __name__ == "__main__":
    main()
