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
from timechat.answers.grammar import NO_MOMENTS, NO_SPEECH, SPAN_SENTENCE
from timechat.answers.json_answers import is_empty_json, is_json_list, read_json, without_objects
from timechat.answers.markup import read_tables, read_xml
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.sentences import (
    ASIDE,
    BRACKETED_MOMENT,
    CHAPTER,
    END_OF_LINE,
    ENTRY_NUMBER,
    HEAD,
    LINE_MARK,
    NEXT_SPAN,
    QUOTED,
    SENTENCE_END,
    SETTINGS,
    STATED,
    TAIL,
    UNFINISHED,
    clean_caption,
    split_sentences,
)
from timechat.answers.times import (
    ANY_SPAN,
    ANY_TIME,
    DIGITS,
    IS_MARKED,
    TIME,
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
    """Whether an answer says that there is no moment, no highlight, no event or no speech.

    It is the product's own wording for that, or JSON: `[]`, `{"events": []}`, `{"found": false}`.
    """
    if is_own_span(text):
        return False
    answer = given_answer(text).strip()
    return answer in (NOT_FOUND_ANSWER, NO_MOMENTS, NO_SPEECH) or is_empty_json(answer)


def is_own_span(text: str) -> bool:
    """Whether an answer is one span in the product's own wording, so that no other wording has to be considered."""
    return bool(SPAN_SENTENCE.fullmatch(text.strip()))


def _read_structured(text: str, reading: Reading) -> tuple[list[Event], str]:
    """The events of an answer in JSON, in XML or in a table; without any, the text to read as sentences."""
    events = read_json(text, reading) or read_xml(text, reading) or read_tables(text, reading)
    return events, text if events or "{" not in text else without_objects(text)


# --------------------------------------------------------------------------------------------------- readers


def read_captions(text: str, duration: float | None) -> Parsed:
    """Spans that head a sentence, each with the text up to the next; or those behind a text or inside a sentence."""
    events, text = _read_structured(given_answer(text), Reading(duration))
    if events:
        return Parsed(events)
    answer = AnswerText.from_answer(text)
    if cut := UNFINISHED.search(answer.text):
        answer = answer.until(cut.start())
    events = _read_tails(answer, duration) or _read_heads(answer, duration)
    return Parsed(events or _read_sentences(answer, duration, with_moments=False))


def _read_heads(answer: AnswerText, duration: float | None) -> list[Event]:
    sentences = split_sentences(answer.text)
    heads = [(i, head) for i, (start, _) in enumerate(sentences) if (head := HEAD.match(answer.text, start))]
    heads = heads[:1] + [
        b for a, b in pairwise(heads) if a[1].start("first") != b[1].start("first")
    ]  # "a. 0:00 - 0:05"
    heads = [(i, head) for i, head in heads if head is heads[0][1] or not _is_length(answer, heads[0][1], head)]
    ends = [sentences[i - 1][1] for i, _ in heads[1:]] + [len(answer.text)]
    followers = [head for _, head in heads[1:]] + [None]
    return [
        event
        for (_, head), end, follower in zip(heads, ends, followers, strict=False)
        for event in _head_events(answer, head, end, duration, follower)
    ]


def _is_length(answer: AnswerText, first: re.Match[str], head: re.Match[str]) -> bool:
    """Whether a span in minutes is a length inside a caption, since the first event is in seconds."""
    start = head.start()
    if "\n" in answer.text[max(0, start - 4) : start] or answer.text[max(0, start - 2) : start] == "  ":
        return False
    return _is_in_minutes(answer, head) and not _is_in_minutes(answer, first)


def _is_in_minutes(answer: AnswerText, span: re.Match[str]) -> bool:
    return bool(IS_LONG_UNIT.search(answer.quote(span.start("first"), span.end("last"))))


def _head_events(
    answer: AnswerText, head: re.Match[str], end: int, duration: float | None, follower: re.Match[str] | None = None
) -> list[Event]:
    """The event of a heading span: its caption follows up to `end`, or else stands before it ("Chop: 0:05 - 0:10").

    Several spans with one unit ("3 - 5, 7 - 9 seconds, he sits") have the same caption.
    """
    spans = [head, *_listed_spans(answer, head, end)]
    start = spans[-1].end()
    while start < end and answer.text[start] in "”\"'’»>)]」』】》" and answer.text[start - 1] not in " \n":
        start += 1
    if "-->" in head[0] and (settings := SETTINGS.match(answer.text, start)):
        start = settings.end()
    caption = answer.quote(start, end)
    if follower and "-->" in follower[0]:
        caption = ENTRY_NUMBER.sub("", caption)
    label = answer.quote(*head.span("label")) if head["label"] else ""
    caption = clean_caption(caption) or clean_caption(label)
    return [event for span in spans if (event := span_event(span, duration, caption))]


def _listed_spans(answer: AnswerText, span: re.Match[str], end: int) -> list[re.Match[str]]:
    """The spans that follow a span in a list with one unit behind the last of them."""
    spans: list[re.Match[str]] = []
    while is_marked(span) and not IS_MARKED.search(answer.quote(span.start("first"), span.end("last"))):
        following = NEXT_SPAN.match(answer.text, span.end(), end)
        if not following:
            break
        span = following
        spans.append(span)
    return spans


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
        asides = list(ASIDE.finditer(answer.text, start, end)) or list(TAIL.finditer(answer.text, start, end))
        if len(asides) > 1:
            return []
        if not asides:
            if HEAD.match(answer.text, _sentences_start(answer.text, start)):
                return []
            continue
        if not END_OF_LINE.match(answer.text, asides[0].end()):
            return []
        (first, last) = asides[0].span()
        start = _sentences_start(answer.text, start)
        if SENTENCE_END.search(answer.text, start, first):
            return []
        caption = clean_caption(answer.quote(start, first) + answer.quote(last, end))
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
    mark = LINE_MARK.match(text, line)
    return mark.end() if mark else line


def read_grounding(text: str, duration: float | None) -> Parsed:
    """All spans of an answer that is a JSON list, or an object with one list; of any other answer the first span.

    A span with a unit or a colon goes before bare numbers, and before one in a quoted query.
    """
    if is_own_span(text):
        return Parsed([event for span in ANY_SPAN.finditer(text) if (event := span_event(span, duration))])
    given = given_answer(text)
    structured, text = _read_structured(given, Reading(duration))
    if structured:
        kept = structured if is_json_list(given) else structured[:1]
        return Parsed([Event(event.start, event.end) for event in kept])
    answer = AnswerText.from_answer(text)
    spans = list(ANY_SPAN.finditer(answer.text))
    spans = [span for span in spans if is_marked(span)] or spans
    quoted = [match.span() for match in QUOTED.finditer(answer.text)]
    spans = _outside(spans, quoted) or spans
    spans = [span for span in spans if not _is_in_minutes(answer, span)] or spans
    events = [event for span in spans if (event := span_event(span, duration))]
    return Parsed(events[:1])


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
    events, text = _read_structured(text, Reading(duration))
    if events:
        return Parsed(events)
    answer = AnswerText.from_answer(text)
    return Parsed(_read_sentences(answer, duration))


def _read_sentences(answer: AnswerText, duration: float | None, *, with_moments: bool = True) -> list[Event]:
    sentences = split_sentences(answer.text)
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
    head = HEAD.match(text, start)
    if head and is_marked(head):
        return _head_events(answer, head, end, duration)
    moment = CHAPTER.match(text, start, end) or BRACKETED_MOMENT.match(text, start, end)
    if moment and IS_MARKED.search(moment["time"]):
        return _moments([moment["time"]], clean_caption(answer.quote(moment.end(), end))) if with_moments else []
    asides = [match.span() for match in ASIDE.finditer(text, start, end)]
    pieces = [answer.quote(a, b) for a, b in _gaps(start, end, asides)]
    caption = clean_caption("".join(pieces))
    events: list[Event] = []
    at = start
    for match in STATED.finditer(text, start, end):
        if match.start() >= at and (with_moments or not match["moments"]):
            stated, at = _stated_events(answer, match, end, caption, duration)
            events += stated
    return events


def _gaps(start: int, end: int, places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stretches from start to end that lie between places."""
    bounds = [start, *(bound for place in places for bound in place), end]
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def _stated_events(
    answer: AnswerText, match: re.Match[str], end: int, caption: str, duration: float | None
) -> tuple[list[Event], int]:
    """The spans or the moments of a statement, none where nothing says that they are times; and where it ends."""
    if match["moments"]:
        times = ANY_TIME.findall(match["moments"])
        return _moments(times, caption) if IS_MARKED.search(times[-1]) else [], match.end()
    spans = [match, *_listed_spans(answer, match, end)]
    events = [span_event(span, duration, caption) for span in spans if is_marked(span)]
    return [event for event in events if event], spans[-1].end()


def _moments(times: list[str], caption: str) -> list[Event]:
    return [Event(seconds_of(time), seconds_of(time), caption) for time in times]


# ------------------------------------------------------------------------------------------------ highlights

_RATED = compile_pattern(
    rf"(?P<word>scor|salien|rating|rated) | (?P<beside> (?<=\d:\s) | (?<=\d\s\() )? (?P<time>{TIME})"
)
_SCALE = compile_pattern(r"/\s?\d{1,3}\b | \b(?:out\sof|scale\s(?:of|from))\s\d{1,3}(?:\s?(?:to|-)\s?\d{1,3})?")


def read_highlights(text: str, duration: float | None) -> Parsed:
    """Times and scores, paired in order; a span counts as its middle."""
    events, text = _read_structured(given_answer(text), Reading(duration, is_highlights=True))
    if events:
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
    for start, end in split_sentences(text):
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
    for match in [*ANY_SPAN.finditer(answer.text), *STATED.finditer(answer.text)]:
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
