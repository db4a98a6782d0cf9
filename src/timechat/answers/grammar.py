r"""Grammars of answers, so that every constrained answer can be parsed.

An `AnswerGrammar` has two parts. The *grammar* describes the words in the Lark dialect of llguidance: the wording that
the original was trained to write, the same for every video. The *numbers* depend on the video and on the text before
them: times lie in the video and in order, and there are as many scores as times. No grammar of fixed text can express
that; `AnswerGrammar.allows` checks it for the start of any answer.
"""

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, Protocol

from timechat.answers.prompts import NOT_FOUND_ANSWER

NO_MOMENTS = "No highlight moments were found."
NO_SPEECH = "Transcribed speech: None."
MAX_EVENTS = 64
MAX_MOMENTS = 30
MAX_CAPTION = 300
"""Maximum number of characters of a caption."""

_SPEECH = "Transcribed speech: "
_BETWEEN = "  "  # events
_TOKENS_OF_EVENT = 32  # most tokens that the times of an event and a word take, where every digit is one
_TOKENS_OF_MOMENT = 14  # a time and a score, likewise
_TOKENS_AROUND_MOMENTS = 40

Turn = Literal["numbers", "words", "last words"]
"""Next part of an answer: text whose numbers are checked, free words, or free words that must end soon."""


class NumberFilter(Protocol):
    """Function that tells whether a text can be the start of an answer."""

    def __call__(self, text: str, tokens_left: int) -> bool:
        """See `AnswerGrammar.allows`."""


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """The grammar of one answer.

    Attributes:
        grammar: Grammar of the words in the Lark dialect of llguidance, or a JSON schema.
        allows: Function that tells whether a text, without the space before it, can be the start of an answer as far as
            its numbers are concerned, if a given number of tokens may follow. It does not check the grammar. None if
            the grammar needs no check of numbers.
        has_captions: Whether the answer contains free words.
        is_json: Whether the grammar is a JSON schema.
    """

    grammar: str
    allows: NumberFilter | None
    has_captions: bool
    is_json: bool = False

    def turn(self, text: str, tokens_left: int) -> Turn:
        """Return the next part of an answer after a text that is allowed."""
        if not self.has_captions:
            return "numbers"
        event = text.rsplit(_BETWEEN, 1)[-1]
        _, is_begun, caption = event.partition(" seconds, ")
        if not (is_begun and caption):
            return "numbers"
        return "last words" if tokens_left <= _TOKENS_TO_END or len(caption) > MAX_CAPTION else "words"


_TOKENS_TO_END = 10  # the rest of a sign, a letter, a full stop and the end token, and some room


def captions_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of dense captions."""
    return AnswerGrammar(_CAPTIONS, partial(_allows_events, last=_last_tenth(duration), opening=""), has_captions=True)


def speech_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of transcribed speech."""
    return AnswerGrammar(
        _HEARD, partial(_allows_events, last=_last_tenth(duration), opening=_SPEECH), has_captions=True
    )


def grounding_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of a grounding answer."""
    return AnswerGrammar(_GROUNDING, partial(_allows_span, last=_last_tenth(duration)), has_captions=False)


def highlights_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of highlights."""
    return AnswerGrammar(_HIGHLIGHTS, partial(_allows_moments, last=_last_tenth(duration)), has_captions=False)


def _last_tenth(duration: float) -> int:
    return int(duration * 10 + 1e-6)


def json_grammar(schema: str) -> AnswerGrammar:
    """Return the grammar of answers in JSON that follow a JSON schema."""
    return AnswerGrammar(schema, None, has_captions=False, is_json=True)


# ---------------------------------------------------------------------------------------------------- grammars

_TIME = r"(0|[1-9][0-9]{0,4})(\.[0-9])?"
_SCORE = r"([0-4]\.[0-9]|5\.0)"
# A caption is made of sentences that begin with a letter. It has no two spaces in a row, which stand between events,
# no control signs, and nothing that could be read as a span of its own: no dash but inside a word, no colon, no number
# joined to what follows.
_SIGN = r"[^\p{C}\p{Z}0-9:.!?;*#>•·|+\[\](){}<>_\"=‐‑‒–—―−－~～→\-]"
_WORDS = rf"\p{{L}}({_SIGN}|[0-9]|-{_SIGN}| {_SIGN}| [0-9])*"
_CAPTION = rf"{_WORDS}([.!?;]{{1,3}} {_WORDS})*[.!?]"
_EVENT = f"{_TIME} - {_TIME} seconds, {_CAPTION}"
_JOINED = r"(.|\n)*[0-9]( ?s(ec(ond)?s?)?)? (to|until|till|through) (.|\n)*"


def _lark(*choices: str) -> str:
    whole = "|".join(choices)
    return f"start: ANSWER\nANSWER: ANY & ~JOINED\nANY: / ?({whole})/\nJOINED: /{_JOINED}/\n"


_CAPTIONS = _lark(f"{_EVENT}({_BETWEEN}{_EVENT})*")
_HEARD = _lark(re.escape(NO_SPEECH), f"{_SPEECH}{_EVENT}({_BETWEEN}{_EVENT})*")
_GROUNDING = _lark(
    re.escape(NOT_FOUND_ANSWER), rf"(The given query happens in |The event happens in the )?{_TIME} - {_TIME} seconds\."
)
_HIGHLIGHTS = _lark(
    re.escape(NO_MOMENTS),
    rf"(There are [1-9][0-9]? highlight moments in the {_TIME}(, {_TIME})* second"
    rf"|The highlight timestamps are in the {_TIME}(, {_TIME})* seconds)"
    rf"\. Their saliency scores are {_SCORE}(, {_SCORE})*\.",
)


# ----------------------------------------------------------------------------------------------------- numbers

# All numbers are whole tenths of a second from here on.
_NUMBER = r"\d+(?:\.\d?)?"
_HEAD = re.compile(rf"(?P<first>{_NUMBER})(?P<join> -? ?)?(?P<last>{_NUMBER})?(?P<rest>.*)", re.DOTALL)
_WHOLE_EVENT = re.compile(rf"({_NUMBER}) - ({_NUMBER}) seconds, (.*)", re.DOTALL)
_MAX_DIGITS = 5


def _tenths(number: str) -> int:
    return round(float(number) * 10)


def _is_prefix_of_valid(number: str, low: int, high: int) -> bool:
    """Whether a number of which this is the beginning can lie in a range."""
    whole, point, tenth = number.partition(".")
    if tenth:
        return low <= _tenths(number) <= high
    first = int(whole) * 10
    if point or (whole == "0"):
        return first <= high and low <= first + 9
    more = range(_MAX_DIGITS - len(whole) + 1)
    return any(first * 10**digits <= high and low <= (int(whole) + 1) * 10 ** (digits + 1) - 1 for digits in more)


def _allows_pair(head: str, low: int, last: int) -> bool:
    """Whether the times of one event can be so: they begin in order, from `low` on, and end by `last`."""
    shortest = 1 if last > 1 else 0
    found = _HEAD.match(head)
    if found is None:
        return True
    if not found["join"]:
        return _is_prefix_of_valid(found["first"], low, last - shortest)
    start = _tenths(found["first"])
    if not low <= start <= last - shortest:
        return False
    if found["last"] is None:
        return True
    if not found["rest"]:
        return _is_prefix_of_valid(found["last"], start + shortest, last)
    return start + shortest <= _tenths(found["last"]) <= last


def _allows_span(text: str, tokens_left: int, *, last: int) -> bool:  # noqa: ARG001 - it is always short enough
    digit = re.search(r"\d", text)
    return digit is None or _allows_pair(text[digit.start() :], 0, last)


def _allows_events(text: str, tokens_left: int, *, last: int, opening: str) -> bool:
    if len(text) <= len(opening):
        return True
    done, between, event = text[len(opening) :].rpartition(_BETWEEN)
    count, low = _after(done)
    shortest = 1 if last > 1 else 0
    if between and (count >= MAX_EVENTS or low > last - shortest):
        return False
    # A token may write the gap and the first number at once (" 82.0"), so the room is asked for until that number ends.
    if between and " " not in event and tokens_left + len(event) < _TOKENS_OF_EVENT:
        return False
    return _allows_pair(event, low, last)


@lru_cache(maxsize=4096)
def _after(done: str) -> tuple[int, int]:
    """Number of whole events, and the earliest start of the next event.

    The next event starts no earlier than the last one. If the last two events have the same caption and touch, it
    starts after them. Otherwise a model that repeats itself would never end.
    """
    if not done:
        return 0, 0
    found = [_WHOLE_EVENT.fullmatch(event) for event in done.split(_BETWEEN)]
    events = [(_tenths(event[1]), _tenths(event[2]), event[3]) for event in found if event]
    start, end, caption = events[-1]
    if len(events) > 1 and events[-2][2] == caption and start <= events[-2][1]:
        return len(events), end + 1
    return len(events), start


_COUNTED = "There are "
_COUNTED_TIMES = " highlight moments in the "
_LISTED_TIMES = "The highlight timestamps are in the "


def _allows_moments(text: str, tokens_left: int, *, last: int) -> bool:
    room = (tokens_left - _TOKENS_AROUND_MOMENTS) // _TOKENS_OF_MOMENT
    if text.startswith(_COUNTED):
        digits = re.match(r"\d*", text[len(_COUNTED) :])[0]  # type: ignore[index]
        after = text[len(_COUNTED) + len(digits) :]
        if not after:
            return not digits or 1 <= int(digits) <= min(MAX_MOMENTS, last + 1, max(1, room))
        if not after.startswith(_COUNTED_TIMES):
            return True
        return _allows_times(after[len(_COUNTED_TIMES) :], int(digits), last, tokens_left)
    if text.startswith(_LISTED_TIMES):
        return _allows_times(text[len(_LISTED_TIMES) :], None, last, tokens_left)
    return room > 0 or not text.startswith("T")


def _allows_times(text: str, count: int | None, last: int, tokens_left: int) -> bool:
    """Whether times rise and leave room for those to come, and are as many as was said; then the same of scores.

    Where no number was said, another time is begun only while there are tokens for it and for the scores of all.
    """
    written, seconds, rest = text.partition(" s")
    numbers = re.findall(_NUMBER, written)
    low = 0
    for i, number in enumerate(numbers):
        high = last - (0 if count is None else count - 1 - i)
        is_open = i == len(numbers) - 1 and not seconds and written.endswith(number)
        if not (_is_prefix_of_valid(number, low, high) if is_open else low <= _tenths(number) <= high):
            return False
        low = _tenths(number) + 1
    commas = written.count(",")
    if seconds or (written.endswith(" ") and not written.endswith(", ") and numbers):
        return len(numbers) == (count or len(numbers)) and _allows_scores(rest, len(numbers))
    if count is not None:
        return commas < count
    if not commas or commas < len(numbers):
        return True
    has_room = tokens_left >= _TOKENS_AROUND_MOMENTS // 2 + _TOKENS_OF_MOMENT // 2 * (commas + 2)
    return commas < MAX_MOMENTS and low <= last and has_room


def _allows_scores(text: str, count: int) -> bool:
    scores = text.partition(" scores are ")[2]
    if scores.count(",") >= count:
        return False
    return not re.search(r"\d\.\d\.$", scores) or len(re.findall(r"\d\.\d", scores)) == count
