"""What every backbone promises, for five tiny families and for two whose states cannot be cut."""

import gc
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.backbones.transformers.tiny import FAMILY_NAMES, OTHERS, UNCROPPABLE, tiny_backbone, tiny_frames
from timechat.answers.events import Event
from timechat.answers.forms import AnswerForm
from timechat.answers.grammar import captions_grammar, grounding_grammar, highlights_grammar
from timechat.answers.tasks import DecodingOptions, parse_events
from timechat.backbones.backbone import EncodedVideo, GeneratedText, Question
from timechat.backbones.transformers import TransformersBackbone
from timechat.backbones.transformers.generation import AnswerRowState
from timechat.errors import PromptTooLongError

TIMES = ([0, 0.52, 3.04, 3.08, 9.96], [0.1, 4.0, 7.25], [1.5, 2.5, 2.9, 6.0, 8.0, 12.0, 13.3])
QUESTION = Question("When does a man sit on the chair?")
FREE = DecodingOptions(max_new_tokens=12, min_new_tokens=12)
every_family = pytest.mark.parametrize("backbone", [*FAMILY_NAMES, *UNCROPPABLE], indirect=True)
mrope_families = pytest.mark.parametrize("backbone", ["qwen3_vl", "qwen3_vl-images", "qwen2_5_vl"], indirect=True)
one_family = pytest.mark.parametrize("backbone", ["qwen3_vl"], indirect=True)


def _video(backbone: TransformersBackbone, number: int = 0) -> EncodedVideo:
    frames = tiny_frames(TIMES[number], seed=number)
    return EncodedVideo(backbone.encode(frames)[0], frames.timestamps, frames.duration, model=backbone.name)


def _ask(backbone, video, question=QUESTION, decoding=FREE, form=None, **callbacks) -> GeneratedText:
    prompt = backbone.prompt(video, question, decoding.max_new_tokens)
    return backbone.generate([prompt], [form], decoding, **callbacks)[0]


def _same(one: GeneratedText, other: GeneratedText) -> bool:
    """Whether two answers have the same tokens, with log probabilities within 1e-5."""
    assert [(t.first, t.end) for t in one.tokens] == [(t.first, t.end) for t in other.tokens]
    assert np.allclose([t.logprob for t in one.tokens], [t.logprob for t in other.tokens], atol=1e-5, rtol=0)
    return (one.text, one.num_tokens, one.num_prompt_tokens) == (other.text, other.num_tokens, other.num_prompt_tokens)


# ------------------------------------------------------------------------------------------------- answers


@every_family
@pytest.mark.parametrize("constrained", [False, True])
def test_a_batch_answers_each_video_as_if_alone(backbone, constrained):
    videos = [_video(backbone, number) for number in range(3)]
    decoding = DecodingOptions(max_new_tokens=40) if constrained else FREE
    forms = [AnswerForm(grammar=grounding_grammar(v.duration)) if constrained else None for v in videos]
    prompts = [backbone.prompt(video, QUESTION, 40) for video in videos]
    assert len({len(prompt.ids) for prompt in prompts}) == 3  # so two of them are padded
    together = backbone.generate(prompts, forms, decoding)
    alone = [_ask(backbone, video, decoding=decoding, form=form) for video, form in zip(videos, forms, strict=True)]
    assert all(map(_same, together, alone))
    assert len({answer.tokens for answer in together}) == 3  # pictures and times matter


@pytest.mark.parametrize("backbone", [*FAMILY_NAMES, *UNCROPPABLE, *OTHERS], indirect=True)
def test_the_logits_are_those_of_the_models_own_forward(backbone):
    frames = tiny_frames(TIMES[0])
    prompt = backbone.prompt(_video(backbone), QUESTION, 12)
    model, family = backbone._loaded.model, backbone.family
    ids = torch.tensor([prompt.ids])
    pixels = np.concatenate([frames.pixels, frames.pixels[-1:]]) if family.frames_per_picture == 2 else frames.pixels
    size = backbone.frame_size(*pixels.shape[1:3])
    pixels = type(frames).from_images(pixels, range(len(pixels)), size=size).pixels
    inputs = backbone._encoder._inputs(pixels)
    types = (ids == backbone._encoder.token_id).long() * (2 if family.modality == "video" else 1)
    if model.config.model_type[:3] in ("qwe", "glm") or model.config.model_type == "gemma4":
        inputs["mm_token_type_ids"] = types
    elif model.config.model_type == "gemma3":
        inputs["token_type_ids"] = types
    with torch.inference_mode():
        model.base_model.rope_deltas = None
        own = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0, -1]
        ours = backbone._decoder._read_prompts([prompt], backbone.check)[0][0]
    assert torch.allclose(own, ours, atol=1e-4)


@pytest.fixture
def in_float64(backbone):
    """Compute in float64: the rounding of linear attention, in chunks and token by token, depends on the processor."""
    model = backbone._loaded.model
    backbone._decoder.forget()
    model.double()
    yield
    model.float()
    backbone._decoder.forget()


@every_family
@pytest.mark.usefixtures("in_float64")
def test_a_score_is_what_generation_recorded(backbone):
    video = _video(backbone)
    prompt = backbone.prompt(video, QUESTION, 12)
    row = AnswerRowState(prompt, FREE)
    backbone._decoder.write([row], backbone.check)
    assert len(row.logprobs) == 12
    assert backbone.score(prompt, row.token_ids) == pytest.approx(row.logprobs, abs=1e-5)


@every_family
def test_a_second_question_equals_one_from_scratch(backbone):
    video, other = _video(backbone), _video(backbone, 2)
    second = Question("What happens?", [("When?", "At 3.0 seconds.")])
    expected = _ask(backbone, video, second)
    backbone._decoder.forget()
    first = _ask(backbone, video)
    assert backbone._decoder.num_read == first.num_prompt_tokens
    _ask(backbone, other)
    _ask(backbone, video)
    assert _same(_ask(backbone, video, second), expected)
    prompt = backbone.prompt(video, second, 12)
    assert backbone._decoder.num_read == len(prompt.ids) - prompt.media_end
    assert _same(_ask(backbone, video, second), expected)  # the kept states were not changed by the answer


@one_family
def test_states_of_a_window_end_with_it(backbone):
    video = _video(backbone)
    _ask(backbone, video)
    assert backbone._decoder._states.cache is not None
    del video
    gc.collect()
    assert backbone._decoder._states.cache is None


@mrope_families
def test_what_the_model_remembers_has_no_effect(backbone):
    video = _video(backbone)
    expected = _ask(backbone, video)
    backbone._loaded.model.base_model.rope_deltas = torch.tensor([[1000]])
    assert _same(_ask(backbone, video), expected)


@mrope_families
def test_an_answer_at_positions_of_another_video_differs(backbone, monkeypatch):
    video, other = _video(backbone), _video(backbone, 2)
    expected = _ask(backbone, video)
    stale = backbone.prompt(other, QUESTION, 12)
    offset = stale.next_position - len(stale.ids)  # the `rope_deltas` that the model would take
    name = "timechat.backbones.transformers.prompts.TransformersPrompt.next_position"
    monkeypatch.setattr(name, property(lambda prompt: len(prompt.ids) + offset))
    changed = _ask(backbone, video)
    assert abs(changed.tokens[1].logprob - expected.tokens[1].logprob) > 1e-3


@every_family
def test_sampled_answers_do_not_depend_on_the_batch(backbone):
    videos = [_video(backbone, number) for number in range(3)]
    decoding = DecodingOptions(max_new_tokens=10, min_new_tokens=10, do_sample=True, top_k=400, top_p=1.0)
    prompts = [backbone.prompt(video, QUESTION, 10) for video in videos]
    together = backbone.generate(prompts, [None] * 3, decoding, window_numbers=[0, 1, 2])
    for number, prompt in enumerate(prompts):
        assert _same(backbone.generate([prompt], [None], decoding, window_numbers=[number])[0], together[number])
    other = backbone.generate(prompts[:1], [None], decoding, window_numbers=[5])[0]
    assert other.text != together[0].text


@every_family
def test_constrained_answers_are_valid_and_in_range(backbone):
    video = _video(backbone, 1)
    last = video.duration
    for task, grammar, num_tokens in (
        ("grounding", grounding_grammar(last), 80),
        ("dense_caption", captions_grammar(last), 60),
        ("highlights", highlights_grammar(last), 160),
    ):
        decoding = DecodingOptions(max_new_tokens=num_tokens, do_sample=True, temperature=2.0, top_p=1.0)
        answer = _ask(backbone, video, decoding=decoding, form=AnswerForm(grammar=grammar))
        assert answer.num_tokens < num_tokens, answer.text  # it ended by itself
        parsed = parse_events(answer.text, task=task, duration=last)
        assert not parsed.is_unparsed, answer.text
        for event in parsed.events:
            assert 0 <= event.start <= event.end <= last + 0.05
        assert [event.start for event in parsed.events] == sorted(event.start for event in parsed.events)


@one_family
def test_tokens_write_the_characters_of_the_text(backbone):
    answer = _ask(backbone, _video(backbone), form=AnswerForm(grammar=grounding_grammar(10.0)))
    pieces = [answer.text[token.first : token.end] for token in answer.tokens]
    assert "".join(pieces) == answer.text
    assert answer.text.endswith("seconds.") or answer.text.endswith("video.")


@one_family
def test_the_probability_of_the_form_is_recorded(backbone):
    video, form = _video(backbone), AnswerForm(grammar=grounding_grammar(10.0))
    decoding = DecodingOptions(max_new_tokens=40)
    prompt = backbone.prompt(video, QUESTION, 40)
    answer = backbone.generate([prompt], [form], decoding)[0]
    row = AnswerRowState(prompt, decoding, backbone._compiler.state(form.grammar))
    backbone._decoder.write([row], backbone.check)
    state, ids = backbone._compiler.state(form.grammar), row.token_ids
    whole = [*prompt.ids, *ids[:-1]]
    longer = replace(prompt, ids=whole, positions=backbone._prompts._rope_index(whole, prompt.content))
    with torch.inference_mode():
        cache, known = backbone._decoder._window(longer)
        new, mask = torch.tensor([whole[known:]]), torch.ones(1, len(whole), dtype=torch.long)
        logits = backbone._decoder._forward(new, mask, longer.positions[:, None, known:], cache, keep=len(ids))
    for number, (token, own) in enumerate(zip(ids, logits[0].log_softmax(-1), strict=True)):
        expected = own[torch.from_numpy(state.allowed_tokens(40 - number))].logsumexp(-1).item()
        assert answer.tokens[number].allowed == pytest.approx(expected, abs=2e-3)
        assert answer.tokens[number].form_logprob <= 0
        state.accept_token(token)
    assert {token.allowed for token in _ask(backbone, video).tokens} == {None}


@one_family
def test_beam_search_is_refused(backbone):
    with pytest.raises(ValueError, match="num_beams=2 is for TimeChat models; tiny-qwen3_vl answers with num_beams=1"):
        _ask(backbone, _video(backbone), decoding=DecodingOptions(num_beams=2))


@one_family
def test_a_repetition_penalty_changes_the_choice_only(backbone):
    video = _video(backbone)
    plain = _ask(backbone, video)
    penalized = _ask(backbone, video, decoding=DecodingOptions(12, min_new_tokens=12, repetition_penalty=50.0))
    assert penalized.tokens[0] == plain.tokens[0]
    assert penalized.text != plain.text


# ------------------------------------------------------------------------------------------ prompts and limits


@every_family
def test_a_prompt_that_is_too_long_is_refused(backbone):
    video = _video(backbone)
    num_tokens = len(backbone.prompt(video, QUESTION, 1).ids)
    room = 4096 - num_tokens
    assert len(backbone.prompt(video, QUESTION, room).ids) == num_tokens
    match = f"the prompt has {num_tokens} tokens and the answer may have {room + 1}, but tiny-.* reads 4096 in all"
    with pytest.raises(PromptTooLongError, match=match):
        backbone.prompt(video, QUESTION, room + 1)


@one_family
def test_a_video_of_another_model_is_refused(backbone):
    video = EncodedVideo(_video(backbone).content, np.zeros(1), 1.0, model="other")
    with pytest.raises(ValueError, match="encoded by other, not by tiny-qwen3_vl"):
        backbone.prompt(video, QUESTION, 1)


# ------------------------------------------------------------------------------------- streams and cancelling


@every_family
def test_a_stream_is_the_whole_text(backbone):
    video, pieces = _video(backbone), []
    rules = {"decoding": DecodingOptions(max_new_tokens=40), "form": AnswerForm(grammar=captions_grammar(10.0))}
    answer = _ask(backbone, video, on_text=pieces.append, **rules)
    assert "".join(pieces) == answer.text
    assert len(pieces) > 5
    assert _same(answer, _ask(backbone, video, **rules))


@one_family
def test_a_stream_can_be_stopped(backbone):
    video, pieces = _video(backbone), []
    answer = _ask(backbone, video, on_text=pieces.append, should_stop=lambda: len(pieces) >= 2)
    assert answer.num_tokens < 12
    assert _ask(backbone, video).text.startswith(answer.text)
    assert "".join(pieces) == answer.text


@one_family
def test_callbacks_are_for_one_prompt(backbone):
    prompt = backbone.prompt(_video(backbone), QUESTION, 1)
    with pytest.raises(ValueError, match="for a single prompt, got 2"):
        backbone.generate([prompt, prompt], [None, None], FREE, on_text=print)


class _CancelledError(Exception):
    pass


def _cancel_at(number: int):
    """A check that raises at its call of this number, from 1."""
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) >= number:
            raise _CancelledError

    return check


@every_family
@pytest.mark.parametrize("calls", [1, 4])
def test_a_cancelled_answer_ends_and_frees_the_model(backbone, calls):
    video = _video(backbone)
    expected = _ask(backbone, video)
    with pytest.raises(_CancelledError):
        _ask(backbone.with_check(_cancel_at(calls)), video)
    assert _same(_ask(backbone, video), expected)


@one_family
def test_waiting_for_the_model_can_be_cancelled(backbone):
    video, is_held, may_end = _video(backbone), threading.Event(), threading.Event()

    def hold() -> None:
        with backbone._decoder.lock:
            is_held.set()
            may_end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(10)
    try:
        cancelled = backbone.with_check(_cancel_at(1))
        with pytest.raises(_CancelledError):
            _ask(cancelled, video)
        with pytest.raises(_CancelledError):
            cancelled.encode(tiny_frames([0.0]))
        with pytest.raises(_CancelledError):
            cancelled.verify([video], [Event(1.0, 2.0, "a man sits")], preset="timechat@1")
    finally:
        may_end.set()
        thread.join()


# ----------------------------------------------------------------------------------------------- verification


@every_family
def test_verify_compares_pictures_with_times_only(backbone):
    video = _video(backbone)
    event = Event(1.0, 2.0, "a man sits on a chair")
    (value,) = backbone.verify([video], [event], preset="timechat@1")
    (other,) = backbone.verify([_video(backbone, 1)], [event], preset="timechat@1")
    assert abs(value) > 1e-3
    assert value != pytest.approx(other, abs=1e-3)
    shown = backbone._prompts.with_pictures(video.content, QUESTION)
    blank = backbone._prompts.without_pictures(video.content, QUESTION)
    start = shown.media_end - len(video.content.ids)
    kept = video.content.ids[~video.content.is_picture].tolist()
    assert blank.ids == [*shown.ids[:start], *kept, *shown.ids[shown.media_end :]]
    assert backbone._loaded.tokenizer.decode(kept).count("seconds") in (0, 3, 5)


@one_family
def test_the_words_alone_are_verified(backbone):
    tokenizer, event = backbone._loaded.tokenizer, Event(1.0, 2.0, 'a man says "yes"')
    for preset, answer, words in (
        ("timechat@1", '1.0 - 2.0 seconds, A man says "yes".', 'A man says "yes".'),
        ("qwen3-vl@1", '[{"start": 1.0, "end": 2.0, "caption": "A man says \\"yes\\"', 'A man says \\"yes\\"'),
    ):
        ids, num_words = backbone._caption_ids(event, preset)
        assert tokenizer.decode(ids) == answer
        assert tokenizer.decode(ids[-num_words:]).strip() == words


# ------------------------------------------------------------------------------------------- caches and costs


@every_family
def test_a_packed_window_answers_as_before(backbone):
    video = _video(backbone)
    packed = backbone.pack(video.content)
    fresh = tiny_backbone(backbone.name.removeprefix("tiny-"))
    again = EncodedVideo(fresh.unpack(packed), video.timestamps, video.duration)
    assert _same(_ask(fresh, again), _ask(backbone, video))


@one_family
def test_large_windows_are_not_packed(backbone, monkeypatch):
    video = _video(backbone)
    size = video.content.num_bytes
    monkeypatch.setattr("timechat.backbones.transformers.backbone._MAX_PACKED_BYTES", size)
    assert backbone.pack(video.content) is not None
    monkeypatch.setattr("timechat.backbones.transformers.backbone._MAX_PACKED_BYTES", size - 1)
    assert backbone.pack(video.content) is None


def test_facts_of_two_models_differ():
    names = ["qwen3_vl", "qwen3_vl-images", "qwen2_5_vl", "smolvlm"]
    found = [tiny_backbone(name).facts("answer") for name in names] + [
        tiny_backbone("qwen3_vl", seed=1).facts("answer")
    ]
    assert len({str(facts) for facts in found}) == 5
    assert found[0] == tiny_backbone("qwen3_vl").facts("answer")
    assert found[0]["weights"] == found[1]["weights"]  # the same weights, read in another way
    assert found[0]["weights"] != found[4]["weights"]


@one_family
def test_facts_change_with_the_size_of_pictures(backbone):
    smaller = replace(backbone.family, tokens_per_picture=backbone.family.tokens_per_picture + 1)
    other = TransformersBackbone(backbone._loaded, backbone.name, family=smaller)
    assert other.facts("video") != backbone.facts("video")


@one_family
def test_facts_of_answers_contain_the_template(backbone):
    assert backbone.facts("answer")["chat_template"] == backbone._loaded.template
    assert "chat_template" not in backbone.facts("video")
    assert backbone.facts("video") != backbone.facts("frames")


@one_family
def test_a_trial_measures_one_window(backbone):
    frames = tiny_frames(np.arange(20) / 2)
    cost = backbone.measure(frames, 10.0, QUESTION, None, DecodingOptions(), typical_tokens=30)
    video = EncodedVideo(backbone.encode(frames)[0], frames.timestamps, 10.0)
    exact = len(backbone.prompt(video, QUESTION, 1).ids)
    assert cost.answer_tokens == 30
    assert abs(cost.prompt_tokens - exact) < 10
    assert 0 < cost.seconds < 60
    assert (cost.requests, cost.num_bytes) == (0, 0)
