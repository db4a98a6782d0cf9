"""Recipes are read strictly, and the four in the repository have the settings of the original."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from timechat.config import save_recipe
from timechat.training.objectives import OBJECTIVES, find_objective
from timechat.training.recipes import build_recipe, differences, load_resolved, read_recipe, stages_from
from timechat.training.schedule import learning_rate, num_steps

RECIPES = Path(__file__).parents[2] / "recipes"
VARIABLES = [
    "TIMECHAT_START",
    "TIMECHAT_7B",
    *(
        f"{name}_{what}"
        for name in ("TIMEIT", "VALLEY", "CHARADES", "QVHIGHLIGHTS", "YOUCOOK2")
        for what in ("RECORDS", "VIDEOS")
    ),
]
# Specification, section 2: iterations an epoch, warm-up, batch, accumulation, workers.
PUBLISHED = {
    "stage2_finetune_time104k_valley72k": (22000, 13200, 1, 4, 6),
    "stage2_finetune_charades": (3102, 3102, 1, 8, 4),
    "stage2_finetune_qvhighlights": (1714, 1714, 1, 8, 4),
    "stage2_finetune_youcook2": (1192, 1192, 2, 4, 4),
}
RUN = {"run": {"steps": 3}}


@pytest.fixture
def paths(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, f"/data/{name.lower()}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_the_original_have_the_published_settings(name, paths):
    [recipe] = read_recipe(RECIPES / f"{name}.yaml")
    run, optimizer, data, model = recipe.run, recipe.optimizer, recipe.data, recipe.model
    found = (run.iters_per_epoch, optimizer.warmup_iters, run.micro_batch_size, run.accumulation, data.workers)
    assert found == PUBLISHED[name]
    assert (run.epochs, run.seed, run.precision) == (3, 42, "fp16")
    assert (optimizer.lr, optimizer.min_lr, optimizer.warmup_lr) == (3e-5, 1e-5, 1e-6)
    assert (optimizer.weight_decay, optimizer.betas, optimizer.eps) == (0.05, (0.9, 0.999), 1e-8)
    assert (model.lora.rank, model.lora.alpha, model.lora.dropout) == (32, 32, 0.1)
    assert model.lora.targets == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert model.train == ["image_qformer", "video_qformer", "projection", "lora"]
    assert (model.timestamp_tokenizer, model.gradient_checkpointing) == ("llama", True)
    assert (data.num_frames, data.sampling, data.augmentation, data.max_length) == (96, "random", True, 2048)
    assert recipe.name == name
    assert len({source.weight for source in data.sources}) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_quirks_of_the_original_can_be_switched_on(name, paths):
    text = (RECIPES / f"{name}.yaml").read_text()
    settings = [word.strip() for word in text.replace("#", " ").split("--set")[1:]]
    settings = [setting.split()[0] for setting in settings if "=" in setting.split()[0]]
    quirks = [setting for setting in settings if setting != "run.parallel=ddp"]
    assert len(quirks) == 5
    [recipe] = read_recipe(RECIPES / f"{name}.yaml", quirks)
    assert recipe.optimizer.schedule == "original"
    assert recipe.optimizer.clip_norm is None
    assert not recipe.run.divide_loss_by_accumulation
    warmup_steps = recipe.optimizer.warmup_iters // recipe.run.accumulation
    assert learning_rate(recipe.optimizer, recipe.run, warmup_steps + 1) < 3e-5
    assert recipe.run.iters_per_epoch is not None
    assert num_steps(recipe.run) == 3 * (recipe.run.iters_per_epoch // recipe.run.accumulation)


def test_a_path_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("TIMECHAT_7B", raising=False)
    with pytest.raises(
        ValueError, match=r"model.checkpoint is \$\{TIMECHAT_7B\}.*set it, or give --set model.checkpoint"
    ):
        read_recipe(RECIPES / "stage2_finetune_charades.yaml")


def test_an_override_replaces_the_recipe_setting(paths):
    [recipe] = read_recipe(
        RECIPES / "stage2_finetune_charades.yaml", ["model.checkpoint=/my/model", "optimizer.lr=1e-4", "run.wandb=null"]
    )
    assert recipe.model.checkpoint == "/my/model"
    assert recipe.optimizer.lr == 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {"learning_rat": 1}}, "unknown key optimizer.learning_rat; known here: lr, min_lr"),
        ({"optimizer": {"wieght_decay": 1}}, "unknown key optimizer.wieght_decay; did you mean weight_decay?"),
        ({"weight_decay": 1}, "unknown key weight_decay; did you mean optimizer.weight_decay?"),
        ({"data": {"sources": [{"recrods": "x"}]}}, r"unknown key data.sources\[0\].recrods; did you mean records?"),
        ({"model": {"lora": {"rnk": 4}}}, "unknown key model.lora.rnk; did you mean rank?"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr: must be a valid number, got 'fast'"),
        ({"run": {"steps": 3, "precision": "fp8"}}, "run.precision: .*got 'fp8'"),
        ({"run": {"batch_size": 2}}, "give either run.steps or both run.epochs and run.iters_per_epoch"),
        ({"run": {"steps": 3, "accumulation": 0}}, "run.accumulation must be at least 1, got 0"),
        ({"run": {"steps": 3, "divide_loss_by_accumulation": False}}, "needs run.loss_mean=micro_batch"),
        ({"optimizer": {"schedule": "original"}}, "needs run.epochs and run.iters_per_epoch"),
        ({"stages": [{"run": {}}]}, "stages must be a list of mappings that each have a name"),
        ({"model": "nano"}, "model: .*got 'nano'"),
        ({"stages": [{"name": "a", "run": {"export": []}}, {"name": "b"}]}, "stage a: run.export .* add folder"),
    ],
)
def test_invalid_settings_are_errors_that_name_them(content, message):
    with pytest.raises(ValueError, match=message):
        build_recipe(RUN | content)


def test_stages_override_the_recipe_and_have_their_own_folders(tmp_path):
    content = {
        "optimizer": {"lr": 1e-3},
        "run": {"steps": 10, "output": "runs/nano"},
        "stages": [
            {"name": "see", "model": {"train": ["vision"]}},
            {"name": "answer", "optimizer": {"min_lr": 1e-6}, "run": {"steps": 20}},
        ],
    }
    see, answer = build_recipe(content, ["run.seed=7"])
    assert (see.run.output, answer.run.output) == ("runs/nano/1-see", "runs/nano/2-answer")
    assert (see.run.steps, answer.run.steps, see.run.seed, answer.run.seed) == (10, 20, 7, 7)
    assert (answer.optimizer.lr, answer.optimizer.min_lr) == (1e-3, 1e-6)
    assert see.model.train == ["vision"]
    assert answer.model.train != ["vision"]
    assert stages_from([see, answer], "answer") == [answer]
    with pytest.raises(ValueError, match="no stage 'films'; give one of: see, answer"):
        stages_from([see, answer], "films")


def test_the_saved_recipe_is_complete_and_loads_unchanged(tmp_path, paths):
    [recipe] = read_recipe(RECIPES / "stage2_finetune_youcook2.yaml")
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_resolved(tmp_path / "recipe.yaml") == recipe
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["optimizer"]["eps"] == 1e-8
    assert differences(recipe, load_resolved(tmp_path / "recipe.yaml")) == []


def test_an_unknown_objective_names_the_known_ones():
    assert find_objective("next_token") is OBJECTIVES["next_token"]
    with pytest.raises(ValueError, match="there is no objective 'next_tokn'; known: next_token"):
        find_objective("next_tokn")


def test_a_recipe_of_version_0_1_loads():
    [recipe] = build_recipe(RUN | {"objective": "answers"})
    assert recipe == build_recipe(RUN)[0]
    assert recipe.objective == "next_token"
    [stage] = build_recipe(RUN | {"stages": [{"name": "answer"}]}, ["objective=answers"])
    assert stage.objective == "next_token"


def test_a_run_folder_of_version_0_1_loads(tmp_path):
    [recipe] = build_recipe(RUN)
    save_recipe(replace(recipe, objective="answers"), tmp_path / "recipe.yaml")
    assert "objective: answers" in (tmp_path / "recipe.yaml").read_text()
    assert load_resolved(tmp_path / "recipe.yaml") == recipe
    assert differences(recipe, load_resolved(tmp_path / "recipe.yaml")) == []
