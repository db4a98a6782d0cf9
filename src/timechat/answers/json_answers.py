r"""Events of an answer in JSON, or nearly JSON: unfinished, with single quotes, or with text around it.

One pass over the text gives the outermost objects and lists; nothing is tried twice.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from timechat.answers.answer_text import AnswerText
from timechat.answers.events import Event
from timechat.answers.fields import (
    Reading,
    events_of_fields,
    is_description,
    is_span,
    rated_event,
    role_of,
    score_of,
    times_of,
)
from timechat.answers.times import ANY_SPAN, ANY_TIME

_FENCE = re.compile(r"```[a-z]{0,9}\s*(.*?)\s*```", re.DOTALL)
_MAX_EMPTY = 2000  # characters of an answer without events
_MAX_DEPTH = 30
_OPENING = re.compile(r"[{\[]")
# A quotation mark ends a string if a sign of JSON, a new line or the end of the text follows.
_AFTER_STRING = r"[ \t]{0,9}(?:[,:\]})\n\r]|\Z)"
_TOKEN = re.compile(
    rf"""(?P<sign>[{{}}\[\]():,])
    | "(?P<double>(?:[^"\\]|\\.|"(?!{_AFTER_STRING}))*+)"?
    | '(?P<single>(?:[^'\\]|\\.|'(?!{_AFTER_STRING}))*+)'?
    | (?P<space>\s++) | (?P<bare>[^\s{{}}\[\]():,"']++)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_NUMBER = re.compile(r"[-+]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][-+]?\d{1,5})?")
_NAMES = {"true": True, "false": False, "null": None, "none": None}

Fields = list[tuple[str, Any]]
"""An object as pairs of name and value; a name can occur twice."""


class JsonObject:
    """An object of JSON as pairs of name and value."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: Fields = []


def read_json(text: str, reading: Reading) -> list[Event]:
    """Return the events of all objects and lists of a text."""
    return [event for value, _, _ in _values(text) for event in _events(value, reading)]


def is_empty_json(text: str) -> bool:
    """Whether a text is the JSON of an answer without events: `[]`, `{"events": []}`, `{"found": false}`."""
    if not text or text[0] not in "[{`" or len(text) > _MAX_EMPTY:
        return False
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, dict):
        said = [item for item in value.values() if item is not None]
        return value.get("found") is False or (bool(said) and all(item is False or item == [] for item in said))
    return bool(value == [])


def is_json_list(text: str) -> bool:
    """Whether the only object or list of a text is a list, alone or as the only field of an object."""
    values = [value for value, _, _ in _values(text)]
    if len(values) == 1 and isinstance(values[0], JsonObject) and len(values[0].fields) == 1:
        values = [values[0].fields[0][1]]
    return len(values) == 1 and isinstance(values[0], list)


def without_objects(text: str) -> str:
    """Return the text with each object replaced by the words in it: its other values are no sentences."""
    pieces: list[str] = []
    at = 0
    for value, start, end in _values(text):
        words = _words(value)
        if words is not None:
            pieces += [text[at:start], "\n", "\n".join(words), "\n"]
            at = end
    return "".join([*pieces, text[at:]])


def _words(value: Any) -> list[str] | None:
    """The texts of all objects in a value; None if it contains no object with a field."""
    if isinstance(value, JsonObject):
        inner = [_words(item) or [] for _, item in value.fields]
        own = [
            [item] if isinstance(item, str) and role_of(name).kind in ("caption", "text") else []
            for name, item in value.fields
        ]
        return (
            [word for lists in zip(own, inner, strict=True) for words in lists for word in words]
            if value.fields
            else None
        )
    if not isinstance(value, list):
        return None
    found = [words for item in value if (words := _words(item)) is not None]
    return [word for words in found for word in words] if found else None


# ------------------------------------------------------------------------------------------------- parsing


class _Container:
    """An object or a list that is being read."""

    __slots__ = ("key", "parts", "start", "value")

    def __init__(self, value: "JsonObject | list[Any]") -> None:
        self.value = value
        self.key: str | None = None
        self.parts: list[tuple[str, Any]] = []  # what was read since the last comma: kind and value
        self.start = 0

    def add(self, text: str, end: int) -> None:
        """Close the item that ends here."""
        if not self.parts:
            if isinstance(self.value, JsonObject):
                self.key = None
            return
        kind, value = self.parts[0]
        if len(self.parts) > 1:
            value = text[self.start : end].strip()  # words without quotation marks: 0:05 - 0:10
        elif kind == "bare":
            value = _bare_value(value)
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is not None:
            self.value.fields.append((self.key, value))
        self.key, self.parts = None, []


def _bare_value(word: str) -> Any:
    if word.lower() in _NAMES:
        return _NAMES[word.lower()]
    return float(word) if _NUMBER.fullmatch(word) else word


def _unescaped(string: str) -> str:
    if "\\" not in string:
        return string
    plain = _ESCAPE.sub(lambda e: chr(int(e[1], 16)) if e[1] else _ESCAPES.get(e[2], e[2]), string)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins pairs of surrogates


def _values(text: str) -> Iterator[tuple[Any, int, int]]:
    """The outermost objects and lists of a text with their places; those that are not finished end with the text."""
    at = 0
    while opening := _OPENING.search(text, at):
        value, at = _value(text, opening.start())
        yield value, opening.start(), at


def _value(text: str, at: int) -> tuple[Any, int]:
    """The object or list that starts at a place, and the place after it."""
    stack: list[_Container] = []
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:  # cannot happen: every character is a sign, a quotation mark, a space or bare
            break
        start, at = at, token.end()
        sign = token["sign"]
        if sign in ("{", "[", "("):
            if len(stack) >= _MAX_DEPTH:
                break
            value: Any = JsonObject() if sign == "{" else []
            if stack:
                _part(stack[-1], "value", value, start)
            stack.append(_Container(value))
        elif sign in ("}", "]", ")"):
            closed = stack.pop()
            closed.add(text, start)
            if not stack:
                return closed.value, at
        elif sign == ",":
            stack[-1].add(text, start)
        elif sign == ":" and _is_key(stack[-1]):
            stack[-1].key, stack[-1].parts = str(stack[-1].parts[0][1]), []
        elif token["space"] is None:
            kind = "sign" if sign else "bare" if token["bare"] is not None else "string"
            string = token["double"] if token["double"] is not None else token["single"]
            _part(stack[-1], kind, token["bare"] if string is None else _unescaped(string), start)
    for container in reversed(stack):
        container.add(text, at)
    return stack[0].value, len(text)


def _part(container: _Container, kind: str, value: Any, start: int) -> None:
    if not container.parts:
        container.start = start
    container.parts.append((kind, value))


def _is_key(container: _Container) -> bool:
    """Whether the colon that follows ends the name of a field."""
    return (
        isinstance(container.value, JsonObject)
        and container.key is None
        and len(container.parts) == 1
        and container.parts[0][0] in ("string", "bare")
    )


# ------------------------------------------------------------------------------------------------- events


def _events(value: Any, reading: Reading) -> list[Event]:
    """The events of a value and of everything inside it, in order."""
    if isinstance(value, JsonObject):
        fields = [(name, _without_names(name, item, reading)) for name, item in value.fields]
        inner = [event for _, item in fields for event in _inner_events(item, reading)]
        return inner or _mapped_events(value, reading) or events_of_fields(fields, reading)
    if not isinstance(value, list):
        return []
    if event := _listed_event(value, reading):
        return [event]
    inner = [event for item in value for event in _events(item, reading)]
    if not inner and value and all(isinstance(item, list) and is_span(item, reading) for item in value):
        return events_of_fields([("times", value)], reading)
    return inner


def _without_names(name: str, value: Any, reading: Reading) -> Any:
    """The value of a field; the two ends of a time `{"start": 1, "end": 2}` as a list."""
    if not isinstance(value, JsonObject) or role_of(name).kind != "time":
        return value
    events = events_of_fields(value.fields, reading)
    return [events[0].start, events[0].end] if len(events) == 1 and not events[0].caption else value


def _inner_events(value: Any, reading: Reading) -> list[Event]:
    """The events of the value of a field; a plain list of spans belongs to its object."""
    if isinstance(value, JsonObject):
        return _events(value, reading)
    if not isinstance(value, list) or is_span(value, reading):
        return []
    return [
        event
        for item in value
        if isinstance(item, JsonObject)
        or (isinstance(item, list) and not is_span(item, reading))
        or (isinstance(item, list) and _listed_event(item, reading))
        for event in _events(item, reading)
    ]


def _listed_event(value: list[Any], reading: Reading) -> Event | None:
    """The event of `[start, end, "text"]` or `[[start, end], "text"]`."""
    if len(value) == 2 and isinstance(value[0], list):
        value = [*value[0], value[1]]
    if len(value) != 3 or not is_description(value[2]):
        return None
    start, end = times_of(value[0], reading), times_of(value[1], reading)
    if len(start) != 1 or len(end) != 1:
        return None
    return Event(min(*start, *end), max(*start, *end), value[2])


def _mapped_events(value: JsonObject, reading: Reading) -> list[Event]:
    """The events of an object whose names are times: `{"6": 3.5}` has scores, `{"0:00 - 0:05": "text"}` captions."""
    events = []
    for name, item in value.fields:
        canonical = AnswerText.from_answer(name[:60]).text.strip()
        if reading.is_highlights and ANY_TIME.fullmatch(canonical):
            score, times = _score_in(item), times_of(name, reading)
            if score is None or len(times) != 1:
                return []
            events.append(rated_event(times[0], times[0], "", score))
        elif ANY_SPAN.fullmatch(canonical) and (isinstance(item, str) or reading.is_highlights):
            times = times_of(name, reading)
            if len(times) != 2:
                return []
            is_text = isinstance(item, str) and not reading.is_highlights
            rating = None if is_text else score_of(item)
            events.append(rated_event(min(times), max(times), item if is_text else "", rating))
        else:
            return []
    return events


def _score_in(value: Any) -> float | None:
    """The score that a value is, or that an object contains."""
    if not isinstance(value, JsonObject):
        return score_of(value)
    return next((score_of(item) for name, item in value.fields if role_of(name).kind == "score"), None)
