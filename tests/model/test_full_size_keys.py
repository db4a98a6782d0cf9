"""The key map is correct for the published files at full size; no tensor is allocated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from perf.original_layout import FULL, LLM_SHARDS, Sizes, llama_config, original_tensors
from transformers import LlamaConfig

from tests.golden import golden_path
from timechat.model.convert.files import WeightFile
from timechat.model.convert.plan import ConversionPlan
from timechat.model.convert.write import LAYOUT
from timechat.model.lora import attach_adapter, is_adapter_key
from timechat.model.modeling import TimeChatForConditionalGeneration

BUFFER = "a buffer that is computed"


def file_parts(checkpoint: str) -> dict[str, list[WeightFile]]:
    files = {path: WeightFile(Path(path), tensors) for path, tensors in original_tensors(FULL).items()}
    parts = {part: [files[LAYOUT[part]]] for part in ("vit", "qformer", checkpoint)}
    return parts | {"llm": [files[f"{LAYOUT['llm']}/{shard}"] for shard in LLM_SHARDS]}


def plan_full_size(checkpoint: str) -> ConversionPlan:
    text_config = LlamaConfig.from_dict(llama_config(FULL))
    return ConversionPlan(file_parts(checkpoint), text_config, image_token_id=32000)


@pytest.fixture(scope="module", params=["timechat", "video_llama"])
def checkpoint(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def plan(checkpoint: str) -> ConversionPlan:
    return plan_full_size(checkpoint)


@pytest.fixture(scope="module")
def timechat_plan() -> ConversionPlan:
    return plan_full_size("timechat")


@pytest.fixture(scope="module")
def full_size_model() -> TimeChatForConditionalGeneration:
    with torch.device("meta"):
        return TimeChatForConditionalGeneration(plan_full_size("timechat").config)


def names(plan: ConversionPlan, file: str) -> set[str]:
    return set(plan.report.ignored.get(Path(file).name, {}))


def reasons(plan: ConversionPlan, file: str) -> set[str]:
    return set(plan.report.ignored.get(Path(file).name, {}).values())


def test_every_tensor_is_planned_once_with_its_shape(plan, full_size_model):
    expected = {name: tuple(tensor.shape) for name, tensor in full_size_model.state_dict().items()}
    assert len(plan.tensors) == len(expected)
    assert {tensor.name: tensor.info.shape for tensor in plan.tensors} == expected


def test_every_tensor_keeps_the_dtype_of_its_file(plan):
    halves = ("frame_encoder.vision_model.embeddings", "frame_encoder.vision_model.encoder", "language_model")
    for tensor in plan.tensors:
        assert tensor.info.dtype == (torch.float16 if tensor.name.startswith(halves) else torch.float32), tensor.name


def test_trained_parts_come_from_the_file_that_trained_them(plan, checkpoint):
    sources = {tensor.name: tensor.sources[0][0].path for tensor in plan.tensors}
    trained = Path(LAYOUT[checkpoint])
    image_qformer = trained if checkpoint == "timechat" else Path(LAYOUT["qformer"])
    assert sources["frame_encoder.vision_model.post_layernorm.weight"] == Path(LAYOUT["qformer"])
    assert {path for name, path in sources.items() if name.startswith("video_qformer.")} == {trained}
    assert {path for name, path in sources.items() if name.startswith("frame_encoder.qformer.")} == {image_qformer}
    assert sources["frame_encoder.query_tokens"] == image_qformer


def test_every_key_of_every_file_is_used_ignored_or_overridden(plan, checkpoint):
    report = plan.report
    for file in [file for files in file_parts(checkpoint).values() for file in files]:
        name = file.path.name
        used, overridden = report.used.get(name, 0), report.overridden.get(name, 0)
        assert used + overridden + len(report.ignored.get(name, {})) == len(file.tensors), name


def test_only_the_last_vision_block_is_left_out(plan):
    block = {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.q_bias", "attn.v_bias"}
    block |= {"attn.qkv.weight", "attn.proj.weight", "attn.proj.bias"}
    block |= {"mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"}
    assert names(plan, LAYOUT["vit"]) == {f"blocks.39.{name}" for name in block}
    assert reasons(plan, LAYOUT["vit"]) == {"the model uses blocks 0 to 38"}


def test_only_buffers_and_the_foreign_projection_are_left_out(plan, checkpoint):
    position_ids = "bert.embeddings.position_ids"
    assert plan.report.ignored["instruct_blip_vicuna7b_trimmed.pth"] == {
        f"Qformer.{position_ids}": BUFFER,
        "llm_proj.weight": "InstructBLIP's own projection; TimeChat has llama_proj",
        "llm_proj.bias": "InstructBLIP's own projection; TimeChat has llama_proj",
    }
    rotary = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(32)}
    assert names(plan, LLM_SHARDS[0]) | names(plan, LLM_SHARDS[1]) == rotary
    assert reasons(plan, LLM_SHARDS[0]) | reasons(plan, LLM_SHARDS[1]) == {BUFFER}
    buffers = {
        "timechat": {f"Qformer.{position_ids}", f"video_Qformer.{position_ids}"},
        "video_llama": {f"video_Qformer.{position_ids}", *(f"llama_model.{name}" for name in rotary)},
    }
    assert names(plan, LAYOUT[checkpoint]) == buffers[checkpoint]
    assert reasons(plan, LAYOUT[checkpoint]) == {BUFFER}


def test_timechat_overrides_the_whole_image_qformer_of_instruct_blip(timechat_plan):
    kept = {"frame_encoder.vision_model.post_layernorm.weight", "frame_encoder.vision_model.post_layernorm.bias"}
    image_qformer = [tensor for tensor in timechat_plan.tensors if tensor.name.startswith("frame_encoder.q")]
    assert timechat_plan.report.overridden == {"instruct_blip_vicuna7b_trimmed.pth": len(image_qformer)}
    assert timechat_plan.report.used["instruct_blip_vicuna7b_trimmed.pth"] == len(kept)


def test_the_adapter_fits_the_language_model(timechat_plan, full_size_model):
    lora_config = LoraConfig(r=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    with torch.device("meta"):
        language_model = TimeChatForConditionalGeneration(timechat_plan.config).language_model
        attach_adapter(language_model, lora_config)
    expected = {
        f"base_model.model.{name.replace('.default', '')}": tuple(tensor.shape)
        for name, tensor in language_model.state_dict().items()
        if is_adapter_key(name)
    }
    assert len(timechat_plan.lora) == 32 * 4 * 2
    assert {tensor.name: tensor.info.shape for tensor in timechat_plan.lora} == expected


def test_the_starting_point_has_no_adapter():
    plan = plan_full_size("video_llama")
    assert plan.lora == []
    assert plan.report.notes == ["video_qformer.frame_positions.weight: interpolated from 32 frames to 96"]
    table = next(tensor for tensor in plan.tensors if tensor.name == "video_qformer.frame_positions.weight")
    assert table.make(torch.arange(32)[:, None])[:, 0].tolist() == [row for row in range(32) for _ in range(3)]


def test_sizes_match_the_published_model(plan, full_size_model):
    config = plan.config
    assert config.vision_config.num_hidden_layers == 39
    assert (config.qformer_config.vocab_size, config.qformer_config.cross_attention_frequency) == (30523, 2)
    assert (config.video_qformer_config.num_hidden_layers, config.max_frame_positions) == (2, 96)
    assert config.text_config.num_hidden_layers == 32
    assert config.num_video_tokens(96) == 96
    num_parameters = sum(tensor.info.num_elements for tensor in plan.tensors)
    assert num_parameters == sum(parameter.numel() for parameter in full_size_model.parameters())
    assert round(num_parameters / 1e9, 2) == 7.93


def test_the_files_have_the_published_sizes():
    num_bytes = {path: sum(t.num_bytes for t in tensors.values()) for path, tensors in original_tensors(FULL).items()}
    assert round(num_bytes[LAYOUT["vit"]] / 1e9, 1) == 2.0
    assert round(sum(num_bytes.values()) / 1e9, 1) == 17.3


GOLDEN_SIZES = Sizes(
    vision_width=64,
    vision_feed_forward=279,
    vision_blocks=4,
    vision_positions=17,
    qformer_width=48,
    qformer_feed_forward=96,
    qformer_layers=4,
    qformer_words=701,
    qformer_positions=64,
    num_query_tokens=6,
    num_video_query_tokens=5,
    text_width=64,
    text_feed_forward=112,
    text_layers=2,
    text_words=640,
    head_size=16,
)


@pytest.mark.parametrize(
    ("part", "recorded"),
    [
        ("vit", "eva_vit_g.pth"),
        ("qformer", "instruct_blip.pth"),
        ("timechat", "timechat_7b.pth"),
        ("video_llama", "VL_LLaMA_2_7B_Finetuned.pth"),
    ],
)
def test_the_small_key_lists_match_the_recorded_files(part, recorded):
    """The tests above use key lists of this project, so this test compares the lists with the original files."""
    found = WeightFile.inspect(golden_path(f"checkpoints/{recorded}")).tensors
    listed = original_tensors(GOLDEN_SIZES)[LAYOUT[part]]
    only_sometimes_there = ("norm.", "head.")
    found = {name: info for name, info in found.items() if not name.startswith(only_sometimes_there)}
    listed = {name: info for name, info in listed.items() if not name.endswith("inv_freq")}
    assert found == listed


def test_another_width_is_detected_before_reading():
    tensors = original_tensors(replace(FULL, text_width=5120, head_size=160))
    files = file_parts("timechat")
    files["timechat"] = [WeightFile(Path("other.pth"), tensors[LAYOUT["timechat"]])]
    with pytest.raises(Exception, match=r"other\.pth: .* expected"):
        ConversionPlan(files, LlamaConfig.from_dict(llama_config(FULL)), image_token_id=32000)
