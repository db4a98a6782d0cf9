"""A thousand requests of correct, vanishing, slow, lying and attacking clients, and the state of the server afterwards.

A real `timechat serve` with the built-in model gets a seeded mix from several clients at once. Afterwards the
server must have released everything: memory, descriptors, child processes, queue slots, files on the disk. Then 20 jobs
are queued, the server is killed while they run and started again, and must finish them all with the answers of an
undisturbed server.

    PYTHONPATH=src python perf/hostile_clients.py [--requests 1000] [--seed 0] [--clients 8]

The result is JSON on stdout, a table on stderr; the exit status is 1 if a promise was broken.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile_kinds import MAX_UPLOAD, MIX, Client, Expected, Site, falls_silent
from running_server import RunningServer, Usage
from timechat.synthetic.scene import write_scene
from timechat.synthetic.write import write_video

DOCUMENTED = {503, 504, 507}
"""Allowed statuses of 500 and above."""
MEMORY_GROWTH = 64e6
"""Growth in bytes between the first and last tenth of the run that counts as flat; allocators of many threads vary."""
POLL_SECONDS = 0.25  # seconds between two measurements of the server's memory


@dataclass(frozen=True)
class Outcome:
    """How a request ended."""

    kind: str
    status: int | None
    seconds: float
    wrong: str | None
    """The broken promise."""


def request(site: Site, client: Client, expected: Expected, seed: str) -> Outcome:
    """Run one client and check the response against the promises."""
    began = time.monotonic()
    wrong = None
    try:
        answer = client(site, random.Random(seed))
    except Exception as error:
        return Outcome(client.__name__, None, time.monotonic() - began, f"{type(error).__name__}: {error}")
    status = int(answer[9:12]) if answer[:7] == b"HTTP/1." and answer[9:12].isdigit() else None
    if status is not None and status >= 500 and status not in DOCUMENTED | expected:
        wrong = f"status {status}"
    elif status == 429:
        wrong = None if b"retry-after: " in answer.lower() else "429 without Retry-After"
    elif status not in expected and status not in DOCUMENTED:
        wrong = f"status {status}, expected {sorted(map(str, expected))}"
    elif any(secret in answer for secret in site.secrets) or b"root:" in answer:
        wrong = "the answer names a path of the machine"
    if wrong:
        wrong += f": {answer[:80]!r} … {answer.partition(bytes([13, 10] * 2))[2][:200]!r}"
    return Outcome(client.__name__, status, time.monotonic() - began, wrong)


def plan(count: int, seed: int) -> list[tuple[Client, Expected, str]]:
    """Return the clients in their order."""
    rng = random.Random(seed)
    clients = rng.choices(list(MIX), [weight for weight, _ in MIX.values()], k=count)
    return [(client, MIX[client][1], f"{seed} {i}") for i, client in enumerate(clients)]


# ------------------------------------------------------------------------------------------------------- measurements


class Watch:
    """Polls the server in a separate thread."""

    def __init__(self, server: RunningServer, outcomes: list[Outcome]) -> None:
        self.samples: list[tuple[int, Usage]] = []
        self._server, self._outcomes, self._ended = server, outcomes, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(POLL_SECONDS) and self._server.is_alive:
            self.samples.append((len(self._outcomes), self._server.usage))

    def end(self) -> dict[str, float]:
        """Return memory in MB at the start and the end, and its growth per thousand requests."""
        self._ended.set()
        self._thread.join()
        counts = [float(count) for count, _ in self.samples]
        memory = [usage.memory / 1e6 for _, usage in self.samples]
        tenth = max(1, len(memory) // 10)
        slope = statistics.linear_regression(counts, memory).slope if len(set(counts)) > 1 else 0.0
        first, last = statistics.mean(memory[:tenth]), statistics.mean(memory[-tenth:])
        figures = {"first_mb": first, "last_mb": last, "most_mb": max(memory), "mb_per_1000_requests": slope * 1000}
        return {name: round(value, 1) for name, value in figures.items()}


def run_mix(
    site: Site, requests: Sequence[tuple[Client, Expected, str]], clients: int
) -> tuple[list[Outcome], dict[str, float]]:
    """Run all clients, several at once; return the outcome of each and the memory of the server."""
    outcomes: list[Outcome] = []
    watch = Watch(site.server, outcomes)
    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(request, site, *each) for each in requests]:
            future.add_done_callback(lambda done: outcomes.append(done.result()))
    return outcomes, watch.end()


def settled(site: Site) -> tuple[Usage, dict[str, float]]:
    """Return the resources that the server holds after all clients have left."""
    names = ["requests_inside", "answers_running", "answers_waiting", "looks_waiting"]

    def is_quiet() -> bool:
        gauges = site.server.gauges()
        return not any(gauges[f"timechat_{name}"] for name in names) and not site.server.usage.children

    site.server.waits_until(is_quiet, 60)
    time.sleep(3)
    gauges = site.server.gauges()
    return site.server.usage, {name: gauges[f"timechat_{name}"] for name in names}


def debris(site: Site, data: Path) -> dict[str, int]:
    """Return files on the disk that the server does not list."""
    known = {file["id"] for file in site.server.ask("GET", "/v1/files")[1]["data"]}
    names = {path.name for path in (data / "uploads").iterdir()}
    return {
        "uploads": len(names),
        "unknown_uploads": len(names - known),
        "fetched": len(list((data / "fetched").iterdir())),
    }


# --------------------------------------------------------------------------------------------------------------- jobs


def job_bodies(film: str) -> list[dict[str, Any]]:
    """20 jobs of several windows each."""
    tasks = ["dense_caption", "grounding", "highlights", "summary", "steps"]
    return [
        {"task": tasks[i % 5], "video": film, "query": f"the {colour} circle", "window": 4 + i % 4, "overlap": 1}
        for i, colour in enumerate(["red", "green", "blue", "white"] * 5)
    ]


def enqueue(server: RunningServer, film: str) -> list[str]:
    """Queue all jobs."""
    told = [server.ask("POST", "/v1/jobs", body) for body in job_bodies(film)]
    assert all(status == 202 for status, _ in told), told
    return [job["id"] for _, job in told]


def jobs_of(server: RunningServer, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the jobs in their present state."""
    return [server.ask("GET", f"/v1/jobs/{job}")[1] for job in ids]


def finished(server: RunningServer, ids: Sequence[str]) -> list[tuple[str, Any]]:
    """Return status and answer of the jobs when all have ended."""
    server.waits_until(lambda: all(job["finished_at"] for job in jobs_of(server, ids)), 300)
    return [(job["status"], answer_told(job["result"] or {})) for job in jobs_of(server, ids)]


def answer_told(answer: dict[str, Any]) -> Any:
    """Return the content of an answer, with scores rounded to digits that do not depend on the batch."""
    events = [[each["start"], each["end"], each["caption"], near(each["score"])] for each in answer.get("events", [])]
    return [answer.get("text"), answer.get("found"), near(answer.get("score")), events]


def near(score: float | None) -> float | None:
    """Return a score with four digits."""
    return None if score is None else float(f"{score:.4g}")


def film_of(server: RunningServer, name: str) -> str:
    """Return the id of a video in the library."""
    return next(str(file["id"]) for file in server.ask("GET", "/v1/files")[1]["data"] if file["filename"] == name)


# --------------------------------------------------------------------------------------------------------------- main


def measure(folder: Path, count: int, seed: int, clients: int) -> dict[str, Any]:
    """Run all parts; see the module."""
    library = folder / "library"
    library.mkdir()
    for i in range(3):
        write_video(write_scene(seed, i, level=1), library / f"film{i}.mp4")
    data = folder / "data"
    start = ("--max-upload", str(MAX_UPLOAD))
    with RunningServer(data, library, *start, cache=folder / "cache") as server:
        films = [film_of(server, f"film{i}.mp4") for i in range(3)]
        site = Site(server, films, (library / "film0.mp4").read_bytes(), [str(folder).encode()])
        note("warming up")
        run_mix(site, plan(max(100, count), seed + 1), clients)  # fills the caches before the measurement
        before, _ = settled(site)
        began = time.monotonic()
        quiet: list[Outcome] = []
        silent = threading.Thread(target=lambda: quiet.append(request(site, falls_silent, {408}, "0")))
        silent.start()
        outcomes, memory = run_mix(site, plan(count, seed), clients)
        seconds = time.monotonic() - began
        silent.join()
        note(f"{count} requests in {seconds:.0f} s; jobs and the kill")
        after, gauges = settled(site)
        left = debris(site, data)
        tracebacks = sum("Traceback" in line for line in server.log)
        ids = enqueue(server, film_of(server, "film2.mp4"))
        server.waits_until(lambda: sum(job["status"] == "succeeded" for job in jobs_of(server, ids)) >= 3, 120)
        at_kill = Counter(job["status"] for job in jobs_of(server, ids))
        server.kill()
    with RunningServer(data, library, *start, cache=folder / "cache") as server:
        disturbed = finished(server, ids)
    with RunningServer(folder / "other", library, *start, cache=folder / "other cache") as server:
        undisturbed = finished(server, enqueue(server, film_of(server, "film2.mp4")))
    outcomes += quiet
    wrong = [f"{outcome.kind}: {outcome.wrong}" for outcome in outcomes if outcome.wrong]
    succeeded = sum(status == "succeeded" for status, _ in disturbed)
    equal = sum(one == other for one, other in zip(disturbed, undisturbed, strict=True))
    promises = {
        "no status but the documented": not wrong,
        "no traceback in the log": not tracebacks,
        "memory is flat": memory["last_mb"] - memory["first_mb"] < MEMORY_GROWTH / 1e6,
        "all descriptors are closed": after.descriptors <= before.descriptors + 2,
        "all threads have ended": after.threads <= before.threads + 2,
        "all child processes have ended": after.children == 0,
        "nothing is running or waiting": not any(gauges.values()),
        "no unknown file remains": left["unknown_uploads"] == 0,
        "all jobs succeed after the kill": succeeded == len(ids),
        "their answers are those of an undisturbed server": equal == len(ids),
        "the kill came in their midst": 0 < at_kill["succeeded"] < len(ids),
    }
    return {
        "requests": count,
        "seed": seed,
        "clients": clients,
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(Counter(str(outcome.status) for outcome in outcomes).items())),
        "slowest": {k: round(v, 2) for k, v in slowest(outcomes).items()},
        "wrong": wrong[:50],
        "memory": memory,
        "before": vars_of(before),
        "after": vars_of(after),
        "gauges": gauges,
        "files": left,
        "tracebacks": tracebacks,
        "jobs": {"at_kill": dict(at_kill), "succeeded": succeeded, "equal": equal},
        "promises": promises,
    }


def note(text: str) -> None:
    """Print the progress."""
    print(text, file=sys.stderr, flush=True)


def slowest(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the seconds of the slowest request of each kind."""
    kinds = sorted({outcome.kind for outcome in outcomes})
    return {kind: max(each.seconds for each in outcomes if each.kind == kind) for kind in kinds}


def vars_of(usage: Usage) -> dict[str, float]:
    """Return a measurement of the server as JSON."""
    return {
        "memory_mb": round(usage.memory / 1e6, 1),
        "descriptors": usage.descriptors,
        "threads": usage.threads,
        "children": usage.children,
    }


def main() -> int:
    """Measure and print; the exit status shows whether all promises were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        result = measure(Path(folder), given.requests, given.seed, given.clients)
    print(json.dumps(result, indent=1))
    for promise, is_kept in result["promises"].items():
        print(f"{'kept  ' if is_kept else 'BROKEN'}  {promise}", file=sys.stderr)
    return 0 if all(result["promises"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
