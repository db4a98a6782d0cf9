"""The continuous batch: sequences join and leave, and each gives the same answer as alone."""

import pytest
import torch

from tests.model.tiny import tiny_model
from timechat.answers.tasks import DecodingOptions
from timechat.model.generation.batch import ContinuousBatch, GenerationState
from timechat.model.generation.generate import PrefixCache, Prompt, Sampler, generate_answers

IMAGE = 90


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.generation_config.eos_token_id = 7
    return model


@pytest.fixture(scope="module")
def videos(model) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 32, generator=generator) for _ in range(3)]


def prompts_about(videos, count: int = 9) -> list[Prompt]:
    generator = torch.Generator().manual_seed(2)
    prompts = []
    for i in range(count):
        words = torch.randint(8, 90, (3 + 5 * (i % 4),), generator=generator).tolist()
        prompts.append(Prompt([1, 5, *[IMAGE] * 8, 9, *words], videos[i % len(videos)]))
    return prompts


def decoding_of(i: int) -> DecodingOptions:
    return DecodingOptions(max_new_tokens=[3, 40, 17][i % 3])


def generate_arguments(decoding: DecodingOptions) -> dict:
    """What `generate` of `transformers` is called with for the same decoding."""
    if not decoding.do_sample:
        return {"max_new_tokens": decoding.max_new_tokens, "do_sample": False}
    names = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k")
    return {name: getattr(decoding, name) for name in names}


def alone(model, prompt: Prompt, decoding: DecodingOptions) -> list[int]:
    torch.manual_seed(decoding.seed)
    return generate_answers(model, [prompt], pad_token_id=0, arguments=generate_arguments(decoding))[0].token_ids


def written_together(batch: ContinuousBatch, answers: list[GenerationState], *, steps_between: int = 1) -> None:
    todo = list(answers)
    while todo or batch.running or batch.prefilling:
        if todo and batch.has_room(todo[0]):
            batch.add(todo.pop(0))
        if batch.prefilling:
            batch.prefill()
        for _ in range(steps_between):
            batch.decode_step()


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_sequences_added_one_by_one_match_generate(model, videos, max_rows):
    prompts = prompts_about(videos)
    answers = [GenerationState(prompt, decoding_of(i)) for i, prompt in enumerate(prompts)]
    written_together(ContinuousBatch(model, max_rows=max_rows), answers)
    expected = [alone(model, prompt, decoding_of(i)) for i, prompt in enumerate(prompts)]
    assert [answer.token_ids for answer in answers] == expected
    assert len({len(ids) for ids in expected}) > 1  # some end early, some do not


def test_log_probabilities_match_generate(model, videos):
    prompts = prompts_about(videos)
    answers = [GenerationState(prompt, decoding_of(i)) for i, prompt in enumerate(prompts)]
    written_together(ContinuousBatch(model), answers)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        expected = generate_answers(model, [prompt], pad_token_id=0, arguments=generate_arguments(decoding_of(i)))[0]
        torch.testing.assert_close(torch.tensor(answer.logprobs), torch.tensor(expected.logprobs), rtol=0, atol=1e-4)


def test_sampled_answers_match_generate_in_any_batch(model, videos):
    decoding = DecodingOptions(max_new_tokens=20, do_sample=True, temperature=1.3, top_p=0.8, seed=5)
    prompts = prompts_about(videos)
    answers = [GenerationState(prompt, decoding) for prompt in prompts]
    written_together(ContinuousBatch(model, max_rows=4), answers)
    assert [answer.token_ids for answer in answers] == [alone(model, prompt, decoding) for prompt in prompts]


def test_samplers_draw_for_each_row_of_a_batch_as_generate_alone(model, videos):
    decodings = [
        DecodingOptions(max_new_tokens=20, do_sample=True, temperature=1.3, top_p=0.8, seed=seed) for seed in range(5)
    ]
    prompts = prompts_about(videos)[:5]
    samplers = [Sampler(decoding, model.device) for decoding in decodings]
    greedy = {"max_new_tokens": 20, "do_sample": False}
    written = generate_answers(model, prompts, pad_token_id=0, arguments=greedy, samplers=samplers)
    expected = [alone(model, prompt, decoding) for prompt, decoding in zip(prompts, decodings, strict=True)]
    assert [one.token_ids for one in written] == expected


def test_prefill_in_parts_gives_the_same_answers(model, videos):
    prompts = prompts_about(videos)
    answers = [GenerationState(prompt, decoding_of(i)) for i, prompt in enumerate(prompts)]
    batch = ContinuousBatch(model, prompt_tokens=4)
    batch.add(answers[0])
    batch.prefill()
    assert batch.prefilling is answers[0]  # the prompt is not complete yet
    batch.abort(answers[0])
    written_together(batch, answers)
    assert [a.token_ids for a in answers] == [alone(model, p, decoding_of(i)) for i, p in enumerate(prompts)]


def test_a_preempted_sequence_resumes_where_it_stopped(model, videos):
    prompts = prompts_about(videos, 6)
    decoding = DecodingOptions(max_new_tokens=30)
    answers = [GenerationState(prompt, decoding) for prompt in prompts]
    batch = ContinuousBatch(model, max_rows=2)
    preempted: list[GenerationState] = []
    todo = list(answers)
    num_preempted = 0
    while todo or preempted or batch.running or batch.prefilling:
        if not todo and not batch.prefilling and preempted and batch.has_room(preempted[0]):
            batch.add(preempted.pop(0))
        elif todo and batch.has_room(todo[0]):
            batch.add(todo.pop(0))
        if batch.prefilling:
            batch.prefill()
        batch.decode_step()
        if batch.running and todo and not batch.has_room(todo[0]) and not batch.prefilling:
            preempted.append(batch.running[0])
            batch.preempt(batch.running[0])
            num_preempted += 1
    assert num_preempted >= 2
    assert [answer.token_ids for answer in answers] == [alone(model, prompt, decoding) for prompt in prompts]


def test_an_aborted_sequence_does_not_change_the_others(model, videos):
    prompts = prompts_about(videos, 5)
    decoding = DecodingOptions(max_new_tokens=30)
    answers = [GenerationState(prompt, decoding) for prompt in prompts]
    batch = ContinuousBatch(model)
    for answer in answers:
        batch.add(answer)
        batch.prefill()
        batch.decode_step()
    gone = next(row for row in batch.running if row is not batch.running[-1])
    batch.abort(gone)
    written_together(batch, [])
    for answer, prompt in zip(answers, prompts, strict=True):
        if answer is not gone:
            assert answer.token_ids == alone(model, prompt, decoding)


def test_a_known_prefix_of_a_video_is_not_read_again(model, videos, monkeypatch):
    first, second = Prompt([1, 5, *[IMAGE] * 8, 9, 20, 21], videos[0]), Prompt([1, 5, *[IMAGE] * 8, 9, 30], videos[0])
    batch = ContinuousBatch(model, prefixes=PrefixCache(max_bytes=1 << 20))
    written_together(batch, [GenerationState(first, decoding_of(0))])
    answer = GenerationState(second, decoding_of(1))
    batch.add(answer)
    assert batch._cache.get_seq_length() == 11
    written_together(batch, [])
    assert answer.token_ids == alone(model, second, decoding_of(1))


A_POSITION = 2 * 2 * 2 * 16 * 4  # bytes: keys and values, layers, heads, head size, float32


def test_a_batch_keeps_to_its_memory_limit(model, videos):
    prompt = prompts_about(videos, 1)[0]
    limit = 2 * 256 * A_POSITION  # two rows of 256 positions, the growth step of the cache
    batch = ContinuousBatch(model, max_rows=16, max_bytes=limit)
    for _ in range(2):
        one_more = GenerationState(prompt, DecodingOptions(max_new_tokens=100))
        assert batch.has_room(one_more)
        batch.add(one_more)
        batch.prefill()
        batch.decode_step()
        assert batch._slots.num_bytes <= limit
    assert not batch.has_room(GenerationState(prompt, DecodingOptions(max_new_tokens=100)))


def test_preempted_sequences_keep_to_the_memory_limit(model, videos):
    batch = ContinuousBatch(model, max_rows=4, max_bytes=25 * A_POSITION)
    answers = [GenerationState(prompt, DecodingOptions(max_new_tokens=60)) for prompt in prompts_about(videos[:1], 2)]
    batch.add(answers[0])
    batch.prefill()
    assert batch.can_preempt(answers[0])
    batch.preempt(answers[0])
    batch.add(answers[1])
    batch.prefill()
    assert not batch.can_preempt(answers[1])
    batch.abort(answers[0])
    assert batch.can_preempt(answers[1])


def test_a_grammar_error_ends_only_its_own_sequence(model, videos):
    class TooLargeGrammar:
        is_finished = False

        def most_likely_token(self, _scores, _tokens_left):
            raise ValueError("too large")

    first, second = (GenerationState(prompt, DecodingOptions(max_new_tokens=9)) for prompt in prompts_about(videos, 2))
    second.constraint = TooLargeGrammar()  # type: ignore[assignment]
    batch = ContinuousBatch(model)
    written_together(batch, [first, second])
    assert str(second.error) == "too large"
    assert first.error is None
    assert first.token_ids == alone(model, first.prompt, first.decoding)


def test_a_sequence_above_the_limit_runs_alone(model, videos):
    prompt = prompts_about(videos, 1)[0]
    assert ContinuousBatch(model, max_bytes=1).has_room(GenerationState(prompt, DecodingOptions(max_new_tokens=100)))
