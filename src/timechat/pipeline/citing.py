"""Citations of free answers: added from dense captions, and verified by asking the model for each sentence again."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from timechat.answers.citations import add_citations, is_confirmed, mark_unconfirmed, read_citations
from timechat.answers.events import Answer, Event

FindMoments = Callable[[Event], Sequence[Event]]
"""Function that finds the caption of an event in the windows that contain the event: moments with scores."""


def cited_answer(answer: Answer, captions: Sequence[Event]) -> Answer:
    """Add to each sentence of an answer the time of the caption that says the same; these times become its events.

    Args:
        answer: Free answer. A line that begins with a time span (as answers about several windows do) is about that
            span: sentences that match no caption in it cite the whole span.
        captions: Dense captions of the same video.
    """
    lines = [_cited_line(line, captions) for line in answer.text.split("\n")]
    text = "\n".join(lines)
    return replace(answer, text=text, events=read_citations(text))


def _cited_line(line: str, captions: Sequence[Event]) -> str:
    span, text = _split(line)
    if span is None:
        return add_citations(line, captions)
    near = [event for event in captions if event.start < span.end and span.start < event.end]
    return add_citations(add_citations(text, near), [replace(span, caption=text)], min_overlap=0.0)


def _split(line: str) -> tuple[Event | None, str]:
    """The time span at the start of a line, and the rest of the line."""
    head, bracket, text = line.partition("] ")
    spans = read_citations(f"{head}]") if bracket and head.startswith("[") else []
    return (spans[0], text) if len(spans) == 1 else (None, line)


def verified_answer(answer: Answer, find_moments: FindMoments) -> Answer:
    """Look for every cited sentence again, mark the citations that do not hold, and give each event a score.

    Args:
        answer: Answer with citations.
        find_moments: Function that finds the moments of a sentence.
    """
    found = [find_moments(event) for event in answer.events]
    verdicts = [is_confirmed(event, moments) for event, moments in zip(answer.events, found, strict=True)]
    events = [
        replace(event, score=max((moment.score or 0.0 for moment in moments), default=0.0) if holds else 0.0)
        for event, moments, holds in zip(answer.events, found, verdicts, strict=True)
    ]
    failed = verdicts.count(False)
    note = (f"{failed} of {len(verdicts)} citations are not confirmed",) if failed else ()
    return replace(answer, text=mark_unconfirmed(answer.text, verdicts), events=events, notes=(*answer.notes, *note))
