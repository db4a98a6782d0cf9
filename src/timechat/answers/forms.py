r"""Forms of answers, made for the duration of a video.

A form has a grammar for local decoding, and a regular expression and a JSON schema for servers. A server checks the
words only. So the expressions allow times from 0 to the duration in tenths of a second and no others; the order of two
times cannot be expressed, and the parsers put the ends of a span in order.

All expressions are in the part of the syntax that engines of structured outputs share: groups, classes, counts, and
literal characters; no look-around, no `\d`, no `\w`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from timechat.answers.events import Task, check_duration
from timechat.answers.grammar import (
    MAX_CAPTION,
    MAX_EVENTS,
    MAX_MOMENTS,
    NO_MOMENTS,
    NO_SPEECH,
    AnswerGrammar,
    captions_grammar,
    grounding_grammar,
    highlights_grammar,
    json_grammar,
    span_grammar,
    speech_grammar,
)
from timechat.answers.json_grammars import (
    events_grammar,
    moments_grammar,
    sentence_grammar,
    spans_grammar,
    tags_grammar,
)
from timechat.answers.prompts import DEFAULT_PRESET, NOT_FOUND_ANSWER, FormName
from timechat.answers.tasks import find_preset, find_task

if TYPE_CHECKING:
    from llguidance import LLMatcher

FORM_VERSION = 1
"""Version of the forms in the cache keys of models other than TimeChat's own: raise it when a form changes."""

_LETTER = "A-Za-zÀ-ÖØ-öø-ʯͰ-ԯא-תء-يऀ-ॣぁ-ヿ一-鿿가-힣"
_SCORE = r"([0-4]\.[0-9]|5\.0)"
_RATING = r"([1-4](\.[0-9])?|5(\.0)?)"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The form of an answer, in the spellings of those who keep it: our own decoding, and servers.

    Attributes:
        regex: Regular expression of the whole answer, for servers; None if there is none.
        schema: JSON schema of the same answer, for servers; None if the answer is no JSON.
        grammar: Grammar of the same answer, for local decoding; None if it is not decoded here.
    """

    regex: str | None = None
    schema: Mapping[str, Any] | None = None
    grammar: AnswerGrammar | None = None

    def is_kept_by(self, text: str, *, as_json: bool = False) -> bool:
        """Whether a whole answer has this form.

        Args:
            text: Answer that was not cut.
            as_json: Check that the answer is JSON, and an object if the schema demands one, not the regular expression.
        """
        if not as_json:
            return self.regex is None or re.fullmatch(self.regex, text.strip()) is not None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) or self.schema is None or self.schema.get("type") != "object"

    def cursor(self, *, as_json: bool = False) -> "FormCursor | None":
        """Return a cursor at the start of an answer of this form.

        Args:
            as_json: Follow the schema, not the regular expression.

        Returns:
            None without that spelling of the form.
        """
        source = json.dumps(self.schema) if as_json and self.schema is not None else None if as_json else self.regex
        return None if source is None else FormCursor(_matcher(source, as_json).deep_copy())


class FormCursor:
    """A place in an answer, which tells the texts that may follow as far as the words of the form are concerned."""

    def __init__(self, matcher: "LLMatcher") -> None:
        """Start an answer; called by `AnswerForm.cursor`."""
        self._matcher = matcher

    def advance(self, text: str) -> bool:
        """Move behind a text; False if it is not allowed, and the cursor is of no use any more."""
        return bool(self._matcher.consume_tokens(list(text.encode())))

    def allows(self, text: str) -> bool:
        """Whether a text may follow; the answer need not be complete then."""
        pieces = list(text.encode())
        return bool(self._matcher.validate_tokens(pieces) == len(pieces))


def answer_form(
    task: Task, *, duration: float, preset: str = DEFAULT_PRESET, names_moment: bool = False
) -> AnswerForm | None:
    """Return the form of a task's answers about a video; None for free answers.

    Args:
        task: Task name.
        duration: Duration in seconds of the video, or of the window.
        preset: Name of the prompt preset that asks for the answer.
        names_moment: Whether the sentence for a query that does not happen is left out of the form `grounding`.
    """
    own = find_task(task).form
    if own is None:
        return None
    name = find_preset(preset).forms.get(task, own)
    return span_form(duration) if names_moment and name == "grounding" else FORMS[name](duration)


def json_form(schema: str) -> AnswerForm:
    """Return the form of an answer in JSON that follows a JSON schema, given as JSON text."""
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError):  # whoever keeps the form refuses it, with a reason
        value = None
    return AnswerForm(schema=value if isinstance(value, dict) else None, grammar=json_grammar(schema))


@lru_cache(maxsize=64)
def _matcher(source: str, is_json: bool) -> "LLMatcher":
    """The matcher of a regular expression or of a JSON schema at the start of a text; its tokens are bytes."""
    from llguidance import LLMatcher, LLTokenizer

    make = LLMatcher.grammar_from_json_schema if is_json else LLMatcher.grammar_from_regex
    return LLMatcher(LLTokenizer("byte"), make(source), log_level=0)


def time_regex(duration: float) -> str:
    """Return the expression of all times from 0 to a duration: seconds with at most one decimal, no leading zeros."""
    check_duration(duration)
    whole, tenth = divmod(int(duration * 10 + 1e-6), 10)
    last = f"{whole}(\\.{_digits(0, tenth)})?"
    return f"({_below(whole)}(\\.[0-9])?|{last})" if whole else f"({last})"


def grounding_form(duration: float) -> AnswerForm:
    """Return the form of one span in a sentence, or of the sentence for a query that does not happen."""
    return AnswerForm(rf"({_words(NOT_FOUND_ANSWER)}|{_span(duration)})", grammar=grounding_grammar(duration))


def span_form(duration: float) -> AnswerForm:
    """Return the form of one span in a sentence."""
    return AnswerForm(_span(duration), grammar=span_grammar(duration))


def sentence_form(duration: float) -> AnswerForm:
    """Return the form of the sentence of TimeLens, or of the sentence for a query that does not happen."""
    time = time_regex(duration)
    found = rf"The event happens in {time} - {time} seconds\.?"
    return AnswerForm(rf"({_words(NOT_FOUND_ANSWER)}|{found})", grammar=sentence_grammar(duration))


def tags_form(duration: float) -> AnswerForm:
    """Return the form of the span of Time-R1: `<answer>12.5 to 17.8</answer>`."""
    time = time_regex(duration)
    return AnswerForm(f"<answer>{time} to {time}</answer>", grammar=tags_grammar(duration))


def captions_form(duration: float, *, max_caption: int = MAX_CAPTION) -> AnswerForm:
    """Return the form of dense captions in words: `0.0 - 5.0 seconds, A man sits.`, two spaces between events.

    For servers, a caption is one sentence of letters without digits, colons and dashes, so that no part of it reads as
    a time.

    Args:
        duration: Duration in seconds.
        max_caption: Maximum number of steps of a caption; a step is a letter, with a sign before it or without.
    """
    return AnswerForm(_listed_captions(duration, max_caption), grammar=captions_grammar(duration))


def speech_form(duration: float) -> AnswerForm:
    """Return the form of transcribed speech in words: dense captions after `Transcribed speech: `, or `None.`."""
    captions = _listed_captions(duration, MAX_CAPTION)
    return AnswerForm(f"({_words(NO_SPEECH)}|Transcribed speech: {captions})", grammar=speech_grammar(duration))


def highlights_form(duration: float) -> AnswerForm:
    """Return the form of highlights in two sentences: the times, and the scores."""
    time = time_regex(duration)
    times, scores = (f"{one}(, {one}){{0,{MAX_MOMENTS - 1}}}" for one in (time, _SCORE))
    counted = f"There are [1-9][0-9]? highlight moments in the {times} second"
    listed = f"The highlight timestamps are in the {times} seconds"
    found = rf"({counted}|{listed})\. Their saliency scores are {scores}\."
    return AnswerForm(f"({_words(NO_MOMENTS)}|{found})", grammar=highlights_grammar(duration))


def spans_form(duration: float) -> AnswerForm:
    """Return the form of all spans of a query: `[[1.0, 2.5], [7, 9]]`, and `[]` for none."""
    time = time_regex(duration)
    span = rf"\[{time}, {time}\]"
    pair = {"type": "array", "items": _seconds(duration), "minItems": 2, "maxItems": 2}
    schema = _listed("spans", pair, MAX_EVENTS)
    return AnswerForm(_list_regex(span, MAX_EVENTS), schema, spans_grammar(duration))


def events_form(duration: float, *, max_caption: int = MAX_CAPTION) -> AnswerForm:
    """Return the form of events with captions as a JSON list of objects, and `[]` for none.

    Args:
        duration: Duration in seconds.
        max_caption: Maximum number of characters of a caption.
    """
    time = time_regex(duration)
    caption = rf'[{_LETTER}][^"\\<>\n\r\t]{{0,{max_caption - 1}}}'
    event = rf'\{{"start": {time}, "end": {time}, "caption": "{caption}"\}}'
    properties = {"start": _seconds(duration), "end": _seconds(duration), "caption": {"type": "string"}}
    schema = _listed("events", _object(properties), MAX_EVENTS)
    return AnswerForm(_list_regex(event, MAX_EVENTS), schema, events_grammar(duration))


def moments_form(duration: float) -> AnswerForm:
    """Return the form of highlights as a JSON list of times and scores from 1 to 5, and `[]` for none."""
    moment = rf'\{{"time": {time_regex(duration)}, "score": {_RATING}\}}'
    rating = {"type": "number", "minimum": 1, "maximum": 5, "multipleOf": 0.1}
    schema = _listed("moments", _object({"time": _seconds(duration), "score": rating}), MAX_MOMENTS)
    return AnswerForm(_list_regex(moment, MAX_MOMENTS), schema, moments_grammar(duration))


FORMS: dict[FormName, Callable[[float], AnswerForm]] = {
    "captions": captions_form,
    "speech": speech_form,
    "grounding": grounding_form,
    "highlights": highlights_form,
    "event_sentence": sentence_form,
    "answer_tags": tags_form,
    "json_spans": spans_form,
    "json_events": events_form,
    "json_moments": moments_form,
}
"""Every form by its name: a function from the duration in seconds."""


def _words(sentence: str) -> str:
    """The expression of a sentence, without a mark before its spaces, which not every engine takes."""
    return re.escape(sentence).replace("\\ ", " ")


def _span(duration: float) -> str:
    time = time_regex(duration)
    return rf"The (given query|event) happens in (the )?{time} - {time} seconds\."


def _listed_captions(duration: float, max_caption: int) -> str:
    time = time_regex(duration)
    caption = f"[{_LETTER}]((, |[ '-])?[{_LETTER}]){{0,{max_caption - 1}}}\\."
    event = f"{time} - {time} seconds, {caption}"
    return f"{event}(  {event})*"


def _list_regex(item: str, max_items: int) -> str:
    return rf"\[({item}(, {item}){{0,{max_items - 1}}})?\]"


# ------------------------------------------------------------------------------------------------- schemas


def _seconds(duration: float) -> dict[str, Any]:
    """A time; without `multipleOf`, engines let the digits of a number run on without end."""
    return {"type": "number", "minimum": 0, "maximum": int(duration * 10 + 1e-6) / 10, "multipleOf": 0.1}


def _listed(name: str, item: Mapping[str, Any], max_items: int) -> dict[str, Any]:
    """An object with one list: strict servers take no list as the whole answer."""
    return _object({name: {"type": "array", "items": item, "maxItems": max_items}})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    names = list(properties)
    return {"type": "object", "properties": dict(properties), "required": names, "additionalProperties": False}


# ------------------------------------------------------------------------------------------------- numbers


def _below(limit: int) -> str:
    """The expression of the whole numbers from 0 to `limit - 1`, without leading zeros; `limit` is at least 1."""
    digits = str(limit - 1)
    choices = ["0"] if len(digits) > 1 else []
    if len(digits) == 2:
        choices.append("[1-9]")
    elif len(digits) > 2:
        choices.append(f"[1-9][0-9]{{0,{len(digits) - 2}}}")
    for i, digit in enumerate(digits):  # the digits before are those of the limit, this one is smaller
        low, high = int(i == 0 and len(digits) > 1), int(digit) - 1
        if i == len(digits) - 1:
            high += 1  # or equal
        if high >= low:
            rest = len(digits) - 1 - i
            choices.append(digits[:i] + _digits(low, high) + ("" if not rest else "[0-9]" + f"{{{rest}}}" * (rest > 1)))
    return f"({'|'.join(choices)})" if len(choices) > 1 else choices[0]


def _digits(low: int, high: int) -> str:
    return str(low) if low == high else f"[{low}-{high}]"
