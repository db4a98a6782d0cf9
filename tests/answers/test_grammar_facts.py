"""Grammars that cross processes as JSON."""

import json
from functools import partial

import pytest

from timechat.answers.forms import FORMS, json_form
from timechat.answers.grammar import AnswerGrammar
from timechat.answers.grammar_facts import grammar_facts, grammar_from_facts

BEGINNINGS = ("", "4", "3.", "[[1.0, 2", '[{"start": 9', "There are 2 highlight moments in the 3.0, 2")


@pytest.mark.parametrize("name", FORMS)
def test_every_form_crosses_processes_as_json(name: str) -> None:
    grammar = FORMS[name](4.2).grammar  # type: ignore[index]
    assert grammar is not None
    again = grammar_from_facts(json.loads(json.dumps(grammar_facts(grammar))))
    assert (again.grammar, again.captions, again.is_json) == (grammar.grammar, grammar.captions, False)
    assert isinstance(grammar.allows, partial)
    assert isinstance(again.allows, partial)
    assert (again.allows.func, again.allows.keywords) == (grammar.allows.func, grammar.allows.keywords)
    assert [again.allows(text, 50) for text in BEGINNINGS] == [grammar.allows(text, 50) for text in BEGINNINGS]


def test_a_json_schema_crosses_processes_too() -> None:
    grammar = json_form('{"type": "object"}').grammar
    assert grammar is not None
    assert grammar_from_facts(json.loads(json.dumps(grammar_facts(grammar)))) == grammar


def test_an_unknown_number_filter_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a partial of allows_span"):
        grammar_facts(AnswerGrammar("start: /a/", lambda text, tokens_left: True))  # noqa: ARG005
    facts = {"grammar": "start: /a/", "numbers": {"filter": "eval"}, "captions": None, "is_json": False}
    with pytest.raises(ValueError, match="got 'eval'"):
        grammar_from_facts(facts)
