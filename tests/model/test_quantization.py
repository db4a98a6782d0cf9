"""Models with int8 and int4 weights: loaded, converted, described and refused."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint
from tests.model.tiny import made_frames
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.cli import app
from timechat.errors import CheckpointError
from timechat.model.convert.quantize import quantize_folder
from timechat.model.convert.write import OriginalFiles, convert
from timechat.model.fingerprint import weights_fingerprint
from timechat.model.loading import load_model, load_processor
from timechat.model.modeling import TimeChatForConditionalGeneration as Model
from timechat.model.quantization import quantization_config, stored_quantization
from timechat.model.quantized_linear import Int4Linear, Int8Linear
from timechat.model.summary import summarize_model
from timechat.pipeline import DecodingOptions, TimeChat
from timechat.synthetic.records import synthetic_records
from timechat.synthetic.scene import write_scene

IDS = torch.arange(40)[None]


@pytest.fixture(scope="module", params=["int8", "int4"])
def method(request):
    return request.param


@pytest.fixture(scope="module")
def nano_folder(method, tmp_path_factory):
    """The built-in model as a quantized folder."""
    folder = tmp_path_factory.mktemp(method) / "nano"
    result = CliRunner().invoke(app, ["convert", "--from", "nano", "--quantize", method, str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def quantized(nano_folder):
    return load_model(str(nano_folder), device="cpu")[0]


@pytest.fixture(scope="module")
def nano():
    return load_model("nano", device="cpu")[0]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def logits_of_text(model, tokenizer):
    """Logits `(tokens, vocab)` of questions about a video and their answers."""
    records = synthetic_records(write_scene(7, 0, level=1, split="test"))[:12]
    texts = [f"[INST] {record.question} [/INST] {record.response}" for record in records]
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([tokenizer(text).input_ids])).logits[0] for text in texts])


def test_logits_of_nano_stay_near_float32(nano, quantized, method):
    tokenizer = load_processor("nano").tokenizer
    want, got = logits_of_text(nano, tokenizer), logits_of_text(quantized, tokenizer)
    limit, agreement = {"int8": (0.06, 0.92), "int4": (0.2, 0.85)}[method]
    assert (want - got).norm() / want.norm() < limit
    assert (want.argmax(-1) == got.argmax(-1)).float().mean() > agreement


def test_a_quantized_folder_equals_quantizing_while_loading(quantized, method):
    loaded, processor = load_model("nano", device="cpu", quantize=method)
    assert torch.equal(logits(quantized), logits(loaded))
    assert weights_fingerprint(quantized) == weights_fingerprint(loaded)
    timechat = TimeChat(TimeChatBackbone(loaded, processor, name="nano"))
    answer = timechat.ask(made_frames(3, size=96), "x", decoding=DecodingOptions(max_new_tokens=2))
    assert isinstance(answer.text, str)


def test_a_quantized_model_has_another_fingerprint(nano, quantized):
    assert weights_fingerprint(quantized.language_model) != weights_fingerprint(nano.language_model)


def test_int4_has_int8_in_the_vision_tower_and_the_head(converted):
    model, _ = load_model(str(converted), device="cpu", quantize="int4")
    kinds = {name: type(module) for name, module in model.named_modules() if "Linear" in type(module).__name__}
    assert kinds["frame_encoder.vision_model.encoder.layers.0.mlp.fc1"] is Int8Linear
    assert kinds["language_model.lm_head"] is Int8Linear
    assert kinds["frame_encoder.qformer.encoder.layer.0.attention.attention.query"] is torch.nn.Linear
    assert kinds["video_qformer.projection"] is torch.nn.Linear


def test_int4_is_used_where_the_sizes_allow_it(quantized, method):
    kind = {"int8": Int8Linear, "int4": Int4Linear}[method]
    assert type(quantized.language_model.model.layers[0].mlp.gate_proj) is kind


def test_the_adapter_works_on_quantized_layers(converted):
    timechat, exact = (TimeChat.from_pretrained(converted, device="cpu", quantize=q) for q in ("int8", None))
    for model in (timechat.model, exact.model):
        model.set_lora_scale(0.0)
    without = [logits(model) for model in (timechat.model, exact.model)]
    for model in (timechat.model, exact.model):
        model.set_lora_scale(1.0)
    with_adapter = [logits(model) for model in (timechat.model, exact.model)]
    effect, want = (a - b for a, b in zip(with_adapter, without, strict=True))
    assert want.norm() > 0
    assert (effect - want).norm() / want.norm() < 0.25


def test_int8_folders_are_compressed_tensors(nano_folder, method):
    config = json.loads((nano_folder / "config.json").read_text())["quantization_config"]
    assert config == quantization_config(method)
    if method == "int4":
        return
    assert config["config_groups"]["group_0"]["weights"] == {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "channel",
        "dynamic": False,
    }
    with safe_open(nano_folder / "model.safetensors", framework="pt") as file:
        layer = "language_model.model.layers.0.mlp.gate_proj"
        weight, scale = file.get_tensor(f"{layer}.weight"), file.get_tensor(f"{layer}.weight_scale")
        assert (weight.dtype, scale.dtype) == (torch.int8, torch.float32)
        assert tuple(scale.shape) == (len(weight), 1)
        assert file.get_tensor("language_model.model.embed_tokens.weight").is_floating_point()


def test_originals_are_converted_to_a_quantized_folder(tmp_path, converted):
    files = OriginalFiles.find(**golden_checkpoint(timechat="timechat_7b.pth"))
    convert(files, tmp_path / "out", overrides=GOLDEN_OVERRIDES, quantize="int4")
    stored, _ = load_model(str(tmp_path / "out"), device="cpu")
    loaded, _ = load_model(str(converted), device="cpu", quantize="int4")
    assert stored.has_lora
    assert torch.equal(logits(stored), logits(loaded))


def test_a_merged_adapter_is_quantized_with_the_weights(tmp_path, golden_model):
    files = OriginalFiles.find(**golden_checkpoint(timechat="timechat_7b.pth"))
    convert(files, tmp_path / "out", overrides=GOLDEN_OVERRIDES, merge=True, quantize="int8")
    model, _ = load_model(str(tmp_path / "out"), device="cpu")
    assert not model.has_lora
    assert (logits(model) - logits(golden_model)).norm() / logits(golden_model).norm() < 0.1


def test_info_shows_the_format_and_counts_parameters(nano_folder, method):
    summary, exact = summarize_model(str(nano_folder)), summarize_model("nano")
    assert summary.quantization == method
    assert [part.parameters for part in summary.parts] == [part.parameters for part in exact.parts]
    assert sum(part.num_bytes for part in summary.parts) < sum(part.num_bytes for part in exact.parts)
    assert f"quantized       {method} linear layers" in CliRunner().invoke(app, ["info", str(nano_folder)]).output


def test_dtype_int8_means_quantize_int8():
    model, _ = load_model("nano", device="cpu", dtype="int8")
    assert model.config.quantization_config == quantization_config("int8")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_auto_never_quantizes(converted):
    model, _ = load_model(str(converted))
    assert stored_quantization(getattr(model.config, "quantization_config", None), "x") is None


# What must not work, and says so.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int3"}, "quantize must be int8, int4, bnb8 or bnb4, got 'int3'"),
        ({"quantize": "int4", "dtype": "float16"}, "quantize int4 computes in float32, got dtype torch.float16"),
        ({"quantize": "int4", "dtype": "int8"}, "dtype int8 and quantize int4 contradict each other"),
        ({"quantize": "int8", "device": "meta"}, "quantize int8 is for CPUs, got device meta"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, monkeypatch):
    monkeypatch.setattr("timechat.model.loading.choose_device", torch.device)
    with pytest.raises(ValueError, match=message):
        load_model("nano", **({"device": "cpu"} | options))


def test_a_missing_bitsandbytes_is_named(monkeypatch):
    monkeypatch.setattr("timechat.model.quantization.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="quantize bnb8 needs the package bitsandbytes: pip install bitsandbytes"):
        load_model("nano", device="cpu", quantize="bnb8")


@pytest.mark.parametrize("quantize", ["bnb8", "bnb4"])
def test_bitsandbytes_stays_near_float32(quantize, nano):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is an optional package")
    model, _ = load_model("nano", device="cpu", quantize=quantize)
    assert (logits(model).float() - logits(nano)).norm() / logits(nano).norm() < 0.5


def test_a_quantized_folder_has_one_format(nano_folder, method, tmp_path):
    other = {"int8": "int4", "int4": "int8"}[method]
    with pytest.raises(ValueError, match=f"the model is quantized as {method} already"):
        load_model(str(nano_folder), device="cpu", quantize=other)
    with pytest.raises(CheckpointError, match=f"is quantized as {method} already; leave quantize out"):
        Model.from_pretrained(nano_folder, quantization=other)
    with pytest.raises(CheckpointError, match=f"is quantized as {method} already; name the folder"):
        quantize_folder(nano_folder, tmp_path / "out", other)
    assert list(tmp_path.iterdir()) == []


def test_other_quantized_folders_are_refused(converted, tmp_path):
    shutil.copytree(converted, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CheckpointError, match=r"does not read \(gptq\); convert the original again"):
        load_model(str(tmp_path / "model"), device="cpu")


def test_a_quantized_model_is_not_saved_or_exported(quantized, tmp_path):
    from timechat.model.convert.original_export import export_original

    with pytest.raises(CheckpointError, match=r"a quantized model cannot be saved.*timechat convert --quantize"):
        quantized.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"a quantized model has no weights for the original's \.pth format"):
        export_original(quantized, tmp_path / "original.pth")


def test_a_quantized_folder_is_not_trained(nano_folder):
    from timechat.training.config import TrainedModelSettings
    from timechat.training.export import load_start

    with pytest.raises(CheckpointError, match="is quantized and cannot be trained; name the folder"):
        load_start(TrainedModelSettings(checkpoint=str(nano_folder)))


def test_a_lost_scale_is_named(nano_folder, method, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(nano_folder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    name = "language_model.model.layers.0.mlp.gate_proj.weight_scale"
    lost = tensors.pop(name)
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        load_model(str(tmp_path / "model"), device="cpu")
    save_file(tensors | {name: lost[:1].clone()}, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"gate_proj: weight_scale is torch.*expected"):
        load_model(str(tmp_path / "model"), device="cpu")


def test_convert_takes_no_other_option_with_a_folder(tmp_path):
    result = CliRunner().invoke(
        app, ["convert", "--from", "nano", "--quantize", "int8", "--merge", str(tmp_path / "o")]
    )
    assert result.exit_code != 0
