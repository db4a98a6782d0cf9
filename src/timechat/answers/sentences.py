"""Sentences of an answer in canonical notation: where they start, and where their times stand.

The patterns read the text of `timechat.answers.answer_text.AnswerText`.
"""

import re
from itertools import pairwise

from timechat.answers.times import ABOUT, CLOCK, JOIN, MARKS, SPAN, TIME, UNIT, compile_pattern

# The two spaces are what the model was trained to write between events.
_BREAK = compile_pattern(
    r"""(?: \A | \n | ;\s | (?<=[.!?])\s | (?<=[.!?]["')*”’])\s | (?<=[^\d\s][.!?])(?=\d) | \s\s(?=\d) )
    [\s*\#>•·|+-]*+ (?: (?: \d{1,3}[.)]\s | (?:event|step|scene)\s\d{1,3}(?=\s?[*:.(\n-]) ) [\s*:.-]*+ )?"""
)
# Any signs, and a list mark: "(1)", "a)", "100.", "[2]", "1️⃣", "1 -" before a span.
_SIGN = r"(?:[^\w\s.!?]|[\ufe0f\u20e3\u200d\u2460-\u24ff\u2776-\u2793])"
_LIST_MARK = rf"""(?:
    [(\[]? (?:\d{{1,3}}|[a-z]|[ivx]{{1,4}}) [.)\]:] \s
    | \d{{1,2}}[\ufe0f\u20e3]{{1,2}}
    | \d{{1,3}} \s [-–—] \s (?={TIME}\s?[-–—]\s?{TIME})
    | (?<=\#)\d{{1,3}} \s | \d{{1,3}} \s (?={CLOCK}) )"""
_LEAD = rf"(?: {_SIGN}{{1,4}} \s{{0,2}} ){{0,2}} (?: {_LIST_MARK} \s? )? (?: {_SIGN}{{1,4}} \s{{0,2}} ){{0,2}} {MARKS}"
# What heads a sentence: "**0 - 9 seconds**", "Event 2: from 0 to 9 seconds", "Next, between 0 and 9 seconds".
HEAD = compile_pattern(
    rf"""(?: transcribed\sspeech:\s )? (?: (?P<label>[^\n:]{{1,80}}):[\s*]{{1,4}} )??
    {_LEAD} (?: (?:\w{{1,12}},\s)? (?:from|at|in|during)\s )? {SPAN}"""
)
# "0:45 Set-up" and "<45 seconds> Set-up" are moments that head a line.
CHAPTER = compile_pattern(rf"{_LEAD}(?P<time>{CLOCK})")
BRACKETED_MOMENT = compile_pattern(rf"[<\[(] \s? (?P<time>{TIME}) \s? [>\])] (?!\s?[-–—])")
# What is said inside a sentence: "from 3 to 5 seconds", "(0:03 - 0:05)", "at 10 and 12 seconds".
STATED = compile_pattern(
    rf"""(?: \b(?:from|in|at|during)\s | [(\[] | \b(?=between|start|begin) ) {SPAN}
    | (?: \b(?:at|around) | @ )\s? {ABOUT}
      (?P<moments> {TIME} (?: (?:,?\sand\s|,\s?) {TIME} ){{0,20}} ) (?! {JOIN}\d )"""
)
# The next span of a list: ", 7 - 9 seconds", " and from 7 to 9 seconds".
NEXT_SPAN = compile_pattern(rf"\s?(?:,\s?and|,|;|and|&|or)\s?(?:from\s|in\s|at\s)?{SPAN}")
ASIDE = compile_pattern(rf"\s?[(\[<]{SPAN}\s?[)\]>]")
# A span behind its text without brackets: "Rain, 0:02 - 0:09".
TAIL = compile_pattern(rf"(?<=\w)\s?[,;:–—-]\s{SPAN}(?=[ \t.]{{0,9}}(?:\n|\Z))")
# A last span that was cut: "130 - ", "130 - 14".
UNFINISHED = compile_pattern(
    rf"""(?: (?<=[.!?;])\s | \n )[\s*]{{0,4}} (?:\d{{1,2}}[.)]\s)? (?:from\s)?
    \d(?:[\d:.]{{0,8}}\d)? (?:{UNIT})? (?:{JOIN})? (?:[\d:.]{{0,8}}\d)? \s*\Z"""
)
_LABEL = compile_pattern(r"(?:description|caption|event|action|activity|step|text)\w{0,2}\s?:\s{0,3}")
# The bullet or list number of a line.
_BULLETS = r"[ \t*\#>•·|+-]*+"
LINE_MARK = compile_pattern(
    rf"{_BULLETS} (?: {_SIGN}{{1,4}} \s )? (?: (?:\d{{1,3}}|[a-z])[.)]\s | [(\[]\d{{1,3}}[)\]]\s )? {_BULLETS}"
)
# A quoted query: words in quotation marks.
QUOTED = re.compile(r"""(?<!\w)(?:'[^'\n]{1,300}'|"[^"\n]{1,300}"|“[^”\n]{1,300}”)(?!\w)""")
# What subtitles have round the times: the number of the next entry, and settings.
ENTRY_NUMBER = re.compile(r"(?:\A|\n)[ \t]{0,9}\d{1,6}\s*\Z")
SETTINGS = re.compile(r"[ \t]+(?:[a-z]{1,20}:\S+[ \t]*)++(?=\n|\Z)")
SENTENCE_END = re.compile(r"[.!?]\s")
END_OF_LINE = re.compile(r"[ \t.*;,]*+(?=\n|\Z)")


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of every sentence or line, without the bullet or list number that stands before it."""
    breaks = list(_BREAK.finditer(text))
    return [(this.end(), then.start()) for this, then in pairwise(breaks)] + [(breaks[-1].end(), len(text))]


def clean_caption(caption: str) -> str:
    """A caption without the marks that joined it to its span or to the next one."""
    caption = caption.replace("**", "").lstrip(" \t\r\n.,:;-–—|)]}>*'`，：；、）】").rstrip(" \t\r\n,:;|-–—*#([，；、")
    label = _LABEL.match(caption)
    return caption[label.end() :] if label else caption
