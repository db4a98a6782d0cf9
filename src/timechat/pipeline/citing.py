"""Sentences that say when they can be seen, and whether that holds when the model is asked for each of them again."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from timechat.answers.citations import add_citations, is_confirmed, mark_unconfirmed, read_citations
from timechat.answers.events import Answer, Event

FindMoments = Callable[[Event], Sequence[Event]]
"""Finds the caption of an event in the windows in which the event lies: moments with scores."""


def cited_answer(answer: Answer, captions: Sequence[Event]) -> Answer:
    """Put behind each sentence of an answer the time of the caption that tells the same; these become its events.

    Args:
        answer: In words. A line that begins with a stretch of the video (as answers about several windows do) is told
            of that stretch: sentences that fit no caption in it cite it whole.
        captions: Of the same video.
    """
    lines = [_cited_line(line, captions) for line in answer.text.split("\n")]
    text = "\n".join(lines)
    return replace(answer, text=text, events=read_citations(text))


def _cited_line(line: str, captions: Sequence[Event]) -> str:
    stretch, told = _split(line)
    if stretch is None:
        return add_citations(line, captions)
    near = [event for event in captions if event.start < stretch.end and stretch.start < event.end]
    return add_citations(add_citations(told, near), [replace(stretch, caption=told)], least=0.0)


def _split(line: str) -> tuple[Event | None, str]:
    """The stretch that a line begins with, and the rest."""
    head, bracket, told = line.partition("] ")
    stretches = read_citations(f"{head}]") if bracket and head.startswith("[") else []
    return (stretches[0], told) if len(stretches) == 1 else (None, line)


def verified_answer(answer: Answer, find_moments: FindMoments) -> Answer:
    """Ask for every cited sentence again, and mark the citations that do not hold; each event's score says how surely.

    Args:
        answer: With citations.
        find_moments: Finds what a sentence tells of.
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
