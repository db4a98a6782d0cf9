r"""Parsers of answers: one function for each kind of answer, from text to `Parsed`.

Four definitions: a *time* is a clock time or a number that counts nothing else ("3 cups" is no time); a *span* is two
times and the text that joins them; a text is *sentences*, each without its list number or bullet; and the span of an
event *heads* its sentence or is stated in it ("from 3 to 5 seconds"). Every repetition in a pattern that could be tried
again at the next character is bounded, so the parsing time is proportional to the length of the text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from timechat.answers.events import Event


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


# ------------------------------------------------------------------------------------------ times and spans

# "12.3 seconds", "1:02:03" and a bare "12", unless a word or a sign makes it a count ("3 cups", "20%", "1/4").
_UNIT = r"[ \u00a0-]{0,2}(?:seconds?|secs?|seonds?|s)\b"
_CLOCK = r"\d{1,3}:[0-5]\d(?::[0-5]\d)?(?:\.\d{1,9}+)?(?!:?\d)(?!\s?[ap]m\b)"
_NUMBER = r"\d{1,6}+(?:\.\d{1,9}+)?+(?![\d%°/]|:\d)"
_COUNTS_NOTHING = r"(?!\s?(?!(?:to|until|till|through|and|at|with|end\w*|respectively)\b)[^\W\d_])"
_TIME = rf"(?<![\w/])(?<!\d[.:])(?:{_CLOCK}(?:{_UNIT})?|{_NUMBER}(?:{_UNIT}|{_COUNTS_NOTHING}))"

# "3 - 5 s", "from 3 to 5 s", "between 3 and 5 s", "[3, 5]", "start time: 3 s, end time: 5 s", "start - 5 s"; but a
# span after "for" is a duration, not a time.
_MARKS = r"""[ \t\u00a0*_"'()\[\]]{0,6}"""
_JOIN = rf"{_MARKS}(?:-{{1,3}}>?|[‐‑‒–—―−－~～→]|\b(?:to|until|till|through)\b){_MARKS}"
_ABOUT = r"(?:(?:the|about|around|approximately|roughly|exactly|seconds?|timestamp)\s){0,2}"
_SPAN = rf"""(?<!for\s)
    (?: (?P<between>\bbetween\s) | (?P<bracket>[\[(]\s?) | (?P<named>\b(?:start|begin)[^\d\n]{{0,40}}) )?
    {_ABOUT} (?P<first> {_TIME} | \b(?:start|beginning)(?:\sof\sthe\svideo)?\b )
    (?: {_JOIN}
      | (?(between) \sand\s | (?!))
      | (?(bracket) ,\s? | (?!))
      | (?(named) [^\d]{{0,40}}?\b(?:end|finish|stop|until)[^\d]{{0,40}} | (?!)) )
    {_ABOUT} (?P<last> {_TIME} | end\b(?![^\d\n]{{0,20}}\d) )"""


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE)


_ANY_TIME = _compile(_TIME)
_ANY_SPAN = _compile(_SPAN)
_IS_MARKED = _compile(rf"\d(?: :\d | {_UNIT} )")
_DIGITS = re.compile(r"\d{1,9}(?::\d{1,9}){0,2}(?:\.\d{1,9})?")


def _seconds(text: str) -> float:
    """The seconds of a time, the first if there are several; "start" and "beginning" are 0."""
    digits = _DIGITS.search(text)
    seconds = 0.0
    for part in digits[0].split(":") if digits else ():
        seconds = seconds * 60 + float(part)
    return round(seconds, 6)  # 0:18.1 is the number 18.1, not a sum that is off in the last bit


def _span_event(span: re.Match[str], duration: float | None, caption: str = "") -> Event | None:
    """The event of a span, its ends in order; None for a span until the end of a video of unknown duration."""
    first = _seconds(span["first"])
    last = duration if span["last"].lower() == "end" else _seconds(span["last"])
    return None if last is None else Event(min(first, last), max(first, last), caption)


def _is_marked(span: re.Match[str]) -> bool:
    """Whether a unit or a colon marks the numbers of a span as times."""
    return bool(_IS_MARKED.search(f"{span['first']} {span['last']}"))


def move_times(text: str, move: Callable[[float], float]) -> str:
    """Rewrite the times that a free answer states, as `parse_events` reads them: to another clock, say.

    Args:
        text: The answer.
        move: Gives the new seconds of a time. Seconds are written with one decimal, clock times in whole seconds.
    """
    places = set()
    for match in [*_ANY_SPAN.finditer(text), *_STATED.finditer(text)]:
        groups = match.groupdict()
        if groups.get("moments"):
            found = list(_ANY_TIME.finditer(text, *match.span("moments")))
            places |= {time.span() for time in found if _IS_MARKED.search(found[-1][0])}
        elif _is_marked(match):
            places |= {match.span(name) for name in ("first", "last") if _DIGITS.search(match[name])}
    for first, end in sorted(places, reverse=True):
        text = text[:first] + _DIGITS.sub(lambda digits: _moved(digits[0], move), text[first:end], count=1) + text[end:]
    return text


def _moved(digits: str, move: Callable[[float], float]) -> str:
    seconds = move(_seconds(digits))
    if ":" not in digits:
        return f"{seconds:.1f}"
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}" if minutes >= 60 else f"{minutes}:{whole:02d}"


# ------------------------------------------------------------------------------------------------- sentences

# The two spaces are what the model was trained to write between events.
_BREAK = _compile(
    r"""(?: \A | \n | ;\s | (?<=[.!?])\s | (?<=[.!?]["')*])\s | (?<=[^\d\s][.!?])(?=\d) | \s\s(?=\d) )
    [\s*\#>•·|+-]*+ (?: (?: \d{1,2}[.)]\s | (?:event|step|scene)\s\d{1,3}(?=\s?[*:.(\n-]) ) [\s*:.-]*+ )?"""
)
# What heads a sentence: "**0 - 9 seconds**", "Event 2: from 0 to 9 seconds", "Next, between 0 and 9 seconds".
_HEAD = _compile(
    rf"""(?: transcribed\sspeech:\s )? (?: (?P<label>[^\n:]{{1,80}}):[\s*]{{1,4}} )??
    {_MARKS} (?: (?:\w{{1,12}},\s)? (?:from|at|in|during)\s )? {_SPAN}"""
)
# "0:45 Set-up" is a moment that heads a line.
_CHAPTER = _compile(rf"{_MARKS}(?P<time>{_CLOCK})")
# What is said inside a sentence: "from 3 to 5 seconds", "(0:03 - 0:05)", "at 10 and 12 seconds".
_STATED = _compile(
    rf"""(?: \b(?:from|in|at|during)\s | [(\[] | \b(?=between|start|begin) ) {_SPAN}
    | (?: \b(?:at|around) | @ )\s? {_ABOUT}
      (?P<moments> {_TIME} (?: (?:,?\sand\s|,\s?) {_TIME} ){{0,20}} ) (?! {_JOIN}\d )"""
)
_ASIDE = _compile(rf"\s?[(\[]{_SPAN}\s?[)\]]")
# A last span that was cut: "130 - ", "130 - 14".
_UNFINISHED = _compile(
    rf"""(?: (?<=[.!?;])\s | \n )[\s*]{{0,4}} (?:\d{{1,2}}[.)]\s)? (?:from\s)?
    \d(?:[\d:.]{{0,8}}\d)? (?:{_UNIT})? (?:{_JOIN})? (?:[\d:.]{{0,8}}\d)? \s*\Z"""
)
_LABEL = _compile(r"(?:description|caption|event|action|activity|step|text)\w{0,2}\s?:\s{0,3}")


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
    """Spans that head a sentence, each with the text up to the next one; or else those said inside a sentence."""
    text = _UNFINISHED.sub("", text)
    events = _read_objects(text) or _read_heads(text, duration)
    return Parsed(events or [event for event in read_free(text, duration).events if event.duration])


def _read_heads(text: str, duration: float | None) -> list[Event]:
    sentences = _sentences(text)
    heads = [(i, head) for i, (start, _) in enumerate(sentences) if (head := _HEAD.match(text, start))]
    ends = [sentences[i - 1][1] for i, _ in heads[1:]] + [len(text)]
    events = [_head_event(text, head, end, duration) for (_, head), end in zip(heads, ends, strict=False)]
    return [event for event in events if event]


def _head_event(text: str, head: re.Match[str], end: int, duration: float | None) -> Event | None:
    """The event of a heading span: its caption follows up to `end`, or else stands before it ("Chop: 0:05 - 0:10")."""
    return _span_event(head, duration, _clean(text[head.end() : end]) or _clean(head["label"] or ""))


def read_grounding(text: str, duration: float | None) -> Parsed:
    """The first span; one with a unit or a colon goes before bare numbers."""
    spans = list(_ANY_SPAN.finditer(text))
    spans = [span for span in spans if _is_marked(span)] or spans
    events = [event for span in spans if (event := _span_event(span, duration))]
    return Parsed(events[:1])


def read_free(text: str, duration: float | None) -> Parsed:
    """Every span and every stated moment of an answer to any question, sentence by sentence."""
    if "saliency scores are" in text:  # the model was trained to answer some summaries with highlights
        return read_highlights(text, duration)
    events = _read_objects(text)
    for start, end in _sentences(text) if not events else ():
        events += _read_sentence(text, start, end, duration)
    return Parsed(events)


def _read_sentence(text: str, start: int, end: int, duration: float | None) -> list[Event]:
    """The events of one sentence: the one that heads it with the rest, or all that it states with the whole."""
    head = _HEAD.match(text, start)
    if head and _is_marked(head):
        event = _head_event(text, head, end, duration)
        return [event] if event else []
    if chapter := _CHAPTER.match(text, start, end):
        return _moments([chapter["time"]], _clean(text[chapter.end() : end]))
    caption = _clean(_ASIDE.sub("", text[start:end]))
    return [e for match in _STATED.finditer(text, start, end) for e in _stated_events(match, caption, duration)]


def _stated_events(match: re.Match[str], caption: str, duration: float | None) -> list[Event]:
    """The span or the moments that a sentence states, none where nothing says that they are times."""
    if match["moments"]:
        times = _ANY_TIME.findall(match["moments"])
        return _moments(times, caption) if _IS_MARKED.search(times[-1]) else []
    event = _span_event(match, duration, caption) if _is_marked(match) else None
    return [event] if event else []


def _moments(times: list[str], caption: str) -> list[Event]:
    return [Event(_seconds(time), _seconds(time), caption) for time in times]


# ------------------------------------------------------------------------------------------------ highlights

_RATED = _compile(rf"(?P<word>scor|salien|rating|rated) | (?P<beside> (?<=\d:\s) | (?<=\d\s\() )? (?P<time>{_TIME})")
_SCALE = _compile(r"/\s?\d{1,3}\b | \b(?:out\sof|scale\s(?:of|from))\s\d{1,3}(?:\s?(?:to|-)\s?\d{1,3})?")


def read_highlights(text: str, duration: float | None) -> Parsed:
    """Times and scores, paired in order; a span counts as its middle."""
    if events := _read_objects(text):
        return Parsed(
            [_highlight((event.start + event.end) / 2, event.saliency or event.score or 0.0) for event in events]
        )
    text = _ANY_SPAN.sub(lambda span: _middle(span, duration), _SCALE.sub("", text))
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
            is_marked = bool(_IS_MARKED.search(match[0]))
            if match["time"]:
                is_score = not is_marked and (is_rated or match["beside"] is not None)
                (scores if is_score else times).append(_seconds(match["time"]))
            is_rated = is_rated or is_marked or bool(match["word"])
    return times, scores


def _highlight(time: float, saliency: float) -> Event:
    return Event(time, time, saliency=saliency)


def _middle(span: re.Match[str], duration: float | None) -> str:
    event = _span_event(span, duration) if _is_marked(span) else None
    return f"{(event.start + event.end) / 2:.3f} s" if event else span[0]


# ---------------------------------------------------------------------------------------- JSON, or nearly JSON

_OBJECT = re.compile(r"\{([^{}]*)")
_FIELD = _compile(
    r"""["'](?P<key>\w{1,30})["']\s?:\s?
    (?: "(?P<double>(?:[^"\\]|\\.)*+)"? | '(?P<single>(?:[^'\\]|\\.)*+)'? | (?P<bare>\[[^\]]{0,80}|[^,\n]{1,30}) )"""
)
_TIME_KEY = _compile("start|begin|from$|end|to$|time|span|segment|interval")


def _read_objects(text: str) -> list[Event]:
    """Events of an answer written as JSON objects, even unfinished ones or with single quotes."""
    events = [_object_event(match[1]) for match in _OBJECT.finditer(text)]
    return [event for event in events if event]


def _object_event(fields: str) -> Event | None:
    """The event of one object: its keys say what is a time and what is a score; its first other text describes it."""
    times: list[float] = []
    caption, score = "", None
    for field in _FIELD.finditer(fields):
        value = next(value for value in field.group("double", "single", "bare") if value is not None)
        if _TIME_KEY.match(field["key"]):
            times += [_seconds(time) for time in _ANY_TIME.findall(value)]
        elif re.search("score|salien", field["key"]):
            score = _seconds(value)
        elif field["bare"] is None:
            caption = caption or re.sub(r"\\([\"'\\/])", r"\1", value)
    if not times:
        return None
    is_probability = score is not None and score <= 1
    rating = {"score": score} if is_probability else {"saliency": score}
    return Event(min(times), max(times), caption, **rating)
