"""`timechat index --ray local`, whose actor and driver are killed; a second call finishes the library."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from perf.batch_runs import MARK, Processes, wait_for

from tests.batch.test_ray import rows_of
from tests.search.conftest import write_video

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

NUM_VIDEOS = 10
ACTOR = "ray::MapWorker(Map(FileActor"


@pytest.fixture
def processes(tmp_path) -> Iterator[Processes]:
    """All processes of the commands; those of Ray that outlive a killed driver are ended."""
    found = Processes(tmp_path.name)
    yield found
    for pid in found.read():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    found.stop()


@pytest.fixture
def start(tmp_path, processes) -> Callable[..., subprocess.Popen[str]]:
    """Function that starts `timechat index` about the folder of the test."""
    environment = os.environ | {MARK: tmp_path.name, "OMP_NUM_THREADS": "1"}

    def command(library: str, *options: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "timechat", "index", "videos", "--library", library, "--json", *options]
        return subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    return command


def num_files(library: Path) -> int:
    """Return the number of files that a library has read so far."""
    if not library.exists():
        return 0
    with closing(sqlite3.connect(library, timeout=30.0)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM files WHERE video IS NOT NULL").fetchone()[0])
        except sqlite3.OperationalError:  # no tables yet
            return 0


@pytest.mark.timeout(1800)
def test_a_second_call_finishes_what_was_killed(tmp_path, processes, start):
    colors = ("red", "green", "blue")
    for number in range(NUM_VIDEOS):
        sequence = [colors[(number + place) % 3] for place in range(4)]
        write_video(tmp_path / "videos" / f"{number}.mp4", sequence, seconds=10.0 + number / 10)
    ray = ("--ray", "local", "--actors", "2")
    library = tmp_path / "ray.db"
    first = start("ray.db", *ray)
    wait_for(lambda: num_files(library) >= 1)
    killed = processes.find(ACTOR)[:1]
    os.kill(killed[0], signal.SIGKILL)
    before = num_files(library)
    wait_for(lambda: num_files(library) > before)  # the other actor, or a new one, goes on
    first.kill()
    assert first.wait(60) == -signal.SIGKILL
    stored = num_files(library)
    assert before < stored < NUM_VIDEOS

    second = start("ray.db", *ray)
    report = json.loads(second.communicate(timeout=900)[0])
    assert second.returncode == 0
    assert report["failed"] == {}
    assert report["num_read"] + report["num_unchanged"] == NUM_VIDEOS
    assert report["num_unchanged"] in (stored, stored - 1)  # the driver may have been at the parts of one file
    plain = start("plain.db")
    plain.communicate(timeout=900)
    assert plain.returncode == 0
    ours, want = rows_of(library), rows_of(tmp_path / "plain.db")
    assert len(want["files"]) == len(want["videos"]) == len(want["frames"]) == NUM_VIDEOS
    assert ours == want
