"""Constrained decoding: an answer can be parsed, whatever the scores of the model are."""

import re
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.tiny import made_frames
from timechat import TimeChat
from timechat.answers.events import Event, Task
from timechat.answers.forms import answer_form
from timechat.answers.grammar import MAX_EVENTS, NO_MOMENTS, NO_SPEECH, captions_grammar
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import TASKS, format_events, parse_events
from timechat.model.generation.grammar_state import GrammarCompiler
from timechat.pipeline import DecodingOptions, Request

SHAPED = [task for task in get_args(Task) if task not in ("ask", "summary")]
HEAD = re.compile(r"[\d.]+ - [\d.]+ seconds[,.]")
DENIALS = (NOT_FOUND_ANSWER, NO_MOMENTS, NO_SPEECH)


@pytest.fixture(scope="module")
def nano() -> TimeChat:
    return TimeChat.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def llama(converted) -> TimeChat:
    """A small vocabulary in the original's format, in which every digit is a token."""
    return TimeChat.from_pretrained(converted, device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=["nano", "llama"])
def compiler(request, nano, llama) -> GrammarCompiler:
    return {"nano": nano, "llama": llama}[request.param].backbone.executor.grammar_compiler


def draw(compiler: GrammarCompiler, task: Task, duration: float, budget: int, seed: int, end_bonus: float) -> str:
    """Generate an answer from random scores, as `generate` does; `end_bonus` is added to the score of the end."""
    grammar = answer_form(task, duration=duration).grammar
    assert grammar is not None
    processor = compiler.logits_processor([grammar], budget)
    by_score = compiler.state(grammar)
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    for _ in range(budget):
        scores = torch.randn(1, compiler.vocab_size, generator=generator) * 3
        scores[0, list(compiler.eos_token_ids)] += end_bonus
        masked = processor(torch.tensor([ids], dtype=torch.long).view(1, -1), scores.clone())
        stays = masked[0] > float("-inf")
        assert torch.equal(masked[0][stays], scores[0][stays])
        likeliest = by_score.most_likely_token(scores[0].numpy(), budget - len(ids))
        ids.append(int(masked.argmax()))
        assert likeliest == ids[-1]
        by_score.accept_token(likeliest)
        if ids[-1] in compiler.eos_token_ids:
            break
    assert ids[-1] in compiler.eos_token_ids, "the answer was cut off"
    return compiler.engine.decode_bytes(ids[:-1]).decode("utf-8", "replace").strip()


@settings(max_examples=40)
@given(
    task=st.sampled_from(SHAPED),
    duration=st.sampled_from([0.0, 0.3, 1.0, 7.25, 31.1, 60.0, 599.9, 18000.0]),
    budget=st.sampled_from([48, 96, 200]),
    seed=st.integers(0, 10**6),
    end_bonus=st.sampled_from([-50.0, 0.0, 5.0]),
)
def test_every_constrained_answer_can_be_parsed(compiler, task, duration, budget, seed, end_bonus):
    text = draw(compiler, task, duration, budget, seed, end_bonus)
    parsed = parse_events(text, task=task, duration=duration)
    if text in DENIALS:
        return
    assert parsed.notes == (), text
    events = parsed.events
    assert events
    assert len(events) <= MAX_EVENTS
    assert [e.start for e in events] == sorted(e.start for e in events)
    assert all(0 <= e.start <= e.end <= duration for e in events)
    if task == "highlights":
        assert all(0 <= e.saliency < 6 for e in events)
        assert len({e.start for e in events}) == len(events)
        if text.startswith("There are"):
            assert int(text.split()[2]) == len(events)
    else:
        assert len(HEAD.findall(text)) == len(events)
        assert all(e.start < e.end for e in events) or duration < 0.2
        assert all(e.caption for e in events) or task == "grounding"


def test_limits_hold_for_tokens_with_separator_and_time():
    grammar = answer_form("dense_caption", duration=600.0).grammar
    assert grammar is not None
    assert grammar.allows is not None
    full = "".join(f"{start}.0 - {start + 1}.0 seconds, A.  " for start in range(1, MAX_EVENTS + 1))
    one_less = full.removesuffix(f"{MAX_EVENTS}.0 - {MAX_EVENTS + 1}.0 seconds, A.  ")
    for begun in ("", "70", "70.0"):
        assert grammar.allows(one_less + begun, 500)
        assert not grammar.allows(full + begun, 500)  # one event too many
        assert not grammar.allows(one_less + begun, 3)  # too few tokens left to end it


def test_no_event_begins_without_time_for_it():
    allows = captions_grammar(10.0).allows
    assert allows is not None
    repeated = "0.0 - 5.0 seconds, A.  5.0 - {} seconds, A.  "  # the next event begins after the repeated one
    assert allows(repeated.format("9.8"), 100)
    assert not allows(repeated.format("9.9"), 100)


def test_an_answer_of_unusual_characters_ends(nano):
    """With logits that prefer spaces, unusual characters and full stops, and never the end."""
    compiler = nano.backbone.executor.grammar_compiler
    odd = np.array([not text.isalnum() or not text.isascii() for text in compiler.texts])
    likes = torch.from_numpy(odd.astype(np.float32)) * 6
    for seed in range(40):
        budget = (48, 96, 160)[seed % 3]
        processor = compiler.logits_processor([answer_form("dense_caption", duration=60.0).grammar], budget)
        generator = torch.Generator().manual_seed(seed)
        ids: list[int] = []
        while len(ids) < budget and (not ids or ids[-1] not in compiler.eos_token_ids):
            scores = torch.randn(1, compiler.vocab_size, generator=generator) * 3 + likes
            scores[0, list(compiler.eos_token_ids)] = -50
            ids.append(int(processor(torch.tensor([ids], dtype=torch.long).view(1, -1), scores).argmax()))
        text = nano.processor.decode(ids)
        assert ids[-1] in compiler.eos_token_ids, text
        parsed = parse_events(text, task="dense_caption", duration=60.0)
        assert parsed.notes == (), text
        assert all(event.caption for event in parsed.events), text


def test_a_list_of_moments_leaves_room_for_the_scores(compiler):
    """A model that would list times without end still writes the scores."""
    tokenizer = compiler._tokenizer
    head = tokenizer(" The highlight timestamps are in the", add_special_tokens=False).input_ids
    comma = tokenizer(",", add_special_tokens=False).input_ids[-1]
    for budget in (80, 120, 200):
        processor = compiler.logits_processor([answer_form("highlights", duration=600.0).grammar], budget)
        ids: list[int] = []
        generator = torch.Generator().manual_seed(budget)
        while len(ids) < budget and (not ids or ids[-1] not in compiler.eos_token_ids):
            scores = torch.randn(1, compiler.vocab_size, generator=generator)
            scores[0, comma] += 20
            scores[0, head[len(ids)] if len(ids) < len(head) else comma] += 50
            ids.append(int(processor(torch.tensor([ids], dtype=torch.long).view(1, -1), scores).argmax()))
        assert ids[-1] in compiler.eos_token_ids
        text = compiler.engine.decode_bytes(ids[:-1]).decode().strip()
        parsed = parse_events(text, task="highlights", duration=600.0)
        assert parsed.notes == (), text
        assert len(parsed.events) > 1


def test_an_event_is_not_repeated_without_end(nano):
    """A model that would repeat one event must continue with later times."""
    compiler = nano.backbone.executor.grammar_compiler
    wanted = nano.processor.tokenizer(" 1.0 - 2.0 seconds, The ring spins.", add_special_tokens=False).input_ids
    gap = nano.processor.tokenizer.convert_tokens_to_ids("Ġ")
    processor = compiler.logits_processor([answer_form("dense_caption", duration=60.0).grammar], 400)
    ids: list[int] = []
    while len(ids) < 400 and (not ids or ids[-1] not in compiler.eos_token_ids):
        scores = torch.zeros(1, compiler.vocab_size)
        scores[0, wanted] = 1.0
        scores[0, gap] = 2.0
        scores[0, wanted[len(ids) % (len(wanted) + 1) - 1]] = 3.0
        scores[0, list(compiler.eos_token_ids)] = -9.0
        ids.append(int(processor(torch.tensor([ids], dtype=torch.long).view(1, -1), scores).argmax()))
    text = nano.processor.decode(ids)
    events = parse_events(text, task="dense_caption", duration=60.0).events
    run = 1
    for earlier, later in pairwise(events):
        run = run + 1 if later.caption == earlier.caption and later.start <= earlier.end else 1
        assert run <= 2, text


spans = st.lists(st.integers(0, 580), min_size=2, max_size=12, unique=True).map(sorted)
words = st.sampled_from(
    ["The ring spins.", "A man cuts 3 onions.", "It is over! Nobody moves.", "The well-known star leaves."]
)


@settings(max_examples=30)
@given(spans, words, st.sampled_from(["dense_caption", "steps", "transcribe", "grounding", "highlights"]))
def test_training_answers_are_allowed_unchanged(compiler, tenths, caption, task):
    times = [tenth / 10 for tenth in tenths]
    if task == "highlights":
        events = [Event(time, time, saliency=i % 5 + 0.5) for i, time in enumerate(times)]
    else:
        pairs = list(pairwise(times))[:: 1 if task != "grounding" else 99]
        events = [Event(a, b, caption if i % 2 else "Something else happens.") for i, (a, b) in enumerate(pairs)]
    text = format_events(events, task)
    ids = compiler._tokenizer(f" {text}", add_special_tokens=False).input_ids
    if compiler._tokenizer.unk_token_id in ids:
        return  # the small vocabulary cannot write it
    processor = compiler.logits_processor([answer_form(task, duration=60.0).grammar], 600)
    for i, token in enumerate([*ids, compiler.eos_token_ids[0]]):
        scores = torch.zeros(1, compiler.vocab_size)
        masked = processor(torch.tensor([ids[:i]], dtype=torch.long).view(1, -1), scores)
        assert masked[0, token] == 0, (
            text,
            compiler.engine.decode_str(ids[:i]),
            compiler.engine.decode_str([token]),
        )


@pytest.mark.parametrize(
    "denial", [("grounding", NOT_FOUND_ANSWER), ("highlights", NO_MOMENTS), ("transcribe", NO_SPEECH)]
)
def test_an_answer_may_say_that_nothing_was_found(nano, denial):
    task, text = denial
    compiler = nano.backbone.executor.grammar_compiler
    ids = nano.processor.tokenizer(f" {text}", add_special_tokens=False).input_ids
    processor = compiler.logits_processor([answer_form(task, duration=60.0).grammar], 100)
    for i, token in enumerate([*ids, compiler.eos_token_ids[0]]):
        masked = processor(torch.tensor([ids[:i]], dtype=torch.long).view(1, -1), torch.zeros(1, compiler.vocab_size))
        assert masked[0, token] == 0


def test_rows_of_a_batch_are_constrained_independently(nano):
    compiler = nano.backbone.executor.grammar_compiler
    tasks: list[Task] = ["grounding", "dense_caption", "highlights"]
    grammars = [answer_form(task, duration=30.0).grammar for task in tasks]
    together = compiler.logits_processor([*grammars, None], 60)
    alone = [compiler.logits_processor([grammar], 60) for grammar in grammars]
    generator = torch.Generator().manual_seed(3)
    ids = torch.zeros(4, 0, dtype=torch.long)
    for _ in range(25):
        scores = torch.randn(4, compiler.vocab_size, generator=generator)
        masked = together(ids, scores.clone())
        for i, processor in enumerate(alone):
            assert torch.equal(masked[i], processor(ids[i : i + 1], scores[i : i + 1].clone())[0])
        assert torch.equal(masked[3], scores[3])
        ids = torch.cat([ids, masked.argmax(-1, keepdim=True)], dim=1)


def test_a_forbidden_token_is_not_chosen_when_all_scores_are_inf(compiler):
    grammar = answer_form("grounding", duration=30.0).grammar
    scores = np.full(compiler.vocab_size, -np.inf, np.float32)
    token = compiler.state(grammar).most_likely_token(scores, 64)
    assert compiler.state(grammar).allowed_tokens(64)[token]
    assert not compiler.state(grammar).allowed_tokens(64)[0]  # token 0 is the argmax of equal scores


def test_a_valid_answer_is_the_same_without_constraint(nano):
    frames = made_frames(20, size=96, seconds=10.0)
    for task, words in [("grounding", "the blue star blinks"), ("highlights", "the blue star blinks")]:
        free = nano.run(Request(task, words, decoding=DecodingOptions(is_free=True)), frames)
        shaped = nano.run(Request(task, words), frames)
        (outside_domain,) = shaped.notes  # the frames are noise
        if free.notes == (outside_domain,):
            assert shaped.text == free.text


def test_a_model_with_random_weights_gives_valid_answers(llama):
    for task in SHAPED:
        query = None if TASKS[task].query == "none" else "a light"
        request = Request(task, query, decoding=DecodingOptions(max_new_tokens=96))
        answer = llama.run(request, made_frames(6, size=56, seconds=12.0))
        assert "no event could be read from the answer" not in answer.notes
        assert not any("dropped" in note or "cut there" in note for note in answer.notes)
    request = Request("dense_caption", decoding=DecodingOptions(max_new_tokens=24, is_free=True))
    free = llama.run(request, made_frames(6, size=56))
    assert "no event could be read from the answer" in free.notes


def test_tasks_with_free_text_have_no_grammar():
    assert answer_form("ask", duration=10) is None
    assert answer_form("summary", duration=10) is None
