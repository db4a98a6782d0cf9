"""Original checkpoints become a folder that loads, or a clear error without any files."""

import json
import os
import pickle
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, LlamaForCausalLM

from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint, golden_host_side
from timechat.cli.convert import convert as convert_command
from timechat.errors import CheckpointError
from timechat.model.convert.keys import Ignored, rename
from timechat.model.convert.plan import interpolate_frames
from timechat.model.convert.write import LAYOUT, OriginalFiles, convert
from timechat.model.modeling import TimeChatForConditionalGeneration as Model
from timechat.model.processing import TimeChatProcessor


def files(**changes: Path) -> Any:
    return OriginalFiles.find(**(golden_checkpoint(timechat="timechat_7b.pth") | changes))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The recorded files in the layout of the original instructions."""
    folder = tmp_path / "ckpt"
    for part, path in golden_checkpoint(timechat="timechat_7b.pth").items():
        target = folder / LAYOUT[part]
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
    return folder


def test_files_are_found_in_the_original_layout(layout, tmp_path, converted):
    convert(OriginalFiles.find(layout), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    ours, want = (Model.from_pretrained(path).state_dict() for path in (tmp_path / "out", converted))
    assert ours.keys() == want.keys()
    assert all(torch.equal(ours[key], want[key]) for key in want)


def test_an_option_overrides_the_layout(layout, tmp_path):
    other = tmp_path / "other.pth"
    shutil.copy(layout / LAYOUT["timechat"], other)
    assert OriginalFiles.find(layout, timechat=other).timechat == other


def test_sizes_are_read_from_the_tensors(converted):
    config = Model.config_class.from_pretrained(converted)
    assert config.vision_config.num_hidden_layers == 3
    assert config.vision_config.intermediate_size == 279
    assert config.qformer_config.cross_attention_frequency == 2
    assert config.qformer_config.vocab_size == 701
    assert config.video_qformer_config.num_hidden_layers == 2
    assert (config.num_query_tokens, config.num_video_query_tokens) == (6, 5)
    assert (config.window_size, config.stride, config.max_frame_positions, config.lora_alpha) == (32, 32, 96, 32)
    assert config.image_token_id == 640


def test_any_part_of_the_config_can_be_overridden(tmp_path):
    overrides: dict[str, object] = GOLDEN_OVERRIDES | {
        "window_size": 8,
        "stride": 4,
        "max_frame_positions": 40,
        "lora_alpha": 20,
    }
    overrides["timestamp_tokenizer"] = "llama"
    report = convert(files(), tmp_path / "out", overrides=overrides)
    model = Model.from_pretrained(tmp_path / "out")
    assert (model.config.window_size, model.config.stride) == (8, 4)
    assert model.video_qformer.frame_positions.weight.shape == (40, 48)
    assert model.language_model.model.layers[0].self_attn.q_proj.scaling["default"] == 20 / 32
    assert any("interpolated from 96 frames to 40" in note for note in report.notes)
    assert TimeChatProcessor.from_pretrained(tmp_path / "out").config.timestamp_tokenizer == "llama"


def test_vision_positions_are_interpolated_to_another_image_size(tmp_path):
    overrides = GOLDEN_OVERRIDES | {"vision_config": {"image_size": 84, "num_attention_heads": 4}}
    convert(files(), tmp_path / "out", overrides=overrides)
    table = Model.from_pretrained(tmp_path / "out").frame_encoder.vision_model.embeddings.position_embedding
    assert table.shape == (1, 37, 64)
    original = torch.load(files().vit, weights_only=True)["pos_embed"].float()
    grid = original[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)
    want = torch.cat([original[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 36, 64)], dim=1)
    torch.testing.assert_close(table.detach(), want, atol=1e-7, rtol=0)


@pytest.mark.parametrize("case", range(3))
def test_frame_positions_are_interpolated_by_repeating_rows(case):
    recorded = golden_host_side()["frame_pos_interpolation"][case]
    table = torch.arange(recorded["old"])[:, None]
    assert interpolate_frames(table, num_frames=recorded["new"]).flatten().tolist() == recorded["source_row"]


def test_every_key_is_in_the_report(tmp_path):
    report = convert(files(), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    for path in (files().vit, files().qformer, files().timechat):
        content = torch.load(path, weights_only=True)
        keys = content.get("model", content)
        seen = report.used.get(path.name, 0) + len(report.ignored.get(path.name, {}))
        assert seen + report.overridden.get(path.name, 0) == len(keys)
    assert report.ignored["eva_vit_g.pth"]["blocks.3.mlp.fc1.weight"] == "the model uses blocks 0 to 2"
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["used"] == report.used


def test_an_original_state_dict_is_renamed_completely():
    assert rename("llama_model.base_model.model.model.layers.3.self_attn.q_proj.base_layer.weight") == (
        "language_model.model.layers.3.self_attn.q_proj.weight"
    )
    assert rename("llama_model.model.embed_tokens.weight") == "language_model.model.embed_tokens.weight"
    assert rename("Qformer.bert.encoder.layer.2.crossattention.self.key.bias") == (
        "frame_encoder.qformer.encoder.layer.2.crossattention.attention.key.bias"
    )
    assert isinstance(rename("something.else"), Ignored)


def test_the_adapter_is_a_peft_folder_that_peft_itself_reads(converted, tmp_path):
    model = Model.from_pretrained(converted)
    plain = LlamaForCausalLM.from_pretrained(files().llm)
    with_peft = PeftModel.from_pretrained(plain, str(converted / "lora"))
    ids = torch.arange(20)[None]
    torch.testing.assert_close(with_peft(ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_merging_gives_the_same_model_without_an_adapter(converted, tmp_path):
    convert(files(), tmp_path / "merged", overrides=GOLDEN_OVERRIDES, merge=True)
    assert not (tmp_path / "merged" / "lora").exists()
    merged, model = Model.from_pretrained(tmp_path / "merged"), Model.from_pretrained(converted)
    assert not merged.has_lora
    ids = torch.arange(30)[None]
    torch.testing.assert_close(merged(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_saving_and_loading_keeps_the_model_and_its_adapter(golden_model, tmp_path):
    golden_model.save_pretrained(tmp_path / "again")
    again, info = Model.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.arange(30)[None]
    assert again.has_lora
    torch.testing.assert_close(again(input_ids=ids).logits, golden_model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path / "again"), Model)


def test_the_strength_of_the_adapter_can_be_set(converted):
    model, ids = Model.from_pretrained(converted), torch.arange(30)[None]
    full = model(input_ids=ids).logits
    model.set_lora_scale(20 / 32)
    weaker = model(input_ids=ids).logits
    model.set_lora_scale(0)
    none = model(input_ids=ids).logits
    assert (full - weaker).abs().max() > 0.1
    assert (weaker - none).abs().max() > 0.1
    torch.testing.assert_close(none, LlamaForCausalLM.from_pretrained(files().llm)(ids).logits, atol=1e-5, rtol=1e-5)
    model.set_lora_scale()
    assert torch.equal(model(input_ids=ids).logits, full)


def test_the_language_models_rope_theta_can_be_overridden(tmp_path):
    convert(files(), tmp_path / "out", overrides=GOLDEN_OVERRIDES | {"text_config": {"rope_theta": 777.0}})
    assert Model.from_pretrained(tmp_path / "out").config.text_config.rope_parameters["rope_theta"] == 777.0


def test_an_adapter_of_some_layers_does_not_change_the_others(tmp_path):
    content = torch.load(files().timechat, weights_only=True)
    content["model"] = {k: v for k, v in content["model"].items() if not ("lora_" in k and ".layers.1." in k)}
    torch.save(content, tmp_path / "half.pth")
    convert(files(timechat=tmp_path / "half.pth"), tmp_path / "model", overrides=GOLDEN_OVERRIDES)
    layers = Model.from_pretrained(tmp_path / "model").language_model.model.layers
    assert hasattr(layers[0].self_attn.q_proj, "lora_A")
    assert not hasattr(layers[1].self_attn.q_proj, "lora_A")


# Inputs that must be refused.


def fails(tmp_path: Path, match: str, overrides=GOLDEN_OVERRIDES, **changes: Path) -> None:
    with pytest.raises(CheckpointError, match=match):
        convert(files(**changes), tmp_path / "out", overrides=overrides)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_missing_file_is_named_with_its_option(layout):
    (layout / LAYOUT["vit"]).unlink()
    with pytest.raises(CheckpointError, match=r"eva_vit_g.pth was not found at .*eva-vit-g.*--vit"):
        OriginalFiles.find(layout)


def test_a_missing_bert_vocabulary_says_how_to_get_it(layout, monkeypatch):
    monkeypatch.setattr("timechat.model.convert.write.try_to_load_from_cache", lambda *_: None)
    (layout / LAYOUT["bert_vocab"]).unlink()
    with pytest.raises(CheckpointError, match=r"vocabulary of bert-base-uncased.*timechat download.*--bert-vocab"):
        OriginalFiles.find(layout)


def test_weights_of_another_shape_are_refused(tmp_path):
    content = torch.load(files().timechat, weights_only=True)
    content["model"]["llama_proj.weight"] = torch.zeros(32, 48)
    torch.save(content, tmp_path / "odd.pth")
    fails(tmp_path, r"llama_proj.weight has the shape \[32, 48\], expected \[64, 48\]", timechat=tmp_path / "odd.pth")


def test_weights_with_missing_keys_are_refused(tmp_path):
    content = torch.load(files().timechat, weights_only=True)
    content["model"] = {key: value for key, value in content["model"].items() if not key.startswith("llama_proj")}
    torch.save(content, tmp_path / "part.pth")
    match = (
        r"checkpoints lack video_qformer.projection.weight, video_qformer.projection.bias, .* part.pth \(--timechat\)"
    )
    fails(tmp_path, match, timechat=tmp_path / "part.pth")


def test_at_most_five_of_many_missing_tensors_are_listed(tmp_path):
    content = torch.load(files().vit, weights_only=True)
    torch.save({key: value for key, value in content.items() if ".norm" not in key}, tmp_path / "part.pth")
    fails(tmp_path, r"(\S+, ){4}\S+ and 7 more \(12 in all\), .* part.pth \(--vit\)", vit=tmp_path / "part.pth")


def with_tensor(tmp_path: Path, part: str, key: str, tensor: torch.Tensor) -> dict[str, Path]:
    content = torch.load(getattr(files(), part), weights_only=True)
    content.get("model", content)[key] = tensor
    torch.save(content, tmp_path / "odd.pth")
    return {part: tmp_path / "odd.pth"}


@pytest.mark.parametrize(
    ("part", "key", "shape"),
    [
        ("vit", "cls_token", ()),
        ("vit", "pos_embed", ()),
        ("vit", "pos_embed", (1, 0, 64)),
        ("vit", "pos_embed", (1, 12, 64)),
        ("vit", "blocks.0.mlp.fc1.weight", ()),
        ("vit", "blocks.0.attn.q_bias", (5,)),
        ("timechat", "query_tokens", (6, 48)),
        ("timechat", "video_frame_position_embedding.weight", ()),
        ("timechat", "llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", ()),
    ],
)
def test_a_tensor_with_a_wrong_shape_is_named(tmp_path, part, key, shape):
    fails(tmp_path, rf"{key} has the shape \[", **with_tensor(tmp_path, part, key, torch.zeros(shape)))


def test_an_index_without_a_weight_map_is_refused(tmp_path):
    shutil.copytree(files().llm, tmp_path / "llm")
    (tmp_path / "llm" / "model.safetensors.index.json").write_text("{}")
    fails(tmp_path, "index.json has no weight_map", llm=tmp_path / "llm")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    shutil.copytree(files().llm, tmp_path / "llm")
    (tmp_path / "llm" / "tokenizer.model").unlink()
    fails(tmp_path, "contains no tokenizer; expected tokenizer.model or tokenizer.json", llm=tmp_path / "llm")


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(tmp_path):
    fails(tmp_path, "is a folder; expected a weights file", vit=tmp_path)
    fails(tmp_path, "is a file; expected the folder", llm=files().vit)
    (tmp_path / "new").write_text("")
    with pytest.raises(CheckpointError, match="new is a file; name a new folder"):
        convert(files(), tmp_path / "new")


@pytest.mark.parametrize("words", ["# TimeChat\n", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthis\n"])
def test_another_vocabulary_than_that_of_bert_is_refused(tmp_path, words):
    (tmp_path / "vocab.txt").write_text(words)
    fails(tmp_path, "not the vocabulary of bert-base-uncased: it lacks .* more", bert_vocab=tmp_path / "vocab.txt")


class _Code:
    def __reduce__(self):
        return (print, ("a pickle ran code",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"model": {"a": torch.zeros(1)}, "config": _Code()}, tmp_path / "code.pth")
    fails(tmp_path, r"print\), and TimeChat runs no code from pickles; save", timechat=tmp_path / "code.pth")
    assert "a pickle ran code" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut", b"<html>log in</html>", pickle.dumps([1, 2]), b"\0\0\0\x18ftypmp42"]
)
def test_an_invalid_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        convert(files(timechat=tmp_path / "bad.pth"), tmp_path / "out")
    assert "bad.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not re.search(r"\(\d*\)", str(caught.value))


def test_an_existing_folder_is_not_changed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        convert(files(), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_unknown_or_impossible_config_is_refused(tmp_path):
    fails(tmp_path, "window_size must be at least 1", overrides=GOLDEN_OVERRIDES | {"window_size": -1})
    fails(tmp_path, "heads", overrides=GOLDEN_OVERRIDES | {"qformer_config": {"num_attention_heads": 7}})


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"window_sze": 16}, "window_sze is not a setting: did you mean window_size?"),
        ({"vision_config": {"num_heads": 4}}, "vision_config.num_heads .* vision_config.num_attention_heads"),
        ({"text_config": {"rope_theata": 1.0}}, "did you mean text_config.rope_theta"),
        ({"vision_config": 5}, "vision_config must be an object"),
        ({"window_size": "abc"}, "'window_size' expected int, got str"),
        ({"text_config": {"num_attention_heads": 0}}, "text_config.num_attention_heads must be at least 1, got 0"),
        ({"text_config": {"model_type": "nope"}}, "'nope' is unknown"),
        ({"vision_config": {"image_size": 60}}, "image_size is 60 pixels, expected a multiple of the patch size 14"),
        ({"vision_config": {"image_size": [56, 56]}}, "image_size is .56, 56. pixels, expected a multiple"),
    ],
)
def test_an_unknown_setting_is_refused_in_one_line(tmp_path, overrides, match):
    fails(tmp_path, rf"\A[^\n]*{match}[^\n]*\Z", overrides=GOLDEN_OVERRIDES | overrides)


def test_all_settings_of_complete_config_files_are_known(tmp_path, converted):
    whole = json.loads((converted / "config.json").read_text())
    convert(files(), tmp_path / "out", overrides=whole)
    old = {"text_config": json.loads((files().llm / "config.json").read_text())}
    assert {"rope_theta", "rope_scaling", "torch_dtype"} <= old["text_config"].keys()
    convert(files(), tmp_path / "again", overrides=GOLDEN_OVERRIDES | old)


def test_assumed_settings_are_noted_unless_given(tmp_path):
    overrides = GOLDEN_OVERRIDES | {"stride": 16}
    notes = convert(files(), tmp_path / "out", overrides=overrides).notes
    expected = "assumed, because tensors do not show it: window_size=32, max_frame_positions=96;"
    assert any(note.startswith(expected) for note in notes)


def test_files_of_the_same_name_get_different_labels(tmp_path):
    for part in ("vit", "timechat"):
        (tmp_path / part).mkdir()
        shutil.copy(getattr(files(), part), tmp_path / part / "weights.pth")
    changes = {part: tmp_path / part / "weights.pth" for part in ("vit", "timechat")}
    report = convert(files(**changes), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    assert {"vit/weights.pth", "timechat/weights.pth", "instruct_blip.pth"} <= report.used.keys()


def test_files_of_a_killed_run_are_removed_by_the_next(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_text("half")
    convert(files(), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request):
    """A signal that is not ignored, even if the parent of the tests ignores SIGHUP (nohup)."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_ends_the_command_without_leftover_files(layout, tmp_path, monkeypatch, number):
    def end(*_: object, **__: object) -> None:
        assert (tmp_path / ".out.partial").is_dir()
        os.kill(os.getpid(), number)

    monkeypatch.setattr("timechat.model.convert.write.write_shards", end)
    (tmp_path / "sizes.json").write_text(json.dumps(GOLDEN_OVERRIDES))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        convert_command(tmp_path / "out", from_dir=layout, config=tmp_path / "sizes.json", quiet=True)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt", "sizes.json"]


def test_pickles_written_before_torch_1_6_are_read_too(tmp_path, converted):
    content = torch.load(files().vit, weights_only=True)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    convert(files(vit=tmp_path / "old.pth"), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()


def test_shards_of_the_language_model_are_read_and_written(tmp_path, converted, monkeypatch):
    LlamaForCausalLM.from_pretrained(files().llm).save_pretrained(tmp_path / "llm", max_shard_size="200KB")
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(files().llm / name, tmp_path / "llm" / name)
    assert len(list((tmp_path / "llm").glob("model-*.safetensors"))) > 1
    monkeypatch.setattr("timechat.model.convert.files._SHARD_BYTES", 300_000)
    convert(files(llm=tmp_path / "llm"), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
    ours, want = (Model.from_pretrained(path).state_dict() for path in (tmp_path / "out", converted))
    assert all(torch.equal(ours[key], want[key]) for key in want)
