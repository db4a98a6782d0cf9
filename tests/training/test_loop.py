"""The training loop learns, resumes exactly, and reports errors."""

import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from tests.model.tiny import tiny_model
from tests.training.small import SmallSource, make_still_model, run_module, small_recipe, train_small, with_config
from timechat.errors import TrainingError
from timechat.training.checkpoint import find_checkpoints
from timechat.training.logs import read_log
from timechat.training.objectives import Objective
from timechat.training.parameters import prepare_parameters, trainable
from timechat.training.restoring import load_progress, load_weights, read_weights
from timechat.training.saving import CheckpointSaver


def losses(folder) -> list[str]:
    return [line["loss_hex"] for line in read_log(folder) if "loss" in line]


def numbers(folder) -> list[float]:
    return [line["loss"] for line in read_log(folder) if "loss" in line]


def last_weights(folder) -> dict[str, torch.Tensor]:
    return read_weights(find_checkpoints(folder)[-1], "")


class OneBatch(SmallSource):
    """A source that repeats one batch."""

    def batches(self, _first_iteration):
        batch = next(super().batches(0))
        while True:
            yield dict(batch)


def test_a_model_learns_a_batch(tmp_path):
    stages = small_recipe(tmp_path / "run", "run.steps=25", "run.save_every=100")
    assert train_small(stages, source=OneBatch, make_model=make_still_model)
    assert numbers(tmp_path / "run")[-1] < 0.5 * numbers(tmp_path / "run")[0]


def test_a_killed_and_resumed_run_has_exactly_the_same_losses(tmp_path):
    settings = ("run.steps=8", "run.save_every=3", "model.lora.dropout=0.1", "run.accumulation=2")
    killed = run_module("die", tmp_path / "killed", 14, *settings)
    assert killed.returncode == -signal.SIGKILL
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "killed")] == [3, 6]
    assert len(losses(tmp_path / "killed")) == 7  # one more than the checkpoint knows of
    assert train_small(small_recipe(tmp_path / "killed", *settings))
    assert train_small(small_recipe(tmp_path / "whole", *settings))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    ours, want = last_weights(tmp_path / "killed"), last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], want[name]) for name in want)


def test_saving_in_the_background_saves_the_same(tmp_path):
    settings = ("run.save_every=1", "run.keep_checkpoints=9", "model.lora.dropout=0.1")
    for name, setting in (("at-once", "false"), ("beside", "true")):
        train_small(small_recipe(tmp_path / name, *settings, f"run.save_in_background={setting}"))
    saved = [[read_weights(found, "") for found in find_checkpoints(tmp_path / name)] for name in ("at-once", "beside")]
    assert [len(checkpoints) for checkpoints in saved] == [4, 4]
    for ours, want in zip(*saved, strict=True):
        assert ours.keys() == want.keys()
        assert all(torch.equal(ours[name], want[name]) for name in want)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_stopping_saves_a_checkpoint_and_the_next_call_resumes(tmp_path, precision):
    settings = ("run.steps=4", f"run.precision={precision}")
    asked = iter([False, True])
    assert not train_small(small_recipe(tmp_path / "run", *settings), should_stop=lambda: next(asked))
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "run")] == [2]
    assert train_small(small_recipe(tmp_path / "run", *settings))
    train_small(small_recipe(tmp_path / "whole", *settings))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_the_loss_scale_of_fp16_is_restored(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(1))  # the scale is made at its first use
    [recipe] = small_recipe(tmp_path)
    CheckpointSaver(tmp_path, recipe.run, {}, torch.device("cpu")).save(1, model, optimizer, scaler, {})
    resumed = torch.amp.GradScaler("cpu")
    [checkpoint] = find_checkpoints(tmp_path)
    load_progress(checkpoint, model, optimizer, resumed)
    assert resumed.get_scale() == 8.0


def test_two_batches_of_one_equal_one_batch_of_two(tmp_path):
    train_small(small_recipe(tmp_path / "two", "run.steps=3"), make_model=make_still_model)
    settings = ("run.steps=3", "run.batch_size=1", "run.accumulation=2", "optimizer.warmup_iters=2")
    train_small(small_recipe(tmp_path / "one", *settings), make_model=make_still_model)
    assert numbers(tmp_path / "one") == pytest.approx(numbers(tmp_path / "two"), abs=1e-5)


@pytest.mark.parametrize("mean", ["tokens", "micro_batch"])
def test_micro_batches_are_the_batch_in_pieces(tmp_path, mean):
    settings = ["run.steps=3", "run.global_batch_size=4", f"run.loss_mean={mean}"]
    train_small(small_recipe(tmp_path / "pieces", *settings, "run.micro_batch_size=1"), make_model=make_still_model)
    if mean == "micro_batch":  # each batch has one sample
        settings += ["run.global_batch_size=1", "run.accumulation=4", "optimizer.warmup_iters=4"]
    train_small(small_recipe(tmp_path / "whole", *settings), make_model=make_still_model)
    assert numbers(tmp_path / "pieces") == pytest.approx(numbers(tmp_path / "whole"), abs=1e-5)
    assert [line["num_tokens"] for line in read_log(tmp_path / "pieces")] == [
        line["num_tokens"] for line in read_log(tmp_path / "whole")
    ]


def test_gradient_checkpointing_does_not_change_losses(tmp_path):
    train_small(small_recipe(tmp_path / "plain", "run.steps=3"), make_model=make_still_model)
    stages = small_recipe(tmp_path / "checkpointed", "run.steps=3", "model.gradient_checkpointing=true")
    train_small(stages, make_model=make_still_model)
    assert numbers(tmp_path / "checkpointed") == pytest.approx(numbers(tmp_path / "plain"), abs=1e-6)


def test_the_original_mean_sums_the_batches_of_a_step(tmp_path):
    settings = ("run.steps=1", "run.accumulation=2", "run.loss_mean=micro_batch", "optimizer.clip_norm=null")
    norms = []
    for divide in ("true", "false"):
        stages = small_recipe(tmp_path / divide, *settings, f"run.divide_loss_by_accumulation={divide}")
        train_small(stages, make_model=make_still_model)
        norms.append(read_log(tmp_path / divide)[0]["grad_norm"])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-5)
    assert numbers(tmp_path / "true") == numbers(tmp_path / "false")


def test_the_best_checkpoint_is_kept_with_the_latest_ones(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.2, 5: 0.3}
    settings = ("run.steps=5", "run.save_every=1", "run.keep_checkpoints=2", "run.validate_every=1")
    stages = small_recipe(tmp_path / "run", *settings, "run.best_metric=score")
    seen = []

    def validate(model, step):
        seen.append(model.training)
        torch.rand(3)  # what validation draws must not be felt
        return {"score": scores[step]}

    train_small(stages, make_validate=lambda *_: validate)
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "run")] == [2, 4, 5]
    assert json.loads((tmp_path / "run" / "finished.json").read_text()) == {"step": 2, "metrics": {"score": 0.9}}
    assert seen == [False] * 5
    train_small(small_recipe(tmp_path / "plain", "run.steps=5"))
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


def test_a_loss_of_nan_stops_the_run_and_names_the_records(tmp_path):
    class Broken(SmallSource):
        def batches(self, first_iteration):
            for number, batch in enumerate(super().batches(first_iteration)):
                if number == 1:
                    batch["pixel_values"] = batch["pixel_values"] * float("nan")
                yield batch

    with pytest.raises(TrainingError, match=r"the loss of step 2 is nan; records: record-2, record-3\."):
        train_small(small_recipe(tmp_path / "run"), source=Broken)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no more"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_an_out_of_memory_error_says_what_to_do(tmp_path, error):
    def greedy(model, batch):
        raise error

    objectives = {"greedy": Objective(greedy)}
    with pytest.raises(
        TrainingError, match=r"out of memory in step 1 with input_ids \(2, 14\).*set run.micro_batch_size=1"
    ):
        train_small(small_recipe(tmp_path / "run", "objective=greedy"), objectives=objectives)


def test_batches_without_labels_have_no_effect(tmp_path):
    class Unlabelled(SmallSource):
        def batches(self, first_iteration):
            for batch in super().batches(first_iteration):
                yield batch | {"labels": torch.full_like(batch["labels"], -100)}

    assert train_small(small_recipe(tmp_path / "run", "run.steps=1"), source=Unlabelled)
    [line] = read_log(tmp_path / "run")
    assert (line["loss"], line["num_tokens"], line["grad_norm"]) == (0, 0, 0)


def test_a_folder_with_a_run_of_a_different_recipe_is_refused(tmp_path):
    train_small(small_recipe(tmp_path / "run", "run.steps=1"))
    with pytest.raises(TrainingError, match=r"run of another recipe \(optimizer.lr: 0.01 → 0.5\)"):
        train_small(small_recipe(tmp_path / "run", "run.steps=1", "optimizer.lr=0.5"))
    assert train_small(small_recipe(tmp_path / "run", "run.steps=1", "run.log_every=2"))  # changes no number
    assert train_small(small_recipe(tmp_path / "run", "run.steps=1", "optimizer.lr=0.5"), fresh=True)


def test_a_folder_with_other_files_is_not_changed(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match="is not empty and holds no training run"):
        train_small(small_recipe(tmp_path), fresh=True)
    assert (tmp_path / "thesis.txt").exists()


def test_an_incomplete_checkpoint_is_ignored(tmp_path):
    train_small(small_recipe(tmp_path / "run", "run.steps=2", "run.save_every=1"))
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-0000002", folder / ".step-0000003.partial")
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path / "run")] == [1, 2]


def make_convolutional_model(_settings):
    vision = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 28}
    return with_config(tiny_model(vision_config=vision | {"layer_type": "basic"}))


def test_running_statistics_are_saved_with_the_weights(tmp_path):
    stages = small_recipe(tmp_path / "run", 'model.train=["vision"]')
    assert train_small(stages, make_model=make_convolutional_model)
    model, _ = make_convolutional_model(None)
    prepare_parameters(model, stages[0].model)
    name = "frame_encoder.vision_model.embedder.embedder.normalization.running_mean"
    assert model.state_dict()[name].abs().max() == 0
    load_weights(find_checkpoints(tmp_path / "run")[-1], model)
    assert model.state_dict()[name].abs().max() > 0
    assert torch.equal(model.state_dict()[name], last_weights(tmp_path / "run")[name])


def test_frozen_parameters_do_not_change(tmp_path):
    weights = 'model.train=["projection"]', 'model.freeze=["video_qformer.projection.weight"]'
    [recipe] = small_recipe(tmp_path / "run", *weights)
    model, _ = make_convolutional_model(None)
    prepare_parameters(model, recipe.model)
    assert list(trainable(model)) == ["video_qformer.projection.bias"]
    with pytest.raises(ValueError, match="names not_there, but no parameter"):
        prepare_parameters(model, replace(recipe.model, freeze=["not_there"]))
