"""Samples, the questions of a benchmark, and predictions, the answers of a run: one prediction for each sample."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from timechat.answers.events import Event, Task

Status = Literal["ok", "unparsed", "missing_video", "unreadable_video", "too_long"]
"""Outcome of a sample: answered; answered without a result that the task requires; missing file; unreadable file;
prompt too long for the language model."""

Sampling = Literal["uniform", "segment_centres"]
"""Position of the frames in the clip of a sample, divided into one equal part per frame: the start of each part
(`timechat.video.load_frames`), or the middle of each part (`load_segment_centres` in `timechat.evaluation.benchmarks`),
as MVBench requires."""

_OPTIONAL = ("found", "score", "prompt", "first_answer")
"""Fields of a prediction that are left out if they are unknown."""

STATUSES: tuple[Status, ...] = ("ok", "unparsed", "missing_video", "unreadable_video", "too_long")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A question about a video, with its reference answer.

    Attributes:
        id: Identifier, unique in the benchmark.
        video: Path below the folder of videos, to a file or to a folder of images.
        task: Task of the question.
        query: Question of `ask`, or query of a task with queries.
        question: Complete question in the wording of the annotations; None uses the wording of the recipe's preset.
        duration: Duration of the video in seconds from the benchmark; None if unknown.
        start: Start of the clip that is sampled, in seconds.
        end: End of the clip that is sampled, in seconds.
        sampling: Position of the frames in the clip.
        speech: Transcript that is part of the question; None adds none.
        ground_truth: Reference answer as a row of the official scorer's ground-truth file.
        options: Options of a multiple-choice question, in their order.
        answer: Reference answer of a question: one of the options, or a text.
        rank_options: Whether the option with the highest likelihood is the answer, instead of the generated letter.
        groups: Parts of the benchmark that the sample belongs to. The first one is the kind of its question and has
            separate metrics; `--baselines` shows all groups.
    """

    id: str
    video: str
    task: Task
    query: str | None = None
    question: str | None = None
    duration: float | None = None
    start: float | None = None
    end: float | None = None
    sampling: Sampling = "uniform"
    speech: tuple[Event, ...] | None = None
    ground_truth: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    answer: str | None = None
    rank_options: bool = False
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.options and self.answer is not None and self.answer not in self.options:
            raise ValueError(f"sample {self.id}: the answer {self.answer!r} is none of {list(self.options)}")

    @property
    def clip(self) -> tuple[str, float | None, float | None]:
        """Video, start and end of the clip; samples with the same clip share its encoding."""
        return self.video, self.start, self.end


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to a sample.

    Attributes:
        id: Identifier of the sample.
        video: Video of the sample.
        task: Task of the sample.
        query: Query of the sample.
        duration: Duration of the video in seconds; None if unknown.
        text: Text of the model; the chosen option if options were ranked by likelihood; the second answer with
            `post_check`.
        first_answer: Text of the first answer with `post_check`; empty elsewhere.
        status: Outcome of the sample.
        events: Events in the text, with their scores.
        found: Grounding in windows: whether the query happens in the video; None elsewhere.
        score: Grounding in windows: probability that the query happens, from 0 to 1; None elsewhere.
        notes: Unreadable parts of the answer, or the error.
        prompt: Whole prompt of the language model, with the speech and the chat format; empty if there were several
            windows, or if it was not recorded.
        option_logprobs: Natural logarithm of the probability of each option's words, if options were ranked.
        seconds: Computing time in seconds: `encode`, and the sample's share of `answer`; ignored by comparisons.
    """

    id: str
    video: str
    task: Task
    query: str | None = None
    duration: float | None = None
    text: str = ""
    status: Status = "ok"
    events: tuple[Event, ...] = ()
    found: bool | None = None
    score: float | None = None
    notes: tuple[str, ...] = ()
    prompt: str = ""
    first_answer: str = ""
    option_logprobs: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def is_answered(self) -> bool:
        """Whether the model has answered, in readable form or not."""
        return self.status in ("ok", "unparsed")

    def to_dict(self) -> dict[str, Any]:
        """The prediction as a row of `predictions.jsonl`, without the values of `_OPTIONAL` that are unknown."""
        row = asdict(self) | {
            "events": [event.to_dict() for event in self.events],
            "notes": list(self.notes),
            "option_logprobs": list(self.option_logprobs),
        }
        return {key: value for key, value in row.items() if key not in _OPTIONAL or value not in (None, "")}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Prediction":
        """Read a row of `predictions.jsonl`."""
        lists = {name: tuple(row[name]) for name in ("notes", "option_logprobs")}
        return cls(**{**row, **lists, "events": tuple(_event(event, row["task"]) for event in row["events"])})


def _event(event: Mapping[str, Any], task: Task) -> Event:
    """Read an event; version 0.1 wrote the saliency of a highlight as its score."""
    if task == "highlights" and "saliency" not in event:
        event = {**event, "score": None, "saliency": event["score"]}
    return Event(**event)


def count_statuses(predictions: Sequence[Prediction]) -> dict[Status, int]:
    """Number of predictions with each status."""
    return {status: sum(one.status == status for one in predictions) for status in STATUSES}
