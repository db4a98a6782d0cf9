"""Beams, penalties and the minimum length: the tokens of `transformers`, with the model's own probabilities."""

import copy
import re
from dataclasses import replace

import pytest
import torch

from tests.model.test_batching import prompts_about, written_together
from tests.model.tiny import made_frames, tiny_model
from timechat import TimeChat
from timechat.answers.forms import answer_form
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import DecodingOptions, parse_events
from timechat.backbones.timechat.executor import GenerationBatch
from timechat.model.generation.batch import ContinuousBatch, GenerationState
from timechat.model.generation.generate import (
    Prompt,
    Sampler,
    continuation_logprobs,
    end_token_ids,
    generate_answers,
)
from timechat.model.generation.score_processors import forbid_end, score_processors
from timechat.model.pretrained import quiet_transformers
from timechat.pipeline import Request

pytestmark = pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`")

END = 7
GREEDY = DecodingOptions(max_new_tokens=20)
SEARCHED = DecodingOptions(max_new_tokens=20, num_beams=4)
OPTIONS = {
    "penalty": replace(GREEDY, repetition_penalty=1.6),
    "reward": replace(GREEDY, repetition_penalty=0.8),
    "minimum": replace(GREEDY, min_new_tokens=12),
    "penalty and minimum": replace(GREEDY, repetition_penalty=1.3, min_new_tokens=15),
}
SEARCHES = {
    "beams": SEARCHED,
    "beams for long answers": replace(SEARCHED, length_penalty=3.0),
    "beams for short answers": replace(SEARCHED, length_penalty=-1.0),
    "all": replace(SEARCHED, length_penalty=2.0, repetition_penalty=1.6, min_new_tokens=9),
}


@pytest.fixture(scope="module")
def model():
    """A model whose answers end early and repeat themselves, so that every option changes some of them."""
    model = tiny_model()
    model.generation_config.eos_token_id = END
    with torch.no_grad():
        model.language_model.lm_head.weight[END] *= 1.5
    return model


def test_an_answer_in_vicuna_style_is_ended_at_the_next_mark(golden_processor):
    assert golden_processor.ends_turn is None
    processor = copy.copy(golden_processor)
    processor.chat_style = "vicuna"
    texts = ["It is at 3.###", "It is at 3 # 4."]
    rows = [processor.tokenizer(text, add_special_tokens=False).input_ids[-6:] for text in texts]
    assert [processor.ends_turn(row) for row in rows] == [True, False]
    (ending,) = score_processors(GREEDY, [END], ends_turn=processor.ends_turn)
    scores = torch.arange(20.0).repeat(2, 1)
    changed = ending(torch.tensor(rows), scores)
    assert changed.argmax(-1).tolist() == [END, 19]
    assert torch.equal(changed[1], scores[1])


def test_local_and_batched_answers_end_with_their_turn(model, prompts):
    def ends_turn(token_ids):
        return len(token_ids) >= 3

    plain = [GenerationState(prompt, GREEDY) for prompt in prompts]
    written_together(ContinuousBatch(model), plain)
    expected = [state.token_ids[:3] for state in plain]
    assert max(map(len, expected)) == 3
    answers = [GenerationState(prompt, GREEDY) for prompt in prompts]
    written_together(ContinuousBatch(model, ends_turn=ends_turn), answers)
    assert [state.token_ids for state in answers] == expected
    outputs = generate_answers(
        model,
        prompts,
        pad_token_id=0,
        arguments={"max_new_tokens": 20, "do_sample": False},
        processors=score_processors(GREEDY, [END], ends_turn=ends_turn),
    )
    assert [output.token_ids for output in outputs] == [ids if END in ids else [*ids, END] for ids in expected]


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)
    return prompts_about([torch.randn(8, 32, generator=generator) for _ in range(2)], 4)


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    return TimeChat.from_pretrained("nano", device="cpu")


def by_transformers(model, prompt: Prompt, decoding: DecodingOptions) -> list[int]:
    """The tokens of `generate`, with the options of `transformers` itself."""
    names = ("max_new_tokens", "num_beams", "length_penalty", "repetition_penalty", "min_new_tokens")
    embeds = model.embed_prompt(torch.tensor([prompt.input_ids]), prompt.video_tokens)
    with quiet_transformers(), torch.inference_mode():
        [ids] = model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            pad_token_id=0,
            do_sample=False,
            **{name: getattr(decoding, name) for name in names},
        ).tolist()
    return ids[: ids.index(END) + 1] if END in ids else ids


def written(model, prompts: list[Prompt], decoding: DecodingOptions, **options):
    names = ("max_new_tokens", "num_beams", "length_penalty") if decoding.num_beams > 1 else ("max_new_tokens",)
    with torch.inference_mode():
        return generate_answers(
            model,
            prompts,
            pad_token_id=0,
            arguments={"do_sample": False} | {name: getattr(decoding, name) for name in names},
            processors=score_processors(decoding, end_token_ids(model), options.pop("constraint", None)),
            **options,
        )


@pytest.mark.parametrize("decoding", [*OPTIONS.values(), *SEARCHES.values()], ids=[*OPTIONS, *SEARCHES])
def test_options_give_the_tokens_of_transformers(model, prompts, decoding):
    expected = [by_transformers(model, prompt, decoding) for prompt in prompts]
    assert [one.token_ids for one in written(model, prompts, decoding)] == expected
    assert [written(model, [prompt], decoding)[0].token_ids for prompt in prompts] == expected
    assert expected != [by_transformers(model, prompt, GREEDY) for prompt in prompts]


@pytest.mark.parametrize("decoding", OPTIONS.values(), ids=OPTIONS)
def test_a_continuous_batch_gives_the_same_tokens(model, prompts, decoding):
    others = [*OPTIONS.values(), GREEDY]
    answers = [
        GenerationState(prompt, one) for prompt in prompts for one in (decoding, others[len(prompt.input_ids) % 5])
    ]
    written_together(ContinuousBatch(model, max_rows=5), answers)
    assert [one.token_ids for one in answers] == [by_transformers(model, a.prompt, a.decoding) for a in answers]


@pytest.mark.parametrize("decoding", [OPTIONS["penalty and minimum"], SEARCHES["all"]], ids=["greedy", "beams"])
def test_reported_scores_are_those_of_the_model(model, prompts, decoding):
    for answers in (written(model, prompts, decoding), [written(model, [prompt], decoding)[0] for prompt in prompts]):
        whole = [Prompt(p.input_ids + a.token_ids, p.video_tokens) for p, a in zip(prompts, answers, strict=True)]
        with torch.inference_mode():
            expected = continuation_logprobs(model, whole, [len(a.token_ids) for a in answers], pad_token_id=0)
        for answer, logprobs in zip(answers, expected, strict=True):
            torch.testing.assert_close(torch.tensor(answer.logprobs), torch.tensor(logprobs), rtol=0, atol=1e-4)


def test_scores_in_a_continuous_batch_are_those_of_the_model(model, prompts):
    decoding = OPTIONS["penalty and minimum"]
    answers = [GenerationState(prompt, decoding) for prompt in prompts]
    written_together(ContinuousBatch(model), answers)
    for answer, expected in zip(answers, written(model, prompts, decoding), strict=True):
        torch.testing.assert_close(torch.tensor(answer.logprobs), torch.tensor(expected.logprobs), rtol=0, atol=1e-4)


def test_sampling_with_a_penalty_is_the_same_in_any_batch(model, prompts):
    decoding = replace(OPTIONS["penalty and minimum"], do_sample=True, temperature=1.4, seed=3)
    answers = [GenerationState(prompt, decoding) for prompt in prompts]
    written_together(ContinuousBatch(model), answers)
    samplers = [Sampler(decoding, model.device) for _ in prompts]
    expected = written(model, prompts, decoding, samplers=samplers)
    assert [one.token_ids for one in answers] == [one.token_ids for one in expected]
    assert all(END not in one.token_ids[:15] for one in answers)


def test_beams_reuse_the_states_of_an_earlier_prompt(nano):
    video = nano.encode(made_frames(4, size=96))
    decoding = DecodingOptions(max_new_tokens=8, num_beams=3)
    alone = nano.ask(video, "What happens then?", decoding=decoding)
    nano.ask(video, "What happens at first?", decoding=decoding)
    after = nano.ask(video, "What happens then?", decoding=decoding)
    assert (after.text, after.events) == (alone.text, alone.events)
    greedy = DecodingOptions(max_new_tokens=8)
    nano.backbone.executor._prefix.clear()
    expected = nano.ask(video, "And what else?", history=[("What happens then?", alone.text)], decoding=greedy).text
    nano.ask(video, "What happens then?", decoding=decoding)  # its states hold the answer of the search
    again = nano.ask(video, "And what else?", history=[("What happens then?", alone.text)], decoding=greedy).text
    assert again == expected


def test_beams_follow_a_grammar(nano):
    """The reference replays every beam from its first token, through the processor of `transformers` for this."""
    video = nano.encode(made_frames(4, size=96))
    request = Request("dense_caption", decoding=DecodingOptions(max_new_tokens=40, num_beams=3))
    prompt = nano.answerer().windows.prompt(request, video)
    grammar = answer_form("dense_caption", duration=video.duration).grammar
    executor = nano.backbone.executor
    compiler, arguments = executor.grammar_compiler, {"do_sample": False, "max_new_tokens": 40, "num_beams": 3}

    def allowed(_row: int, ids: torch.Tensor) -> list[int]:
        state = compiler.state(grammar)
        for token in ids.tolist():
            state.accept_token(token)
        return state.allowed_tokens(40 - len(ids)).nonzero()[0].tolist()

    with torch.inference_mode():
        [expected] = generate_answers(
            nano.model, [prompt], pad_token_id=0, arguments=arguments | {"prefix_allowed_tokens_fn": allowed}
        )
    [found] = executor.generate(GenerationBatch([prompt], [grammar], request.decoding))
    [greedy] = executor.generate(GenerationBatch([prompt], [grammar], DecodingOptions(max_new_tokens=40)))
    assert found.token_ids == expected.token_ids != greedy.token_ids


def test_a_grammar_ends_an_answer_before_its_minimum_length(nano):
    """The only sentence of a grounding answer is complete; nothing may follow it."""
    video = nano.encode(made_frames(4, size=96))
    whole = r"The given query happens in [\d.]+ - [\d.]+ seconds\."
    for changes in ({}, {"num_beams": 2}, {"do_sample": True}):
        decoding = DecodingOptions(max_new_tokens=64, min_new_tokens=64, **changes)
        answer = nano.run(Request("grounding", "a red ball moves", decoding=decoding), video)
        assert answer.text == NOT_FOUND_ANSWER or re.fullmatch(whole, answer.text), answer.text


@pytest.mark.parametrize("seed", range(2))
def test_a_minimum_length_holds_with_a_grammar(nano, seed):
    """The ends of a sentence and of the answer have the highest scores, so that an answer ends as soon as it may."""
    grammar, compiler = answer_form("dense_caption", duration=20.0).grammar, nano.backbone.executor.grammar_compiler
    lengths = [0]
    for more in (0, 30):
        minimum, ends = lengths[-1] + more, compiler.eos_token_ids
        decoding = DecodingOptions(max_new_tokens=200, min_new_tokens=minimum)
        processors = score_processors(decoding, ends, compiler.logits_processor([grammar], 200))
        state, generator = compiler.state(grammar), torch.Generator().manual_seed(seed)
        ids: list[int] = []
        while not ids or ids[-1] not in ends:
            scores = torch.randn(1, compiler.vocab_size, generator=generator) * 3
            scores[0, compiler.ends_sentence] += 25
            scores[0, list(ends)] += 50
            in_batch = forbid_end(scores, ends) if len(ids) < minimum else scores  # as a continuous batch does
            likeliest = state.most_likely_token(in_batch[0].numpy(), 200 - len(ids))
            for processor in processors:
                scores = processor(torch.tensor([ids], dtype=torch.long).view(1, -1), scores)
            ids.append(int(scores.argmax()))
            assert ids[-1] == likeliest
            state.accept_token(likeliest)
        text = compiler.engine.decode_bytes(ids[:-1]).decode().strip()
        assert parse_events(text, task="dense_caption", duration=20.0).notes == (), text
        lengths.append(len(ids))
    assert lengths[1] + 30 <= lengths[2] <= 200


def test_a_search_is_streamed_at_its_end(nano):
    video = nano.encode(made_frames(4, size=96))
    decoding = DecodingOptions(max_new_tokens=8, num_beams=2)
    stream = nano.ask(video, "What happens?", stream=True, decoding=decoding)
    assert "".join(stream) == stream.answer.text
    assert stream.answer.text == nano.ask(video, "What happens?", decoding=decoding).text


def test_the_end_is_forbidden_unless_nothing_else_is_possible():
    lowest = float("-inf")
    scores = torch.tensor([[1.0, 2.0, 3.0], [lowest, 2.0, lowest], [lowest, 2.0, 1.0]])
    assert forbid_end(scores, [1]).tolist() == [[1, lowest, 3], [lowest, 2, lowest], [lowest, lowest, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams must be from 1 to 64, got 0"),
        ({"num_beams": 65}, "num_beams must be from 1 to 64, got 65"),
        ({"num_beams": 2, "do_sample": True}, "num_beams=2 searches for the most likely answer and do_sample draws"),
        ({"length_penalty": float("nan")}, "length_penalty must be a finite number, got nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0; 1 is no penalty"),
        ({"min_new_tokens": 600}, "min_new_tokens must be from 0 to max_new_tokens=512, got 600"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodingOptions(**options)
