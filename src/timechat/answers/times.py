r"""Patterns of times and spans in answers, and their seconds.

A *time* is a clock time or a number that counts nothing else ("3 cups" is no time); a *span* is two times and the text
that joins them. The patterns read the canonical notation of `timechat.answers.answer_text`. Every repetition in a
pattern that could be tried again at the next character is bounded, so the parsing time is proportional to the length of
the text.
"""

import re

from timechat.answers.events import Event

# "12.3 seconds", "1:02:03" and a bare "12", unless a word or a sign makes it a count ("3 cups", "20%", "1/4").
UNIT = r"[ \u00a0-]{0,2}(?:seconds?|secs?|seonds?|s)\b"
CLOCK = r"\d{1,3}:[0-5]\d(?::[0-5]\d)?(?:\.\d{1,9}+)?(?!:?\d)(?!\s?[ap]m\b)"
_NUMBER = r"\d{1,6}+(?:\.\d{1,9}+)?+(?![\d%°/]|\s%|:\d)"
_COUNTS_NOTHING = r"(?!\s?(?!(?:to|until|till|through|and|at|with|end\w*|respectively)\b)[^\W\d_])"
TIME = rf"(?<![\w/])(?<!\d[.:])(?:{CLOCK}(?:{UNIT})?|{_NUMBER}(?:{UNIT}|{_COUNTS_NOTHING}))"

# "3 - 5 s", "from 3 to 5 s", "between 3 and 5 s", "[3, 5]", "start time: 3 s, end time: 5 s", "start - 5 s"; but a
# span after "for" is a duration, not a time.
MARKS = r"""[ \t\u00a0*_"'()\[\]<>“”‘’«»]{0,6}"""
RANGE_MARK = r"(?:-{1,3}>?|[‐‑‒–—―−－~～→]|\b(?:to|until|till|through)\b)"
JOIN = rf"{MARKS}{RANGE_MARK}{MARKS}"
ABOUT = r"(?:(?:the|about|around|approximately|roughly|exactly|seconds?|timestamp)\s){0,2}"
SPAN = rf"""(?<!for\s)
    (?: (?P<between>\bbetween\s) | (?P<bracket>[\[(]\s?) | (?P<named>\b(?:start|begin)[^\d\n]{{0,40}}) )?
    {ABOUT} (?P<first> {TIME} | \b(?:start|beginning)(?:\sof\sthe\svideo)?\b )
    (?: {JOIN}
      | (?(between) \sand\s | (?!))
      | (?(bracket) ,\s? | (?!))
      | (?(named) [^\d]{{0,40}}?\b(?:end|finish|stop|until)[^\d]{{0,40}} | (?!)) )
    {ABOUT} (?P<last> {TIME} | end\b(?![^\d\n]{{0,20}}\d) )"""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern without regard to letter case and blanks."""
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE)


ANY_TIME = compile_pattern(TIME)
ANY_SPAN = compile_pattern(SPAN)
IS_MARKED = compile_pattern(rf"\d(?: :\d | {UNIT} )")
DIGITS = re.compile(r"\d{1,9}(?::\d{1,9}){0,2}(?:\.\d{1,9})?")


def seconds_of(text: str) -> float:
    """Return the seconds of a time, of the first one if there are several; "start" and "beginning" are 0."""
    digits = DIGITS.search(text)
    seconds = 0.0
    for part in digits[0].split(":") if digits else ():
        seconds = seconds * 60 + float(part)
    return round(seconds, 6)  # 0:18.1 is the number 18.1, not a sum that is off in the last bit


def span_event(span: re.Match[str], duration: float | None, caption: str = "") -> Event | None:
    """Return the event of a span, its ends in order; None for a span until the end of a video of unknown duration."""
    first = seconds_of(span["first"])
    last = duration if span["last"].lower() == "end" else seconds_of(span["last"])
    return None if last is None else Event(min(first, last), max(first, last), caption)


def is_marked(span: re.Match[str]) -> bool:
    """Whether a unit or a colon marks the numbers of a span as times."""
    return bool(IS_MARKED.search(f"{span['first']} {span['last']}"))
