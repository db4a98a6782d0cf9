r"""The text of an answer in one notation for times, with the original text for captions.

An answer can contain thoughts, echoes of prompts, and numbers that are no times; and it can write a time in many ways.
`given_answer` removes what is no answer. `AnswerText` rewrites the rest step by step:

    decimals ─▶ ordinals ─▶ units of lists ─▶ minutes and hours ─▶ numbers that are no times ─▶ ends without range mark

`AnswerText.text` is for the patterns of `timechat.answers.times`; `AnswerText.quote` gives the original words of a part
of it. Each step takes time in proportion to the length of the text.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise

from timechat.answers.prompts import PROMPT_EXAMPLES
from timechat.answers.times import CLOCK, RANGE_MARK, UNIT, compile_pattern

# ------------------------------------------------------------------------------------- thoughts and echoes

_ANSWER_TAG = re.compile(r"<answer>|</answer>", re.IGNORECASE)
_THOUGHT_TAG = re.compile(r"(?P<open><think(?:ing)?>|◁think▷)|</think(?:ing)?>|◁/think▷", re.IGNORECASE)
_WITH_SPEECH = "Based on the video content and possible transcribed speech,"


def given_answer(text: str) -> str:
    """Return the part of a text that is the answer: without thoughts, and without echoes of the product's own prompts.

    `<answer>` marks the answer; else it follows `</think>`. A thought that does not end was cut before the answer.
    """
    start, end = range_without_thoughts(text)
    marked = _marked_answer(text[start:])
    if marked is None and start:
        marked = _marked_answer(text)
    if marked is None:
        marked = text[start:end]
    if _WITH_SPEECH in marked:
        marked = marked.rpartition(_WITH_SPEECH)[2]
    return _echoes().sub("\n", marked)


def range_without_thoughts(text: str) -> tuple[int, int]:
    """Return the range of characters after the last thought, up to a thought that does not end."""
    tags = list(_THOUGHT_TAG.finditer(text))
    start = max((tag.end() for tag in tags if not tag["open"]), default=0)
    return start, next((tag.start() for tag in tags if tag["open"] and tag.start() >= start), len(text))


def _marked_answer(text: str) -> str | None:
    """The text inside of `<answer>` marks; None without such a mark. The last mark can be open."""
    tags = list(_ANSWER_TAG.finditer(text))
    starts = [i for i, tag in enumerate(tags) if tag[0][1] != "/"]
    ends = [(tags[i].end(), tags[i + 1].start() if i + 1 < len(tags) else len(text)) for i in starts]
    return "\n".join(text[start:end] for start, end in ends) if ends else None


@cache
def _echoes() -> re.Pattern[str]:
    """Pattern of the examples of the prompts after the words that introduce them, or in quotation marks."""
    lead = r"(?:\bexamples?(?:\s+is)?\s{0,4}:|\bfor\s+example,|\b(?:be|like|is|format)\s{0,4}:)"
    longest_first = sorted(PROMPT_EXAMPLES, key=len, reverse=True)
    examples = [r"\s+".join(map(re.escape, example.split())) for example in longest_first]
    quotable = "|".join(example for example in examples if re.search("[a-z]{9}", example))
    return re.compile(
        rf"""(?:{lead}\s{{0,4}}["'“‘]?\s{{0,4}}(?:{"|".join(examples)})\s{{0,4}}["'”’]?"""
        rf"""|["'“‘]\s{{0,4}}(?:{quotable})\s{{0,4}}["'”’])\s{{0,4}}\.?""",
        re.IGNORECASE,
    )


# ------------------------------------------------------------------------------------------------ the text


@dataclass(frozen=True)
class AnswerText:
    """A text in canonical notation that remembers the original words of each of its parts.

    Attributes:
        text: Text in canonical notation.
        original: Original text.
        origins: Position in the original text of each character of `text`, and of its end; None if both are equal.
    """

    text: str
    original: str
    origins: list[int] | None = field(default=None, repr=False)

    @classmethod
    def from_answer(cls, text: str, *, joins_ends: bool = True) -> "AnswerText":
        """Rewrite an answer, as returned by `given_answer`, in canonical notation.

        Args:
            text: Answer.
            joins_ends: Whether two times without a range mark ("13.5s, 18.0s") are the ends of one span; they are
                two moments in a list of highlights.
        """
        answer = cls(text, text)
        for step in _STEPS:
            answer = answer.replaced(step(answer))
        return answer.replaced(_joined_ends(answer.text)) if joins_ends else answer

    def quote(self, start: int, end: int) -> str:
        """Return the original words of `text[start:end]`."""
        if self.origins is None:
            return self.original[start:end]
        return self.original[self.origins[start] : self.origins[end]]

    def until(self, end: int) -> "AnswerText":
        """Return `text[:end]` with its original words."""
        if self.origins is None:
            return AnswerText(self.text[:end], self.original)
        return AnswerText(self.text[:end], self.original, self.origins[: end + 1])

    def replaced(self, edits: Iterable[tuple[int, int, str]]) -> "AnswerText":
        """Return this text with parts replaced, given as `(start, end, new)` in order."""
        pieces: list[str] = []
        origins: list[int] = []
        at = 0
        old = self.origins
        for start, end, new in edits:
            old = old or list(range(len(self.text) + 1))
            pieces += [self.text[at:start], new]
            origins += old[at:start]
            origins += old[start:end] if len(new) == end - start else [old[start]] * len(new)
            at = end
        if old is None or not pieces:
            return self
        return AnswerText("".join([*pieces, self.text[at:]]), self.original, origins + old[at:])


Edits = Iterator[tuple[int, int, str]]
"""Parts of a text to replace, as `(start, end, new)` in order."""


def _edits(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], answer: AnswerText) -> Edits:
    """Replace every match of a pattern."""
    return ((*match.span(), new) for match in pattern.finditer(answer.text) if (new := replace(match)) != match[0])


def _masked(match: re.Match[str]) -> str:
    """The text of a match with letters for its digits, so that it is no time; its length stays."""
    return re.sub(r"\d", "x", match[0])


def _number_text(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


_IN_BRACKETS = compile_pattern(
    rf"""\b(?:from|to|until|between|and|in|at|around|during)\s
    (?P<open><) \s?\d{{1,6}}+(?:\.\d{{1,9}}+)?+{UNIT} (?P<close>\s?>)"""
)


def _without_brackets(answer: AnswerText) -> Edits:
    """Write "from <3.0 seconds> to <4.0 seconds>" as "from 3.0 seconds to 4.0 seconds"."""
    for match in _IN_BRACKETS.finditer(answer.text):
        yield *match.span("open"), ""
        yield *match.span("close"), ""


# --------------------------------------------------------------------------------- decimals and ordinals

_ANY_UNIT = r"(?:seconds?|secs?|seonds?|s|minutes?|mins?|hours?|hrs?|h|m)\b"
_DECIMALS = compile_pattern(
    rf"""(?<![\w.,:/])(?P<bare>\.)(?=\d)
    | (?<=\d)(?P<whole>\.)(?= \s? (?-i:seconds?|secs?|s)\b
        | \s?{RANGE_MARK}\s?\d{{1,6}}+(?:\.(?P<more>\d{{0,9}}+))?+(?!\d|:)(?!(?:{UNIT})?+\s?{RANGE_MARK}) )
    | (?<=\d)(?P<long>\.\d{{9}})\d+
    | (?<=:\d\d)(?P<milli>,)(?=\d{{3}}(?!\d))
    | (?<=\dsec|\ssec)(?P<abbreviation>\.)(?=\s?{RANGE_MARK}\s?\d)"""
)


def _decimals(answer: AnswerText) -> Edits:
    """Write `.5` as 0.5, `4.` as 4, at most nine decimals, and a full stop before the milliseconds of subtitles."""
    text = answer.text
    for match in _DECIMALS.finditer(text):
        start, end = match.span()
        if match["bare"]:
            yield start, end, "0."
        elif match["long"]:
            yield start, end, match["long"]
        elif match["milli"]:
            yield start, end, "."
        elif match["abbreviation"] or match["more"] == "" or not _is_list_number(text, start):
            yield start, end, ""


def _is_list_number(text: str, end: int) -> bool:
    """Whether only blanks stand before the digits that end at a place, on their line."""
    start = end
    while start and end - start < 4 and text[start - 1].isdigit():
        start -= 1
    line = text[max(0, start - 9) : start]
    return not line.rpartition("\n")[2].strip()


_COMMA = compile_pattern(
    rf"""(?P<before> {RANGE_MARK}\s? | \bbetween\s | (?<=\d)\sand\s | [\[(] | \b(?:the|are|at|is)\s )?
    (?<![\d.,:/]) (?P<whole>\d{{1,6}}+) , (?P<decimals>\d{{1,9}}+) (?! \.\d | ,?\d | : )
    (?: (?= (?P<after> \s?{RANGE_MARK} | [\s-]?{_ANY_UNIT} | \sand\s | [\])] ) ) | )"""
)


def _decimal_commas(answer: AnswerText) -> Edits:
    """Write a decimal comma beside a unit or a range mark as a point; two numbers joined by a comma are no time."""
    text = answer.text
    for match in _COMMA.finditer(text):
        before, after = (match["before"] or "").strip().lower(), (match["after"] or "").strip().lower()
        start, end = match.start("whole"), match.end("decimals")
        is_range = bool(after and _IS_RANGE_MARK.match(after)) or bool(before and _IS_RANGE_MARK.match(before))
        if is_range or before in ("between", "and"):
            yield start, end, f"{match['whole']}.{match['decimals']}"
        elif before in ("[", "(") and after in ("]", ")"):
            continue  # "[4,8]": two ends
        elif before in ("the", "are", "is") or after == "and":
            continue  # "in the 36,38 second": a list
        elif after and after not in ("]", ")"):
            yield start, end, f"{match['whole']}.{match['decimals']}"
        else:
            yield start, end, re.sub(r"\d", "x", text[start:end])


_IS_RANGE_MARK = compile_pattern(RANGE_MARK)
_LIST_SEPARATOR = r"\s?(?:,\s?and\s|,|and\s|or\s)\s?"
_SEPARATOR = rf"(?:{_LIST_SEPARATOR}|\s?{RANGE_MARK}\s?)"
_ORDINAL = r"\d{1,6}+(?:st|nd|rd|th)"
_ORDINALS = compile_pattern(
    rf"""(?<![\w.:/])(\d{{1,6}}+)(?:st|nd|rd|th)
    (?= (?: {_SEPARATOR} (?:the\s)? {_ORDINAL} ){{0,20}}+ [\s-]?(?:seconds?|secs?)\b )"""
)

# ------------------------------------------------------------------------------------- minutes and hours

_NUM = r"\d{1,6}(?:\.\d{1,9})?"
_HOUR, _MINUTE, _SECOND = r"(?:hours?|hrs?|h)", r"(?:minutes?|mins?)", r"(?:seconds?|secs?|s)"
_AND = r"\s?(?:,\s?)?(?:and\s|&\s?)?"
_COUNTED_MINUTES = compile_pattern(
    rf"""(?<![\w/.:]) (?P<head> {_NUM} (?: {_SEPARATOR} {_NUM} ){{1,8}} )
    (?P<unit> [\s-]? (?:{_MINUTE}|hours?|hrs?) )\b"""
)
_LIST_NUMBER = re.compile(_NUM)
_COMPOUND = compile_pattern(
    rf"""(?<![\w/.:]) (?:
      (?P<h>{_NUM})[\s-]?{_HOUR}(?![a-z])
        (?: \.?{_AND} (?P<hm>{_NUM})[\s-]?(?:{_MINUTE}|m)(?![a-z]) )? (?: \.?{_AND} (?P<hs>{_NUM})[\s-]?{_SECOND}\b )?
    | (?P<m>{_NUM})[\s-]?{_MINUTE}(?![a-z]) (?: \.?{_AND} (?P<ms>{_NUM})[\s-]?{_SECOND}\b )?
    | (?P<short>{_NUM})\s?m\s?:?\s?(?P<short_s>{_NUM})\s?s\b
    | (?P<prime>\d{{1,3}})['’′]\s?(?P<prime_s>{_NUM})(?:''|["”″])
    | (?P<only>{_NUM})\s?m\b
    | \bminute\s(?P<at>\d{{1,4}})(?![\d.:,-]|\s?{_ANY_UNIT}) )"""
)
_USES_SHORT = re.compile(r"\d\s?m\s?\d{1,2}(?:\.\d+)?\s?s\b", re.IGNORECASE)
IS_LONG_UNIT = compile_pattern(rf"\d [\s-]? (?:{_MINUTE}|hours?|hrs?)\b")
"""Pattern of a length in minutes or hours, in words."""


def _shared_minutes(answer: AnswerText) -> Edits:
    """Repeat the unit of "2 - 3 minutes" behind each of its numbers."""
    for match in _COUNTED_MINUTES.finditer(answer.text):
        numbers = list(_LIST_NUMBER.finditer(answer.text, *match.span("head")))
        gaps = [answer.text[one.end() : other.start()] for one, other in pairwise(numbers)]
        are_marks = [bool(_IS_RANGE_MARK.match(gap.strip())) for gap in gaps]
        is_list = not any(are_marks)
        are_spans = all(are_marks[::2]) and not any(are_marks[1::2]) and len(are_marks) % 2
        if is_list or are_spans:
            for number in numbers[:-1]:
                yield number.end(), number.end(), match["unit"]


_BARE_OR_TIMED_SPAN = compile_pattern(
    rf"(?<![\w.:/]) {_NUM} \s?{RANGE_MARK}\s? {_NUM} (?P<unit> [\s-]{{0,2}}{_ANY_UNIT} )? (?![\d:%])"
)
_LIST_GAP = re.compile(r"\s?(?:,|;|and|&|,\s?and|or)\s?(?:then\s)?(?:from\s|in\s|at\s)?", re.IGNORECASE)


def _shared_units(answer: AnswerText) -> Edits:
    """Repeat the unit behind the last of several spans behind each of them."""
    spans = list(_BARE_OR_TIMED_SPAN.finditer(answer.text))
    units = [span["unit"] or "" for span in spans]
    found = []
    for i in range(len(spans) - 2, -1, -1):
        gap = answer.text[spans[i].end() : spans[i + 1].start()] if units[i + 1] and not units[i] else ""
        if len(gap) < 16 and _LIST_GAP.fullmatch(gap):
            units[i] = units[i + 1]
            found.append((spans[i].end(), spans[i].end(), f" {units[i].strip(' -')}"))
    return iter(reversed(found))


def _minutes(answer: AnswerText) -> Edits:
    """Write "1 minute and 12 seconds", `1m20s`, "2.5 minutes" and "1 hour" in seconds."""
    uses_short = bool(_USES_SHORT.search(answer.text))
    for match in _COMPOUND.finditer(answer.text):
        found = {name: float(value) for name, value in match.groupdict().items() if value is not None}
        end = match.end()
        if "only" in found and not uses_short:
            continue
        extra = next((name for name in ("hs", "ms", "short_s", "prime_s") if name in found), None)
        if extra in ("hs", "ms") and found[extra] >= 60:  # "between 1 minute and 72 seconds"
            end = match.start(extra)
            end -= len(answer.text[match.start() : end]) - len(_without_and(answer.text[match.start() : end]))
            del found[extra]
        minutes = sum(found.get(name, 0) for name in ("hm", "m", "short", "prime", "only", "at"))
        seconds = 3600 * found.get("h", 0) + 60 * minutes + (found.get(extra, 0) if extra else 0)
        yield match.start(), end, f"{_number_text(seconds)} seconds"


def _without_and(text: str) -> str:
    return re.sub(r"\s?(?:,\s?)?(?:and\s|&\s?)?\Z", "", text, count=1, flags=re.IGNORECASE)


# ------------------------------------------------------------------------------ numbers that are no times

_ANY = rf"(?:{CLOCK}|{_NUM})"
_TIMED = rf"(?:{CLOCK}(?:{UNIT})?|{_NUM}{UNIT})"
_VIDEO = r"(?:videos?|clips?|recordings?|footage|films?|movies?)"
_ROUGHLY = r"(?:(?:about|around|approximately|roughly|exactly|only|a\stotal\sof)\s)?"
_LASTING = r"(?:is|was|lasts|runs)(?:\sfor)?"
_ZERO = rf"(?:0{{1,4}}(?:[.:]0{{1,9}}){{0,2}}(?:{UNIT})?|the\s(?:start|beginning))"
_LENGTH = r"(?:duration|length)"
# "The video is 120 seconds long", "The video lasts 2:00.", "the clip runs from 0 to 30 s", "the 120 second video", "a
# video of 30 s", "the length of the video: 2:00", "out of 120 seconds".
_LASTS = compile_pattern(
    rf"""\b{_VIDEO} (?:'s)? \s {_LASTING} \s {_ROUGHLY} {_TIMED} [\s-]? (?:long|in\s{_LENGTH}|of\slength)\b
    | (?: \A | [.!?\n] ) \s{{0,4}} (?:the|this|whole|entire) \s (?:\w{{1,9}}\s)? {_VIDEO} \s
        {_LASTING} \s {_ROUGHLY} {_TIMED} \s? (?= [.!?\n,;] | \Z )
    | \b{_VIDEO} \s (?:runs?|lasts?|goes|plays|spans|extends|ranges|is|starts) \s (?:(?:from|at)\s)? {_ZERO}
        \s? (?:{RANGE_MARK}|and\sends\sat) \s? {_ANY} (?:{UNIT})?
    | \b(?:the|this|a|an|of|its|whole|entire) \s {_TIMED} [\s-]? (?:long[\s-])? {_VIDEO}\b
    | \b{_VIDEO} \s (?:of|with|lasting|(?:that|which)\s(?:is|lasts)) \s
        (?:a\s)? (?:total\s)? (?:{_LENGTH}\sof\s)? {_ROUGHLY} {_TIMED}
    | \b(?:{_LENGTH}|runtime|running\stime) (?: \sof\s(?:the|this)\s (?:\w{{1,9}}\s)? {_VIDEO} )?
        \s? (?:is|was|:|=|of)? \s? {_ROUGHLY} {_ANY} (?:{UNIT})?
    | \bout\sof\s (?:the\s)? (?:total\s)? {_TIMED}
    | {_NUM}{UNIT} \s of \s (?:video|footage|film|recording)\b"""
)
_SAMPLED = compile_pattern(r"\bsampled\s(?:at|every)\s[\d.,:\s]*+")
_FRAME_NUMBERS = r"(?:key)?frames? \s? (?:numbers?|nos?\.?|ind(?:ex|exes|ices)|ids?)? \s? [:\#]? \s? [\[(]?"
_FRAMES = compile_pattern(
    rf"""\b{_FRAME_NUMBERS} \d{{1,7}}+ (?: {_SEPARATOR} (?:(?:key)?frames?\s)? \#? \d{{1,7}}+ ){{0,60}}+
    (?! [.:]\d | \s?{_ANY_UNIT} )
    | (?<![\w.:/]) {_NUM} (?: {_SEPARATOR} {_NUM} ){{0,8}} [\s-]? (?:(?:key)?frames?|ms|msecs?|milliseconds?)\b"""
)
_SHARE = r"(?:0(?:\.\d{1,9})?|1(?:\.0{1,9})?)(?![\d.:])"
_SHARE_SPAN = rf"{_SHARE} (?: \s? (?:{RANGE_MARK}|and|,) \s? {_SHARE} )?"
_RELATIVE = r"(?:normali[sz]ed|relative|fractions?|proportions?|ratios?)\b"
_OF_THE_VIDEO = rf"(?:of|in\sterms\sof|relative\sto)\s(?:the|its|this)\s(?:\w{{1,9}}\s)?(?:{_VIDEO}|{_LENGTH}|time)\b"
_SHARES = compile_pattern(
    rf"""(?<![\w.:/]) (?: {_NUM} \s?%?\s? (?:{RANGE_MARK}|and|,) \s? )?
        {_NUM} \s? (?: [%％‰] | (?:percent|per\scent|pct)\b )
    | (?<![\w.:/]) [\[(]? \s? {_SHARE_SPAN} \s? [\])]? \s? {_OF_THE_VIDEO}
    | \bscale\s(?:of|from)\s {_NUM} (?: \s? (?:{RANGE_MARK}|and) \s? {_NUM} )?
    | \b{_RELATIVE} [^\d\n]{{0,40}} {_SHARE_SPAN}
    | (?<![\w.:/]) {_SHARE_SPAN} [\s\])]{{0,3}} \(?\s? {_RELATIVE}"""
)
_LISTS = compile_pattern(
    rf"""[\[(] \s? {_NUM} (?: \s?[,;]\s? {_NUM} ){{2,}}+ \s? [\])]
    | \A \s*+ {_NUM} (?: (?:\s?[,;]\s?|\s) {_NUM} ){{2,}}+ \s*+ \Z
    | (?<![\w.:/,-]) {_NUM} (?: \s?[-‐‑‒–—−]\s? {_NUM} ){{2,}}+ (?! [\d:] | \.\d | \s?{_ANY_UNIT} )"""
)
# "<17>" and "<|12.5|>" are tokens of other models; "<17> to <26> seconds" and "<17 seconds>" are times.
_TOKENS = compile_pattern(
    rf"""<\|[^<>|\n]{{0,20}}\|>
    | <\s?{_NUM}\s?> (?! \s?{_ANY_UNIT} | \s?{RANGE_MARK}\s?<\s?{_NUM}\s?>\s?{_ANY_UNIT} )"""
)

# ----------------------------------------------------------------------------------------------- both ends

_ENDS = r"(?:end(?:s|ed|ing)?|is\sover|finish(?:es|ed)?|stops|concludes)"
_TO_THE_END = compile_pattern(
    rf"\b(to|until|till|til|through)\s(?:when\s)?(?:the\s)?(?:very\s)?{_VIDEO}(?:'s)?\s{_ENDS}\b"
)
_TIME = rf"{_ANY}(?:{UNIT})?"
_OPEN, _CLOSE = r"""[\["'(<“‘*]{0,3}""", r"""[\]"')>”’*]{0,3}"""
# "13.5s, 18.0s" and nothing else; "0:01,0:04" on its own line; "start and end: 13.5 and 18 s", "timestamps 13.5, 18".
_BOTH_ENDS = re.compile(
    rf"""\A \s* {_OPEN} (?P<a>{_TIME}) {_CLOSE} (?:\s?(?:,|;|and)\s?|\s) {_OPEN} (?P<b>{_TIMED}) {_CLOSE} [.\s]*+ \Z
    | ^ [ \t]* (?P<c>{CLOCK}),\s?(?P<d>{CLOCK}) [ \t]* $
    | \b (?: (?:start(?:ing|s)?|begin(?:ning|s)?) (?:[\s_](?:time|timestamp|point)s?)? \s?(?:and|/|&|,)\s?
             (?:the\s)? (?:end(?:ing|s)?|stop|finish)
           | timestamps ) (?:\b|_)
        [^\d\n]{{0,60}}? (?<![\w.:/]) (?P<e>{_TIME}) {_CLOSE} \s?(?:,\s?and\s|,|;|and\s)\s? (?:at\s|the\s)? {_OPEN}
        (?P<f>{_TIME}) (?! \s?(?:,|and)\s?\d | [\d:] | \.\d | \s?[a-z%] )""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def _joined_ends(text: str) -> Edits:
    """Join two times that are the ends of one span by a range mark."""
    for match in _BOTH_ENDS.finditer(text):
        first, last = next((a, b) for a, b in ("ab", "cd", "ef") if match[a] is not None)
        unit = " s" if _is_bare(match[first]) and not _is_bare(match[last]) and ":" not in match[last] else ""
        yield match.start(first), match.end(last), f"from {match[first]}{unit} to {match[last]}"


def _is_bare(time: str) -> bool:
    return not re.search("[:a-z]", time, re.IGNORECASE)


_STEPS: tuple[Callable[[AnswerText], Edits], ...] = (
    _without_brackets,
    _decimals,
    _decimal_commas,
    partial(_edits, _ORDINALS, lambda match: match[1]),
    _shared_units,
    _shared_minutes,
    _minutes,
    *(partial(_edits, pattern, _masked) for pattern in (_SAMPLED, _LASTS, _FRAMES, _SHARES, _LISTS, _TOKENS)),
    partial(_edits, _TO_THE_END, lambda match: f"{match[1]} the end"),
)
