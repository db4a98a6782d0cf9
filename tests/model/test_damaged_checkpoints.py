"""Unusual and damaged checkpoints are converted rightly, or refused by their names."""

import json
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint, golden_meta
from timechat.errors import CheckpointError
from timechat.model.convert.files import WeightFile
from timechat.model.convert.tokenizers import load_llm_tokenizer
from timechat.model.convert.write import OriginalFiles, convert
from timechat.model.loading import load_model
from timechat.model.modeling import TimeChatForConditionalGeneration as Model
from timechat.model.processing import TimeChatProcessor

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n"
LAYER = "llama_model.base_model.model.model.layers.0.self_attn.q_proj"


def files(**changes: Path) -> Any:
    return OriginalFiles.find(**(golden_checkpoint(timechat="timechat_7b.pth") | changes))


def llama(folder: Path, **settings: Any) -> Path:
    """Copy the recorded language model; a setting of None leaves its key out of tokenizer_config.json."""
    shutil.copytree(files().llm, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def byte_level(folder: Path, start: str | None, end: str) -> Path:
    """Copy the language model with the tokenizer of a newer kind."""
    llama(folder, bos_token=start, eos_token=end, tokenizer_class="PreTrainedTokenizerFast")
    for name in ("tokenizer.model", "special_tokens_map.json"):
        (folder / name).unlink()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [token for token in (start, end) if token]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special
    )
    tokenizer.train_from_iterator(["the given query happens in the video"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def add_words(path: Path, number: int) -> None:
    """Append words to a sentencepiece model: repeated fields may be added at the end of the file."""
    for i in range(number):
        word = f"zzq{i}".encode()
        piece = b"\x0a" + bytes([len(word)]) + word + b"\x15" + struct.pack("<f", -99.0)
        path.write_bytes(path.read_bytes() + b"\x0a" + bytes([len(piece)]) + piece)


def recorded_ids(*, legacy: bool) -> dict[str, list[int]]:
    return {row["text"]: row["ids"] for row in golden_meta()["tokenization_tiny"] if row["legacy"] == legacy}


@pytest.mark.parametrize(
    ("settings", "lost", "legacy"),
    [
        ({}, (), False),
        ({"legacy": True}, (), True),
        ({"legacy": None}, (), True),
        ({"add_bos_token": None}, (), False),
        ({}, ("tokenizer_config.json", "special_tokens_map.json"), True),
    ],
)
def test_a_converted_tokenizer_gives_the_recorded_ids(tmp_path, settings, lost, legacy):
    folder = llama(tmp_path / "llama", **settings)
    for name in lost:
        (folder / name).unlink()
    convert(files(llm=folder), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    tokenizer = TimeChatProcessor.from_pretrained(tmp_path / "out").tokenizer
    want = recorded_ids(legacy=legacy)
    assert len(want) == 9
    assert {text: tokenizer(text).input_ids for text in want} == want


def test_a_folder_without_a_start_token_keeps_that(tmp_path):
    tokenizer = load_llm_tokenizer(llama(tmp_path / "llama", add_bos_token=False))
    want = {row["text"]: row["ids_no_special"] for row in golden_meta()["tokenization_tiny"] if not row["legacy"]}
    assert {text: tokenizer(text).input_ids for text in want} == want


def test_tokenizer_model_counts_before_tokenizer_json(tmp_path):
    folder = llama(tmp_path / "llama", legacy=True)
    byte_level(tmp_path / "other", "<s>", "</s>")
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder)
    want = recorded_ids(legacy=True)
    tokenizer = load_llm_tokenizer(folder)
    assert {text: tokenizer(text).input_ids for text in want} == want


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("<|begin_of_text|>", "<|eot_id|>", "does not know <s>, the start of a turn"),
        (None, "<|im_end|>", "does not know <s>, the start of a turn"),
        ("<s>", "<|im_end|>", "does not know </s>, the end of a turn"),
        ("<s>", "</s>", "does not put <s> first"),
    ],
)
def test_tokenizers_of_other_chat_formats_are_refused(tmp_path, start, end, message):
    with pytest.raises(CheckpointError, match=message):
        load_llm_tokenizer(byte_level(tmp_path / "llama", start, end))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", b"", r"tokenizer\.model is empty"),
        ("tokenizer.model", b"<html>log in</html>", r"tokenizer\.model is not a sentencepiece model"),
        ("tokenizer.model", POINTER.encode(), r"tokenizer\.model is a git-lfs pointer.*git lfs pull"),
        ("config.json", POINTER.encode(), r"config\.json is a git-lfs pointer"),
        ("model.safetensors", POINTER.encode(), r"model\.safetensors is a git-lfs pointer"),
    ],
)
def test_damaged_files_of_the_language_model_are_named(tmp_path, name, content, message):
    (llama(tmp_path / "llama") / name).write_bytes(content)
    refused(tmp_path, message, llm=tmp_path / "llama")


def test_a_tokenizer_json_without_words_is_refused(tmp_path):
    folder = byte_level(tmp_path / "llama", "<s>", "</s>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {"<s>": 0, "</s>": 1}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="its tokenizer cannot write 'The given query"):
        load_llm_tokenizer(folder)


def test_a_tokenizer_with_more_words_than_rows_is_refused(tmp_path):
    add_words(llama(tmp_path / "llama") / "tokenizer.model", 200)
    refused(tmp_path, "its tokenizer has 840 words, but the embedding .* has 640 rows", llm=tmp_path / "llama")


def test_code_beside_a_language_model_is_not_run(tmp_path, monkeypatch):
    folder = llama(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refused(tmp_path, "names code of its own .AutoConfig.*runs no code from checkpoints", llm=folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_beside_a_converted_model_is_not_run(tmp_path, converted, monkeypatch, name):
    folder = shutil.copytree(converted, tmp_path / "model")
    content = json.loads((folder / name).read_text())
    content["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer"), "own.Own")
    (folder / name).write_text(json.dumps(content))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    load_model(str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


def with_weights(path: Path, change: Any) -> Path:
    model = torch.load(files().timechat, weights_only=True)["model"]
    torch.save({"model": change(model)}, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {k: v for k, v in m.items() if "lora_B" not in k}, "has lora_A, but no lora_B; half an adapter"),
        (lambda m: {k: v for k, v in m.items() if "lora_A" not in k}, "has lora_B, but no lora_A; half an adapter"),
        (lambda m: m | {f"{LAYER}.lora_magnitude_vector.default.weight": torch.ones(64)}, "a part of DoRA"),
        (lambda m: m | {f"{LAYER}.modules_to_save.default.weight": torch.ones(64)}, "adapter of another kind"),
        (lambda m: m | {f"{LAYER}.lora_A.second.weight": torch.ones(32, 64)}, "several adapters .default, second."),
        (
            lambda m: m | {f"{LAYER}.lora_B.default.weight": torch.ones(64, 5)},
            "lora_A.* has the shape .32, 64., expected .5, 64. to fit",
        ),
        (
            lambda m: m | {"query_tokens": m["query_tokens"] * torch.nan},
            "query_tokens contains NaN or infinite numbers",
        ),
        (
            lambda m: m | {"query_tokens": m["query_tokens"] * torch.inf},
            "query_tokens contains NaN or infinite numbers",
        ),
    ],
)
def test_weights_that_would_give_noise_are_refused(tmp_path, change, message):
    refused(tmp_path, message, timechat=with_weights(tmp_path / "timechat.pth", change))


def test_an_adapter_of_another_name_gives_the_same_model(tmp_path, converted):
    path = with_weights(tmp_path / "sft.pth", lambda m: {k.replace(".default.", ".sft."): v for k, v in m.items()})
    convert(files(timechat=path), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    ours, want = Model.from_pretrained(tmp_path / "out").state_dict(), Model.from_pretrained(converted).state_dict()
    assert ours.keys() == want.keys()
    assert all(torch.equal(ours[key], want[key]) for key in want)


def test_a_flipped_byte_of_a_checkpoint_is_found(tmp_path):
    data = bytearray(files().timechat.read_bytes())
    with zipfile.ZipFile(files().timechat) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data[largest.header_offset + largest.file_size // 2 + 200] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    refused(
        tmp_path, r"flipped\.pth is damaged \(Bad CRC-32 for file '.*data/\d+'\)", timechat=tmp_path / "flipped.pth"
    )


def test_compressed_members_of_a_checkpoint_are_refused(tmp_path):
    path = tmp_path / "deflated.pth"
    with zipfile.ZipFile(files().timechat) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
        for member in stored.infolist():
            deflated.writestr(member.filename, stored.read(member))
    with pytest.raises(CheckpointError, match=r"deflated\.pth: its member .* is compressed .deflated."):
        WeightFile.inspect(path)


def test_a_pointer_in_place_of_weights_is_named(tmp_path, converted):
    (tmp_path / "pointer.pth").write_text(POINTER)
    refused(tmp_path, r"pointer\.pth is a git-lfs pointer", timechat=tmp_path / "pointer.pth")
    folder = shutil.copytree(converted, tmp_path / "model")
    (folder / "model.safetensors").write_text(POINTER)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a git-lfs pointer"):
        load_model(str(folder), device="cpu")


def test_files_of_a_converted_folder_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        convert(files(), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
        Model.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
    finally:
        os.umask(before)
    written = [path for name in ("out", "saved") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert len(written) > 10
    assert {oct(path.stat().st_mode & 0o777) for path in written} == {"0o640"}


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "qformer_tokenizer/tokenizer.json",
        "qformer_tokenizer/tokenizer_config.json",
    ],
)
def test_a_lost_file_of_a_converted_folder_is_named(tmp_path, converted, name):
    folder = shutil.copytree(converted, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has lost its {name}; convert or fetch it again"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "qformer_tokenizer/tokenizer.json"])
@pytest.mark.parametrize("content", ['{"version": "1.0", ', "{}", "[1]"])
def test_a_torn_file_of_a_converted_folder_is_named(tmp_path, converted, name, content):
    folder = shutil.copytree(converted, tmp_path / "model")
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged; convert"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("use_rslora", True), ("use_dora", True), ("alpha_pattern", {"q_proj": 8}), ("bias", "all"), ("new_kind", 1)],
)
def test_an_adapter_that_is_computed_otherwise_is_refused(tmp_path, converted, setting, value):
    folder = shutil.copytree(converted, tmp_path / "model")
    path = folder / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(CheckpointError, match=f"{setting} is .*, but TimeChat computes plain LoRA only"):
        load_model(str(folder), device="cpu")


def test_settings_that_change_no_product_are_accepted(tmp_path, converted):
    folder = shutil.copytree(converted, tmp_path / "model")
    path = folder / "lora" / "adapter_config.json"
    changed = {"init_lora_weights": "gaussian", "lora_dropout": 0.5, "revision": "main", "peft_version": "9.9"}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    weights = load_file(folder / "lora" / "adapter_model.safetensors")
    loaded = load_model(str(folder), device="cpu")[0].state_dict()
    name = "model.layers.0.self_attn.q_proj.lora_A"
    assert torch.equal(loaded[f"language_model.{name}.default.weight"], weights[f"base_model.model.{name}.weight"])


def refused(tmp_path: Path, message: str, **changes: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(files(**changes), tmp_path / "out", overrides=GOLDEN_OVERRIDES)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()
