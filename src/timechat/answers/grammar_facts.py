"""Answer grammars as JSON, so that another process can make the same grammar without a pickle."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timechat.answers.grammar import AnswerGrammar, CaptionMarks, allows_events, allows_moments, allows_span
from timechat.answers.json_grammars import allows_items, allows_one_span

_NUMBER_FILTERS: dict[str, Callable[..., bool]] = {
    function.__name__: function
    for function in (allows_span, allows_events, allows_moments, allows_items, allows_one_span)
}


def grammar_facts(grammar: AnswerGrammar) -> dict[str, Any]:
    """Return a grammar as a value that JSON can write, see `grammar_from_facts`.

    Raises:
        TypeError: The filter of its numbers is none of this package.
    """
    allows, marks = grammar.allows, grammar.captions
    numbers = None
    if allows is not None:
        if not isinstance(allows, partial) or allows.func not in _NUMBER_FILTERS.values():
            raise TypeError(f"the number filter must be a partial of {', '.join(_NUMBER_FILTERS)}, got {allows!r}")
        numbers = {"filter": allows.func.__name__, **allows.keywords}
    return {
        "grammar": grammar.grammar,
        "numbers": numbers,
        "captions": None if marks is None else [marks.opening, marks.gap, marks.closing],
        "is_json": grammar.is_json,
    }


def grammar_from_facts(facts: Mapping[str, Any]) -> AnswerGrammar:
    """Return the grammar of a value of `grammar_facts`.

    Raises:
        ValueError: The filter of its numbers is not known.
    """
    allows = None
    if facts["numbers"] is not None:
        options = dict(facts["numbers"])
        name = options.pop("filter")
        if name not in _NUMBER_FILTERS:
            raise ValueError(f"the number filter must be one of {', '.join(_NUMBER_FILTERS)}, got {name!r}")
        allows = partial(_NUMBER_FILTERS[name], **options)
    marks = None if facts["captions"] is None else CaptionMarks(*facts["captions"])
    return AnswerGrammar(facts["grammar"], allows, marks, facts["is_json"])
