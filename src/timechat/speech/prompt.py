"""What is said in a video, brought to what a question quotes of it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from timechat.answers.events import Event
from timechat.answers.prompts import transcript_question

_MIN_WORDS = 3
_LINES = 15  # a transcript of twice as many or more is thinned out
# Chinese, Japanese, Thai, Lao, Burmese and Khmer put no spaces between words: each sign counts as one.
_SOUND_SYMBOLS = r"\u3041-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_SOUND_SYMBOLS}]|[^\s{_SOUND_SYMBOLS}]+")


def clean_transcript(speech: Iterable[Event]) -> tuple[Event, ...]:
    """Drop lines of fewer than three words and lines that repeat the one kept before them, as the original does."""
    kept: list[Event] = []
    for line in speech:
        words = line.caption.strip()
        if len(_WORD.findall(words)) >= _MIN_WORDS and (not kept or kept[-1].caption != words):
            kept.append(replace(line, caption=words))
    return tuple(kept)


def thin_transcript(speech: Sequence[Event], *, first: int = 0) -> list[tuple[float, float, str]]:
    """Take every so-manieth line, so that fewer than 30 are left, each ending in a full stop.

    Args:
        speech: All lines.
        first: Where to begin. The original begins at line 1 and never takes line 0.

    Returns:
        Start and end in seconds, and words, as `timechat.answers.prompts` writes them.
    """
    step = max(1, len(speech) // _LINES)
    return [
        (line.start, line.end, line.caption if line.caption.endswith(".") else f"{line.caption}.")
        for line in speech[first::step]
    ]


def transcript_between(speech: Iterable[Event], start: float, end: float) -> tuple[Event, ...]:
    """Cut speech to a part of the video, times counted from the part's start.

    A line that is partly inside is kept whole, with its times cut.

    Args:
        speech: All lines, in seconds of the video.
        start: Seconds, of the part.
        end: Seconds, of the part.
    """
    if not 0 <= start <= end:
        raise ValueError(f"a part must start at 0 s or later and not end before that, got start={start} and end={end}")
    return tuple(
        replace(line, start=max(line.start, start) - start, end=min(line.end, end) - start)
        for line in speech
        if line.start < end and (line.end > start or line.start >= start)
    )


def add_transcript(question: str, speech: Sequence[Event], *, first: int = 0) -> str:
    """Return the question with what is said before it, worded and thinned as the ASR-trained weights expect.

    Args:
        question: Any task's; one that brings its speech already stays as it is.
        speech: All lines of the part that is shown, counted from its start. None at all reads "None.".
        first: The line to begin with. The original's programs begin with line 1 and so never quote line 0: `first=1`
            does as they do. The default loses nothing.
    """
    return transcript_question(question, thin_transcript(speech, first=first))
