"""Prepare the transcript of a video for the prompt of a question."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from timechat.answers.events import Event
from timechat.answers.prompts import transcript_question

_MIN_WORDS = 3
_LINES = 15  # a transcript of at least twice as many lines is thinned out
# Chinese, Japanese, Thai, Lao, Burmese and Khmer have no spaces between words: each character counts as a word.
_WORD_CHARACTERS = r"\u3041-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_UNSPACED = re.compile(f"[{_WORD_CHARACTERS}]")
_WORD = re.compile(rf"[{_WORD_CHARACTERS}]|[^\s{_WORD_CHARACTERS}]+")


def spoken_words(text: str) -> float:
    """Return the number of words of a text; a character of a script without spaces counts as half a word."""
    words = _WORD.findall(text)
    return sum(0.5 if _UNSPACED.fullmatch(word) else 1.0 for word in words)


def clean_transcript(speech: Iterable[Event]) -> tuple[Event, ...]:
    """Drop lines of fewer than three words and lines that repeat the one kept before them, as the original does."""
    kept: list[Event] = []
    for line in speech:
        words = line.caption.strip()
        if len(_WORD.findall(words)) >= _MIN_WORDS and (not kept or kept[-1].caption != words):
            kept.append(replace(line, caption=words))
    return tuple(kept)


def thin_transcript(speech: Sequence[Event], *, first: int = 0) -> list[tuple[float, float, str]]:
    """Select every n-th line, so that fewer than 30 lines remain, each with a full stop at its end.

    Args:
        speech: All lines.
        first: First line to select. The original begins at line 1 and never selects line 0.

    Returns:
        Start and end in seconds and text of each line, as `timechat.answers.prompts` writes them.
    """
    step = max(1, len(speech) // _LINES)
    return [
        (line.start, line.end, line.caption if line.caption.endswith(".") else f"{line.caption}.")
        for line in speech[first::step]
    ]


def transcript_between(speech: Iterable[Event], start: float, end: float) -> tuple[Event, ...]:
    """Cut a transcript to a part of the video, with times relative to the start of the part.

    A line that is partly inside keeps its text, with its times cut.

    Args:
        speech: All lines, with times in seconds of the video.
        start: Start of the part in seconds.
        end: End of the part in seconds.
    """
    if not 0 <= start <= end:
        raise ValueError(f"a part must start at 0 s or later and not end before that, got start={start} and end={end}")
    return tuple(
        replace(line, start=max(line.start, start) - start, end=min(line.end, end) - start)
        for line in speech
        if line.start < end and (line.end > start or line.start >= start)
    )


def add_transcript(question: str, speech: Sequence[Event], *, first: int = 0) -> str:
    """Return the question with the transcript before it, in the form that the ASR-trained weights expect.

    Args:
        question: Question of any task; a question that already contains its transcript does not change.
        speech: All lines of the shown part, with times relative to its start. An empty transcript reads "None.".
        first: First line to quote. The original's programs begin with line 1, so they never quote line 0; `first=1`
            does the same. The default quotes line 0 too.
    """
    return transcript_question(question, thin_transcript(speech, first=first))
