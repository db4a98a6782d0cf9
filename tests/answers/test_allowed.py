"""What a form allows, from the alternatives that a server lists."""

import math

import pytest

from timechat.answers.allowed import allowed_logprob, with_allowed
from timechat.answers.forms import grounding_form, spans_form
from timechat.answers.token_evidence import Token


def logs(**probabilities):
    return [(text, math.log(value)) for text, value in probabilities.items()]


def test_allowed_alternatives_are_summed_with_the_chosen_token():
    listed = logs(Yes=0.6, No=0.2, Maybe=0.1)
    chosen = ("No", math.log(0.2))
    allowed = allowed_logprob(listed, chosen, lambda text: text != "Yes")
    assert math.exp(allowed) == pytest.approx(0.3)


def test_a_chosen_token_that_is_not_listed_counts():
    allowed = allowed_logprob(logs(Yes=0.6), ("No", math.log(0.01)), lambda _: False)
    assert allowed == pytest.approx(math.log(0.01))


def test_without_alternatives_nothing_is_known():
    assert allowed_logprob([], ("No", -1.0), lambda _: True) is None


def test_tiny_probabilities_do_not_vanish():
    assert allowed_logprob([("Yes", -9999.0)], ("No", -9999.0), lambda _: True) == pytest.approx(-9999 + math.log(2))


def test_a_sum_of_rounded_probabilities_is_at_most_one():
    assert allowed_logprob([("a", -0.1), ("b", -0.5)], ("a", -0.1), lambda _: True) == 0.0


def test_the_choice_of_none_is_weighed_against_a_span():
    """`[]` against `[[`, where the model would rather write a sentence."""
    tokens = (Token(0, 2, math.log(0.03)), Token(2, 2, math.log(0.5)))
    listed = [
        [("The", math.log(0.9)), ("[]", math.log(0.03)), ("[[", math.log(0.01))],
        [("<|im_end|>", math.log(0.5)), (" ", math.log(0.4))],
    ]
    first, end = with_allowed("[]", tokens, listed, spans_form(20.0))
    assert math.exp(first.form_logprob) == pytest.approx(0.75)
    assert end.form_logprob == pytest.approx(0.0)


def test_times_past_the_end_are_not_allowed():
    text = "[[1.0, 2"
    tokens = (Token(0, 7, -9.0), Token(7, 8, math.log(0.2)))
    listed = [[("[[1.0, ", -9.0)], [("9", math.log(0.5)), ("2", math.log(0.2)), ("5", math.log(0.2)), ("]", -1.0)]]
    *_, last = with_allowed(text, tokens, listed, spans_form(7.0))
    assert math.exp(last.allowed) == pytest.approx(0.4)


def test_a_blank_before_the_answer_is_the_same_token():
    tokens = (Token(0, 3, math.log(0.4)),)
    listed = [[(" The", math.log(0.4)), (" I", math.log(0.6))]]
    (first,) = with_allowed("The", tokens, listed, grounding_form(20.0))
    assert first.form_logprob == pytest.approx(0.0)


def test_tokens_of_another_form_stay_as_they_are():
    tokens = (Token(0, 2, -1.0), Token(2, 4, -1.0), Token(4, 5, -1.0))
    listed = [[("No", -1.0)], [("!!", -1.0)], [("?", -1.0)]]
    first, *rest = with_allowed("No!!?", tokens, listed, spans_form(20.0))
    assert first.allowed == -1.0
    assert rest == list(tokens[1:])


def test_a_kept_schema_is_an_object():
    tokens = (Token(0, 1, math.log(0.1)),)
    listed = [[("[", math.log(0.8)), ("{", math.log(0.1))]]
    (kept,) = with_allowed("{", tokens, listed, spans_form(20.0), as_json=True)
    assert kept.form_logprob == pytest.approx(0.0)
