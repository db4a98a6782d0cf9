"""Named values of an answer, from JSON, XML or a table: what each name means, and the events that they describe.

The letter case, blanks, hyphens and underscores of a name do not matter: `Start Time`, `start-time` and `startTime` are
the same.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from timechat.answers.answer_text import AnswerText
from timechat.answers.events import Event
from timechat.answers.times import ANY_SPAN, ANY_TIME, seconds_of, span_event

Kind = Literal["start", "end", "time", "score", "caption", "text", "none"]
"""Meaning of a name: a time, a score, a caption, any other text, or nothing that an event has."""

MAX_SECONDS = 1e7


@dataclass(frozen=True, slots=True)
class Role:
    """Meaning of a name.

    Attributes:
        kind: Kind of value.
        rank: Rank among the names for captions, the best one 0.
        scale: Seconds of one unit of a time.
    """

    kind: Kind
    rank: int = 0
    scale: float = 1.0


_CAPTIONS = ("description", "caption", "sentence", "event", "activity", "action", "label", "step", "text")
_PLURALS = {"activities": "activity", "captions": "caption", "descriptions": "description", "sentences": "sentence"}
_PLURALS |= {f"{name}s": name for name in _CAPTIONS}
_SCALES = {
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}
_NO_TIME = {
    *("frame", "frames", "idx", "index", "indexes", "indices", "id", "ids", "count", "num", "number", "no", "nr"),
    *("ratio", "percent", "percentage", "pct", "fraction", "norm", "normalized", "normalised", "relative", "share"),
    *("proportion", "duration", "length", "len", "type", "zone", "unit", "units", "token", "tokens"),
}
_NO_TEXT = {
    *_NO_TIME,
    *("file", "filename", "filepath", "path", "url", "uri", "video", "vid", "image", "source", "model", "format"),
    *("lang", "language", "kind", "role", "status"),
}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")
_OF = (
    r"(?:event|clip|segment|seg|moment|window|scene|shot|action|activity|step|caption|sentence|speech|video|pred"
    r"|predicted|relevant|answer|query|highlight|t)*"
)
_GLUED_SCALE = re.compile(r"(.*(?:start|end|begin|stop|times?|timestamps?))(ms|millis|milliseconds)")
_AT = r"(?:times?|timestamps?|timecode|stamp|at|point|position|pos|mark)*"
_START = re.compile(rf"(?:{_OF}{_AT}(?:start|starts|starting|begin|begins|beginning|onset){_AT}|from{_AT})")
_END = re.compile(rf"(?:{_OF}{_AT}(?:end|ends|ending|stop|stops|finish|offset){_AT}|(?:to|until|till){_AT})")
_TIME = re.compile(
    rf"{_OF}(?:times?|timestamps?|stamps?|timecodes?|spans?|segments?|intervals?|ranges?|windows?|moments?|periods?"
    rf"|boundaries|seconds?|secs?|at|when|t|startend|startandend|starttoend){_AT}(?:ranges?|intervals?|spans?|windows?|segments?)?"
)
_SCORE = re.compile(r".*(?:score|salien).*|ratings?|confidences?|conf|relevance|probability|prob|importance")


@lru_cache(maxsize=1024)
def role_of(name: str) -> Role:
    """Return the meaning of a name."""
    words = [word.lower() for word in _WORDS.findall(name[:60])]
    joined = "".join(words)
    if len(words) == 1 and (glued := _GLUED_SCALE.fullmatch(joined)):
        words = [glued[1], glued[2]]
    scale = _SCALES.get(words[-1], 1.0) if len(words) > 1 else 1.0
    base = "".join(words[:-1]) if len(words) > 1 and words[-1] in _SCALES else joined
    if not _NO_TIME.intersection(words):
        for kind, pattern in (("start", _START), ("end", _END), ("time", _TIME)):
            if pattern.fullmatch(base):
                return Role(kind, scale=scale)  # type: ignore[arg-type]
    if _SCORE.fullmatch(joined):
        return Role("score")
    singular = [_PLURALS.get(word, word) for word in words]
    ranks = [_CAPTIONS.index(word) for word in singular if word in _CAPTIONS]
    if ranks and not _NO_TIME.intersection(words) and "file" not in words:
        return Role("caption", min(ranks))
    return Role("none" if not words or _NO_TEXT.intersection(words) else "text")


# ------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known when an answer is read.

    Attributes:
        duration: Duration of the video in seconds; None if it is not known.
        is_highlights: Whether the answer lists highlights, moments with scores.
    """

    duration: float | None = None
    is_highlights: bool = False


_FILE_NAME = re.compile(r"\S+\.(?:mp4|mkv|webm|avi|mov|m4v|jpe?g|png|wav|mp3|json)", re.IGNORECASE)
_DECIMAL = re.compile(r"\s*(\d{1,6}),(\d{1,9})\s*")


def times_of(value: Any, reading: Reading, scale: float = 1.0) -> list[float]:
    """Return the seconds of all times of a value: a number, a text, or a list of them.

    A negative number, or one that is no time of a video, is none.
    """
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return [round(value * scale, 6)] if 0 <= value * scale < MAX_SECONDS else []
    if isinstance(value, list):
        return [seconds for item in value for seconds in times_of(item, reading, scale)]
    if not isinstance(value, str):
        return []
    text = re.sub(_DECIMAL, r"\1.\2", value) if _DECIMAL.fullmatch(value) else value
    canonical = AnswerText.from_answer(text).text
    if span := ANY_SPAN.search(canonical):
        event = span_event(span, reading.duration)
        return [event.start * scale, event.end * scale] if event else []
    if re.match(r"\s*-\s*\d", canonical):
        return []
    if word := re.fullmatch(r"\s*(?:the\s)?(start|beginning|end)(?:\sof\sthe\svideo)?\s*", canonical, re.IGNORECASE):
        seconds = reading.duration if word[1].lower() == "end" else 0.0
        return [] if seconds is None else [seconds]
    return [round(seconds_of(time) * scale, 6) for time in ANY_TIME.findall(canonical)]


def is_span(value: Any, reading: Reading) -> bool:
    """Whether a value is one span: two times, with or without a score behind them, or a text with a span."""
    if isinstance(value, str):
        return bool(ANY_SPAN.search(AnswerText.from_answer(value).text))
    if not isinstance(value, list) or len(value) not in (2, 3) or any(isinstance(item, list | dict) for item in value):
        return False
    return all(len(times_of(item, reading)) == 1 for item in value[:2])


def score_of(value: Any) -> float | None:
    """Return a score: a finite number, or the first number of a text (0 for a text without one)."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return seconds_of(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if abs(value) < MAX_SECONDS else None


def is_description(value: Any) -> bool:
    """Whether a value is a text that can describe an event: no time, number or file name."""
    if not isinstance(value, str) or not value.strip() or _FILE_NAME.fullmatch(value.strip()):
        return False
    rest = ANY_TIME.sub("", ANY_SPAN.sub("", AnswerText.from_answer(value[:200]).text))
    return bool(re.search(r"[^\W\d_]", re.sub(r"\b(?:from|to|and|between|s|at)\b", "", rest)))


# ------------------------------------------------------------------------------------------------- events


@dataclass(slots=True)
class _Collected:
    """The values of one object, by their meaning."""

    starts: list[Any] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)
    times: list[tuple[Any, float]] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    captions: list[tuple[int, Any]] = field(default_factory=list)
    start_scale: float = 1.0
    end_scale: float = 1.0

    @property
    def caption(self) -> Any:
        """The value of the best name for a caption; of equal names the first."""
        return min(self.captions, key=lambda ranked: ranked[0])[1] if self.captions else ""


_OTHER_TEXT = len(_CAPTIONS)


def events_of_fields(fields: Iterable[tuple[str, Any]], reading: Reading) -> list[Event]:
    """Return the events that named values describe: one, or one for each span of a list."""
    found = _collect(fields, reading)
    for value, scale in found.times:
        if spans := _listed_spans(value, reading):
            return list(_paired(spans, found, reading, scale))
    times = [seconds for value, scale in found.times for seconds in times_of(value, reading, scale)]
    if len(found.times) == 1 and isinstance(found.times[0][0], list) and _is_list_of_moments(found, reading):
        return _moments(times, found)
    starts = [seconds for value in found.starts for seconds in times_of(value, reading, found.start_scale)]
    ends = [seconds for value in found.ends for seconds in times_of(value, reading, found.end_scale)]
    if not times and bool(starts) != bool(ends) and not reading.is_highlights:
        return []  # an event needs both ends
    everything = starts + ends + times
    if not everything or (len(times) > 2 and not starts):
        return []
    score = next((score_of(value) for value in found.scores if not isinstance(value, list)), None)
    if score is None and times and isinstance(found.times[0][0], list):
        score = next(
            (score_of(value[2]) for value, _ in found.times if isinstance(value, list) and len(value) > 2), None
        )
    caption = found.caption
    return [rated_event(min(everything), max(everything), caption if isinstance(caption, str) else "", score)]


def _collect(fields: Iterable[tuple[str, Any]], reading: Reading) -> _Collected:
    found = _Collected()
    for name, value in fields:
        role = role_of(name)
        if role.kind == "start":
            found.starts.append(value)
            found.start_scale = role.scale
        elif role.kind == "end":
            found.ends.append(value)
            found.end_scale = role.scale
        elif role.kind == "time" and (isinstance(value, list) or times_of(value, reading)):
            found.times.append((value, role.scale))
        elif role.kind == "score":
            found.scores.append(value)
        elif role.kind == "caption" and (is_caption(value) or _is_list_of_texts(value)):
            found.captions.append((role.rank, value))
        elif role.kind in ("text", "time") and is_description(value):
            found.captions.append((_OTHER_TEXT, value))
    return found


def rated_event(start: float, end: float, caption: str, rating: float | None) -> Event:
    """Make an event with a rating: its score if it can be a probability, otherwise its saliency."""
    if rating is None or 0 <= rating <= 1:
        return Event(start, end, caption, rating)
    return Event(start, end, caption, saliency=rating)


def is_caption(value: Any) -> bool:
    """Whether the value of a name for captions is a text, which may be empty or contain times."""
    return isinstance(value, str) and not re.fullmatch(r"[\s\d.,:]*\d[\s\d.,:]*", value)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _listed_spans(value: Any, reading: Reading) -> list[Any]:
    """The spans of a list of spans; empty for any other value."""
    if not isinstance(value, list) or not value or not any(isinstance(item, list | str) for item in value):
        return []
    if all(isinstance(item, str) for item in value) and not all(is_span(item, reading) for item in value):
        return []  # two ends as texts
    return [item for item in value if is_span(item, reading)]


def _paired(spans: Sequence[Any], found: _Collected, reading: Reading, scale: float) -> Iterator[Event]:
    """Events of a list of spans, each with the caption and the score in the same place of their lists."""
    captions = found.caption
    scores = next((value for value in found.scores if isinstance(value, list) and len(value) == len(spans)), None)
    for i, span in enumerate(spans):
        times = times_of(span[:2] if isinstance(span, list) else span, reading, scale)
        if len(times) != 2:
            continue
        score = scores[i] if scores else span[2] if isinstance(span, list) and len(span) > 2 else None
        caption = captions if isinstance(captions, str) else captions[i] if i < len(captions) else ""
        yield rated_event(min(times), max(times), caption, None if score is None else score_of(score))


def _is_list_of_moments(found: _Collected, reading: Reading) -> bool:
    """Whether a list of times is a list of highlights: more than two, or as many as there are scores."""
    times = found.times[0][0]
    if not reading.is_highlights or not all(len(times_of(time, reading)) == 1 for time in times):
        return False
    return len(times) > 2 or any(isinstance(value, list) and len(value) == len(times) for value in found.scores)


def _moments(times: Sequence[float], found: _Collected) -> list[Event]:
    scores = next((value for value in found.scores if isinstance(value, list)), [])
    ratings = [score_of(score) for score in scores[: len(times)]] + [None] * (len(times) - len(scores))
    return [rated_event(time, time, "", rating) for time, rating in zip(times, ratings, strict=True)]
