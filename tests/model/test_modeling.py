"""Equivalences that hold for any weights."""

import pytest
import torch
from transformers import Blip2QFormerModel, InstructBlipQFormerModel, InstructBlipVisionModel, LlamaForCausalLM

from tests.model.tiny import tiny_config, tiny_model, video_inputs


def prompt_of(model, num_frames: int, words: list[int]) -> torch.Tensor:
    video = [model.config.image_token_id] * model.config.num_video_tokens(num_frames)
    return torch.tensor([[1, *video, *words]])


def padded_batch(model, videos, prompts):
    """Stack videos of different sizes and left pad their prompts."""
    from timechat.model.processing import TimeChatProcessor, pad_left

    batch = TimeChatProcessor.pad_videos([{key: value[0] for key, value in video.items()} for video in videos])
    batch["input_ids"], batch["attention_mask"] = pad_left([prompt[0].tolist() for prompt in prompts], 0)
    return batch


def test_the_parts_are_the_classes_of_transformers():
    model = tiny_model()
    assert type(model.frame_encoder.vision_model) is InstructBlipVisionModel
    assert type(model.frame_encoder.qformer) is InstructBlipQFormerModel
    assert type(model.video_qformer.qformer) is Blip2QFormerModel
    assert type(model.language_model) is LlamaForCausalLM


@pytest.mark.parametrize(("frames", "windows"), [(1, 1), (4, 1), (5, 2), (9, 3), (12, 3), (30, 8)])
def test_the_number_of_video_tokens_grows_with_the_windows(frames, windows):
    model = tiny_model()
    assert model.get_video_features(**video_inputs(frames)).shape == (1, windows * 4, 32)
    assert model.config.num_video_tokens(frames) == windows * 4


def test_the_last_window_is_shorter_when_stride_does_not_divide():
    model = tiny_model()
    inputs = video_inputs(6)
    tokens = model.get_video_features(**inputs)
    frames = model.get_frame_features(**inputs) + model.video_qformer.frame_positions.weight[:6, None]
    last = model.video_qformer._compress(frames[:, 4:6])
    torch.testing.assert_close(tokens[:, 4:], last)


def test_overlapping_windows_read_their_own_frames():
    model = tiny_model(window_size=4, stride=2)
    inputs = video_inputs(8)
    assert list(model.config.window_starts(8)) == [0, 2, 4, 6]
    frames = model.get_frame_features(**inputs) + model.video_qformer.frame_positions.weight[:8, None]
    torch.testing.assert_close(
        model.get_video_features(**inputs)[:, 8:12], model.video_qformer._compress(frames[:, 4:8])
    )


def test_a_window_of_0_reads_the_whole_video_at_once():
    model = tiny_model(window_size=0, stride=0)
    assert model.get_video_features(**video_inputs(9)).shape == (1, 4, 32)


def test_frame_positions_restart_after_the_last_position():
    model = tiny_model()
    inputs = video_inputs(24)
    second_half = {key: value[:, 12:] for key, value in inputs.items()}
    torch.testing.assert_close(
        model.get_video_features(**inputs)[:, 12:], model.get_video_features(**second_half), atol=1e-5, rtol=1e-5
    )


def test_frames_encoded_in_parts_are_the_same_as_at_once():
    model = tiny_model()
    inputs = video_inputs(7)
    pieces = [
        model.get_frame_features(**{key: value[:, i : i + 3] for key, value in inputs.items()}) for i in (0, 3, 6)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model.get_frame_features(**inputs), atol=1e-5, rtol=1e-5)


def test_a_video_of_a_batch_is_encoded_as_if_it_were_alone():
    model = tiny_model()
    videos = [video_inputs(6, 5, seed=1), video_inputs(9, 7, seed=2)]
    prompts = [prompt_of(model, 6, [5, 6, 7]), prompt_of(model, 9, [8])]
    batch = padded_batch(model, videos, prompts)
    together = model(**batch).logits
    for i, (video, prompt) in enumerate(zip(videos, prompts, strict=True)):
        alone = model(input_ids=prompt, attention_mask=torch.ones_like(prompt), **video).logits[0]
        torch.testing.assert_close(together[i, -len(alone) :], alone, atol=1e-4, rtol=1e-4)


def test_greedy_answers_do_not_depend_on_the_batch():
    model = tiny_model()
    videos = [video_inputs(6, 5, seed=1), video_inputs(9, 7, seed=2)]
    prompts = [prompt_of(model, 6, [5, 6, 7]), prompt_of(model, 9, [8])]
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": -1, "pad_token_id": 0}
    together = model.generate(**padded_batch(model, videos, prompts), **options)[:, -8:]
    for i, (video, prompt) in enumerate(zip(videos, prompts, strict=True)):
        alone = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **video, **options)
        assert together[i].tolist() == alone[0, -8:].tolist()


def test_generating_without_a_cache_gives_the_same_tokens():
    model = tiny_model()
    prompt = prompt_of(model, 6, [5, 6])
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **video_inputs(6)}
    options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": -1}
    assert torch.equal(model.generate(**inputs, **options), model.generate(**inputs, **options, use_cache=False))


def test_beam_search_and_several_samples_read_the_video():
    model = tiny_model()
    prompt = prompt_of(model, 6, [5, 6])
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **video_inputs(6)}
    assert model.generate(**inputs, num_beams=3, max_new_tokens=4, eos_token_id=-1).shape[0] == 1
    assert model.generate(**inputs, do_sample=True, num_return_sequences=2, max_new_tokens=4).shape[0] == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_stays_near_float32(dtype):
    model = tiny_model()
    want = model.get_video_features(**video_inputs(6))
    got = model.to(dtype).get_video_features(**video_inputs(6))
    assert got.dtype == dtype
    assert (got.float() - want).norm() / want.norm() < 0.1


def test_eager_and_sdpa_attention_agree(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    prompt = prompt_of(model, 6, [5, 6])
    logits = [
        type(model)
        .from_pretrained(tmp_path, attn_implementation=attention)
        .eval()(input_ids=prompt, **video_inputs(6))
        .logits
        for attention in ("eager", "sdpa")
    ]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_vision_can_stay_in_float32_beside_a_bfloat16_language_model(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = type(tiny_model()).from_pretrained(tmp_path, dtype=torch.bfloat16, keep_vision_in_float32=True)
    assert {parameter.dtype for parameter in model.frame_encoder.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.video_qformer.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.language_model.parameters()} == {torch.bfloat16}
    prompt = prompt_of(model, 6, [5, 6])
    assert model(input_ids=prompt, **video_inputs(6)).logits.isfinite().all()


@pytest.mark.parametrize("language_model", ["gpt2", "qwen2"])
def test_the_config_can_select_another_language_model(language_model, tmp_path):
    sizes = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 90, "n_positions": 64},
        "qwen2": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 90,
        },
    }
    model = tiny_model(text_config={"model_type": language_model, **sizes[language_model]})
    prompt = prompt_of(model, 6, [5, 6])
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **video_inputs(6)}
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=-1)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=-1), ids)


@pytest.mark.parametrize("tower", ["clip_vision_model", "siglip_vision_model"])
def test_the_config_can_select_another_vision_tower(tower):
    sizes = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    model = tiny_model(vision_config={"model_type": tower, **sizes}, vision_post_layernorm_eps=None)
    assert model.get_video_features(**video_inputs(6)).shape == (1, 8, 32)
    assert model.config.qformer_config.encoder_hidden_size == 24


def test_every_trainable_part_gets_a_gradient_through_the_loss():
    model = tiny_model().train()
    prompt = prompt_of(model, 6, [5, 6, 7])
    labels = prompt.masked_fill(prompt == model.config.image_token_id, -100)
    model(input_ids=prompt, labels=labels, **video_inputs(6)).loss.backward()
    for part in (model.frame_encoder, model.video_qformer, model.language_model):
        assert all(p.grad is not None for p in part.parameters() if p.requires_grad)


def test_gradient_checkpointing_gives_the_same_loss():
    model = tiny_model().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.qformer_config.attention_probs_dropout_prob = 0.0
    model.eval()
    prompt = prompt_of(model, 6, [5, 6, 7])
    inputs = {"input_ids": prompt, "labels": prompt.masked_fill(prompt == 90, -100), **video_inputs(6)}
    plain = model(**inputs).loss
    model.gradient_checkpointing_enable()
    model.train()
    for module in model.modules():
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = 0.0
    checkpointed = model(**inputs).loss
    checkpointed.backward()
    torch.testing.assert_close(checkpointed, plain)


# Inputs that must be refused.


def test_a_prompt_for_another_number_of_frames_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="the prompt has 4 placeholders for video tokens, but the video has 8"):
        model(input_ids=prompt_of(model, 4, [5]), **video_inputs(6))


def test_ids_of_another_number_of_frames_are_refused():
    inputs = video_inputs(6)
    inputs["qformer_input_ids"] = inputs["qformer_input_ids"][:, :5]
    with pytest.raises(ValueError, match=r"pixel_values hold 6 frames of 1 videos.*expected \(1, 6, tokens\)"):
        tiny_model().get_video_features(**inputs)


def test_pixels_without_their_time_sentences_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="need input_ids, qformer_input_ids and qformer_attention_mask"):
        model(input_ids=prompt_of(model, 6, [5]), pixel_values=video_inputs(6)["pixel_values"])


def test_ids_and_embeddings_together_are_refused():
    model = tiny_model()
    ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids=ids, inputs_embeds=torch.zeros(1, 3, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_size": -1}, "window_size must be at least 1 frame, or 0"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"num_query_tokens": 0}, "num_query_tokens must be at least 1"),
        ({"timestamp_tokenizer": "gpt"}, "timestamp_tokenizer must be 'bert' or 'llama', got 'gpt'"),
    ],
)
def test_an_invalid_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**change)
