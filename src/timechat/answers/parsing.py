r"""Parsers of answers: one function for each kind of answer, from text to `Parsed`.

    text ─▶ given answer ─▶ JSON, XML, tables, or else ─▶ canonical notation ─▶ sentences ─▶ events

A text is *sentences*, each without its list number or bullet. The span of an event *heads* its sentence ("0 - 5
seconds, he sits"), stands behind the text of its line ("Rain (0:02 - 0:09)"), or is stated in a sentence ("from 3 to 5
seconds"). Every repetition in a pattern that could be tried again at the next character is bounded, so the parsing time
is proportional to the length of the text.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from timechat.answers.answer_text import IS_LONG_UNIT, AnswerText, given_answer
from timechat.answers.events import Event
from timechat.answers.fields import Reading
from timechat.answers.grammar import NO_MOMENTS, NO_SPEECH
from timechat.answers.json_answers import read_json
from timechat.answers.markup import read_tables, read_xml
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.times import (
    ABOUT,
    ANY_SPAN,
    ANY_TIME,
    CLOCK,
    DIGITS,
    IS_MARKED,
    JOIN,
    MARKS,
    SPAN,
    TIME,
    UNIT,
    compile_pattern,
    is_marked,
    seconds_of,
    span_event,
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """The events of one answer, and the number of parts that could not be parsed.

    Args:
        events: Events in the order of the text; they are not sorted or merged, and repeated ones are kept.
        is_unparsed: Whether the task asks for events and the answer has none; False for a free answer.
        dropped_times: Number of events and times after the end of the video.
        clipped_ends: Number of events that were cut at the end of the video.
        missing_scores: Number of highlights without a score; they count as 0.0.
        extra_scores: Number of scores without a highlight; they are ignored.
    """

    events: list[Event]
    is_unparsed: bool = False
    dropped_times: int = 0
    clipped_ends: int = 0
    missing_scores: int = 0
    extra_scores: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """The account as sentences; empty for an answer that was parsed completely."""
        counted = (
            (self.dropped_times, "time", "past the end of the video dropped"),
            (self.clipped_ends, "event", "past the end of the video cut there"),
            (self.missing_scores, "score", "missing, counted as 0.0"),
            (self.extra_scores, "score", "without a highlight, ignored"),
        )
        unparsed = ("no event could be read from the answer",) if self.is_unparsed else ()
        return unparsed + tuple(f"{n} {noun}{'' if n == 1 else 's'} {fate}" for n, noun, fate in counted if n)


def clip_events(parsed: Parsed, duration: float | None) -> Parsed:
    """Drop events after the end of the video, and cut those that continue past it."""
    if duration is None:
        return parsed
    kept = [event for event in parsed.events if event.start <= duration]
    return replace(
        parsed,
        events=[replace(event, end=min(event.end, duration)) for event in kept],
        dropped_times=len(parsed.events) - len(kept),
        clipped_ends=sum(event.end > duration for event in kept),
    )


def states_none(text: str) -> bool:
    """Whether an answer is the product's own wording for "none": no moment, no highlight, or no speech."""
    return given_answer(text).strip() in (NOT_FOUND_ANSWER, NO_MOMENTS, NO_SPEECH)


def _read_structured(text: str, reading: Reading) -> list[Event]:
    """The events of an answer in JSON, in XML or in a table."""
    return read_json(text, reading) or read_xml(text, reading) or read_tables(text, reading)


# ------------------------------------------------------------------------------------------------- sentences

# The two spaces are what the model was trained to write between events.
_BREAK = compile_pattern(
    r"""(?: \A | \n | ;\s | (?<=[.!?])\s | (?<=[.!?]["')*”’])\s | (?<=[^\d\s][.!?])(?=\d) | \s\s(?=\d) )
    [\s*\#>•·|+-]*+ (?: (?: \d{1,3}[.)]\s | (?:event|step|scene)\s\d{1,3}(?=\s?[*:.(\n-]) ) [\s*:.-]*+ )?"""
)
# Any signs, and a list mark: "(1)", "a)", "100.", "[2]", "1️⃣", "1 -" before a span.
_SIGN = r"(?:[^\w\s]|[\ufe0f\u20e3\u200d\u2460-\u24ff\u2776-\u2793])"
_LIST_MARK = rf"""(?: [(\[]? (?:\d{{1,3}}|[a-z]|[ivx]{{1,4}}) [.)\]:] \s | \d{{1,2}}[\ufe0f\u20e3]{{1,2}} | \d{{1,3}} \s [-–—] \s (?={TIME}\s?[-–—]\s?{TIME}) )"""
_LEAD = rf"(?: {_SIGN}{{1,4}} \s{{1,2}} ){{0,2}} (?: {_LIST_MARK} \s? )? (?: {_SIGN}{{1,4}} \s{{1,2}} ){{0,2}} {MARKS}"
# What heads a sentence: "**0 - 9 seconds**", "Event 2: from 0 to 9 seconds", "Next, between 0 and 9 seconds".
_HEAD = compile_pattern(
    rf"""(?: transcribed\sspeech:\s )? (?: (?P<label>[^\n:]{{1,80}}):[\s*]{{1,4}} )??
    {_LEAD} (?: (?:\w{{1,12}},\s)? (?:from|at|in|during)\s )? {SPAN}"""
)
# "0:45 Set-up" and "<45 seconds> Set-up" are moments that head a line.
_CHAPTER = compile_pattern(rf"{_LEAD}(?P<time>{CLOCK})")
_BRACKETED_MOMENT = compile_pattern(rf"[<\[(] \s? (?P<time>{TIME}) \s? [>\])] (?!\s?[-–—])")
# What is said inside a sentence: "from 3 to 5 seconds", "(0:03 - 0:05)", "at 10 and 12 seconds".
_STATED = compile_pattern(
    rf"""(?: \b(?:from|in|at|during)\s | [(\[] | \b(?=between|start|begin) ) {SPAN}
    | (?: \b(?:at|around) | @ )\s? {ABOUT}
      (?P<moments> {TIME} (?: (?:,?\sand\s|,\s?) {TIME} ){{0,20}} ) (?! {JOIN}\d )"""
)
_ASIDE = compile_pattern(rf"\s?[(\[<]{SPAN}\s?[)\]>]")
# A last span that was cut: "130 - ", "130 - 14".
_UNFINISHED = compile_pattern(
    rf"""(?: (?<=[.!?;])\s | \n )[\s*]{{0,4}} (?:\d{{1,2}}[.)]\s)? (?:from\s)?
    \d(?:[\d:.]{{0,8}}\d)? (?:{UNIT})? (?:{JOIN})? (?:[\d:.]{{0,8}}\d)? \s*\Z"""
)
_LABEL = compile_pattern(r"(?:description|caption|event|action|activity|step|text)\w{0,2}\s?:\s{0,3}")
# What subtitles have round the times: the number of the next entry, and settings.
_ENTRY_NUMBER = re.compile(r"(?:\A|\n)\s*\d{1,6}\s*\Z")
_SETTINGS = re.compile(r"[ \t]+(?:[a-z]{1,20}:\S+[ \t]*)++(?=\n|\Z)")
_END_OF_LINE = re.compile(r"[ \t.*;,]*+(?=\n|\Z)")


def _sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of every sentence or line, without the bullet or list number that stands before it."""
    breaks = list(_BREAK.finditer(text))
    return [(this.end(), then.start()) for this, then in pairwise(breaks)] + [(breaks[-1].end(), len(text))]


def _clean(caption: str) -> str:
    """A caption without the marks that joined it to its span or to the next one."""
    caption = caption.replace("**", "").lstrip(" \t\r\n.,:;-–—|)]}>*'`，：；、）】").rstrip(" \t\r\n,:;|-–—*#([，；、")
    label = _LABEL.match(caption)
    return caption[label.end() :] if label else caption


# --------------------------------------------------------------------------------------------------- readers


def read_captions(text: str, duration: float | None) -> Parsed:
    """Spans that head a sentence, each with the text up to the next one; or those behind a text, or inside a sentence."""
    text = given_answer(text)
    if events := _read_structured(text, Reading(duration)):
        return Parsed(events)
    answer = AnswerText.from_answer(text)
    if cut := _UNFINISHED.search(answer.text):
        answer = answer.until(cut.start())
    events = _read_tails(answer, duration) or _read_heads(answer, duration)
    return Parsed(events or _read_sentences(answer, duration, with_moments=False))


def _read_heads(answer: AnswerText, duration: float | None) -> list[Event]:
    sentences = _sentences(answer.text)
    heads = [(i, head) for i, (start, _) in enumerate(sentences) if (head := _HEAD.match(answer.text, start))]
    heads = heads[:1] + [
        b for a, b in pairwise(heads) if a[1].start("first") != b[1].start("first")
    ]  # "a. 0:00 - 0:05"
    heads = [(i, head) for i, head in heads if head is heads[0][1] or not _is_length(answer, heads[0][1], head)]
    ends = [sentences[i - 1][1] for i, _ in heads[1:]] + [len(answer.text)]
    followers = [head for _, head in heads[1:]] + [None]
    return [
        event
        for (_, head), end, follower in zip(heads, ends, followers, strict=False)
        if (event := _head_event(answer, head, end, duration, follower))
    ]


def _is_length(answer: AnswerText, first: re.Match[str], head: re.Match[str]) -> bool:
    """Whether a span in minutes is a length inside the caption of an event in seconds: "... 20 - 25 minutes is enough"."""
    start = head.start()
    if "\n" in answer.text[max(0, start - 4) : start] or answer.text[max(0, start - 2) : start] == "  ":
        return False
    return _is_in_minutes(answer, head) and not _is_in_minutes(answer, first)


def _is_in_minutes(answer: AnswerText, span: re.Match[str]) -> bool:
    return bool(IS_LONG_UNIT.search(answer.quote(span.start("first"), span.end("last"))))


def _head_event(
    answer: AnswerText, head: re.Match[str], end: int, duration: float | None, follower: re.Match[str] | None = None
) -> Event | None:
    """The event of a heading span: its caption follows up to `end`, or else stands before it ("Chop: 0:05 - 0:10")."""
    start = head.end()
    while start < end and answer.text[start] in "”\"'’»>)]" and answer.text[start - 1] not in " \n":
        start += 1
    if "-->" in head[0] and (settings := _SETTINGS.match(answer.text, start)):
        start = settings.end()
    caption = answer.quote(start, end)
    if follower and "-->" in follower[0]:
        caption = _ENTRY_NUMBER.sub("", caption)
    label = answer.quote(*head.span("label")) if head["label"] else ""
    return span_event(head, duration, _clean(caption) or _clean(label))


def _read_tails(answer: AnswerText, duration: float | None) -> list[Event]:
    """The events of lines with their span at the end, "Rain (0:02 - 0:09)"; lines of a span alone have no caption.

    Empty for a text in another layout: a line has two spans, or text follows a span.
    """
    events: list[Event] = []
    num_tails, num_lines = 0, 0
    are_marked = True
    place = 0
    for line in answer.text.split("\n"):
        start, end = place, place + len(line)
        place = end + 1
        if not line.strip():
            continue
        num_lines += 1
        asides = list(_ASIDE.finditer(answer.text, start, end))
        if len(asides) > 1:
            return []
        if not asides:
            if _HEAD.match(answer.text, _sentences_start(answer.text, start)):
                return []
            continue
        if not _END_OF_LINE.match(answer.text, asides[0].end()):
            return []
        (first, last) = asides[0].span()
        caption = _clean(answer.quote(_sentences_start(answer.text, start), first) + answer.quote(last, end))
        num_tails += bool(caption)
        if not events and not caption:
            return []
        are_marked = are_marked and is_marked(asides[0])
        if event := span_event(asides[0], duration, caption):
            events.append(event)
    is_list = num_tails > 1 and len(events) == num_lines
    return events if num_tails and (are_marked or is_list) else []


def _sentences_start(text: str, line: int) -> int:
    """The place behind the bullet or list number of a line."""
    mark = _LINE_MARK.match(text, line)
    return mark.end() if mark else line


_LINE_MARK = compile_pattern(r"[ \t*\#>•·|+-]*+ (?: \d{1,3}[.)]\s | [(\[]\d{1,3}[)\]]\s )? [ \t*\#>•·|+-]*+")


def read_grounding(text: str, duration: float | None) -> Parsed:
    """The first span; one with a unit or a colon goes before bare numbers, and before one in a quoted query."""
    text = given_answer(text)
    structured = _read_structured(text, Reading(duration))
    if structured:
        return Parsed([Event(structured[0].start, structured[0].end)])
    answer = AnswerText.from_answer(text)
    spans = list(ANY_SPAN.finditer(answer.text))
    spans = [span for span in spans if is_marked(span)] or spans
    quoted = [match.span() for match in _QUOTED.finditer(answer.text)]
    spans = _outside(spans, quoted) or spans
    spans = [span for span in spans if not _is_in_minutes(answer, span)] or spans
    events = [event for span in spans if (event := span_event(span, duration))]
    return Parsed(events[:1])


# A quoted query: words in quotation marks.
_QUOTED = re.compile(r"""(?<!\w)(?:'[^'\n]{1,300}'|"[^"\n]{1,300}"|“[^”\n]{1,300}”)(?!\w)""")


def _outside(spans: list[re.Match[str]], places: list[tuple[int, int]]) -> list[re.Match[str]]:
    """The spans that do not lie in one of the places, which are in order."""
    kept, i = [], 0
    for span in spans:
        while i < len(places) and places[i][1] <= span.start():
            i += 1
        if i == len(places) or span.start() < places[i][0]:
            kept.append(span)
    return kept


def read_free(text: str, duration: float | None) -> Parsed:
    """Every span and every stated moment of an answer to any question, sentence by sentence."""
    text = given_answer(text)
    if "saliency scores are" in text:  # the model was trained to answer some summaries with highlights
        return read_highlights(text, duration)
    if events := _read_structured(text, Reading(duration)):
        return Parsed(events)
    answer = AnswerText.from_answer(text)
    return Parsed(_read_tails(answer, duration) or _read_sentences(answer, duration))


def _read_sentences(answer: AnswerText, duration: float | None, *, with_moments: bool = True) -> list[Event]:
    sentences = _sentences(answer.text)
    return [
        event
        for start, end in sentences
        for event in _read_sentence(answer, start, end, duration, with_moments=with_moments)
    ]


def _read_sentence(
    answer: AnswerText, start: int, end: int, duration: float | None, *, with_moments: bool
) -> list[Event]:
    """The events of one sentence: the one that heads it with the rest, or all that it states with the whole."""
    text = answer.text
    head = _HEAD.match(text, start)
    if head and is_marked(head):
        event = _head_event(answer, head, end, duration)
        return [event] if event else []
    moment = _CHAPTER.match(text, start, end) or _BRACKETED_MOMENT.match(text, start, end)
    if moment and IS_MARKED.search(moment["time"]):
        return _moments([moment["time"]], _clean(answer.quote(moment.end(), end))) if with_moments else []
    asides = [match.span() for match in _ASIDE.finditer(text, start, end)]
    pieces = [answer.quote(a, b) for a, b in _gaps(start, end, asides)]
    caption = _clean("".join(pieces))
    return [
        event
        for match in _STATED.finditer(text, start, end)
        if with_moments or not match["moments"]
        for event in _stated_events(match, caption, duration)
    ]


def _gaps(start: int, end: int, places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stretches from start to end that lie between places."""
    bounds = [start, *(bound for place in places for bound in place), end]
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def _stated_events(match: re.Match[str], caption: str, duration: float | None) -> list[Event]:
    """The span or the moments that a sentence states, none where nothing says that they are times."""
    if match["moments"]:
        times = ANY_TIME.findall(match["moments"])
        return _moments(times, caption) if IS_MARKED.search(times[-1]) else []
    event = span_event(match, duration, caption) if is_marked(match) else None
    return [event] if event else []


def _moments(times: list[str], caption: str) -> list[Event]:
    return [Event(seconds_of(time), seconds_of(time), caption) for time in times]


# ------------------------------------------------------------------------------------------------ highlights

_RATED = compile_pattern(
    rf"(?P<word>scor|salien|rating|rated) | (?P<beside> (?<=\d:\s) | (?<=\d\s\() )? (?P<time>{TIME})"
)
_SCALE = compile_pattern(r"/\s?\d{1,3}\b | \b(?:out\sof|scale\s(?:of|from))\s\d{1,3}(?:\s?(?:to|-)\s?\d{1,3})?")


def read_highlights(text: str, duration: float | None) -> Parsed:
    """Times and scores, paired in order; a span counts as its middle."""
    text = given_answer(text)
    if events := _read_structured(text, Reading(duration, is_highlights=True)):
        return Parsed(
            [_highlight((event.start + event.end) / 2, event.saliency or event.score or 0.0) for event in events]
        )
    text = AnswerText.from_answer(text, joins_ends=False).text
    text = ANY_SPAN.sub(lambda span: _middle(span, duration), _SCALE.sub("", text))
    times, scores = _times_and_scores(text)
    return Parsed(
        [_highlight(time, score) for time, score in zip(times, scores + [0.0] * len(times), strict=False)],
        missing_scores=max(0, len(times) - len(scores)),
        extra_scores=max(0, len(scores) - len(times)),
    )


def _times_and_scores(text: str) -> tuple[list[float], list[float]]:
    """All times and all scores: a bare number is a score after the word "score" or a time ("10 s: 3.2", "10 (3.2)")."""
    times: list[float] = []
    scores: list[float] = []
    is_rated = False
    for start, end in _sentences(text):
        found = list(_RATED.finditer(text, start, end))
        is_rated = is_rated and not any(match["word"] for match in found)
        for match in found:
            is_time = bool(IS_MARKED.search(match[0]))
            if match["time"]:
                is_score = not is_time and (is_rated or match["beside"] is not None)
                (scores if is_score else times).append(seconds_of(match["time"]))
            is_rated = is_rated or is_time or bool(match["word"])
    return times, scores


def _highlight(time: float, saliency: float) -> Event:
    return Event(time, time, saliency=saliency)


def _middle(span: re.Match[str], duration: float | None) -> str:
    event = span_event(span, duration) if is_marked(span) else None
    return f"{(event.start + event.end) / 2:.3f} s" if event else span[0]


# ---------------------------------------------------------------------------------------------- another clock


def move_times(text: str, move: Callable[[float], float]) -> str:
    """Rewrite the times that a free answer states, as `parse_events` reads them: to another clock, say.

    Args:
        text: The answer.
        move: Gives the new seconds of a time. Seconds are written with one decimal, clock times in whole seconds.
    """
    answer = AnswerText.from_answer(text, joins_ends=False)
    places = set()
    for match in [*ANY_SPAN.finditer(answer.text), *_STATED.finditer(answer.text)]:
        groups = match.groupdict()
        if groups.get("moments"):
            found = list(ANY_TIME.finditer(answer.text, *match.span("moments")))
            places |= {time.span() for time in found if IS_MARKED.search(found[-1][0])}
        elif is_marked(match):
            places |= {match.span(name) for name in ("first", "last") if DIGITS.search(match[name])}
    pieces: list[str] = []
    at = 0
    for first, end in sorted(places):
        pieces += [
            answer.quote(at, first),
            DIGITS.sub(lambda digits: _moved(digits[0], move), answer.text[first:end], count=1),
        ]
        at = end
    return "".join([*pieces, answer.quote(at, len(answer.text))])


def _moved(digits: str, move: Callable[[float], float]) -> str:
    seconds = move(seconds_of(digits))
    if ":" not in digits:
        return f"{seconds:.1f}"
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}" if minutes >= 60 else f"{minutes}:{whole:02d}"
