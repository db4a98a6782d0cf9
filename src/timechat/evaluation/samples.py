"""Samples, the questions of a benchmark, and predictions, the answers of a run: one prediction for each sample."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from timechat.answers.events import Event, Task

Status = Literal["ok", "unparsed", "missing_video", "unreadable_video", "too_long"]
"""Outcome of a sample: answered; answered without anything that its task asks for; no such file; a file that cannot be
read; a prompt that is too long for the language model."""

Sampling = Literal["uniform", "segment_centres"]
"""Where frames are taken in the clip of a sample: at the start of as many equal parts, as
`timechat.video.load_frames` does; or in the middle of each, as `timechat.evaluation.benchmarks.load_segment_centres`
does, which MVBench asks for."""

STATUSES: tuple[Status, ...] = ("ok", "unparsed", "missing_video", "unreadable_video", "too_long")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A question about a video, with its reference answer.

    Attributes:
        id: Identifier, unique in the benchmark.
        video: Path below the folder of videos; a folder of images where the benchmark has such.
        task: Task of the question.
        query: The question of `ask`, or the query of a task that has one.
        question: The whole question as the annotations word it; None uses the wording of the recipe's preset.
        duration: Duration of the video in seconds as the benchmark states it, None where it does not.
        start: Start of the clip that is sampled, in seconds.
        end: End of the clip that is sampled, in seconds.
        sampling: Where frames are taken in the clip.
        speech: Transcript that is part of the question; None adds none.
        ground_truth: The reference answer as a row of the official scorer's ground-truth file.
        options: Options of a multiple-choice question, in their order.
        answer: The reference answer of a question: one of the options, or a text.
        rank_options: Whether the likeliest option is the answer, instead of the one whose letter the model writes.
        groups: Parts of the benchmark that the sample belongs to. The first one is the kind of its question, and gets
            metrics of its own; `--baselines` shows all of them.
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
        """Video, start and end: samples of one clip share its encoding."""
        return self.video, self.start, self.end


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to a sample.

    Attributes:
        id: Identifier of the sample.
        video: Video of the sample.
        task: Task of the sample.
        query: Words of the sample.
        duration: Duration of the video in seconds, None where it could not be read.
        text: Text of the model; the chosen option where options were ranked by their likelihood.
        status: Outcome of the sample.
        events: Events that the text names, with their scores.
        found: Grounding in windows: whether the query happens in the video; None elsewhere.
        score: Grounding in windows: probability that the query happens, from 0 to 1; None elsewhere.
        notes: Parts of the answer that could not be read, or what went wrong.
        option_logprobs: Logarithm of the probability of each option's words, where options were ranked.
        seconds: Computing time: `encode`, and the sample's share of `answer`. Not compared.
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
    option_logprobs: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def is_answered(self) -> bool:
        """Whether the model has answered, readably or not."""
        return self.status in ("ok", "unparsed")

    def to_dict(self) -> dict[str, Any]:
        """The prediction as a row of `predictions.jsonl`; only grounding in windows has `found` and `score`."""
        row = asdict(self) | {
            "events": [event.to_dict() for event in self.events],
            "notes": list(self.notes),
            "option_logprobs": list(self.option_logprobs),
        }
        return {key: value for key, value in row.items() if key not in ("found", "score") or value is not None}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Prediction":
        """Read a row of `predictions.jsonl`."""
        lists = {name: tuple(row[name]) for name in ("notes", "option_logprobs")}
        return cls(**{**row, **lists, "events": tuple(Event(**event) for event in row["events"])})


def count_statuses(predictions: Sequence[Prediction]) -> dict[Status, int]:
    """How many predictions have each status."""
    return {status: sum(one.status == status for one in predictions) for status in STATUSES}
