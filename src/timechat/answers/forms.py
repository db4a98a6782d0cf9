r"""Forms of answers that a server can keep: regular expressions and JSON schemas, made for the duration of a video.

A server checks the words only. So the expressions allow times from 0 to the duration in tenths of a second and no
others; the order of two times cannot be expressed, and `read_form` sorts them.

All expressions are in the part of the syntax that engines of structured outputs share: groups, classes, counts, and
literal characters; no look-around, no `\d`, no `\w`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from timechat.answers.answer_text import given_answer
from timechat.answers.events import check_duration
from timechat.answers.fields import Reading
from timechat.answers.grammar import MAX_CAPTION, MAX_EVENTS, AnswerGrammar
from timechat.answers.json_answers import read_json
from timechat.answers.parsing import Parsed, clip_events
from timechat.answers.prompts import NOT_FOUND_ANSWER

_LETTER = "A-Za-zÀ-ÖØ-öø-ʯͰ-ԯא-תء-يऀ-ॣぁ-ヿ一-鿿가-힣"
_FENCE = re.compile(r"```[a-z]*\s*(.*?)\s*(?:```|\Z)", re.DOTALL)


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
            as_json: Check that the answer is a JSON object, as the schema demands, not the regular expression.
        """
        if not as_json:
            return self.regex is None or re.fullmatch(self.regex, text.strip()) is not None
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False


def time_regex(duration: float) -> str:
    """Return the expression of all times from 0 to a duration: seconds with at most one decimal, no leading zeros."""
    check_duration(duration)
    whole, tenth = divmod(int(duration * 10 + 1e-6), 10)
    last = f"{whole}(\\.{_digits(0, tenth)})?"
    return f"({_below(whole)}(\\.[0-9])?|{last})" if whole else f"({last})"


def grounding_form(duration: float) -> AnswerForm:
    """Return the form of one span in a sentence, or of the sentence for a query that does not happen."""
    time = time_regex(duration)
    found = rf"The (given query|event) happens in (the )?{time} - {time} seconds\."
    return AnswerForm(f"({re.escape(NOT_FOUND_ANSWER)}|{found})".replace("\\ ", " "))


def captions_form(duration: float, *, max_caption: int = MAX_CAPTION) -> AnswerForm:
    """Return the form of dense captions in words: `0.0 - 5.0 seconds, A man sits.`, two spaces between events.

    A caption is one sentence of letters without digits, colons and dashes, so that no part of it reads as a time.

    Args:
        duration: Duration in seconds.
        max_caption: Maximum number of steps of a caption; a step is a letter, with a sign before it or without.
    """
    time = time_regex(duration)
    caption = f"[{_LETTER}]((, |[ '-])?[{_LETTER}]){{0,{max_caption - 1}}}\\."
    event = f"{time} - {time} seconds, {caption}"
    return AnswerForm(f"{event}(  {event})*")


def spans_form(duration: float) -> AnswerForm:
    """Return the form of all spans of a query: `[[1.0, 2.5], [7, 9]]`, and `[]` for none."""
    time = time_regex(duration)
    span = rf"\[{time}, {time}\]"
    pair = {"type": "array", "items": _seconds(duration), "minItems": 2, "maxItems": 2}
    return AnswerForm(rf"\[({span}(, {span}){{0,{MAX_EVENTS - 1}}})?\]", _listed("spans", pair))


def events_form(duration: float, *, max_caption: int = MAX_CAPTION) -> AnswerForm:
    """Return the form of events with captions as a JSON list of objects, and `[]` for none.

    Args:
        duration: Duration in seconds.
        max_caption: Maximum number of characters of a caption.
    """
    time = time_regex(duration)
    caption = rf'[^"\\\n\r\t]{{1,{max_caption}}}'
    event = rf'\{{"start": {time}, "end": {time}, "caption": "{caption}"\}}'
    properties = {"start": _seconds(duration), "end": _seconds(duration), "caption": {"type": "string"}}
    return AnswerForm(rf"\[({event}(, {event})*)?\]", _listed("events", _object(properties)))


def read_form(text: str, duration: float) -> Parsed:
    """Return the events of an answer in JSON: sorted by time, each with its ends in order, cut at the duration.

    An empty list, or an object with nothing but empty lists, states that there is none.
    """
    answer = given_answer(text)
    parsed = clip_events(Parsed(read_json(answer, Reading(duration))), duration)
    if parsed.events or parsed.dropped_times:
        return replace(parsed, events=sorted(parsed.events, key=lambda event: (event.start, event.end)))
    return Parsed([], is_unparsed=not states_none_in_json(answer))


def states_none_in_json(text: str) -> bool:
    """Whether a text is the JSON of an answer without events: `[]`, `{"events": []}`, `{"found": false}`."""
    fenced = _FENCE.search(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, dict):
        return bool(value) and all(item is False or item is None or item == [] for item in value.values())
    return bool(value == [])


# ------------------------------------------------------------------------------------------------- schemas


def _seconds(duration: float) -> dict[str, Any]:
    """A time; without `multipleOf`, engines let the digits of a number run on without end."""
    return {"type": "number", "minimum": 0, "maximum": int(duration * 10 + 1e-6) / 10, "multipleOf": 0.1}


def _listed(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """An object with one list: strict servers take no list as the whole answer."""
    return _object({name: {"type": "array", "items": item, "maxItems": MAX_EVENTS}})


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
