"""Citations: the time in the video of what a sentence describes, such as: The onion is cut [0:12–0:18].

A model that was not trained to cite does not write citations. They are added: each sentence gets the time of the event
that it most likely describes. The model verifies a citation when it is asked for the sentence again.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from timechat.answers.events import Event

_ROUNDING = 1e-6  # seconds of floating-point error
_CLOCK = r"(?:\d{1,3}:[0-5]\d|\d{1,3}):[0-5]\d"
_CITATION = re.compile(rf"\[\s*({_CLOCK})(?:\s*(?:[-‐‑–—−]|to)\s*({_CLOCK}))?(\s*,\s*not confirmed)?\s*\]")
_CLOSING = r"[\"'”’)*]*"
# A citation after the full stop still belongs to the sentence before it.
_SENTENCE_END = re.compile(
    rf"(?:[.!?…]+{_CLOSING}(?:[ \t]*{_CITATION.pattern})*(?=\s+[^a-z]|\s*\Z)|[。！？]{_CLOSING}|\n)\s*"
)
_BEFORE_STOP = re.compile(rf"\s*[.!?…。！？]*{_CLOSING}\s*\Z")


# --------------------------------------------------------------------------------------- writing and reading


def citation(event: Event) -> str:
    """Write the time of an event as `[m:ss–m:ss]`, from one hour on `[h:mm:ss–h:mm:ss]`, a moment as `[m:ss]`.

    Times are whole seconds, rounded outwards, so that the cited span contains the event.
    """
    start = math.floor(event.start + _ROUNDING)
    end = start if event.start == event.end else max(start, math.ceil(event.end - _ROUNDING))
    has_hours = end >= 3600
    times = [start] if event.start == event.end else [start, end]
    return f"[{'–'.join(_clock(time, has_hours=has_hours) for time in times)}]"


def _clock(seconds: int, *, has_hours: bool) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if has_hours else f"{minutes}:{seconds:02d}"


def read_citations(text: str) -> list[Event]:
    """Return the cited events in order; the caption of each is the sentence that cites it, without citations.

    A hyphen counts as a dash. A sentence with two citations gives two events.
    """
    return [
        Event(*_span(found), without_citations(sentence))
        for sentence in split_sentences(text)
        for found in _CITATION.finditer(sentence)
    ]


def _span(found: re.Match[str]) -> tuple[float, float]:
    start = _seconds(found[1])
    end = _seconds(found[2] or found[1])
    return min(start, end), max(start, end)


def _seconds(clock: str) -> float:
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return float(seconds)


def without_citations(text: str) -> str:
    """Return the text without its citations and without the spaces before them."""
    return re.sub(rf"[ \t]*{_CITATION.pattern}", "", text).strip()


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences and lines; joined, they are the text."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    cuts = sorted({0, *ends, len(text)})
    return [text[start:end] for start, end in pairwise(cuts)]


# ------------------------------------------------------------------------------------------- finding evidence


def add_citations(text: str, events: Sequence[Event], *, min_overlap: float = 0.25) -> str:
    """Add to every sentence the time of the event that it describes; see `match_events`.

    A sentence with a citation, and one that matches no event, stays as it is.
    """
    sentences = split_sentences(text)
    found = match_events(sentences, events, min_overlap=min_overlap)
    return "".join(
        sentence if event is None or _CITATION.search(sentence) else _with_citation(sentence, event)
        for sentence, event in zip(sentences, found, strict=True)
    )


def _with_citation(sentence: str, event: Event) -> str:
    stop = _BEFORE_STOP.search(sentence)
    place = len(sentence) if stop is None else stop.start()
    return f"{sentence[:place]} {citation(event)}{sentence[place:]}"


def match_events(sentences: Sequence[str], events: Sequence[Event], *, min_overlap: float = 0.25) -> list[Event | None]:
    """Find the event that each sentence describes: the one with most words in common, None if there are too few.

    Words that many of the events share count for less, and word endings are ignored.

    Args:
        sentences: Sentences in any order.
        events: Events with captions.
        min_overlap: Minimum share of common words, from 0 to 1 (Dice's coefficient).

    Returns:
        One event for each sentence; of two equally good events, the first in `events`.
    """
    captions = [_words(event.caption) for event in events]
    known = Counter(word for caption in captions for word in caption)
    rarity = {word: math.log1p(len(events) / count) for word, count in known.items()}
    return [_best(_words(sentence), events, captions, rarity, min_overlap) for sentence in sentences]


def _best(
    sentence_words: frozenset[str],
    events: Sequence[Event],
    captions: Sequence[frozenset[str]],
    rarity: dict[str, float],
    min_overlap: float,
) -> Event | None:
    unknown = math.log1p(len(events))

    def weight(words: Iterable[str]) -> float:
        return sum(rarity.get(word, unknown) for word in sorted(words))

    best, best_score = None, 0.0
    for event, caption in zip(events, captions, strict=True):
        shared = weight(sentence_words & caption)
        score = 2 * shared / (weight(sentence_words) + weight(caption)) if shared else 0.0
        if score >= min_overlap and score > best_score:
            best, best_score = event, score
    return best


_STOP_WORD_LIST = """
    a an the and or but then first next after before while as is are was were be been being it its he she they them
    his her their this that these those there here in on at to of from by with for into onto up down out over who
    which what when where how also finally again begins starts begin start happens happen video seconds
"""
_STOP_WORDS = frozenset(_STOP_WORD_LIST.split())
_ENDINGS = ("ing", "ed", "es", "s")


def _words(text: str) -> frozenset[str]:
    words = re.findall(r"[^\W_]+", without_citations(text).casefold())
    return frozenset(_stem(word) for word in words if word not in _STOP_WORDS)


def _stem(word: str) -> str:
    """The word without an English ending: cut, cuts and cutting become one word."""
    ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) - len(end) >= 3), "")
    word = word.removesuffix(ending)
    is_doubled = len(word) > 3 and word[-1] == word[-2]
    return word[:-1] if is_doubled or (len(word) > 3 and word[-1] == "e") else word


# ----------------------------------------------------------------------------------------------- verification


def is_confirmed(cited: Event, found: Iterable[Event]) -> bool:
    """Whether at least half of a moment that the model found for a sentence lies in the citation.

    The half of the *found* moment counts: a short moment confirms a long citation around it, but the whole video does
    not confirm a short citation.
    """
    for event in found:
        inside = min(cited.end, event.end) - max(cited.start, event.start)
        if inside >= 0 and 2 * inside >= event.duration:
            return True
    return False


def mark_unconfirmed(text: str, verdicts: Sequence[bool]) -> str:
    """Mark the citations that do not hold: `[0:12–0:18, not confirmed]`; a mark that no longer applies is removed.

    Args:
        text: Text with citations.
        verdicts: Results of verification in the order of `read_citations`.
    """
    count = len(_CITATION.findall(text))
    if len(verdicts) != count:
        raise ValueError(
            f"the text has {count} citations, got {len(verdicts)} verdicts; give one verdict for each citation"
        )
    rest = iter(verdicts)

    def judged(found: re.Match[str]) -> str:
        times = found[1] if found[2] is None else f"{found[1]}–{found[2]}"
        return f"[{times}{'' if next(rest) else ', not confirmed'}]"

    return _CITATION.sub(judged, text)
