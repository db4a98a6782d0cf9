"""`timechat train`: from records and videos to a model that answers; and its logs."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from tests.clips import RECIPES, draw_clip
from tests.training.small import SmallSource, small_recipe, train_small
from timechat.cli import main
from timechat.model.modeling import TimeChatForConditionalGeneration as Model
from timechat.training.data import make_source
from timechat.training.export import build_start
from timechat.training.logs import RunLog, plot_losses, read_log
from timechat.training.recipes import read_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Write a recipe with two records about one synthetic clip, in the format of the original."""
    folder = tmp_path_factory.mktemp("data")
    draw_clip(RECIPES["constant rate"], folder / "clock.mp4")
    turns = [{"q": "When does it turn?", "a": "The given query happens in 0.5 - 1.5 seconds."}]
    (folder / "records.json").write_text(json.dumps([{"video": "clock.mp4", "QA": turns}] * 2))
    content = {
        "model": {"checkpoint": "nano", "lora": {"rank": 4}},
        "data": {"sources": [{"records": str(folder / "records.json")}], "num_frames": 4, "max_length": 512},
        "run": {"steps": 3, "device": "cpu", "export": ["folder", "adapter", "original"]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def run(capsys, *arguments) -> tuple[int, str, str]:
    sys.argv = ["timechat", "train", *map(str, arguments)]
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_a_recipe_gives_a_model_that_loads_after_interruptions(recipe, tmp_path, capsys):
    output = tmp_path / "run"
    status, out, err = run(capsys, recipe, "--output", output, "--minutes", "0")
    assert (status, out) == (75, "")
    assert "the same command resumes" in err
    assert [line["step"] for line in read_log(output)] == [1]
    status, out, _ = run(capsys, recipe, "--output", output)
    assert (status, out) == (0, f"{output}\n")
    assert [line["step"] for line in read_log(output)] == [1, 2, 3]
    names = {path.name for path in output.iterdir()}
    assert names >= {"model", "adapter", "original.pth", "loss.png", "tensorboard", "recipe.yaml", "finished.json"}
    model = Model.from_pretrained(output / "model")
    assert model.has_lora
    assert model.config.is_trained
    assert list((output / "tensorboard").glob("events*"))
    status, out, _ = run(capsys, "--export-original", output, tmp_path / "again.pth")
    assert status == 0
    ours, want = (
        torch.load(path, weights_only=True)["model"] for path in (tmp_path / "again.pth", output / "original.pth")
    )
    assert all(torch.equal(ours[key], want[key]) for key in want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a RECIPE"),
        (["nowhere.yaml"], "there is no recipe nowhere.yaml"),
        (["--export-original", "nowhere", "out.pth"], "nowhere is not a converted TimeChat model"),
    ],
)
def test_bad_input_gives_a_one_line_error(arguments, message, capsys):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_python_m_timechat_training_is_the_same_command(recipe):
    command = [sys.executable, "-m", "timechat.training", str(recipe), "--set", "optimizer.rate=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "unknown key optimizer.rate" in result.stderr


def test_a_recipe_without_sources_is_refused(recipe, tmp_path):
    [settings] = read_recipe(recipe, [f"run.output={tmp_path / 'run'}", "data.sources=[]"])
    with pytest.raises(ValueError, match=r"data.sources is empty"):
        make_source(settings, *build_start(settings))


def test_batches_start_at_the_given_iteration(recipe, tmp_path):
    [settings] = read_recipe(recipe, [f"run.output={tmp_path / 'run'}"])
    source = make_source(settings, *build_start(settings))
    first, again = source.batches(0), source.batches(2)
    for _ in range(2):
        next(first)
    ours, want = next(first), next(again)
    first.close()
    again.close()
    assert ours["record_ids"] == want["record_ids"]
    assert torch.equal(ours["pixel_values"], want["pixel_values"])


def test_the_plot_shows_losses_and_validation(tmp_path):
    settings = ("run.steps=3", "run.validate_every=2", "run.plot=true")
    train_small(small_recipe(tmp_path / "run", *settings), make_validate=lambda *_: lambda *_: {"f1": 0.5})
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    plot_losses(tmp_path / "run", tmp_path / "again.png")
    assert [line["validation"] for line in read_log(tmp_path / "run") if "validation" in line] == [{"f1": 0.5}]


def test_an_incomplete_log_line_is_ignored(tmp_path):
    [settings] = small_recipe(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    log = RunLog(tmp_path, settings, first_step=1)
    log.step(2, {"loss": 1.5})
    log.close()
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def test_the_first_kill_saves_a_checkpoint(recipe, tmp_path, capsys, monkeypatch):
    class Asking(SmallSource):
        def batches(self, first_iteration):
            for batch in super().batches(first_iteration):
                os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    from timechat.cli.stop import stop_signal

    before = signal.getsignal(signal.SIGTERM)
    with stop_signal(None, "after this step") as should_stop:
        assert not train_small(small_recipe(tmp_path / "run"), source=Asking, should_stop=should_stop)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "stopping after this step" in capsys.readouterr().err
    assert read_log(tmp_path / "run")[-1]["step"] == 1


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r'or set run\.tensorboard=false; install the extra "train"'):
        train_small(small_recipe(tmp_path / "a", "run.tensorboard=true"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r'run\.wandb needs wandb; install the extra "wandb"'):
        train_small(small_recipe(tmp_path / "b", "run.wandb=timechat"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ModuleNotFoundError, match=r"optimizer.eight_bit needs bitsandbytes"):
        train_small(small_recipe(tmp_path / "c", "optimizer.eight_bit=true"))
