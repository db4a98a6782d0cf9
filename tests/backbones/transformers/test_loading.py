"""Models as folders: what is read, what is refused, and the memory that is planned before."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.backbones.transformers.tiny import save_tiny, tiny_backbone, tiny_frames, tiny_loaded
from timechat import TimeChat
from timechat.answers.tasks import DecodingOptions
from timechat.backbones.backbone import EncodedVideo, Question
from timechat.backbones.loading import load_backbone_config
from timechat.backbones.transformers import (
    TransformersBackbone,
    is_transformers_model,
    load_transformers_backbone,
    read_backbone_config,
)
from timechat.backbones.transformers.loading import plan_memory
from timechat.errors import CheckpointError
from timechat.model import NANO_FOLDER

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL as a folder."""
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("tiny") / "qwen3_vl")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def _answer(backbone) -> str:
    frames = tiny_frames([0, 0.52, 3.04])
    video = EncodedVideo(backbone.encode(frames)[0], frames.timestamps, frames.duration)
    prompt = backbone.prompt(video, Question("When?"), 12)
    return backbone.generate([prompt], [None], DecodingOptions(12, min_new_tokens=12))[0].text


@pytest.mark.parametrize("model_type", ["qwen3_vl", "smolvlm", "llava_onevision"])
def test_a_folder_gives_the_model_that_was_saved(model_type, tmp_path):
    folder = save_tiny(model_type, tmp_path / "model")
    assert is_transformers_model(str(folder))
    backbone = load_transformers_backbone(str(folder), device="cpu")
    assert backbone.name == str(folder)
    assert backbone._loaded.model.dtype == torch.float32
    assert backbone.family == tiny_backbone(model_type).family
    assert _answer(backbone) == _answer(tiny_backbone(model_type))


def test_the_configuration_is_read_without_weights(copied):
    (copied / "model.safetensors").unlink()
    assert read_backbone_config(str(copied)) == tiny_backbone("qwen3_vl").config
    assert load_backbone_config(str(copied)) == tiny_backbone("qwen3_vl").config


def test_the_dtype_can_be_chosen(saved):
    backbone = load_transformers_backbone(str(saved), device="cpu", dtype="bfloat16")
    assert backbone._loaded.model.dtype == torch.bfloat16
    assert backbone.facts("video")["dtype"] == "torch.bfloat16"
    assert _answer(backbone)
    with pytest.raises(ValueError, match="dtype int8 is for TimeChat models"):
        load_transformers_backbone(str(saved), dtype="int8")


def test_other_names_are_no_models_of_transformers(tmp_path):
    assert not is_transformers_model(str(NANO_FOLDER))
    assert not is_transformers_model(str(tmp_path))
    assert not is_transformers_model("nano")
    with pytest.raises(CheckpointError, match=r"contains no model: it has no config\.json"):
        load_transformers_backbone(str(tmp_path))
    with pytest.raises(CheckpointError, match="there is no model 'nano'; give a folder, or a hub id"):
        load_transformers_backbone("nano")


def test_a_model_that_reads_no_images_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert not is_transformers_model(str(tmp_path))
    with pytest.raises(CheckpointError, match="is a model of type 'llama', which reads no images"):
        load_transformers_backbone(str(tmp_path))


def test_models_that_read_tiles_are_refused():
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    loaded = tiny_loaded("llava")
    config = loaded.model.config
    settings = {"vision_config": config.vision_config, "text_config": config.text_config}
    model = LlavaNextForConditionalGeneration(LlavaNextConfig(image_token_index=config.image_token_id, **settings))
    with pytest.raises(ValueError, match="models of type llava_next read pictures in tiles"):
        TransformersBackbone(replace(loaded, model=model), "some")


def test_models_without_a_vision_part_of_their_own_are_refused():
    from transformers import FuyuConfig, FuyuForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4, "num_channels": 3}
    model = FuyuForCausalLM(FuyuConfig(**sizes, **layers))
    with pytest.raises(ValueError, match="models of type fuyu have no vision part that encodes pictures alone"):
        TransformersBackbone(replace(tiny_loaded("llava"), model=model), "some")


def test_another_model_has_no_network_of_timechat():
    timechat = TimeChat(tiny_backbone("qwen3_vl"))
    with pytest.raises(ValueError, match="is not a TimeChat model, so it has none of its parts"):
        _ = timechat.processor


def test_code_of_a_folder_is_never_run(copied):
    config = json.loads((copied / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "evil.py").write_text("raise SystemExit('this ran')")
    assert _answer(load_transformers_backbone(str(copied), device="cpu")) == _answer(tiny_backbone("qwen3_vl"))


def test_lost_weights_are_refused(copied):
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    name = next(name for name in weights if "k_proj" in name or "qkv" in name)
    del weights[name]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="has lost 1 of its weights, such as model"):
        load_transformers_backbone(str(copied), device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "only weights as safetensors files are read"), (b"x" * 40, "is damaged"), (b"", "is empty")],
)
def test_damaged_weights_are_refused(copied, content, message):
    (copied / "model.safetensors").unlink()
    if content is not None:
        (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_transformers_backbone(str(copied), device="cpu")


def test_values_of_a_wrong_type_are_refused_in_one_line(copied):
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["hidden_size"] = "big"
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="Validation error for field 'hidden_size'; fetch it again"):
        load_transformers_backbone(str(copied))


def test_a_folder_without_a_tokenizer_is_refused(copied):
    (copied / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer .*; fetch it again"):
        load_transformers_backbone(str(copied))


def test_a_folder_without_image_settings_is_refused(copied):
    (copied / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        load_transformers_backbone(str(copied), device="cpu")


@pytest.mark.parametrize("kind", ["jinja", "json", "tokenizer"])
def test_the_template_of_the_processor_comes_first(copied, kind):
    text = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").unlink()
    if kind == "json":
        (copied / "chat_template.json").write_text(json.dumps({"chat_template": text}))
    elif kind == "jinja":
        (copied / "chat_template.jinja").write_text(text)
    else:
        settings = json.loads((copied / "tokenizer_config.json").read_text())
        (copied / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": text}))
    assert _answer(load_transformers_backbone(str(copied), device="cpu")) == _answer(tiny_backbone("qwen3_vl"))


# ---------------------------------------------------------------------------------------------------- memory


def test_memory_is_planned_before_weights_are_read(copied, monkeypatch):
    (copied / "model.safetensors").rename(copied / "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 9_000_000_000}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.setattr("timechat.backbones.transformers.loading.available_memory_bytes", lambda: 100_000)
    match = r"needs about 0\.0 GB of memory on cpu as float32, and 0\.0 GB are free; give dtype bfloat16, end other"
    with pytest.raises(CheckpointError, match=match):
        load_transformers_backbone(str(copied), device="cpu")
    (copied / "model-00001-of-00001.safetensors").unlink()  # of the hub, only the index is there at first
    match = r"needs about 10\.3 GB of memory on cpu as bfloat16, and 0\.0 GB are free; end other programs, take a smal"
    monkeypatch.setattr("timechat.backbones.transformers.loading.total_memory_bytes", lambda: 16_000_000_000)
    config = json.loads((copied / "config.json").read_text()) | {"dtype": "bfloat16"}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=match):
        load_transformers_backbone(str(copied), device="cpu")


def test_the_dtype_on_a_cpu_depends_on_the_machine(monkeypatch):
    monkeypatch.setattr("timechat.backbones.transformers.loading.total_memory_bytes", lambda: 16_000_000_000)
    small = plan_memory(2_700_000_000, is_stored=False, device=CPU, dtype="auto")
    large = plan_memory(2_900_000_000, is_stored=False, device=CPU, dtype="auto")
    assert (small.dtype, large.dtype) == (torch.float32, torch.bfloat16)
    assert large.needed_bytes == round(2_900_000_000 * 2 * 1.15)
    chosen = plan_memory(1000, is_stored=False, device=CPU, dtype=torch.float16)
    assert (chosen.dtype, chosen.needed_bytes) == (torch.float16, 2300)
    assert plan_memory(1000, is_stored=True, device=CPU, dtype="auto").needed_bytes == 1150


def test_free_memory_is_known():
    from timechat.files.system import available_memory_bytes, total_memory_bytes

    assert 0 < available_memory_bytes() <= total_memory_bytes()


# ------------------------------------------------------------------------------------------------------- hub


def test_a_hub_model_is_fetched_config_first(saved, monkeypatch):
    asked = []

    def fetch(name: str, patterns: tuple[str, ...]) -> Path:
        asked.append((name, [*patterns]))
        return saved

    monkeypatch.setattr("timechat.model.download.fetch_files", fetch)
    backbone = load_transformers_backbone("owner/model", device="cpu")
    assert backbone.name == "owner/model"
    assert asked[0] == ("owner/model", ["config.json"])
    assert not any("safetensors" in pattern and "index" not in pattern for pattern in asked[1][1])
    assert asked[2] == ("owner/model", ["model.safetensors"])


def test_pictures_have_at_most_the_area_of_the_given_square(tmp_path):
    folder = save_tiny("qwen3_vl", tmp_path / "tiny")
    backbone = load_transformers_backbone(str(folder), device="cpu", picture_side=64)
    size = backbone.frame_size(270, 480)
    assert 0.6 * 64**2 < size.height * size.width <= 64**2


def test_the_size_of_square_pictures_cannot_be_chosen(tmp_path):
    folder = save_tiny("smolvlm", tmp_path / "tiny")
    with pytest.raises(ValueError, match="reads pictures of one size only, got picture_side=64"):
        load_transformers_backbone(str(folder), device="cpu", picture_side=64)
