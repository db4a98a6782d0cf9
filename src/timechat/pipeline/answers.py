"""What windows answer, put together into one answer about the video."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from timechat.events import Answer, Event, Task, format_events, format_time
from timechat.parsing import parse_events
from timechat.prompts import NOT_THERE
from timechat.scores import Calibration, Token, presence, score_events
from timechat.windows import Window, best_moments, degenerate_notes, merge_events, merge_texts

_FREE_TASKS = ("ask", "summary")


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """What the model wrote about one window.

    Attributes:
        window: Which one.
        text: As the model wrote it.
        tokens: That wrote it, with their probabilities.
    """

    window: Window
    text: str
    tokens: tuple[Token, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; the window is left out."""
        return {"text": self.text, "tokens": [[token.first, token.end, token.logprob] for token in self.tokens]}

    @classmethod
    def from_dict(cls, window: Window, content: dict[str, Any]) -> "WindowAnswer":
        """Read what `to_dict` gives."""
        return cls(window, content["text"], tuple(Token(*token) for token in content["tokens"]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which moments are wanted of those that are found.

    Attributes:
        top_k: The best so many.
        find_all: All instead.
        threshold: Least score, from 0 to 1, of a moment that counts as found; None takes the model's.
    """

    top_k: int = 1
    find_all: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 moment, got {self.top_k}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {self.threshold}")


@dataclass(frozen=True, slots=True)
class Read:
    """The events of one window on the video's clock, and an account of what could not be read.

    Attributes:
        window: Which one.
        events: With scores where the model's own probabilities give them.
        notes: Of the parser.
        presence: Probability that there is something to be told of, from 0 to 1.
    """

    window: Window
    events: tuple[Event, ...]
    notes: tuple[str, ...]
    presence: float


def read_window(answer: WindowAnswer, task: Task, words: str | None, calibration: Calibration) -> Read:
    """Read one window's answer."""
    parsed = parse_events(answer.text, task=task, duration=answer.window.duration)
    events = parsed.events
    if task in ("grounding", "highlights") and words:
        events = [replace(event, caption=words) for event in events]
    form = presence(answer.tokens, answer.text) if answer.tokens else 1.0
    if task == "grounding" and not events:
        form = 1 - form
    if answer.tokens and task not in ("highlights", *_FREE_TASKS):
        share = form if task == "grounding" else 1.0
        events = [
            event if event.score is None else replace(event, score=calibration(share * event.score))
            for event in score_events(events, answer.text, answer.tokens)
        ]
    is_denial = task == "grounding" and answer.text == NOT_THERE
    placed = tuple(answer.window.place(event) for event in events)
    return Read(answer.window, placed, () if is_denial else parsed.notes, form)


def put_together(
    answers: Sequence[WindowAnswer],
    task: Task,
    words: str | None,
    *,
    duration: float,
    calibration: Calibration,
    found_threshold: float,
    wanted: Wanted,
) -> Answer:
    """Answer about the video what windows have answered.

    Args:
        answers: In order of time, at least one.
        task: That was asked.
        words: Question or query.
        duration: Seconds of the video.
        calibration: Of the model's scores.
        found_threshold: Least score of a moment that counts as found.
        wanted: Which moments.

    Returns:
        An answer without the names of video and model.
    """
    read = [read_window(answer, task, words, calibration) for answer in answers]
    notes = tuple(dict.fromkeys(note for one in read for note in one.notes))
    found: bool | None = None
    score: float | None = None
    if task == "grounding":
        threshold = found_threshold if wanted.threshold is None else wanted.threshold
        candidates = [event for one in read for event in one.events]
        events = [event for event in candidates if event.score is None or event.score >= threshold]
        events = best_moments(merge_events(_by_window(read, events)), most=None if wanted.find_all else wanted.top_k)
        found, score = bool(events), _best_score(candidates, read, calibration)
    elif task in _FREE_TASKS:
        events = [event for one in read for event in one.events]
    else:
        events = list(read[0].events) if len(read) == 1 else merge_events([(one.window, one.events) for one in read])
    text = answers[0].text if len(answers) == 1 else _write(answers, task, events)
    notes += degenerate_notes(events, duration) if task not in _FREE_TASKS else ()
    return Answer(
        text, events, task=task, question=words or "", duration=duration, found=found, score=score, notes=notes
    )


def _by_window(read: Sequence[Read], kept: Sequence[Event]) -> list[tuple[Window, list[Event]]]:
    return [(one.window, [event for event in one.events if event in kept]) for one in read]


def _best_score(candidates: Sequence[Event], read: Sequence[Read], calibration: Calibration) -> float | None:
    """How sure it is that there is such a moment: the best one's score, or what the denials leave."""
    scores = [event.score for event in candidates if event.score is not None]
    if candidates:
        return max(scores, default=None)
    return max(calibration(one.presence) for one in read)


def _write(answers: Sequence[WindowAnswer], task: Task, events: Sequence[Event]) -> str:
    """One text for several windows: events in the wording of a single answer, free answers each with its stretch."""
    if task in _FREE_TASKS:
        told = merge_texts((answer.window, answer.text) for answer in answers)
        return "\n".join(f"[{format_time(start)}–{format_time(end)}] {text}" for start, end, text in told)
    if task == "grounding":
        return " ".join(format_events([event], task) for event in events) or NOT_THERE
    return format_events(events, task)
