"""Resuming a run: what may change, what is recorded, and errors of the disk that say what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.clips import RECIPES, draw_clip
from tests.training.small import make_model, small_recipe, train_small
from timechat.errors import DataError, TrainingError
from timechat.files.system import lock_file
from timechat.training import saving
from timechat.training.checkpoint import find_checkpoints, write_folder
from timechat.training.logs import read_log
from timechat.training.recipes import read_recipe
from timechat.training.restoring import read_weights
from timechat.training.run import train_recipe

TURNS = [{"q": "When does it turn?", "a": "The given query happens in 0.5 - 1.5 seconds."}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a clip, two records about it, and a recipe of two steps."""
    folder = tmp_path / "data"
    folder.mkdir()
    draw_clip(RECIPES["constant rate"], folder / "clock.mp4")
    (folder / "records.json").write_text(json.dumps([{"video": "clock.mp4", "QA": TURNS}] * 2))
    content = {
        "model": {"checkpoint": "nano", "lora": {"rank": 4}},
        "data": {"sources": [{"records": str(folder / "records.json")}], "num_frames": 4, "max_length": 512},
        "run": {"steps": 2, "device": "cpu", "tensorboard": False, "plot": False, "export": [], "save_every": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder


def train_records(data: Path, output: Path, *overrides: str, stop: bool = False, **options: bool) -> bool:
    stages = read_recipe(data / "recipe.yaml", [f"run.output={output}", *overrides])
    return train_recipe(stages, should_stop=lambda: stop, **options)


def changes(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "recipe-changes.jsonl").read_text().splitlines()]


def test_settings_that_compute_the_same_are_free(tmp_path):
    assert not train_small(small_recipe(tmp_path / "run"), should_stop=lambda: True)
    settings = ("data.timeout=5", "data.max_bad_share=0.5", "data.workers=0", "model.gradient_checkpointing=true")
    assert train_small(small_recipe(tmp_path / "run", *settings, "run.device=cpu", "run.save_every=2"))
    assert train_small(small_recipe(tmp_path / "straight"))
    losses = [[line["loss_hex"] for line in read_log(tmp_path / name)] for name in ("run", "straight")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "run" / "recipe-changes.jsonl").exists()


def test_an_accepted_change_is_recorded_and_has_an_effect(tmp_path):
    assert not train_small(small_recipe(tmp_path / "run"), should_stop=lambda: True)
    stages = small_recipe(tmp_path / "run", "optimizer.weight_decay=0.5", "run.steps=2")
    with pytest.raises(TrainingError, match=r"another recipe \(.*\); resume with --accept-changed-recipe, which"):
        train_small(stages)
    assert train_small(stages, accept_changes=True)
    assert changes(tmp_path / "run") == [
        {"step": 1, "changes": ["optimizer.weight_decay: 0.05 → 0.5", "run.steps: 4 → 2"]}
    ]
    assert train_small(small_recipe(tmp_path / "weak", "run.steps=2"))
    ours, want = (
        read_weights(find_checkpoints(tmp_path / name)[-1], "video_qformer.projection.") for name in ("run", "weak")
    )
    assert {name for name in want if not torch.equal(ours[name], want[name])} == {"weight"}  # a bias does not decay
    assert train_small(stages)  # the new recipe is that of the run


def test_the_batch_of_all_processes_is_that_of_the_run(tmp_path):
    three, six = (("run.steps=2", f"run.{name}") for name in ("batch_size=3", "global_batch_size=6"))
    assert not train_small(small_recipe(tmp_path / "run", *three), should_stop=lambda: True)
    info = find_checkpoints(tmp_path / "run")[-1].folder / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"num_processes": 2}))
    resolved = tmp_path / "run" / "recipe.yaml"
    content = yaml.safe_load(resolved.read_text())
    assert (content["run"]["global_batch_size"], content["run"]["batch_size"]) == (3, None)
    content["run"] |= {"global_batch_size": None, "batch_size": 3}  # as 0.2.0 wrote it
    resolved.write_text(yaml.safe_dump(content))
    with pytest.raises(
        TrainingError, match=r"global_batch_size: 6 → 3.*set run.global_batch_size=6, as 2 processes had"
    ):
        train_small(small_recipe(tmp_path / "run", *three))
    assert train_small(small_recipe(tmp_path / "run", *six))


def test_a_finished_run_gets_more_steps(tmp_path):
    assert train_small(small_recipe(tmp_path / "run", "run.steps=1"))
    assert train_small(small_recipe(tmp_path / "run", "run.steps=2"), accept_changes=True)
    assert json.loads((tmp_path / "run" / "finished.json").read_text())["step"] == 2
    with pytest.raises(TrainingError, match=r"step-0000002 has 2 steps, more than the 1 steps of the recipe; give"):
        train_small(small_recipe(tmp_path / "run", "run.steps=1"), accept_changes=True)


def test_the_same_records_at_another_place_are_the_same_run(data, tmp_path):
    assert not train_records(data, tmp_path / "run", stop=True)
    [saved] = find_checkpoints(tmp_path / "run")
    assert sorted(saved.inputs) == ["frame interpolation", "records", "start weights"]
    assert all(len(saved.inputs[name]) == 64 for name in ("records", "start weights"))
    moved = shutil.move(data, tmp_path / "moved")
    records = f'data.sources=[{{"records": "{moved}/records.json", "videos": "{moved}", "name": "other"}}]'
    assert train_records(Path(moved), tmp_path / "run", records)


def test_changed_records_need_to_be_accepted(data, tmp_path):
    assert not train_records(data, tmp_path / "run", stop=True)
    (data / "records.json").write_text(json.dumps([{"video": "clock.mp4", "QA": TURNS}]))
    with pytest.raises(TrainingError, match=r"the records of .* have changed since its checkpoint .*step-0000001; "):
        train_records(data, tmp_path / "run")
    assert train_records(data, tmp_path / "run", accept_changes=True)
    [line] = changes(tmp_path / "run")
    assert line["step"] == 1
    assert str(line["changes"]).startswith("['records: ")


def test_changed_start_weights_need_to_be_accepted(tmp_path):
    def other_model(settings):
        model, processor = make_model(settings)
        model.language_model.lm_head.weight.data += 1
        return model, processor

    assert not train_small(small_recipe(tmp_path / "run"), should_stop=lambda: True)
    with pytest.raises(TrainingError, match=r"the start weights of .* have changed since its checkpoint"):
        train_small(small_recipe(tmp_path / "run"), make_model=other_model)
    assert train_small(small_recipe(tmp_path / "run"), make_model=other_model, accept_changes=True)


def test_paths_count_where_a_checkpoint_has_no_hashes(tmp_path):
    assert not train_small(small_recipe(tmp_path / "run"), should_stop=lambda: True)
    info = find_checkpoints(tmp_path / "run")[-1].folder / "info.json"
    info.write_text(json.dumps({key: value for key, value in json.loads(info.read_text()).items() if key != "inputs"}))
    with pytest.raises(TrainingError, match=r"another recipe .model.checkpoint: nano → elsewhere."):
        train_small(small_recipe(tmp_path / "run", "model.checkpoint=elsewhere"))
    assert train_small(small_recipe(tmp_path / "run"))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    message = r"run\.lock is locked: another run trains in .*wait until it ends"
    with (tmp_path / "run" / "run.lock").open("a") as file:
        assert lock_file(file)
        with pytest.raises(TrainingError, match=message):
            train_small(small_recipe(tmp_path / "run"))
    assert train_small(small_recipe(tmp_path / "run", "run.steps=1"))
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "checkpoints/step-0000001/info.json",
            '{"step": 1',
            r"info\.json cannot be read .*; remove the folder .*step-",
        ),
        (
            "checkpoints/step-0000001/part-00001-of-00001.safetensors",
            "",
            r"step-0000001 cannot be read .*; remove the folder .*step-0000001 to continue without this checkpoint",
        ),
        ("recipe.yaml", "run: [1", r"recipe\.yaml is not the recipe of a run .*; restore this file, or start anew"),
        ("recipe.yaml", "", r"recipe\.yaml is not the recipe of a run .*; restore this file, or start anew"),
        ("log.jsonl", '{"step": 1\n{"step": 1}\n', r"log\.jsonl:1 is damaged .*; remove this line from the file"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_with_advice(tmp_path, name, content, message):
    stages = small_recipe(tmp_path / "run", "run.steps=2")
    assert not train_small(stages, should_stop=lambda: True)
    path = tmp_path / "run" / name
    path.write_text(content)
    with pytest.raises(TrainingError, match=message) as caught:
        train_small(stages)
    assert "\n" not in str(caught.value)
    if name.startswith("checkpoints/"):  # the advice can be followed
        shutil.rmtree(path.parent)
    elif name == "log.jsonl":
        path.write_text(content.partition("\n")[2])
    assert train_small(stages, fresh=name == "recipe.yaml")


def test_a_missing_part_of_a_checkpoint_is_named(tmp_path):
    assert not train_small(small_recipe(tmp_path / "run"), should_stop=lambda: True)
    [saved] = find_checkpoints(tmp_path / "run")
    (saved.folder / "part-00001-of-00001.safetensors").unlink()
    with pytest.raises(
        TrainingError, match=r"step-0000001 cannot be read \(part-00001-of-00001.safetensors is missing"
    ):
        train_small(small_recipe(tmp_path / "run"))


def test_a_damaged_report_of_records_is_named(data, tmp_path):
    assert not train_records(data, tmp_path / "run", stop=True)
    report = tmp_path / "run" / "lost-records-0.jsonl"
    report.write_text('{"kind": "miss')
    with pytest.raises(DataError, match=r"lost-records-0\.jsonl:1 is no line of a report .*; remove this file"):
        train_records(data, tmp_path / "run")
    report.unlink()
    assert train_records(data, tmp_path / "run")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    assert not train_small(small_recipe(tmp_path / "run"), should_stop=lambda: True)
    with monkeypatch.context() as patched:
        patched.setattr(saving, "save_tensors", fail)
        with pytest.raises(TrainingError, match=r"step-0000004 cannot be written \(.*\); free some space .*resumes"):
            train_small(small_recipe(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-0000001"]
    assert train_small(small_recipe(tmp_path / "run"))


def test_a_folder_is_kept_when_its_new_version_fails(tmp_path):
    write_folder(tmp_path / "model", lambda partial: save_file({"a": torch.zeros(1)}, partial / "a.safetensors"))

    def fail(_partial: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"model cannot be written \(no space left on device\)"):
        write_folder(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a.safetensors").exists()


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    assert not train_small(small_recipe(tmp_path / "run"), should_stop=lambda: True)
    for name in ("checkpoints/.step-0000009.partial", ".model.partial", ".adapter.replaced"):
        (tmp_path / "run" / name).mkdir()
    for name in (".original.pth.partial", f".{'0' * 16}.unfinished"):
        (tmp_path / "run" / name).touch()
    assert train_small(small_recipe(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").rglob(".*")] == []
