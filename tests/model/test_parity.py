"""The model gives the tensors that were recorded from the original system."""

from pathlib import Path

import pytest
from transformers import AddedToken, AutoTokenizer

from tests import parity
from tests.conftest import with_timestamps
from tests.golden import GOLDEN_OVERRIDES, golden_checkpoint, golden_meta, golden_path
from timechat.model.convert.write import OriginalFiles, convert
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor


def assert_all_hold(comparisons) -> None:
    comparisons = list(comparisons)
    assert comparisons
    failed = [f"{c.tensor}: {c.measured:.3g} > {c.tolerance:g}" for c in comparisons if not c.holds]
    assert not failed


@pytest.mark.parametrize("case", parity.INFERENCE_CASES)
def test_tensors_of_one_video_match_the_original(case, golden_model, golden_processor):
    assert_all_hold(parity.compare_inference(golden_model, golden_processor, case))


@pytest.mark.parametrize("case", ["infer_T8", "infer_T40"])
def test_tensors_with_llama_time_sentences_match_the_original(case, golden_model, llama_processor):
    assert_all_hold(parity.compare_llama_timestamps(golden_model, llama_processor, case))


@pytest.mark.parametrize("case", parity.BATCH_CASES)
def test_tensors_of_left_padded_batches_match_the_original(case, golden_model, golden_processor):
    assert_all_hold(parity.compare_batch(golden_model, golden_processor, case))


@pytest.mark.parametrize("case", parity.TRAINING_CASES)
def test_loss_and_gradients_match_the_original(case, trainable_model, llama_processor):
    processor = llama_processor
    if golden_meta()["cases"][case]["tokenizer_legacy"]:
        processor = legacy_processor(processor)
    assert_all_hold(parity.compare_training(trainable_model, processor, case))


def test_the_stage_2_starting_point_matches_the_original(tmp_path: Path):
    files = OriginalFiles.find(**golden_checkpoint(video_llama="VL_LLaMA_2_7B_Finetuned.pth"))
    convert(files, tmp_path / "start", overrides=GOLDEN_OVERRIDES)
    model = TimeChatForConditionalGeneration.from_pretrained(tmp_path / "start").eval()
    processor = TimeChatProcessor.from_pretrained(tmp_path / "start")
    assert model.has_lora
    assert_all_hold(parity.compare_inference(model, processor, "infer_T40_stage2_init"))


def test_sdpa_attention_keeps_the_same_tolerances(converted, golden_processor):
    model = TimeChatForConditionalGeneration.from_pretrained(converted, attn_implementation="sdpa").eval()
    assert_all_hold(parity.compare_inference(model, golden_processor, "infer_T8"))


@pytest.fixture(scope="module")
def trainable_model(converted: Path) -> TimeChatForConditionalGeneration:
    """In evaluation mode (no dropout), as in the recording, with gradients of the trained parameters."""
    model = TimeChatForConditionalGeneration.from_pretrained(converted, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        frozen_base = "vision_model." in name or ("language_model." in name and ".lora_" not in name)
        parameter.requires_grad_(not frozen_base)
    return model


def legacy_processor(processor: TimeChatProcessor) -> TimeChatProcessor:
    tokenizer = AutoTokenizer.from_pretrained(golden_path("checkpoints/llama"), legacy=True)
    tokenizer.pad_token = tokenizer.unk_token
    placeholder = AddedToken("<ImageHere>", lstrip=True, rstrip=True, normalized=False, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [placeholder]})
    config = processor.config
    return with_timestamps(TimeChatProcessor(tokenizer, processor.qformer_tokenizer, config), "llama")


def test_the_tokenizer_matches_the_originals_library(golden_processor, llama_processor):
    for sample in golden_meta()["tokenization_tiny"]:
        source = legacy_processor(llama_processor) if sample["legacy"] else golden_processor
        assert source.tokenizer(sample["text"]).input_ids == sample["ids"]
        plain = source.tokenizer(sample["text"], add_special_tokens=False).input_ids
        assert plain == sample["ids_no_special"]
