"""Answers of random tokens in every form, as in `perf/forms.py`, and what the number filters of JSON allow."""

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perf.forms import BUDGETS, DURATIONS, draw, find_fault, json_compiler

from timechat.answers.forms import FORMS
from timechat.answers.grammar import AnswerGrammar
from timechat.answers.json_grammars import events_grammar, moments_grammar, spans_grammar, tags_grammar
from timechat.answers.prompts import FormName
from timechat.model.generation.grammar_state import GrammarCompiler


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return json_compiler()


@settings(max_examples=250)
@given(
    name=st.sampled_from(get_args(FormName)),
    duration=st.sampled_from(DURATIONS),
    budget=st.integers(0, 9),
    seed=st.integers(0, 10**6),
    end_bonus=st.sampled_from([-50.0, 0.0, 5.0]),
    mark_bonus=st.sampled_from([0.0, 6.0]),
)
def test_random_answers_are_valid_ordered_and_closed(compiler, name, duration, budget, seed, end_bonus, mark_bonus):
    budgets = BUDGETS[name]
    text = draw(compiler, FORMS[name](duration), budgets[budget % len(budgets)], seed, end_bonus, mark_bonus)
    assert find_fault(text, name, duration) is None, text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "not closed"),
        ("[[1, 2", "not the form for servers"),
        ("[[1, 2]]", None),
        ("[]", None),
        ("[[3, 9], [1, 2]]", "out of order"),
        ("[[1, 1]]", "an event without a length"),
        ("[[1, 3], [2, 4]]", "spans overlap"),
        ("[[1, 99]]", "notes: ('1 event past the end of the video cut there',)"),
    ],
)
def test_faults_of_answers_are_found(text, fault):
    assert find_fault(text, "json_spans", 10.0) == fault


def written(compiler: GrammarCompiler, grammar: AnswerGrammar, text: str) -> bool:
    """Whether a tokenized text can be written to its end, with room left."""
    state, ids = compiler.state(grammar), compiler._tokenizer(text).input_ids
    for i, token in enumerate([*ids, compiler.eos_token_ids[0]]):
        if not state.allowed_tokens(500 - i)[token]:
            return False
        state.accept_token(token)
    return True


TENTHS = st.lists(st.integers(0, 600), min_size=2, max_size=8, unique=True).map(sorted)
CAPTION = st.text("ab é狗,.:;'()[]-0123456789", max_size=20).map(lambda text: f"A{text}")


@settings(max_examples=40)
@given(TENTHS, CAPTION)
def test_ordered_json_answers_can_be_written(compiler, tenths, caption):
    times = [tenth / 10 for tenth in tenths]
    pairs = [list(pair) for pair in zip(times[::2], times[1::2], strict=False)]
    assert written(compiler, spans_grammar(60.0), json.dumps(pairs))
    listed = [{"start": a, "end": b, "caption": f"{caption}{i}"} for i, (a, b) in enumerate(pairs)]
    assert written(compiler, events_grammar(60.0), json.dumps(listed, ensure_ascii=False))
    moments = [{"time": time, "score": 1 + time % 4.0 // 0.1 / 10} for time in times]
    assert written(compiler, moments_grammar(60.0), json.dumps(moments))


@pytest.mark.parametrize("text", ["[[2, 1]]", "[[1, 2], [1.5, 3]]", "[[1, 1]]", "[[1, 61]]", "[[59, 60], [60, 60]]"])
def test_spans_without_order_cannot_be_written(compiler, text):
    assert not written(compiler, spans_grammar(60.0), text)


def test_lists_end_at_their_limits():
    spans = "[" + ", ".join(f"[{i}, {i + 1}]" for i in range(64))
    allows = spans_grammar(600.0).allows
    assert allows(spans, 500)
    assert allows(spans + "]", 500)
    assert not allows(spans + ",", 500)
    moments = "[" + ", ".join(f'{{"time": {i}, "score": 1}}' for i in range(30))
    allows = moments_grammar(600.0).allows
    assert allows(moments, 500)
    assert not allows(moments + ",", 500)
    assert not allows(moments.replace('"time": 29', '"time": 28'), 500)


def test_an_item_begins_only_with_room_for_its_end():
    for make, head in ((spans_grammar, "[["), (events_grammar, "[{"), (moments_grammar, "[{")):
        allows = make(600.0).allows
        room = next(left for left in range(200) if allows(head, left))
        assert 20 < room < 70
        assert all(allows(head, left) for left in range(room, 200))
        assert allows("[", 3)
        assert allows("[]", 1)


def test_a_repeated_event_of_json_moves_on():
    allows = events_grammar(60.0).allows
    again = '{"start": 1, "end": 2, "caption": "A"}'
    assert allows(f'[{again}, {{"start": 1', 200)
    assert allows(f'[{again}, {again}, {{"start": 2.1', 200)
    assert not allows(f'[{again}, {again}, {{"start": 2.0', 200)


def test_tags_hold_one_span_in_order():
    allows = tags_grammar(20.0).allows
    assert allows("<answer>12.5 to 17.8</answer>", 0)
    assert not allows("<answer>12.5 to 12.5</", 9)
    assert not allows("<answer>12.5 to 21", 9)


def test_words_of_json_captions_are_not_checked_one_by_one(compiler):
    """The first letter of a caption may be any of a large vocabulary."""
    grammar = events_grammar(60.0)
    calls = []
    counted = AnswerGrammar(grammar.grammar, lambda *a: calls.append(a) or grammar.allows(*a), grammar.captions)
    state = compiler.state(counted)
    for token in compiler._tokenizer('[{"start": 1.0, "end": 2.0, "caption": "').input_ids:
        state.accept_token(token)
    allowed = state.allowed_tokens(100)
    assert len(calls) <= np.count_nonzero(compiler.tokens_with('"')) < np.count_nonzero(allowed)
