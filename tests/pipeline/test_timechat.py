"""Encode once, ask many."""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.random_nano import build_random_nano
from tests.model.tiny import made_frames
from timechat import Answer, CheckpointError, EncodedVideo, TimeChat
from timechat.answers.token_evidence import Token
from timechat.backbones.backbone import GeneratedText
from timechat.model.quantized_linear import Int8Linear
from timechat.pipeline import DecodingOptions
from timechat.pipeline.request import Request
from timechat.pipeline.window_answering import WindowAnswerer

SHORT = DecodingOptions(max_new_tokens=8)


@pytest.fixture(scope="module")
def timechat(converted) -> TimeChat:
    """The recorded checkpoint: small, but its answers depend on every part of the prompt."""
    return TimeChat.from_pretrained(converted, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def encoded(timechat) -> EncodedVideo:
    return timechat.encode(made_frames(40, size=56, seconds=31.0))


def test_the_built_in_model_is_trained_and_the_one_without_a_name():
    answer = TimeChat.from_pretrained().ask(made_frames(4, size=96), "What happens?", decoding=SHORT)
    assert isinstance(answer, Answer)
    assert all("synthetic videos of coloured shapes" in note for note in answer.notes)  # these frames are noise
    assert answer.model == "nano"


def test_the_built_in_model_is_the_same_every_time():
    tokens = [TimeChat.from_pretrained("nano").encode(made_frames(4, size=96)).content for _ in range(2)]
    assert torch.equal(*tokens)


def test_an_encoded_video_has_its_frame_times(encoded):
    assert encoded.num_frames == 40
    assert encoded.duration == 31.0
    assert encoded.content.shape == (10, 64)
    np.testing.assert_array_equal(encoded.timestamps, np.arange(40) * 31.0 / 40)


def test_ready_made_frames_are_taken_as_they_are(timechat):
    assert timechat.encode(made_frames(7, size=90)).num_frames == 7


def test_the_second_question_gives_what_a_first_would(timechat, encoded):
    first = timechat.ask(encoded, "Describe the video.", decoding=SHORT)
    second = timechat.ask(encoded, "Who is there?", decoding=SHORT)
    fresh = timechat.encode(made_frames(40, size=56, seconds=31.0))
    assert timechat.ask(fresh, "Who is there?", decoding=SHORT).text == second.text
    assert timechat.ask(fresh, "Describe the video.", decoding=SHORT).text == first.text
    assert first.text != second.text


def test_the_second_question_reads_only_what_is_new(timechat, encoded, monkeypatch):
    timechat.ask(encoded, "Describe the video.", decoding=SHORT)
    read: list[int] = []

    def note(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs.get("inputs_embeds") is not None:
            read.append(kwargs["inputs_embeds"].shape[1])

    handle = timechat.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    monkeypatch.setattr(timechat.model.frame_encoder, "forward", None)  # no vision work at all
    timechat.ask(encoded, "Who is there?", decoding=SHORT)
    handle.remove()
    prompt = timechat.processor.render_prompt(encoded.timestamps, "Who is there?")
    assert read[0] < 15 < len(timechat.processor.encode_prompt(prompt, 40))


def test_a_conversation_continues_from_its_history(timechat, encoded):
    first = timechat.ask(encoded, "Describe the video.", decoding=SHORT)
    history = [("Describe the video.", first.text)]
    warm = timechat.ask(encoded, "and then?", history=history, decoding=SHORT)
    fresh = timechat.encode(made_frames(40, size=56, seconds=31.0))
    assert timechat.ask(fresh, "and then?", history=history, decoding=SHORT).text == warm.text
    assert timechat.ask(fresh, "and then?", decoding=SHORT).text != warm.text


def test_the_same_question_again_gives_the_same_answer(timechat, encoded):
    texts = {timechat.ask(encoded, "Describe the video.", decoding=SHORT).text for _ in range(3)}
    assert len(texts) == 1


def test_a_video_that_is_gone_is_forgotten(timechat):
    video = timechat.encode(made_frames(3, size=56))
    timechat.ask(video, "x", decoding=SHORT)
    del video
    gc.collect()
    assert not timechat.backbone.executor._prefix._known


def test_a_streamed_answer_is_the_whole_answer_in_pieces(timechat, encoded):
    whole = timechat.ask(encoded, "Describe the video.", decoding=SHORT)
    stream = timechat.ask(encoded, "Describe the video.", stream=True, decoding=SHORT)
    pieces = [next(iter(stream)), *stream]
    assert "".join(pieces).strip() == whole.text
    assert stream.answer == whole


def test_an_answer_can_be_awaited_without_reading_its_pieces(timechat, encoded):
    stream = timechat.stream(Request("ask", "Describe the video.", decoding=SHORT), encoded)
    assert stream.answer.text == timechat.ask(encoded, "Describe the video.", decoding=SHORT).text


def test_a_stream_that_is_closed_stops_the_model(timechat, encoded):
    steps: list[int] = []
    handle = timechat.model.language_model.register_forward_hook(lambda *_: steps.append(1))
    endless = DecodingOptions(max_new_tokens=2000)
    timechat.model.generation_config.eos_token_id, eos = None, timechat.model.generation_config.eos_token_id
    try:
        stream = timechat.ask(encoded, "Describe the video.", stream=True, decoding=endless)
        next(iter(stream))
        stream.close()
    finally:
        handle.remove()
        timechat.model.generation_config.eos_token_id = eos
    assert 0 < len(steps) < 1900


def test_an_error_while_streaming_reaches_the_reader(timechat, encoded, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(timechat.model, "generate", broken)
    stream = timechat.ask(encoded, "x", stream=True, decoding=SHORT)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream)
    with pytest.raises(RuntimeError, match="out of memory"):
        _ = stream.answer


def test_sampling_is_reproducible_by_its_seed(timechat, encoded):
    def text(seed: int) -> str:
        decoding = DecodingOptions(max_new_tokens=20, do_sample=True, temperature=1.5, top_p=1.0, seed=seed)
        return timechat.ask(encoded, "Describe the video.", decoding=decoding).text

    state = torch.get_rng_state()
    assert text(1) == text(1) != text(2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def saying(timechat, monkeypatch) -> Iterator[object]:
    """Put words into the model's mouth."""

    def say(text: str) -> None:
        tokens = tuple(Token(i, i + 1, 0.0) for i in range(len(text)))
        monkeypatch.setattr(WindowAnswerer, "generate", lambda *_, **__: [GeneratedText(text, tokens)])

    return say


def test_grounding_gives_one_event_described_by_the_query(timechat, encoded, saying):
    saying("The given query happens in 24.3 - 30.4 seconds.")
    answer = timechat.ground(encoded, "person turns a light on")
    (event,) = answer.events
    assert (event.start, event.end, event.caption) == (24.3, 30.4, "person turns a light on")
    assert answer.task == "grounding"
    assert answer.text == "The given query happens in 24.3 - 30.4 seconds."


def test_dense_captions_steps_and_speech_become_events(timechat, encoded, saying):
    saying("0.0 - 9.1 seconds, a man sits.  9.1 - 10.8 seconds, he stands.")
    for answer in (timechat.dense_caption(encoded), timechat.steps(encoded), timechat.transcribe(encoded)):
        assert [(e.start, e.end) for e in answer.events] == [(0.0, 9.1), (9.1, 10.8)]


def test_highlights_are_moments_with_scores(timechat, encoded, saying):
    saying("There are 2 highlight moments in the 8.0, 10.0 second. Their saliency scores are 1.3, 4.0.")
    for answer in (timechat.highlights(encoded, "a light"), timechat.highlights(encoded)):
        assert [(e.start, e.end, e.saliency) for e in answer.events] == [(8.0, 8.0, 1.3), (10.0, 10.0, 4.0)]


def test_a_free_answer_without_times_is_no_error(timechat, encoded, saying):
    saying("A man reads a book.")
    answer = timechat.summarize(encoded)
    assert answer.events == []
    assert answer.text == "A man reads a book."


def test_an_answer_that_cannot_be_read_says_so_and_keeps_its_text(timechat, encoded, saying):
    saying("I could not find it.")
    answer = timechat.ground(encoded, "a light")
    assert answer.events == []
    assert answer.notes == ("no event could be read from the answer",)


def test_the_strength_of_the_adapter_changes_the_answer(converted, encoded):
    weak = TimeChat.from_pretrained(converted, device="cpu", dtype="float32", lora_scale=0.0)
    assert weak.model.language_model.model.layers[0].self_attn.q_proj.scaling["default"] == 0.0


def test_changing_the_adapters_strength_forgets_what_was_read(converted):
    timechat = TimeChat.from_pretrained(converted, device="cpu")
    video = timechat.encode(made_frames(40, size=56))
    timechat.ask(video, "What?", decoding=SHORT)
    timechat.model.set_lora_scale(0.0)
    warm = timechat.ask(video, "What?", decoding=SHORT).text
    timechat.backbone.executor._prefix.clear()
    assert timechat.ask(video, "What?", decoding=SHORT).text == warm


def test_a_saved_untrained_model_still_says_so(tmp_path):
    model, processor = build_random_nano()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(str(tmp_path))
    assert "untrained" in TimeChat.from_pretrained(tmp_path).notes[0]


def test_int8_stays_near_float32_and_needs_less_memory(converted, timechat):
    int8 = TimeChat.from_pretrained(converted, device="cpu", dtype="int8")
    ids = torch.arange(40)[None]
    want, got = (t.model(input_ids=ids).logits for t in (timechat, int8))
    assert (want - got).norm() / want.norm() < 0.15
    tower = int8.model.frame_encoder.vision_model
    assert type(tower.encoder.layers[0].mlp.fc1) is Int8Linear
    answer = int8.ask(made_frames(4, size=56), "What?", decoding=SHORT)
    assert isinstance(answer.text, str)


# What must not work, and says so.


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no model './nowhere'"):
        TimeChat.from_pretrained("./nowhere")
    with pytest.raises(CheckpointError, match=r"no config.json.*timechat convert"):
        TimeChat.from_pretrained(tmp_path)


def test_a_damaged_model_is_refused_in_one_line(converted, tmp_path):
    import shutil

    shutil.copytree(converted, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot load the model") as caught:
        TimeChat.from_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"device": "toaster"}, {"device": "cuda:0"}])
def test_devices_and_formats_that_are_not_there_are_refused(options, converted):
    if options.get("device") == "cuda:0" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match=r"dtype must be|device must be|is not available"):
        TimeChat.from_pretrained(converted, **options)


@pytest.fixture
def copy(converted, tmp_path):
    import shutil

    return Path(shutil.copytree(converted, tmp_path / "copy"))


def test_weights_that_lack_a_tensor_are_refused(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["video_qformer.projection.bias"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: video_qformer\.projection\.bias \(1 in all\)"):
        TimeChat.from_pretrained(copy)


def test_a_lost_or_damaged_adapter_is_refused(copy):
    (copy / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has lost its adapter_model\.safetensors"):
        TimeChat.from_pretrained(copy)
    (copy / "lora" / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="has lost its LoRA adapter"):
        TimeChat.from_pretrained(copy)


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="not a converted TimeChat model, it contains llama"):
        TimeChat.from_pretrained(tmp_path)


def test_a_video_encoded_by_another_model_is_refused(timechat):
    video = TimeChat.from_pretrained("nano").encode(made_frames(3, size=96))
    with pytest.raises(ValueError, match="the video was encoded by nano"):
        timechat.ask(video, "x")


def test_too_many_frames_are_refused_before_any_is_encoded(timechat, monkeypatch):
    monkeypatch.setattr(timechat.model.frame_encoder, "forward", None)
    with pytest.raises(ValueError, match=r"the language model reads 4096 in all; take fewer frames"):
        timechat.encode(made_frames(900, size=56))


def test_an_adapter_that_is_not_there_cannot_be_scaled():
    with pytest.raises(ValueError, match="this model has no LoRA adapter"):
        TimeChat.from_pretrained("nano", lora_scale=0.5)


def test_a_prompt_that_does_not_fit_is_refused_before_the_model_runs(timechat):
    video = timechat.encode(made_frames(8, size=56))
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens and the answer may have 5000.*reads 4096"):
        timechat.ask(video, "x", decoding=DecodingOptions(max_new_tokens=5000))


def test_questions_without_words_are_refused(timechat, encoded):
    with pytest.raises(ValueError, match="ask needs a question"):
        timechat.ask(encoded, "  ")
    with pytest.raises(ValueError, match="grounding needs a query"):
        timechat.ground(encoded, "")


def test_an_unknown_preset_is_refused(timechat, encoded):
    with pytest.raises(ValueError, match="no prompt preset 'mine'; choose one of timechat@1"):
        timechat.dense_caption(encoded, preset="mine")


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"temperature": 0}, {"top_p": 0}, {"top_k": 0}])
def test_decoding_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        DecodingOptions(**options)


def test_options_that_make_no_sense_are_refused_while_looking(timechat, tmp_path):
    with pytest.raises(ValueError, match="num_frames must be a whole number, at least 1, got 0"):
        timechat.encode(made_frames(4, size=56), num_frames=0)
    with pytest.raises(ValueError, match="start must be a time in seconds, got nan"):
        timechat.encode(made_frames(4, size=56), start=float("nan"))


def test_the_built_in_model_runs_in_every_format():
    for dtype in ("float32", "bfloat16", "int8"):
        answer = TimeChat.from_pretrained("nano", device="cpu", dtype=dtype).ask(
            made_frames(3, size=96), "x", decoding=DecodingOptions(max_new_tokens=2)
        )
        assert isinstance(answer.text, str)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_tasks_run_in_every_format(dtype):
    timechat = TimeChat.from_pretrained("nano", device="cpu", dtype=dtype)
    for task, words in (("grounding", "the ring spins"), ("highlights", None)):
        (note,) = timechat.run(Request(task, words), made_frames(4, size=96)).notes
        assert "the answer is a guess" in note  # the frames are noise


def test_a_stream_that_is_closed_before_it_began_has_an_empty_answer(timechat, encoded):
    stream = timechat.ask(encoded, "x", stream=True, decoding=SHORT)
    stream.close()
    assert stream.answer.text == ""


def test_a_small_model_stays_in_float32_on_a_cpu_whatever_the_machine(converted):
    model = TimeChat.from_pretrained(converted, device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_large_model_gets_its_language_model_in_bfloat16(converted, monkeypatch):
    monkeypatch.setattr("timechat.model.loading.total_memory_bytes", lambda: 1_000_000)
    monkeypatch.setattr("timechat.model.loading._has_bfloat16_instructions", lambda: False)
    model = TimeChat.from_pretrained(converted, device="cpu").model
    assert next(model.frame_encoder.parameters()).dtype == torch.float32
    assert model.language_model.lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("task", ["grounding", "highlights"])
def test_a_query_has_the_case_that_the_model_was_trained_on(nano, monkeypatch, task):
    encoded = nano.encode(made_frames(4, size=96))
    query, lower = Request(task, "The RED Ball appears"), Request(task, "the red ball appears")
    answerer = nano.answerer().windows
    assert answerer.prompt(query, encoded).input_ids == answerer.prompt(lower, encoded).input_ids
    question, other = Request("ask", "Is it RED?"), Request("ask", "is it red?")
    assert len(answerer.prompt(question, encoded).input_ids) != len(answerer.prompt(other, encoded).input_ids)
    monkeypatch.setattr(nano.model.config, "lowercase_queries", False)
    assert len(answerer.prompt(query, encoded).input_ids) != len(answerer.prompt(lower, encoded).input_ids)
