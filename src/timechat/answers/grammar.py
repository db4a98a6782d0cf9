r"""Grammars of answers, so that every constrained answer can be parsed.

An `AnswerGrammar` has two parts. The *grammar* describes the words in the Lark dialect of llguidance: the wording that
the model was trained to write, the same for every video. The *numbers* depend on the video and on the text before
them: times lie in the video and in order, and there are as many scores as times. No grammar of fixed text can express
that; `AnswerGrammar.allows` checks it for the start of any answer.

Here are the sentences of the original; `json_grammars` has the forms of other models.
"""

import re
from collections.abc import Sequence
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
class CaptionMarks:
    """The marks by which the free words of an answer are found.

    Attributes:
        opening: Text before a caption.
        gap: Text after an event, which no caption contains.
        closing: Sign that ends a caption; empty if a caption ends with its last sentence.
    """

    opening: str
    gap: str
    closing: str = ""


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """The grammar of one answer.

    Attributes:
        grammar: Grammar of the words in the Lark dialect of llguidance, or a JSON schema.
        allows: Function that tells whether a text, without the space before it, can be the start of an answer as far as
            its numbers are concerned, if a given number of tokens may follow. It does not check the grammar. None if
            the grammar needs no check of numbers.
        captions: Marks of the captions; None if the answer contains no free words.
        is_json: Whether the grammar is a JSON schema.
    """

    grammar: str
    allows: NumberFilter | None
    captions: CaptionMarks | None = None
    is_json: bool = False

    def turn(self, text: str, tokens_left: int) -> Turn:
        """Return the next part of an answer after a text that is allowed."""
        if self.captions is None:
            return "numbers"
        marks = self.captions
        _, is_begun, caption = text.rsplit(marks.gap, 1)[-1].partition(marks.opening)
        is_inside = marks.closing not in caption if marks.closing else bool(caption)
        if not (is_begun and is_inside):
            return "numbers"
        return "last words" if tokens_left <= TOKENS_TO_END or len(caption) > MAX_CAPTION else "words"


TOKENS_TO_END = 10  # the rest of a sign, a letter, a full stop and the end token, and some room
_SENTENCES = CaptionMarks(" seconds, ", _BETWEEN)


def captions_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of dense captions."""
    return AnswerGrammar(_CAPTIONS, partial(allows_events, last=last_tenth(duration), opening=""), _SENTENCES)


def speech_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of transcribed speech."""
    return AnswerGrammar(_HEARD, partial(allows_events, last=last_tenth(duration), opening=_SPEECH), _SENTENCES)


def grounding_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of a grounding answer: one span, or the sentence for a query that does not happen."""
    return AnswerGrammar(_GROUNDING, partial(allows_span, last=last_tenth(duration)))


def span_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of one span."""
    return AnswerGrammar(_SPAN, partial(allows_span, last=last_tenth(duration)))


def highlights_grammar(duration: float) -> AnswerGrammar:
    """Return the grammar of highlights."""
    return AnswerGrammar(_HIGHLIGHTS, partial(allows_moments, last=last_tenth(duration)))


def last_tenth(duration: float) -> int:
    """Return the last time of a video in whole tenths of a second."""
    return int(duration * 10 + 1e-6)


def json_grammar(schema: str) -> AnswerGrammar:
    """Return the grammar of answers in JSON that follow a JSON schema."""
    return AnswerGrammar(schema, None, is_json=True)


# ---------------------------------------------------------------------------------------------------- grammars

TIME = r"(0|[1-9][0-9]{0,4})(\.[0-9])?"
_SCORE = r"([0-4]\.[0-9]|5\.0)"
# A caption is made of sentences that begin with a letter. It has no two spaces in a row, which stand between events,
# no control signs, and nothing that could be read as a span of its own: no dash but inside a word, no colon, no number
# joined to what follows.
_SIGN = r"[^\p{C}\p{Z}0-9:.!?;*#>•·|+\[\](){}<>_\"=‐‑‒–—―−－~～→\-]"
_WORDS = rf"\p{{L}}({_SIGN}|[0-9]|-{_SIGN}| {_SIGN}| [0-9])*"
_CAPTION = rf"{_WORDS}([.!?;]{{1,3}} {_WORDS})*[.!?]"
_EVENT = f"{TIME} - {TIME} seconds, {_CAPTION}"
_JOINED = r"(.|\n)*[0-9]( ?s(ec(ond)?s?)?)? (to|until|till|through) (.|\n)*"


def _lark(*choices: str) -> str:
    whole = "|".join(choices)
    return f"start: ANSWER\nANSWER: ANY & ~JOINED\nANY: / ?({whole})/\nJOINED: /{_JOINED}/\n"


_CAPTIONS = _lark(f"{_EVENT}({_BETWEEN}{_EVENT})*")
_HEARD = _lark(re.escape(NO_SPEECH), f"{_SPEECH}{_EVENT}({_BETWEEN}{_EVENT})*")
_FOUND = rf"(The given query happens in |The event happens in the )?{TIME} - {TIME} seconds\."
SPAN_SENTENCE = re.compile(_FOUND)
"""Pattern of a whole answer with one span, in the product's own wording."""

_SPAN = _lark(_FOUND)
_GROUNDING = _lark(re.escape(NOT_FOUND_ANSWER), _FOUND)
_HIGHLIGHTS = _lark(
    re.escape(NO_MOMENTS),
    rf"(There are [1-9][0-9]? highlight moments in the {TIME}(, {TIME})* second"
    rf"|The highlight timestamps are in the {TIME}(, {TIME})* seconds)"
    rf"\. Their saliency scores are {_SCORE}(, {_SCORE})*\.",
)


# ----------------------------------------------------------------------------------------------------- numbers

# All numbers are whole tenths of a second from here on.
NUMBER = r"\d+(?:\.\d?)?"
_HEAD = re.compile(rf"(?P<first>{NUMBER})(?P<join> -? ?)?(?P<last>{NUMBER})?(?P<rest>.*)", re.DOTALL)
_WHOLE_EVENT = re.compile(rf"({NUMBER}) - ({NUMBER}) seconds, (.*)", re.DOTALL)
_MAX_DIGITS = 5


def tenths_of(number: str) -> int:
    """Return a number of seconds in whole tenths."""
    return round(float(number) * 10)


def is_prefix_of_valid(number: str, low: int, high: int) -> bool:
    """Whether a number of which this is the beginning can lie in a range of tenths of a second."""
    whole, point, tenth = number.partition(".")
    if tenth:
        return low <= tenths_of(number) <= high
    first = int(whole) * 10
    if point or (whole == "0"):
        return first <= high and low <= first + 9
    more = range(_MAX_DIGITS - len(whole) + 1)
    return any(first * 10**digits <= high and low <= (int(whole) + 1) * 10 ** (digits + 1) - 1 for digits in more)


def shortest_event(last: int) -> int:
    """Return the shortest length of an event in a video, in tenths of a second; `last` is its last time."""
    return 1 if last > 1 else 0


def allows_pair(found: re.Match[str] | None, low: int, last: int) -> bool:
    """Whether the times of one event can be so: they begin in order, from `low` on, and end by `last`.

    Args:
        found: Match with the groups `first`, `join`, `last` and `rest`; None before the first digit.
        low: Earliest start in tenths of a second.
        last: Last time of the video in tenths of a second.
    """
    shortest = shortest_event(last)
    if found is None:
        return True
    if not found["join"]:
        return is_prefix_of_valid(found["first"], low, last - shortest)
    start = tenths_of(found["first"])
    if not low <= start <= last - shortest:
        return False
    if found["last"] is None:
        return True
    if not found["rest"]:
        return is_prefix_of_valid(found["last"], start + shortest, last)
    return start + shortest <= tenths_of(found["last"]) <= last


def allows_span(text: str, tokens_left: int, *, last: int) -> bool:  # noqa: ARG001 - it is always short enough
    """Whether a text can begin the sentence of one span; `last` is the last time in tenths of a second."""
    digit = re.search(r"\d", text)
    return digit is None or allows_pair(_HEAD.match(text[digit.start() :]), 0, last)


def allows_events(text: str, tokens_left: int, *, last: int, opening: str) -> bool:
    """Whether a text can begin a list of captions after the words `opening`."""
    if len(text) <= len(opening):
        return True
    done, between, event = text[len(opening) :].rpartition(_BETWEEN)
    count, low = _after(done)
    if between and (count >= MAX_EVENTS or low > last - shortest_event(last)):
        return False
    # A token may write the gap and the first number at once (" 82.0"), so the room is asked for until that number ends.
    if between and " " not in event and tokens_left + len(event) < _TOKENS_OF_EVENT:
        return False
    return allows_pair(_HEAD.match(event), low, last)


@lru_cache(maxsize=4096)
def _after(done: str) -> tuple[int, int]:
    """Number of whole events, and the earliest start of the next event."""
    if not done:
        return 0, 0
    found = [_WHOLE_EVENT.fullmatch(event) for event in done.split(_BETWEEN)]
    return next_start([(tenths_of(event[1]), tenths_of(event[2]), event[3]) for event in found if event])


def next_start(events: Sequence[tuple[int, int, str]]) -> tuple[int, int]:
    """Return the number of events `(start, end, caption)`, at least one, and the earliest start of the next one.

    The next event starts no earlier than the last one. If the last two events have the same caption and touch, it
    starts after them. Otherwise a model that repeats itself would never end.
    """
    start, end, caption = events[-1]
    if len(events) > 1 and events[-2][2] == caption and start <= events[-2][1]:
        return len(events), end + 1
    return len(events), start


_COUNTED = "There are "
_COUNTED_TIMES = " highlight moments in the "
_LISTED_TIMES = "The highlight timestamps are in the "


def allows_moments(text: str, tokens_left: int, *, last: int) -> bool:
    """Whether a text can begin the sentences of highlights."""
    room = (tokens_left - _TOKENS_AROUND_MOMENTS) // _TOKENS_OF_MOMENT
    if text.startswith(_COUNTED):
        digits = re.match(r"\d*", text[len(_COUNTED) :])[0]  # type: ignore[index]
        after = text[len(_COUNTED) + len(digits) :]
        if not after:
            return not digits or 1 <= int(digits) <= min(MAX_MOMENTS, last + 1, max(1, room))
        if not after.startswith(_COUNTED_TIMES):
            return 1 <= int(digits) <= min(MAX_MOMENTS, last + 1)  # a token may write digits and words at once
        return _allows_times(after[len(_COUNTED_TIMES) :], int(digits), last, tokens_left)
    if text.startswith(_LISTED_TIMES):
        return _allows_times(text[len(_LISTED_TIMES) :], None, last, tokens_left)
    return room > 0 or not text.startswith("T")


def _allows_times(text: str, count: int | None, last: int, tokens_left: int) -> bool:
    """Whether times rise and leave room for those to come, and are as many as was said; then the same of scores.

    Where no number was said, another time is begun only while there are tokens for it and for the scores of all.
    """
    written, seconds, rest = text.partition(" s")
    numbers = re.findall(NUMBER, written)
    low = 0
    for i, number in enumerate(numbers):
        high = last - (0 if count is None else count - 1 - i)
        is_open = i == len(numbers) - 1 and not seconds and written.endswith(number)
        if not (is_prefix_of_valid(number, low, high) if is_open else low <= tenths_of(number) <= high):
            return False
        low = tenths_of(number) + 1
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
