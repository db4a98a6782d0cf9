"""Answers about windows, parsed, scored and merged into one answer about the video.

A moment is scored by the probabilities of the tokens of the answer.

The evidence for a moment is counted in nats, the natural unit of log odds:

- *Time*: the mean log probability of the tokens that write its times.
- *Existence*, for grounding: the log odds of an answer that names a moment ("The given query happens in" against "does
  not happen"), from the probability of all its tokens that are no times.
- *Verification*, for grounding: how much more likely the query is as the caption of the moment with the video than with
  a blank one (`pipeline.answering`).
- *Caption*, for captions: the mean log probability of the tokens that write the words.

A score is the sigmoid of the weighted sum of the evidence and an offset. Weights and offset are fitted on videos with
known events (logistic regression, after Platt, 1999), so that about seven of ten moments with a score of 0.7 are
correct. A model without a fit has weights of 1 and the offset 0; its scores only rank the moments. A kind of evidence
with the weight 0 is not computed.

A model with a fitted threshold names a moment in every window, and the score decides whether it is found. A model
without one may also answer that the query does not happen.

A query that is looked for in many windows is rarely in any one of them. So the odds of a grounding moment are
multiplied by the prior probability of its window (`apply_window_prior`): one divided by the number of windows, or what
the encoder that ranks the windows says.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from timechat.answers.answer_text import given_answer
from timechat.answers.citations import citation
from timechat.answers.events import Answer, Event, Task
from timechat.answers.json_answers import is_json_list
from timechat.answers.parsing import is_own_span, move_times, states_none
from timechat.answers.prompts import NOT_FOUND_ANSWER
from timechat.answers.tasks import TASKS, format_events, parse_events
from timechat.answers.token_evidence import Token, event_logprobs, existence_logprob
from timechat.answers.windows import (
    Window,
    best_highlights,
    best_moments,
    degenerate_notes,
    distinct_events,
    merge_events,
    merge_texts,
)

_TEMPLATES = re.compile(
    r"\s*(?:The given query (?:happens|does not happen)|There are \d+ highlight|The highlight timestamps are)"
    r"|No highlight moments were found|saliency scores are|\s*Transcribed speech:"
)
"""Wordings of tasks that answer in events; a model may answer a free question about one window in them."""

NO_LOGPROBS_NOTE = "the server gives no log probabilities: found is decided by the answer alone"
"""Note of a grounding answer without scores."""

_COUNTING = re.compile(r"\b(?:how (?:many|often|much)|count|number of|total)\b", re.IGNORECASE)
_MIN_PROBABILITY = 1e-13  # probabilities are clipped to this distance from 0 and 1
_MIN_LOGPROB = 1e-6  # log probabilities in float32 do not tell smaller distances from 0 apart


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence for one event in nats, or a weight for each kind of it; see the module."""

    time: float = 0.0
    existence: float = 0.0
    verification: float = 0.0
    caption: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Function from evidence to a score: `sigmoid(weights . evidence + offset)`.

    Attributes:
        offset: Log odds of an event without any evidence.
        weights: Weight of each kind of evidence.
        uses_logprob: Whether the fit is one of version 0.1, in which existence counted as log probability.
    """

    offset: float = 0.0
    weights: Evidence = Evidence(1.0, 1.0, 1.0, 1.0)
    uses_logprob: bool = False

    @classmethod
    def from_config(cls, content: Mapping[str, float] | Sequence[float]) -> "Calibration":
        """Read an entry of `TimeChatConfig.score_calibration`: weights and `offset`, or 0.1's `[slope, offset]`."""
        if isinstance(content, Mapping):
            return cls(content["offset"], Evidence(**{k: v for k, v in content.items() if k != "offset"}))
        slope, offset = content
        return cls(offset, Evidence(slope, slope, slope, slope), uses_logprob=True)

    def __call__(self, evidence: Evidence) -> float:
        """Return the score, from 0 to 1."""
        if self.uses_logprob:
            evidence = replace(evidence, existence=math.log(_sigmoid(evidence.existence)))
        pairs = zip(astuple(self.weights), astuple(evidence), strict=True)
        return _sigmoid(sum(weight * nats for weight, nats in pairs) + self.offset)


UNCALIBRATED = Calibration()


def apply_window_prior(score: float, prior: float) -> float:
    """Return the score of a moment in one of several windows.

    Args:
        score: Score of the moment if its window were the only one.
        prior: Probability, before the model has read the windows, that the moment is in this one.
    """
    score = min(max(score, _MIN_PROBABILITY), 1 - _MIN_PROBABILITY)
    return _sigmoid(math.log(score / (1 - score)) + math.log(max(prior, _MIN_PROBABILITY)))


def _log_odds(logprob: float | None) -> float:
    """Return the log odds of a log probability, at most 13.8; 0 if it is not known."""
    if logprob is None:
        return 0.0
    logprob = min(logprob, -_MIN_LOGPROB)
    return logprob - math.log(-math.expm1(logprob))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


# --------------------------------------------------------------------------------------- answers about windows


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """The answer of the model about one window.

    Attributes:
        window: Window of the video.
        text: Text as the model wrote it.
        tokens: Tokens of the text with their probabilities.
        verification: Evidence of the video for each moment of the text, in nats; empty if none was found or verified.
        notes: Sentences about the frames of the window, such as the number of damaged ones.
        num_prompt_tokens: Number of tokens of the prompt.
        num_tokens: Number of tokens of the answer, which a server may count without naming them.
    """

    window: Window
    text: str
    tokens: tuple[Token, ...] = ()
    verification: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    num_prompt_tokens: int = 0
    num_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the answer without its window, ready for JSON."""
        tokens = [
            [token.first, token.end, token.logprob] + ([] if token.allowed is None else [token.allowed])
            for token in self.tokens
        ]
        return {
            "text": self.text,
            "tokens": tokens,
            "verification": list(self.verification),
            "notes": list(self.notes),
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_tokens": self.num_tokens,
        }

    @classmethod
    def from_dict(cls, window: Window, content: dict[str, Any]) -> "WindowAnswer":
        """Read the output of `to_dict`."""
        tokens = tuple(Token(*token) for token in content["tokens"])
        return cls(
            window,
            content["text"],
            tokens,
            _evidence(content["verification"]),
            tuple(content["notes"]),
            content.get("num_prompt_tokens", 0),  # earlier entries of the cache have no such numbers
            content.get("num_tokens", len(tokens)),
        )


def _evidence(value: float | Sequence[float] | None) -> tuple[float, ...]:
    """Read a verification; earlier entries of the cache have one number or None."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int | float) else tuple(value)


@dataclass(frozen=True, slots=True)
class MomentSelection:
    """The moments that a grounding answer keeps.

    Attributes:
        top_k: Maximum number of moments, the best first.
        find_all: Whether all moments are kept instead.
        threshold: Minimum score, from 0 to 1, of a moment that counts as found; None takes the model's.
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
class Scoring:
    """Calibration of scores, and the minimum score of a moment that counts as found; see the module.

    Attributes:
        grounding: Scores of moments.
        captions: Scores of captions.
        found_threshold: Minimum score of a moment that counts as found.
    """

    grounding: Calibration = UNCALIBRATED
    captions: Calibration = UNCALIBRATED
    found_threshold: float = 0.0

    @classmethod
    def fitted(cls, calibration: Mapping[str, Any] | None, found_threshold: float) -> "Scoring":
        """Return the scoring of a model.

        Args:
            calibration: Fit of `grounding` and of `captions`, as in `TimeChatConfig.score_calibration`.
            found_threshold: Minimum score of a moment that counts as found.
        """
        fits = {kind: Calibration.from_config(content) for kind, content in (calibration or {}).items()}
        return cls(**fits, found_threshold=found_threshold)

    @property
    def decides_found(self) -> bool:
        """Whether the score alone decides if a query happens; the model names a moment in every window then."""
        return self.found_threshold > 0


@dataclass(frozen=True, slots=True)
class ParsedWindow:
    """The events of one window on the video's clock.

    Attributes:
        window: Window of the video.
        events: Events, with scores if the probabilities of their tokens are known.
        notes: Notes of the parser.
        best_score: Probability from 0 to 1 that the window contains the moment: the score of the best moment, or one
            minus the probability of the answer that there is none. Grounding only.
    """

    window: Window
    events: tuple[Event, ...]
    notes: tuple[str, ...]
    best_score: float | None = None


def parse_window(answer: WindowAnswer, task: Task, query: str | None, scoring: Scoring) -> ParsedWindow:
    """Parse and score the answer about one window."""
    parsed = parse_events(answer.text, task=task, duration=answer.window.duration)
    events = parsed.events
    if answer.tokens and _is_scored(task):
        calibration = scoring.grounding if task == "grounding" else scoring.captions
        found = zip(events, event_evidence(events, answer, task), strict=True)
        events = [event if one is None else replace(event, score=calibration(one)) for event, one in found]
    if query and TASKS[task].describes_query:
        events = [replace(event, caption=query) for event in events]
    if task not in ("highlights", "summary"):  # a rating in another answer has no defined meaning
        events = [replace(event, saliency=None) for event in events]
    placed = tuple(answer.window.to_video_event(event) for event in events)
    if task == "grounding" and states_none(answer.text):
        absence = existence_logprob(answer.tokens, answer.text)
        return ParsedWindow(answer.window, placed, (), None if absence is None else 1 - math.exp(absence))
    best = max((event.score for event in events if event.score is not None), default=None)
    return ParsedWindow(answer.window, placed, parsed.notes, best)


def _is_scored(task: Task) -> bool:
    """Whether the tokens of an answer give scores to its events; highlights state their own, free answers none."""
    return not TASKS[task].is_free and task != "highlights"


def event_evidence(events: Sequence[Event], answer: WindowAnswer, task: Task) -> list[Evidence | None]:
    """Return the evidence for each event of an answer; None for an event whose times are not in the text."""
    # In a list, what follows a span says whether there are more.
    is_list = not is_own_span(answer.text) and is_json_list(given_answer(answer.text))
    verification = [*answer.verification, *(0.0 for _ in events)][: len(events)]
    found: list[Evidence | None] = []
    of_tokens = event_logprobs(events, answer.text, answer.tokens)
    for evidence, verified in zip(of_tokens, verification, strict=True):
        if evidence is None:
            found.append(None)
        elif task == "grounding":
            existence = existence_logprob(answer.tokens, answer.text, evidence.end if is_list else None)
            found.append(Evidence(evidence.time_logprob, _log_odds(existence), verification=verified))
        else:
            found.append(Evidence(evidence.time_logprob, caption=evidence.caption_logprob))
    return found


def merge_window_answers(
    answers: Sequence[WindowAnswer],
    task: Task,
    query: str | None,
    *,
    duration: float,
    scoring: Scoring,
    moments: MomentSelection,
    priors: Mapping[Window, float] | None = None,
) -> Answer:
    """Merge the answers about windows into one answer about the video.

    Args:
        answers: Answers in order of time, at least one.
        task: Task of the request.
        query: Question or query of the request.
        duration: Duration of the video in seconds.
        scoring: Scoring of the model.
        moments: Moments that a grounding answer keeps.
        priors: Prior probability of each window; None if all windows are equally likely.

    Returns:
        An answer without the names of video and model.
    """
    windows = [parse_window(answer, task, query, scoring) for answer in answers]
    about_frames = [note for answer in answers for note in answer.notes]
    notes = tuple(dict.fromkeys(about_frames + [note for one in windows for note in one.notes]))
    found: bool | None = None
    score: float | None = None
    if task == "grounding":
        equal = 1 / len(windows)
        windows = [_apply_window_prior(one, equal if priors is None else priors[one.window]) for one in windows]
        threshold = scoring.found_threshold if moments.threshold is None else moments.threshold
        kept = [(one.window, [e for e in one.events if e.score is None or e.score >= threshold]) for one in windows]
        events = best_moments(merge_events(kept), max_moments=None if moments.find_all else moments.top_k)
        found, score = (
            bool(events),
            max((one.best_score for one in windows if one.best_score is not None), default=None),
        )
        notes += () if any(answer.tokens for answer in answers) else (NO_LOGPROBS_NOTE,)
    elif TASKS[task].is_free:
        events = distinct_events(event for one in windows for event in one.events)
    elif len(windows) == 1:
        events = sorted(distinct_events(windows[0].events), key=lambda event: event.start)
    else:
        events = merge_events([(one.window, distinct_events(one.events)) for one in windows])
    if task == "highlights":
        events = best_highlights(events)
    if TASKS[task].is_free and len(windows) > 1:
        notes += _free_notes(answers, task, query)
    is_as_written = len(answers) == 1 and (answers[0].window.start, answers[0].window.time_scale) == (0.0, 1.0)
    is_as_written &= found is not False or not windows[0].events  # a moment below the threshold is not found
    text = answers[0].text if is_as_written else _write_text(answers, windows, task, events)
    notes += degenerate_notes(events, duration) if not TASKS[task].is_free else ()
    return Answer(
        text, events, task=task, question=query or "", duration=duration, found=found, score=score, notes=notes
    )


def _apply_window_prior(read: ParsedWindow, prior: float) -> ParsedWindow:
    """Adjust the scores of a window's moments to the prior probability of the window."""
    if prior == 1:
        return read
    events = tuple(
        event if event.score is None else replace(event, score=apply_window_prior(event.score, prior))
        for event in read.events
    )
    best = read.best_score
    return replace(read, events=events, best_score=None if best is None else apply_window_prior(best, prior))


def _free_notes(answers: Sequence[WindowAnswer], task: Task, query: str | None) -> tuple[str, ...]:
    """Say what the answers about single windows mean for a question about the whole video."""
    notes = []
    if task == "ask" and query and _COUNTING.search(query):
        notes.append(
            f"the question was asked about each of {len(answers)} overlapping windows: a number in the answer counts "
            "one window, not the whole video"
        )
    if num_foreign := sum(_TEMPLATES.search(answer.text) is not None for answer in answers):
        notes.append(
            f"{num_foreign} of {len(answers)} windows were answered in the form of another task; their times are listed"
        )
    return tuple(notes)


def _write_text(
    answers: Sequence[WindowAnswer], windows: Sequence[ParsedWindow], task: Task, events: Sequence[Event]
) -> str:
    """One text for several windows: events in the wording of a single answer, free answers each with its time span."""
    if TASKS[task].is_free:
        texts = merge_texts(
            (answer.window, _free_text(answer, read.events)) for answer, read in zip(answers, windows, strict=True)
        )
        return "\n".join(f"{citation(Event(start, end))} {text}" for start, end, text in texts)
    if task == "grounding":
        return " ".join(format_events([event], task) for event in events) or NOT_FOUND_ANSWER
    return format_events(events, task)


def _free_text(answer: WindowAnswer, events: Sequence[Event]) -> str:
    """The text of a free answer on the video's clock; the times alone for an answer in the form of another task."""
    if not _TEMPLATES.search(answer.text):
        return move_times(answer.text, answer.window.to_video)
    times = [citation(event) for event in distinct_events(events)]
    return f"at {', '.join(dict.fromkeys(times))}" if times else "nothing found"
