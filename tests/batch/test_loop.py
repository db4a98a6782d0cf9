"""A run with a stage that crashes, hangs and fails, in a real child process."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.batch.fakes import BrokenModel, FakeStage
from timechat.batch import BatchSettings, run_batch
from timechat.batch.loop import BatchProgress
from timechat.errors import CheckpointError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    return tmp_path


def run(*names: str, **options):
    """Run a batch about videos of these names."""
    stage, settings = (
        FakeStage(Path("notes")),
        BatchSettings(task="caption", output=Path("out"), timeout=0.2, **options),
    )
    Path("m.jsonl").write_text("".join(f"{json.dumps({'video': f'{name}.mp4', 'id': name})}\n" for name in names))
    return run_batch("m.jsonl", settings, stage=stage)


def statuses() -> dict[str, tuple]:
    rows = [
        row
        for path in sorted(Path("out/answers").glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    found = {row["id"]: (row["status"], row["error_kind"], row["attempts"]) for row in rows}
    assert len(found) == len(rows)
    return found


def attempts(name: str) -> list[str]:
    return sorted(path.name.removeprefix(f"{name}-") for path in Path("notes").glob(f"{name}-*"))


def test_bad_videos_fail_alone_and_retry_repeats_only_them(folder, monkeypatch):
    monkeypatch.setattr("timechat.batch.worker._GRACE_SECONDS", 0.0)
    report = run("crash", "good", "hang_once", "bad", "crash_once", "bug", "fine")
    assert (report.rows, report.ok, report.failed, report.lost) == (7, 3, 4, 0)
    assert statuses() == {
        "crash": ("failed", "crashed", 2),
        "good": ("ok", None, 1),
        "hang_once": ("failed", "timeout", 1),
        "bad": ("failed", "unreadable_video", 1),
        "crash_once": ("ok", None, 2),
        "bug": ("failed", "internal", 1),
        "fine": ("ok", None, 1),
    }
    errors = {line["id"]: line["error"] for line in map(json.loads, Path("out/failed.jsonl").read_text().splitlines())}
    assert errors == {
        "crash": "crash.mp4: the process ended while it worked on this video (SIGSEGV)",
        "hang_once": "hang_once.mp4: not answered within 0.2 s; allow more with --timeout SECONDS",
        "bad": "bad.mp4: is damaged",
        "bug": "KeyError: 'a mistake'",
    }
    again = run_batch(
        "out/failed.jsonl",
        BatchSettings(task="caption", output=Path("out"), timeout=0.2, retry=True),
        stage=FakeStage(Path("notes")),
    )
    assert (again.rows, again.ok, again.failed, again.answered_now) == (7, 4, 3, 1)
    assert statuses()["hang_once"] == ("ok", None, 1)
    assert attempts("good") == ["0-0"]
    assert attempts("crash") == ["0-0", "1-0", "2-0", "3-0"]


def test_a_stopped_run_resumes_with_what_is_missing(folder):
    stage, settings = FakeStage(folder / "notes"), BatchSettings(task="caption", output=folder / "out")
    Path("m.txt").write_text("good.mp4\nhang_once.mp4\nfine.mp4\n")
    begun = folder / "out" / "pieces"
    report = run_batch("m.txt", settings, stage=stage, should_stop=lambda: begun.exists() and any(begun.iterdir()))
    assert (report.rows, report.ok, report.lost, report.stopped) == (3, 1, 2, True)
    report = run_batch("m.txt", settings, stage=stage)
    assert (report.rows, report.ok, report.lost, report.stopped, report.answered_now) == (3, 3, 0, False, 2)
    assert list(statuses()) == ["good.mp4", "hang_once.mp4", "fine.mp4"]
    assert attempts("good") == ["0-0"]
    assert attempts("hang_once") == ["0-0", "1-1"]  # the second attempt has the first piece already


def test_a_model_that_cannot_be_loaded_ends_the_run(folder):
    with pytest.raises(CheckpointError, match="there is no model of that name"):
        run_batch("a.mp4", BatchSettings(task="caption", output=folder / "out"), stage=BrokenModel())
    assert not (folder / "out" / "report.json").exists()


def test_progress_counts_videos_hours_speed_and_time_left():
    progress = BatchProgress(done=3, failed=1, total=8, windows=20, video_seconds=7200, seconds=60)
    assert str(progress) == (
        "4 of 8 done, 1 failed, 20 windows, 2.00 hours of video, 120.0 times real time, about 1:00.0 left"
    )
    assert str(BatchProgress(total=8)) == "0 of 8 done, 0 windows, 0.00 hours of video, 0.0 times real time"
