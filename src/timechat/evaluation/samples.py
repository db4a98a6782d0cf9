"""What a benchmark asks, one sample a question, and what a run answered, one prediction a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from timechat.answers.events import Event, Task

Status = Literal["ok", "unparsed", "missing_video", "unreadable_video", "too_long"]
"""What became of a sample: answered; answered without anything that its task asks for; no such file; a file that
cannot be read; a prompt that the language model has no room for."""

Sampling = Literal["uniform", "segment_centres"]
"""Where frames are taken in the stretch that is looked at: at the start of as many equal parts, as
`timechat.video.load_frames` does; or in the middle of each, as `timechat.evaluation.benchmarks.load_segment_centres`
does, which MVBench asks for."""

STATUSES: tuple[Status, ...] = ("ok", "unparsed", "missing_video", "unreadable_video", "too_long")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A question about a video, with its true answer.

    Attributes:
        id: Unique in the benchmark.
        video: Path below the folder of videos; a folder of pictures where the benchmark has such.
        task: As which it is asked.
        query: The question of `ask`, the query of a task that has one.
        duration: Seconds of the video as the benchmark says, None where it does not.
        start: Seconds; only what is shown from here on is looked at.
        end: Seconds; only what is shown before is looked at.
        sampling: Where in that stretch frames are taken.
        speech: What is said in the video, told with the question; None tells nothing.
        ground_truth: The true answer as a row of the official scorer's ground-truth file.
        options: Of a multiple-choice question, in their order.
        answer: The right answer of a question: one of the options, or a text.
        rank_options: Whether the likeliest option is the answer, instead of the one whose letter is written.
        group: Part of the benchmark that it is counted with.
    """

    id: str
    video: str
    task: Task
    query: str | None = None
    duration: float | None = None
    start: float | None = None
    end: float | None = None
    sampling: Sampling = "uniform"
    speech: tuple[Event, ...] | None = None
    ground_truth: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    answer: str | None = None
    rank_options: bool = False
    group: str = ""

    def __post_init__(self) -> None:
        if self.options and self.answer is not None and self.answer not in self.options:
            raise ValueError(f"sample {self.id}: the answer {self.answer!r} is none of {list(self.options)}")

    @property
    def clip(self) -> tuple[str, float | None, float | None]:
        """What is looked at: samples of one place share what the model sees."""
        return self.video, self.start, self.end


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was answered to a sample.

    Attributes:
        id: Of the sample.
        video: Of the sample.
        task: Of the sample.
        query: Words of the sample.
        duration: Seconds of the video, None where it could not be read.
        text: As the model wrote it; the chosen option where options were compared by their likelihood.
        status: What became of it.
        events: That the text names, with their scores.
        notes: What could not be read in the answer, or what went wrong.
        option_logprobs: Of each option, where options were compared: logarithm of the probability of its words.
        seconds: What the sample took: `encode`, and its share of `answer`. Not compared.
    """

    id: str
    video: str
    task: Task
    query: str | None = None
    duration: float | None = None
    text: str = ""
    status: Status = "ok"
    events: tuple[Event, ...] = ()
    notes: tuple[str, ...] = ()
    option_logprobs: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def is_answered(self) -> bool:
        """Whether the model has answered, readably or not."""
        return self.status in ("ok", "unparsed")

    def to_dict(self) -> dict[str, Any]:
        """The prediction as a row of `predictions.jsonl`."""
        return asdict(self) | {
            "events": [event.to_dict() for event in self.events],
            "notes": list(self.notes),
            "option_logprobs": list(self.option_logprobs),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Prediction":
        """Read a row of `predictions.jsonl`."""
        lists = {name: tuple(row[name]) for name in ("notes", "option_logprobs")}
        return cls(**{**row, **lists, "events": tuple(Event(**event) for event in row["events"])})


def count_statuses(predictions: Sequence[Prediction]) -> dict[Status, int]:
    """How many predictions have each status."""
    return {status: sum(one.status == status for one in predictions) for status in STATUSES}
