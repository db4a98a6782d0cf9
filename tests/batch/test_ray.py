"""The same rows on Ray Data, with a stage that needs no model."""

import json
import time
from pathlib import Path

import pytest

from tests.batch.fakes import BrokenModel, FakeStage, result_of
from tests.batch.test_loop import attempts, statuses
from timechat.batch import BatchSettings, Row, run_batch
from timechat.errors import TimeChatError

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
