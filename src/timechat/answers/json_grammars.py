"""Grammars of the forms of other models: lists in JSON, `<answer>` tags, and the sentence of TimeLens.

All are in two parts as in `grammar`: the words, and the numbers. An item of a list begins only while the tokens left
are enough for all characters that it needs, so that every list is closed even if each token writes one character.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from timechat.answers.grammar import (
    MAX_EVENTS,
    MAX_MOMENTS,
    NUMBER,
    TIME,
    TOKENS_TO_END,
    AnswerGrammar,
    CaptionMarks,
    allows_pair,
    is_prefix_of_valid,
    last_tenth,
    next_start,
    shortest_event,
    tenths_of,
)
from timechat.answers.prompts import NOT_FOUND_ANSWER


def spans_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of all spans of a query, `[[1.0, 2.5], [7, 9]]`; each starts where the last one ended."""
    return AnswerGrammar(_SPANS.grammar, partial(allows_items, form="spans", last=last_tenth(duration)))


def events_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of events with captions as a JSON list; no event starts before the one in front of it."""
    allows = partial(allows_items, form="events", last=last_tenth(duration))
    return AnswerGrammar(_EVENTS.grammar, allows, CaptionMarks('"caption": "', "}", '"'))


def moments_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of highlights as a JSON list, each later than the one in front of it."""
    return AnswerGrammar(_MOMENTS.grammar, partial(allows_items, form="moments", last=last_tenth(duration)))


def sentence_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of the sentence of TimeLens, or of the sentence for a query that does not happen."""
    return AnswerGrammar(_SENTENCE, partial(allows_one_span, last=last_tenth(duration)))


def tags_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of the span of Time-R1, `<answer>12.5 to 17.8</answer>`."""
    return AnswerGrammar(_TAGS, partial(allows_one_span, last=last_tenth(duration)))


# ---------------------------------------------------------------------------------------------------- grammars

_CAPTION = r'\p{L}[^"\\{}<>\p{C}\p{Zl}\p{Zp}]*'  # no marks of JSON, and no tags, which mark thoughts and answers
_HEAD = re.compile(
    rf"[^0-9]*(?P<first>{NUMBER})(?P<join>[^0-9]+)?(?P<last>{NUMBER})?(?P<rest>.*)", re.DOTALL
)  # every text without digits may stand between two times: the grammar knows the right one


_ANSWER = "start: ANSWER\nANSWER: / ?({})/\n"
_LIST = _ANSWER.format(r"\[({0}(, {0})*)?\]")


def _next_span(found: list[re.Match[str]]) -> int:
    start, end = tenths_of(found[-1][1]), tenths_of(found[-1][2])
    return max(end, start + 1)


def _next_event(found: list[re.Match[str]]) -> int:
    return next_start([(tenths_of(item[1]), tenths_of(item[2]), item[3]) for item in found])[1]


def _next_moment(found: list[re.Match[str]]) -> int:
    return tenths_of(found[-1][1]) + 1


@dataclass(frozen=True)
class _ListForm:
    """A list of JSON items with times.

    Attributes:
        grammar: Grammar of the words.
        item: Pattern of a whole item, with a group for each time and for the caption.
        closing: Sign that ends an item.
        num_times: Number of times of an item: 2 for a span, 1 for a moment.
        num_signs: Number of characters of the shortest item without its times.
        max_items: Maximum number of items.
        next_start: Function from all whole items, at least one, to the earliest start of the next, in tenths.
    """

    grammar: str
    item: re.Pattern[str]
    closing: str
    num_times: int
    num_signs: int
    max_items: int
    next_start: Callable[[list[re.Match[str]]], int]


_SPANS = _ListForm(
    _LIST.format(rf"\[{TIME}, {TIME}\]"),
    re.compile(rf"\[({NUMBER}), ({NUMBER})\]"),
    "]",
    2,
    len("[[, ]"),
    MAX_EVENTS,
    _next_span,
)
_EVENTS = _ListForm(
    _LIST.format(rf'\{{"start": {TIME}, "end": {TIME}, "caption": "{_CAPTION}"\}}'),
    re.compile(rf'\{{"start": ({NUMBER}), "end": ({NUMBER}), "caption": "([^"]*)"\}}'),
    "}",
    2,
    len('[{"start": , "end": , "caption": ""}'),
    MAX_EVENTS,
    _next_event,
)
_MOMENTS = _ListForm(
    _LIST.format(rf'\{{"time": {TIME}, "score": ([1-4](\.[0-9])?|5(\.0)?)\}}'),
    re.compile(rf'\{{"time": ({NUMBER}), "score": {NUMBER}\}}'),
    "}",
    1,
    len('[{"time": , "score": 1.0}'),
    MAX_MOMENTS,
    _next_moment,
)
_ListName = Literal["spans", "events", "moments"]
_LISTS: dict[_ListName, _ListForm] = {"spans": _SPANS, "events": _EVENTS, "moments": _MOMENTS}
_SENTENCE = _ANSWER.format(rf"{re.escape(NOT_FOUND_ANSWER)}|The event happens in {TIME} - {TIME} seconds\.?")
_TAGS = _ANSWER.format(rf"<answer>{TIME} to {TIME}<\/answer>")


# ----------------------------------------------------------------------------------------------------- numbers


def allows_one_span(text: str, tokens_left: int, *, last: int) -> bool:  # noqa: ARG001 - it is always short enough
    """Whether the numbers of an answer with one span can be so; `last` is the last time in tenths of a second."""
    return allows_pair(_HEAD.match(text), 0, last)


def allows_items(text: str, tokens_left: int, *, form: _ListName, last: int) -> bool:
    """Whether the numbers of a list can be so, and whether the tokens left are enough for the item that is begun."""
    return _allows_items(text, tokens_left, _LISTS[form], last)


def _allows_items(text: str, tokens_left: int, form: _ListForm, last: int) -> bool:
    if text in ("", "[", "[]"):
        return True
    done, closing, item = text.rpartition(form.closing)
    count, low = _after(done + closing, form, last) if closing else (0, 0)
    if closing and not item.startswith(","):  # a whole item, or the end of the list
        return low is not None
    if low is None:
        return False
    shortest = shortest_event(last) if form.num_times == 2 else 0
    found = _HEAD.match(item)
    if not (found and found["rest"]):  # the item has no caption yet, and each token has written one character or more
        needed = form.num_signs + form.num_times * len(f"{last / 10:.1f}") + TOKENS_TO_END
        if count >= form.max_items or low > last - shortest or tokens_left + len(item) < needed:
            return False
    if form.num_times == 2:
        return allows_pair(found, low, last)
    if found is None:
        return True
    if found["join"]:
        return low <= tenths_of(found["first"]) <= last
    return is_prefix_of_valid(found["first"], low, last)


@lru_cache(maxsize=4096)
def _after(done: str, form: _ListForm, last: int) -> tuple[int, int | None]:
    """Number of whole items, and the earliest start of the next item in tenths of a second; None if one is wrong."""
    found = list(form.item.finditer(done))
    if not found:
        return 0, 0
    *earlier, item = found
    low = _after(done[: item.start()], form, last)[1] if earlier else 0
    start, end = tenths_of(item[1]), tenths_of(item[form.num_times])
    shortest = shortest_event(last) if form.num_times == 2 else 0
    is_right = low is not None and low <= start and start + shortest <= end <= last
    return len(found), form.next_start(found) if is_right else None
