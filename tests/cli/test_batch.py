"""`timechat batch`: exit statuses and messages."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.batch.fakes import FakeStage
from timechat.backbones.backbone import BackboneConfig
from timechat.video.sampling import FrameSampling


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, in which rows are answered without a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr("timechat.batch.loop.AnswerVideo", lambda _: FakeStage(tmp_path / "notes"))
    return tmp_path


def test_a_batch_is_answered_once_and_another_recipe_refused(run, refused):
    command = ("batch", "good.mp4", "fine.mp4", "--task", "caption", "--output", "out")
    assert run(*command, "--quiet") == (0, "2 of 2 rows answered in out\n", "")
    assert run(*command, "--quiet") == (0, "2 of 2 rows answered in out\n", "")
    assert sorted(path.name for path in Path("notes").iterdir()) == ["fine-0-0", "good-0-0"]
    message = refused(*command, "--max-new-tokens", 7)
    assert message.startswith("out holds answers that were made with decoding {")
    assert message.endswith("give another --output")


def test_failed_rows_give_exit_status_1(run):
    status, out, err = run("batch", "good.mp4", "bad.mp4", "--task", "caption", "--output", "out", "--quiet")
    assert (status, out) == (1, "1 of 2 rows answered, 1 failed (1 unreadable_video) in out\n")
    assert err == "timechat: 1 rows failed, see out/failed.jsonl; --retry repeats them\n"


def test_a_stop_signal_gives_exit_status_75(run, monkeypatch):
    class Stopping(FakeStage):
        def __reduce__(self):  # pickled for the child process, while the parent waits for it
            os.kill(os.getpid(), signal.SIGINT)
            return FakeStage, (self.notes,)

    monkeypatch.setattr("timechat.batch.loop.AnswerVideo", lambda _: Stopping(Path("notes")))
    status, out, err = run("batch", "good.mp4", "fine.mp4", "--task", "caption", "--output", "out", "--quiet")
    assert (status, out) == (75, "0 of 2 rows answered in out\n")
    assert err.endswith("stopped with 2 rows to do; the same command resumes\n")
    assert json.loads(Path("out/report.json").read_text())["stopped"] is True


def test_a_plan_counts_windows_and_unreadable_videos(run, short_clip, monkeypatch):
    config = BackboneConfig(FrameSampling(fps=2, max_frames=600), num_frames=16, window_seconds=1.0)
    monkeypatch.setattr("timechat.batch.loop.read_config", lambda _: config)
    status, out, err = run("batch", short_clip, "away.mp4", "--task", "caption", "--output", "out", "--plan")
    assert status == 0
    assert out == "2 rows, 0.00 hours of video, 4 windows in 1 batches, 1 rows cannot be read\n"
    assert err == "note: away.mp4: no such file; give the path of a video file or an http(s) address\n"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--actors", 2), "--actors 2 has an effect only with --ray; leave it out"),
        (("--gpus", 0.5), "--gpus 0.5 has an effect only with --ray; leave it out"),
        (("--ray", "local", "--actors", 9999), "9999 actors need 9999 CPUs, but the cluster has "),
        (("--read", 0.1), "only ask and ground can read a part of a video, not caption; leave out --read 0.1"),
        (("--query", "x"), "--query is given, but caption takes no query; leave it out"),
        (("--timeout", 0), "timeout must be above 0 s, got 0; it is the limit of one video"),
    ],
)
def test_a_wrong_option_is_refused(refused, options, message):
    assert refused("batch", "good.mp4", "--task", "caption", "--output", "out", *options).startswith(message)
    assert not Path("out").exists()


def test_an_unknown_task_is_refused(refused):
    message = refused("batch", "good.mp4", "--task", "look", "--output", "out")
    assert message.startswith("unknown task 'look'; choose one of ask, caption, ground,")


def test_a_missing_ray_names_the_extra(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "timechat.batch.ray_data", raising=False)
    message = refused("batch", "good.mp4", "--task", "caption", "--output", "out", "--ray", "local")
    assert message.startswith('--ray needs Ray; install the extra "batch"')
    assert not Path("out").exists()
