"""The same rows on Ray Data, with a stage that needs no model."""

import json
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.batch.fakes import BrokenModel, FakePieces, FakePlan, FakeStage, result_of
from tests.batch.test_loop import attempts, statuses
from tests.search.conftest import write_video
from timechat.answers.windows import WindowConfig
from timechat.batch import BatchSettings, Row, run_batch
from timechat.batch.encoding import ClusterEncoder, EncodeVideo
from timechat.batch.pieces import PieceStages
from timechat.errors import TimeChatError
from timechat.search import Library
from timechat.video.sampling import FrameSampling

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # a cluster takes ten seconds to start


A = Row("a", "a.mp4", "dense_caption")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster with two CPUs."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    return tmp_path


def run(folder: Path, *names: str, stage=None, **options):
    Path("m.jsonl").write_text("".join(f"{json.dumps({'video': f'{name}.mp4', 'id': name})}\n" for name in names))
    settings = BatchSettings(task="caption", output=folder / "out", timeout=1.0)
    return run_batch("m.jsonl", settings, stage=stage or FakeStage(folder / "notes"), ray="local", **options)


def test_two_actors_answer_all_rows_and_bad_ones_fail_alone(folder):
    report = run(folder, "crash", "a", "hang_once", "b", "bad", "c", "crash_once", "d", actors=2)
    assert (report.rows, report.ok, report.failed, report.lost) == (8, 5, 3, 0)
    assert statuses() == {
        **dict.fromkeys("abcd", ("ok", None, 1)),
        "crash": ("failed", "crashed", 2),
        "hang_once": ("failed", "timeout", 1),
        "bad": ("failed", "unreadable_video", 1),
        "crash_once": ("ok", None, 2),
    }
    again = run(folder, "crash", "a", "hang_once", "b", "bad", "c", "crash_once", "d", actors=2)
    assert (again.ok, again.answered_now) == (5, 0)
    assert attempts("a") == ["0-0"]


def test_a_row_that_ray_gives_up_is_answered_in_another_round(folder, monkeypatch):
    from timechat.batch import ray_data

    results, rounds = ray_data._results, []

    def losing(*arguments):
        rounds.append([result["id"] for result in results(*arguments)])
        return iter([{"id": "a", "outcome": json.dumps({"result": result_of(A)}), "fatal": None}][: len(rounds) - 1])

    monkeypatch.setattr(ray_data, "_results", losing)
    report = run(folder, "a", "b")
    assert (report.ok, report.lost, report.errors) == (1, 1, {"lost": 1})
    assert [sorted(ids) for ids in rounds] == [["a", "b"], ["a", "b"], ["b"]]


def test_too_many_actors_are_refused_at_once(folder):
    began = time.monotonic()
    with pytest.raises(ValueError, match="3 actors need 3 CPUs, but the cluster has 2; give fewer --actors"):
        run(folder, "a", actors=3)
    with pytest.raises(ValueError, match="1 actors with 1 GPUs each need 1 GPUs, but the cluster has 0"):
        run(folder, "a", gpus=1.0)
    assert time.monotonic() - began < 5


def test_a_model_that_cannot_be_loaded_ends_a_run_on_ray(folder):
    with pytest.raises(TimeChatError, match="there is no model of that name"):
        run(folder, "a", stage=BrokenModel())


def test_a_processor_adds_answers_and_keeps_columns(folder):
    from timechat.batch import TimeChatProcessorConfig, build_processor

    processor = build_processor(
        TimeChatProcessorConfig(task="ground"),
        preprocess=lambda row: {**row, "query": row["words"]},
        postprocess=lambda row: {**row, "is_right": row["error"] is None},
        stage=FakeStage(folder / "notes"),
    )
    rows = [{"video": "a.mp4", "words": "a light", "n": 1}, {"video": "bad.mp4", "words": "a", "n": 2}]
    rows += [{"video": "b.mp4", "words": "", "n": 3}]
    found = sorted(processor(ray.data.from_items(rows)).take_all(), key=lambda row: row["n"])
    assert [(row["n"], row["words"], row["is_right"]) for row in found] == [
        (1, "a light", True),
        (2, "a", False),
        (3, "", False),
    ]
    assert json.loads(found[0]["answer"])["task"] == "grounding"
    assert [row["error"] for row in found[:2]] == [None, "bad.mp4: is damaged"]
    assert "query" in found[2]["error"]


# ------------------------------------------------------------------------------------------------------- pieces

EIGHT = " ".join(f"{10 * i}" for i in range(8))


def run_pieces(folder: Path, *names: str, seconds: float = 0.0, actors: int = 2, **options):
    notes = folder / "notes"
    stages = PieceStages(FakePieces(notes, seconds=seconds), FakePlan(notes))
    settings = BatchSettings(task="caption", output=folder / "out", timeout=30.0)
    return run_batch([f"{name}.mp4" for name in names], settings, stages=stages, ray="local", actors=actors, **options)


def pieces_of(name: str) -> list[int]:
    """Return the numbers of the pieces of a video, each as often as it was answered."""
    return sorted(int(path.name.split("-")[1]) for path in Path("notes").glob(f"{name}-*"))


def answered() -> dict[str, str]:
    lines = [line for path in sorted(Path("out/answers").glob("*.jsonl")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["text"] for row in rows if row["status"] == "ok"}


def test_the_pieces_of_a_video_are_answered_once_and_merged(folder):
    report = run_pieces(folder, "a", "bad", "b")
    assert (report.rows, report.ok, report.failed) == (3, 2, 1)
    assert answered() == {"a.mp4": EIGHT, "b.mp4": EIGHT}
    assert [pieces_of(name) for name in "ab"] == [[0, 1, 2, 3]] * 2
    assert not list(Path("out/pieces").glob("*"))


def test_a_dead_actor_costs_one_piece(folder):
    killed: list[int] = []

    def kill_one() -> bool:
        if not killed and len(pieces_of("a")) >= 2:
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker(Map(RowActor"):
                        killed.append(int(folder.name))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return False

    report = run_pieces(folder, "a", seconds=1.0, actors=1, should_stop=kill_one)
    assert (report.ok, answered()) == (1, {"a.mp4": EIGHT})
    assert killed
    assert len(pieces_of("a")) <= 5


def test_a_stopped_run_resumes_after_its_pieces(folder):
    stop = lambda: any(Path("out").glob("pieces/*"))  # noqa: E731
    report = run_pieces(folder, "a", seconds=0.5, actors=1, should_stop=stop)
    assert (report.ok, report.stopped) == (0, True)
    (stored,) = Path("out/pieces").iterdir()
    known = {int(json.loads(line)["answers"][0]["window"]["start"]) // 20 for line in stored.read_text().splitlines()}
    assert known
    resumed = time.monotonic_ns()
    assert run_pieces(folder, "a").ok == 1
    assert answered() == {"a.mp4": EIGHT}
    later = [path.name.split("-") for path in Path("notes").iterdir() if int(path.name.split("-")[2]) > resumed]
    assert not known & {int(number) for _, number, _ in later}


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "connection refused"), ("nowhere", "expected auto, local or HOST:PORT, got 'nowhere'")],
)
def test_a_cluster_that_has_ended_is_noticed_at_once(address, message, monkeypatch):
    from timechat.batch import ray_data

    for given in (address, "auto"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(
            ValueError, match=f"--ray {given}: no cluster answers .*{message}(?i:.*)or give --ray local"
        ):
            ray_data._connect(given)


def test_the_best_windows_are_answered_as_without_ray(folder):
    write_video(folder / "colors.mp4", ["red", "blue", "green", "red", "blue", "red"])
    settings = BatchSettings(
        task="ground",
        query="a red wall",
        output=folder / "out",
        device="cpu",
        windows=WindowConfig(window=3.0, overlap=0.0, batch_size=1),
        sampling=FrameSampling(fps=1.0),
        by="model",
        read=0.5,
        timeout=120.0,
    )
    assert run_batch(["colors.mp4"], settings, ray="local").ok == 1
    assert run_batch(["colors.mp4"], replace(settings, output=folder / "loop")).ok == 1
    on_ray, loop = (
        json.loads((folder / name / "answers" / "part-00001.jsonl").read_text()) for name in ("out", "loop")
    )
    assert {**on_ray, "timings": None} == {**loop, "timings": None}
    assert (on_ray["windows"], on_ray["read_share"]) == (3, 0.5)
    assert on_ray["notes"][0] == "read 50% of the video: the 3 of 6 windows that sight ranks first"


def rows_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a library, with the digests of videos instead of their numbers, in an order of their own."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        digests = {row["id"]: row["digest"] for row in connection.execute("SELECT id, digest FROM videos")}
        found = {}
        for table in ("settings", "videos", "files", "parts", "frames", "lines"):
            rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
            for row in rows:
                row.pop("id", None)
                if row.get("video") is not None:
                    row["video"] = digests[row["video"]]
            found[table] = sorted(rows, key=repr)
        return found


def test_a_library_has_the_rows_of_one_that_is_read_without_ray(folder, monkeypatch):
    monkeypatch.setattr("timechat.search.stamps._SETTLED_SECONDS", -1.0)  # the files are new
    videos = folder / "videos"
    for number, colors in enumerate((["red"], ["green", "blue"], ["blue", "red", "green"])):
        write_video(videos / f"{number}.mp4", colors, seconds=4.0)
    shutil.copy(videos / "0.mp4", videos / "copy.mp4")
    (videos / "1.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nA green wall.\n")
    (videos / "bad.mp4").write_text("no video")
    for path in videos.iterdir():
        os.utime(path, (1.6e9, 1.6e9))
    with Library(folder / "plain.db") as plain:
        expected = plain.index([videos])
    with Library(folder / "ray.db") as library:
        encoder = library.encoder()
        cluster = ClusterEncoder(EncodeVideo(encoder.name, encoder.fingerprint), "local", 2)
        report = library.index([videos], encode_files=cluster)
    assert (report.num_videos, report.num_read) == (expected.num_videos, expected.num_read)
    assert list(report.failed) == list(expected.failed) == [str(videos / "bad.mp4")]
    plain_rows, ray_rows = rows_of(folder / "plain.db"), rows_of(folder / "ray.db")
    assert [len(plain_rows[table]) for table in ("videos", "files", "frames", "lines")] == [3, 5, 3, 1]
    assert ray_rows == plain_rows


# The last test: its actor is busy for a minute.
def test_a_stop_ends_a_run_on_ray(folder):
    note = folder / "notes"
    settings = BatchSettings(task="caption", output=folder / "out")
    began = time.monotonic()
    report = run_batch(
        ["a.mp4", "hang.mp4"],
        settings,
        stage=FakeStage(note),
        ray="local",
        should_stop=lambda: any(note.glob("hang-*")) and (folder / "out" / "open.jsonl").exists(),
    )
    assert (report.rows, report.ok, report.lost, report.stopped) == (2, 1, 1, True)
    assert time.monotonic() - began < 40  # the second video hangs for a minute
