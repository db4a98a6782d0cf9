"""From an original checkpoint through the recipe to what it gives away, over the recorded batches."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from tests import parity
from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint, golden_meta, golden_tensors
from timechat.errors import TrainingError
from timechat.model.convert.keys import rename
from timechat.model.convert.original_export import original_state_dict
from timechat.model.convert.write import OriginalFiles, convert
from timechat.model.loading import load_processor
from timechat.model.modeling import TimeChatForConditionalGeneration as Model
from timechat.model.processing import TimeChatProcessor
from timechat.training.checkpoint import find_checkpoints
from timechat.training.config import TrainedModelSettings
from timechat.training.export import build_start, export_folder_as_original, training_processor
from timechat.training.logs import read_log
from timechat.training.objectives import Objective, ObjectiveModule, StepLoss, next_token
from timechat.training.parameters import build_optimizer, decays, trainable
from timechat.training.recipes import build_recipe
from timechat.training.restoring import read_weights
from timechat.training.run import train_recipe
from timechat.training.step import take_step

CASE = "train_single_turn"


def recipe(checkpoint, output, **changes):
    content = {
        "model": {"checkpoint": str(checkpoint), "attention": "eager", "timestamp_tokenizer": "llama"},
        "run": {"steps": 2, "tensorboard": False, "plot": False, "device": "cpu", "output": str(output)},
    }
    return build_recipe(
        {key: content.get(key, {}) | changes.get(key, {}) for key in content}
        | {key: value for key, value in changes.items() if key not in content}
    )


class Recorded:
    """The recorded batch over and over."""

    def __init__(self, processor):
        self.batch = parity.training_batch(processor, CASE)

    def batches(self, _first_iteration):
        while True:
            yield dict(self.batch)


def make_source(recipe, model, processor):
    return Recorded(processor)


def make_head(_model):
    return torch.nn.Linear(3, 2)


def fill_queries(model):
    model.video_qformer.query_tokens.data.fill_(0.25)


@pytest.fixture(scope="module")
def trained(converted, tmp_path_factory):
    """Run two stages and export all formats."""
    folder = tmp_path_factory.mktemp("trained") / "run"

    def with_head(model, batch):
        loss = next_token(model, batch)
        extra = model.training_heads(torch.ones(1, 3)).square().sum()
        return StepLoss(loss.loss_sum + extra, loss.num_tokens, {"extra": extra.item()})

    objectives = {"with_head": Objective(with_head, make_head)}
    stages = recipe(
        converted,
        folder,
        objective="with_head",
        optimizer={"lr": 1e-2},
        stages=[{"name": "first"}, {"name": "second", "run": {"export": ["folder", "adapter", "original"]}}],
    )
    assert train_recipe(stages, make_source, objectives=objectives)
    messages: list[str] = []
    assert train_recipe(stages, make_source, objectives=objectives, report=messages.append)  # all stages are finished
    assert all("already finished" in text for text in messages)
    return folder


def renamed(key: str) -> str:
    """Return our name of a parameter of the original, which must have one."""
    name = rename(key)
    assert isinstance(name, str)
    return name


@pytest.mark.parametrize("case", ["train_single_turn", "train_batch_mixed_T"])
def test_a_step_has_the_loss_and_gradients_of_the_original(case, converted, tmp_path, llama_processor):
    [settings] = recipe(converted, tmp_path, optimizer={"clip_norm": None, "lr": 1e-12})
    model, _ = build_start(settings)
    model.eval()  # as recorded: no dropout
    batch = parity.training_batch(llama_processor, case)
    if case != "train_batch_mixed_T":
        del batch["video_sizes"]
    optimizer = build_optimizer(trainable(model).items(), settings.optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    outcome = take_step(settings, ObjectiveModule(model, next_token), optimizer, scaler, iter([batch]), 0)
    want, meta = golden_tensors(case), golden_meta()["cases"][case]
    assert outcome.loss == pytest.approx(float(want["loss"]), abs=1e-5)
    gradients = {name: parameter.grad for name, parameter in trainable(model).items() if parameter.grad is not None}
    norms = {key: norm for key, norm in meta.get("grad_norms", {}).items() if not key.endswith("key.bias")}
    for key, norm in norms.items():
        assert float(gradients[renamed(key)].norm()) == pytest.approx(norm, rel=1e-4)
    for key in [key for key in want if key.startswith("grad.")]:
        difference = gradients[renamed(key.removeprefix("grad."))] - want[key]
        assert float(difference.norm() / want[key].norm()) < 1e-4


def test_the_trained_parameters_are_those_of_the_original(converted, tmp_path):
    model, _ = build_start(recipe(converted, tmp_path)[0])
    ours = trainable(model)
    original = golden_meta()["cases"][CASE]["grad_norms"]
    assert ours.keys() == {rename(key) for key in original}
    assert all(parameter.dtype == torch.float32 for parameter in ours.values())


def test_weight_decay_follows_the_rule_of_the_original(converted, tmp_path):
    [settings] = recipe(converted, tmp_path)
    model, _ = build_start(settings)
    ours = trainable(model)
    decaying, others = build_optimizer(ours.items(), settings.optimizer).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert all(parameter.ndim < 2 for parameter in others["params"])
    assert decays("frame_encoder.query_tokens", ours["frame_encoder.query_tokens"])
    assert not decays("video_qformer.projection.bias", ours["video_qformer.projection.bias"])


def test_frozen_weights_may_be_kept_in_half_precision(converted, tmp_path):
    model, _ = build_start(recipe(converted, tmp_path, model={"language_model_dtype": "bfloat16"})[0])
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert dtypes["language_model.lm_head.weight"] == torch.bfloat16
    assert dtypes["frame_encoder.query_tokens"] == torch.float32
    full = torch.load(golden_checkpoint(timechat="timechat_7b.pth")["timechat"], weights_only=True)["model"]
    assert torch.equal(model.frame_encoder.query_tokens, full["query_tokens"])  # never was in half precision


def test_the_exported_folder_has_the_frozen_weights_unrounded(converted, tmp_path):
    stages = recipe(converted, tmp_path / "run", model={"language_model_dtype": "bfloat16"}, run={"steps": 1})
    assert train_recipe(stages, make_source)
    start, exported = (Model.from_pretrained(path) for path in (converted, tmp_path / "run" / "model"))
    assert torch.equal(exported.language_model.lm_head.weight, start.language_model.lm_head.weight)
    assert not torch.equal(exported.frame_encoder.query_tokens, start.frame_encoder.query_tokens)


def test_an_adapter_of_a_different_rank_is_refused(converted, tmp_path):
    with pytest.raises(ValueError, match=r"model.lora.rank is 8, but the adapter of the checkpoint has rank 32"):
        build_start(recipe(converted, tmp_path, model={"lora": {"rank": 8}})[0])


def test_a_stage_starts_from_the_result_of_the_one_before(trained, converted):
    first, second = (read_log(trained / name) for name in ("1-first", "2-second"))
    assert second[0]["loss"] < first[0]["loss"]
    assert second[0]["extra"] < first[-1]["extra"]  # the heads are passed on as well
    start = Model.from_pretrained(converted).video_qformer.query_tokens
    assert not torch.equal(Model.from_pretrained(trained / "1-first" / "model").video_qformer.query_tokens, start)
    assert json.loads((trained / "2-second" / "finished.json").read_text()) == {"step": 2, "metrics": {}}


def test_an_objective_may_change_the_model_before_training(converted, tmp_path):
    started = {"started": Objective(next_token, initializers={"fill": fill_queries})}
    [stage] = recipe(converted, tmp_path / "run", objective="started", optimizer={"lr": 1e-9})
    stages = [replace(stage, model=replace(stage.model, start="fill"))]
    assert train_recipe(stages, make_source, objectives=started)
    learned = Model.from_pretrained(tmp_path / "run" / "model").video_qformer.query_tokens
    assert torch.allclose(learned, torch.full_like(learned, 0.25), atol=1e-5)


def test_an_unknown_initializer_is_refused(converted, tmp_path):
    [stage] = recipe(converted, tmp_path / "run")
    stages = [replace(stage, model=replace(stage.model, start="fill"))]
    with pytest.raises(ValueError, match=r"model\.start is 'fill', but this objective knows none"):
        train_recipe(stages, make_source)


def test_what_a_start_has_made_and_freezing_holds_is_exported(converted, tmp_path):
    started = {"next_token": Objective(next_token, initializers={"fill": fill_queries})}
    [stage] = recipe(converted, tmp_path / "run", optimizer={"lr": 1e-2})
    held = replace(stage.model, start="fill", freeze=["video_qformer.query_tokens"])
    assert train_recipe([replace(stage, model=held)], make_source, objectives=started)
    kept = Model.from_pretrained(tmp_path / "run" / "model").video_qformer.query_tokens
    assert torch.equal(kept, torch.full_like(kept, 0.25))


def test_frozen_heads_go_on_to_the_next_stage(trained, converted, tmp_path):
    with_head = {"with_head": Objective(next_token, make_head)}
    path = trained / "1-first" / "heads.safetensors"
    [stage] = recipe(converted, tmp_path / "run", objective="with_head")
    held = replace(stage.model, heads=str(path), freeze=["training_heads.weight", "training_heads.bias"])
    assert train_recipe([replace(stage, model=held)], make_source, objectives=with_head)
    before, after = load_file(path), load_file(tmp_path / "run" / "heads.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_exported_folder_has_the_last_weights_and_no_heads(trained):
    model = Model.from_pretrained(trained / "2-second" / "model")
    weights = read_weights(find_checkpoints(trained / "2-second")[-1], "")
    ours = dict(model.named_parameters())
    assert {name for name in weights if name not in ours} == {"training_heads.weight", "training_heads.bias"}
    assert all(torch.equal(ours[name], weights[name]) for name in weights if name in ours)
    assert model.config.timestamp_tokenizer == "bert"  # as the start checkpoint, although training takes llama


def test_peft_reads_the_exported_adapter(trained):
    ids = torch.arange(20)[None]
    plain = LlamaForCausalLM.from_pretrained(golden_checkpoint()["llm"])
    with_peft = PeftModel.from_pretrained(plain, str(trained / "2-second" / "adapter"))
    model = Model.from_pretrained(trained / "2-second" / "model")
    torch.testing.assert_close(with_peft(ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_the_original_checkpoint_is_exported_with_equal_keys(converted, tmp_path):
    export_folder_as_original(converted, tmp_path / "back.pth")
    files = golden_checkpoint(timechat="timechat_7b.pth")
    ours, want = (torch.load(path, weights_only=True) for path in (tmp_path / "back.pth", files["timechat"]))
    assert ours.keys() >= want.keys()
    assert ours["model"].keys() == want["model"].keys()
    for key, tensor in want["model"].items():
        assert torch.equal(ours["model"][key], tensor), key


def test_converting_an_export_gives_the_same_model(trained, tmp_path):
    files = golden_checkpoint() | {"timechat": trained / "2-second" / "original.pth"}
    convert(OriginalFiles.find(**files), tmp_path / "again", overrides=GOLDEN_OVERRIDES)
    folders = (tmp_path / "again", trained / "2-second" / "model")
    ours, want = (Model.from_pretrained(path).eval() for path in folders)
    weights = want.state_dict()
    assert ours.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in ours.state_dict().items())
    video = parity.video_of("infer_T8")
    batches = [dict(TimeChatProcessor.from_pretrained(path)(video, "What happens?")) for path in folders]
    logits = [model(**batch).logits for model, batch in zip((ours, want), batches, strict=True)]
    assert torch.equal(*logits)


def test_training_and_answers_have_their_own_time_vocabulary(converted, tmp_path):
    seen = {}

    def note_source(recipe, model, processor):
        seen["training"] = processor.config.timestamp_tokenizer
        return make_source(recipe, model, processor)

    def note_validation(_recipe, processor):
        seen["validation"] = processor.config.timestamp_tokenizer

    stages = recipe(converted, tmp_path / "run", run={"steps": 1})
    assert train_recipe(stages, note_source, make_validate=note_validation)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert seen | {"folder": config["timestamp_tokenizer"]} == {
        "training": "llama",
        "validation": "bert",
        "folder": "bert",
    }


def test_a_checkpoint_that_answers_with_llama_keeps_doing_so(converted, tmp_path):
    shutil.copytree(converted, tmp_path / "old")  # as the folder of a run of version 0.2.0
    config = json.loads((tmp_path / "old" / "config.json").read_text()) | {"timestamp_tokenizer": "llama"}
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    [settings] = recipe(tmp_path / "old", tmp_path / "run", model={"timestamp_tokenizer": None})
    model, processor = build_start(settings)
    assert training_processor(processor, settings.model) is processor
    assert {model.config.timestamp_tokenizer, processor.config.timestamp_tokenizer} == {"llama"}


def test_a_vocabulary_without_embeddings_is_refused():
    processor = load_processor("nano")
    message = (
        "timestamp_tokenizer is 'llama', but the token 'Ġ0.0' of the time sentences has the id 1204, and the image "
        "Q-Former has embeddings for the ids 0 to 376 only; set timestamp_tokenizer to 'bert'"
    )
    with pytest.raises(ValueError, match=message):
        training_processor(processor, TrainedModelSettings(timestamp_tokenizer="llama"))
    assert processor.config.timestamp_tokenizer == "bert"


def test_vicuna_style_is_trained_and_exported(converted, tmp_path):
    stages = recipe(converted, tmp_path / "run", model={"chat_style": "vicuna"}, run={"steps": 1})
    assert train_recipe(stages, make_source)
    processor = TimeChatProcessor.from_pretrained(tmp_path / "run" / "model")
    assert processor.chat_style == "vicuna"
    assert processor.render_prompt([0.0], "Why?", system="S").endswith("seconds.  Why?###Assistant:")


def test_scaled_positions_are_those_of_the_config_and_exported(tmp_path):
    scaling = {"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "max_position_embeddings": 8192}
    files = OriginalFiles.find(**golden_checkpoint(timechat="timechat_7b.pth"))
    convert(files, tmp_path / "long", overrides=GOLDEN_OVERRIDES | {"text_config": scaling})
    stages = recipe(tmp_path / "long", tmp_path / "run", run={"steps": 1})
    assert train_recipe(stages, make_source)
    model = Model.from_pretrained(tmp_path / "run" / "model").eval()
    text = model.config.text_config
    expected = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}
    assert (text.rope_parameters, text.max_position_embeddings) == (expected, 8192)
    ids = torch.arange(20)[None]
    plain = copy.deepcopy(model)
    plain.language_model.model.rotary_emb.inv_freq.mul_(2)
    positions = torch.arange(20)[None]
    scaled = model.language_model(input_ids=ids, position_ids=2 * positions).logits
    torch.testing.assert_close(scaled, plain.language_model(input_ids=ids, position_ids=positions).logits)


def test_a_fully_tuned_model_is_exported_as_the_original(converted):
    model = Model.from_pretrained(converted)
    state = original_state_dict(model, with_vision=True, with_language_model=True)
    named = {name for key in state if isinstance(name := rename(key), str)}
    biases = {name for name in named if name.endswith(("q_bias", "v_bias"))}
    ours = {name.replace(".base_layer.", ".") for name in model.state_dict()}
    assert named - biases == {name for name in ours if not name.endswith("qkv.bias")}
    assert len(biases) == 2 * model.config.vision_config.num_hidden_layers


def test_tuning_the_whole_language_model_needs_no_adapter(tmp_path, converted):
    files = golden_checkpoint(timechat="timechat_7b.pth")
    convert(OriginalFiles.find(**files), tmp_path / "merged", overrides=GOLDEN_OVERRIDES, merge=True)
    changes = {"train": ["video_qformer", "projection", "language_model"]}
    stages = recipe(tmp_path / "merged", tmp_path / "run", model=changes, run={"export": ["folder", "original"]})
    assert train_recipe(stages, make_source)
    state = torch.load(tmp_path / "run" / "original.pth", weights_only=True)["model"]
    model = Model.from_pretrained(tmp_path / "run" / "model")
    assert torch.equal(state["llama_model.lm_head.weight"], model.language_model.lm_head.weight)
    shutil.rmtree(tmp_path / "merged")


def test_heads_of_another_run_can_be_started_from(trained, converted, tmp_path):
    with_head = {"with_head": Objective(lambda model, batch: next_token(model, batch), make_head)}
    seen = []

    def look(recipe, model, processor):
        seen.append(model.training_heads.weight.clone())
        return Recorded(processor)

    path = trained / "1-first" / "heads.safetensors"
    settings = {"checkpoint": str(converted), "attention": "eager", "heads": str(path)}
    stages = recipe(converted, tmp_path / "run", objective="with_head", model=settings)
    assert train_recipe(stages, look, objectives=with_head)
    assert torch.equal(seen[0], load_file(path)["weight"])
    settings["heads"] = str(tmp_path / "none")
    stages = recipe(converted, tmp_path / "other", objective="with_head", model=settings)
    with pytest.raises(TrainingError, match="but there is no such file"):
        train_recipe(stages, look, objectives=with_head)
