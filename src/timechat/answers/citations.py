"""Citations, which say when in the video a sentence can be seen: The onion is cut [0:12–0:18].

A model that was never taught to cite does not write them. They are put in: each sentence is given the event that it
tells of most likely. Whether a citation holds is for the model to say, who is asked for each sentence again.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from timechat.answers.events import Event

_ROUNDING = 1e-6  # seconds that are no time, only floating point
_CLOCK = r"(?:\d{1,3}:[0-5]\d|\d{1,3}):[0-5]\d"
_CITATION = re.compile(rf"\[\s*({_CLOCK})(?:\s*(?:[-‐‑–—−]|to)\s*({_CLOCK}))?(\s*,\s*not confirmed)?\s*\]")
_CLOSING = r"[\"'”’)*]*"
# A citation behind the full stop still belongs to the sentence before it.
_SENTENCE_END = re.compile(
    rf"(?:[.!?…]+{_CLOSING}(?:[ \t]*{_CITATION.pattern})*(?=\s+[^a-z]|\s*\Z)|[。！？]{_CLOSING}|\n)\s*"
)
_BEFORE_STOP = re.compile(rf"\s*[.!?…。！？]*{_CLOSING}\s*\Z")


# --------------------------------------------------------------------------------------- writing and reading


def citation(event: Event) -> str:
    """Write the time of an event as `[m:ss–m:ss]`, from one hour on `[h:mm:ss–h:mm:ss]`, a moment as `[m:ss]`.

    Whole seconds, rounded outwards, so that what is cited holds the event.
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
    """Return what is cited, in order: each an event whose caption is the sentence that cites it, without citations.

    A hyphen will do for the dash. A sentence with two citations gives two events.
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
    """The text without its citations and without the spaces that set them apart."""
    return re.sub(rf"[ \t]*{_CITATION.pattern}", "", text).strip()


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences and lines; joined they are the text."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    cuts = sorted({0, *ends, len(text)})
    return [text[start:end] for start, end in pairwise(cuts)]


# ------------------------------------------------------------------------------------------- finding evidence


def add_citations(text: str, events: Sequence[Event], *, least: float = 0.25) -> str:
    """Put behind every sentence the time of the event that it tells of; see `attach`.

    A sentence that cites already, and one that fits no event, stays as it is.
    """
    sentences = split_sentences(text)
    found = attach(sentences, events, least=least)
    return "".join(
        sentence if event is None or _CITATION.search(sentence) else _with_citation(sentence, event)
        for sentence, event in zip(sentences, found, strict=True)
    )


def _with_citation(sentence: str, event: Event) -> str:
    stop = _BEFORE_STOP.search(sentence)
    place = len(sentence) if stop is None else stop.start()
    return f"{sentence[:place]} {citation(event)}{sentence[place:]}"


def attach(sentences: Sequence[str], events: Sequence[Event], *, least: float = 0.25) -> list[Event | None]:
    """Find the event that each sentence tells of: the one with most words in common, None where too few are.

    Words that many of the events share count for less, and endings are overlooked.

    Args:
        sentences: In any order.
        events: With captions.
        least: Share of words in common, from 0 to 1 (Dice's coefficient), below which nothing fits.

    Returns:
        An event a sentence; of two that fit equally well the earlier in `events`.
    """
    captions = [_words(event.caption) for event in events]
    known = Counter(word for caption in captions for word in caption)
    rarity = {word: math.log1p(len(events) / count) for word, count in known.items()}
    return [_best(_words(sentence), events, captions, rarity, least) for sentence in sentences]


def _best(
    sentence_words: frozenset[str],
    events: Sequence[Event],
    captions: Sequence[frozenset[str]],
    rarity: dict[str, float],
    least: float,
) -> Event | None:
    unknown = math.log1p(len(events))

    def weight(some: Iterable[str]) -> float:
        return sum(rarity.get(word, unknown) for word in sorted(some))

    best, most = None, 0.0
    for event, caption in zip(events, captions, strict=True):
        shared = weight(sentence_words & caption)
        score = 2 * shared / (weight(sentence_words) + weight(caption)) if shared else 0.0
        if score >= least and score > most:
            best, most = event, score
    return best


_SMALL_WORDS = """
    a an the and or but then first next after before while as is are was were be been being it its he she they them
    his her their this that these those there here in on at to of from by with for into onto up down out over who
    which what when where how also finally again begins starts begin start happens happen video seconds
"""
_SAY_NOTHING = frozenset(_SMALL_WORDS.split())
_ENDINGS = ("ing", "ed", "es", "s")


def _words(text: str) -> frozenset[str]:
    words = re.findall(r"[^\W_]+", without_citations(text).casefold())
    return frozenset(_stem(word) for word in words if word not in _SAY_NOTHING)


def _stem(word: str) -> str:
    """The word without an English ending: cut, cuts and cutting are one."""
    ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) - len(end) >= 3), "")
    word = word.removesuffix(ending)
    is_doubled = len(word) > 3 and word[-1] == word[-2]
    return word[:-1] if is_doubled or (len(word) > 3 and word[-1] == "e") else word


# ----------------------------------------------------------------------------------------------- verification


def is_confirmed(cited: Event, found: Iterable[Event]) -> bool:
    """Whether what the model found for a sentence lies where the sentence says: at least half of it.

    Half of what was *found*: a short event inside a long citation confirms it, the whole video does not confirm a
    short one.
    """
    for event in found:
        inside = min(cited.end, event.end) - max(cited.start, event.start)
        if inside >= 0 and 2 * inside >= event.duration:
            return True
    return False


def mark_unconfirmed(text: str, verdicts: Sequence[bool]) -> str:
    """Mark the citations that do not hold: `[0:12–0:18, not confirmed]`; a mark that no longer applies goes.

    Args:
        text: With citations.
        verdicts: Whether each holds, in the order of `read_citations`.
    """
    count = len(_CITATION.findall(text))
    if len(verdicts) != count:
        raise ValueError(f"the text has {count} citations, got {len(verdicts)} verdicts; give one a citation")
    rest = iter(verdicts)

    def judged(found: re.Match[str]) -> str:
        times = found[1] if found[2] is None else f"{found[1]}–{found[2]}"
        return f"[{times}{'' if next(rest) else ', not confirmed'}]"

    return _CITATION.sub(judged, text)
