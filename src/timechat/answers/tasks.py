"""The tasks of TimeChat: each is a question put to the model and a way to read its answer."""

from dataclasses import dataclass, replace
from typing import get_args

from timechat.answers.events import Answer, Task
from timechat.answers.parsing import parse_events
from timechat.answers.prompts import DEFAULT_PRESET, PRESETS, Preset


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How an answer is written: greedy unless `do_sample`, and then reproducible by its seed.

    Attributes:
        max_new_tokens: Longest answer, in tokens.
        is_free: Write whatever the model likes, even what nobody can read; else answers are kept in their task's form,
            with times in range and in order (`timechat.answers.grammar`).
        do_sample: Draw tokens instead of taking the likeliest. With the defaults below this is how the
            original answers.
        temperature: Of the drawing.
        top_p: Share of the probability that is drawn from.
        top_k: Number of tokens that are drawn from.
        seed: Of the drawing.
        json_schema: Keep a free answer to JSON of this schema, which is JSON too; None leaves it free.
    """

    max_new_tokens: int = 512
    is_free: bool = False
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 50
    seed: int = 42
    json_schema: str | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature must be above 0, got {self.temperature}; leave sampling off for greedy answers"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if self.json_schema is not None and self.is_free:
            raise ValueError("json_schema is a form, and is_free asks for none; give one of them")


GREEDY = DecodingOptions()


def find_preset(name: str = DEFAULT_PRESET) -> Preset:
    """Return the wording of that name.

    Raises:
        ValueError: There is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no prompt preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def build_question(task: Task, query: str | None = None, *, preset: str = DEFAULT_PRESET) -> str:
    """Return what the model is asked: the user's own words, or a task's wording around a query.

    Raises:
        ValueError: The task or the preset is unknown, or the task needs words and got none.
    """
    if task not in get_args(Task):
        raise ValueError(f"there is no task {task!r}; choose one of {', '.join(get_args(Task))}")
    if task != "ask":
        return find_preset(preset).question(task, query)
    if query is None or not query.strip():
        raise ValueError(f"ask needs a question, got {query!r}; say in words what you want to know")
    return query


def read_answer(
    text: str,
    task: Task,
    *,
    query: str | None = None,
    video: str | None = None,
    duration: float | None = None,
    model: str | None = None,
    notes: tuple[str, ...] = (),
) -> Answer:
    """Read the events out of what the model wrote; the raw text is kept.

    A grounded event is described by the query. What could not be read is told in the notes.
    """
    parsed = parse_events(text, task=task, duration=duration)
    events = parsed.events
    if task in ("grounding", "highlights") and query:
        events = [replace(event, caption=query) for event in events]
    return Answer(
        text=text,
        events=events,
        task=task,
        question=query or "",
        video=video,
        duration=duration,
        model=model,
        notes=(*notes, *parsed.notes),
    )
