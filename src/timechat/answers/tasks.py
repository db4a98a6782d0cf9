"""The table of tasks: the prompt, parser, writer and form of each, and the options of decoding.

A new task is a name in `events.Task`, an entry in `TASKS`, and a prompt in the presets of `prompts`.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from timechat.answers.events import (
    Answer,
    Event,
    Task,
    check_duration,
    one_line,
    write_captions,
    write_grounding,
    write_highlights,
    write_speech,
    write_summary,
)
from timechat.answers.parsing import (
    Parsed,
    clip_events,
    read_captions,
    read_free,
    read_grounding,
    read_highlights,
    states_none,
)
from timechat.answers.presets import PRESETS
from timechat.answers.prompts import DEFAULT_PRESET, FormName, Preset


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """Everything that distinguishes one task from the others.

    Attributes:
        parse: Function that reads the events of an answer, given its text and the duration in seconds if it is known.
        typical_tokens: Number of tokens of a usual answer about one window, for estimates.
        write: Function that writes events in the wording of the task; None for a task without such wording.
        form: Form of the answer, unless the preset has another; None for a free answer.
        query: Whether the task takes a query.
        title: Title of the events of an answer, for people; None for a task whose answer is the text.
        noun: Name of one event of an answer, for people.
        opening: Pattern of the first words of an answer, by which the task of a published answer is recognized.
        has_own_query: Whether the query is the question itself, without a prompt around it.
        note: Sentence that every answer of a model to the task carries; None without one.
    """

    parse: Callable[[str, float | None], Parsed]
    typical_tokens: int
    write: Callable[[Sequence[Event]], str] | None = None
    form: FormName | None = None
    query: Literal["none", "optional", "required"] = "none"
    title: str | None = None
    noun: str = "event"
    opening: re.Pattern[str] | None = None
    has_own_query: bool = False
    note: str | None = None

    @property
    def is_free(self) -> bool:
        """Whether the answer is free text, whose events are the times that it mentions."""
        return self.form is None

    @property
    def describes_query(self) -> bool:
        """Whether the events of an answer show what the query describes, so that the query is their caption."""
        return self.query != "none" and not self.has_own_query


TASKS: dict[Task, TaskDefinition] = {
    "ask": TaskDefinition(read_free, 64, query="required", has_own_query=True),
    "dense_caption": TaskDefinition(
        read_captions,
        200,
        write_captions,
        "captions",
        title="Events",
        opening=re.compile(r"\s*\d+(?:\.\d+)? - \d+(?:\.\d+)? seconds"),
    ),
    "grounding": TaskDefinition(
        read_grounding,
        16,
        write_grounding,
        "grounding",
        query="required",
        title="Moment",
        opening=re.compile(r"\s*The given query happens in"),
    ),
    "highlights": TaskDefinition(
        read_highlights,
        64,
        write_highlights,
        "highlights",
        query="optional",
        title="Highlights",
        noun="highlight",
        opening=re.compile(r"\s*There are \d+ highlight"),
    ),
    "steps": TaskDefinition(read_captions, 120, write_captions, "captions", title="Steps", noun="step"),
    "summary": TaskDefinition(
        read_free, 100, write_summary, title="Summary", opening=re.compile(r"\s*The highlight timestamps")
    ),
    "transcribe": TaskDefinition(
        read_captions,
        200,
        write_speech,
        "speech",
        title="Speech",
        opening=re.compile(r"\s*Transcribed speech:"),
        note="the model does not hear the audio: these words are a guess from the frames",
    ),
}
"""Every task by its name."""


def find_task(name: str) -> TaskDefinition:
    """Return the definition of a task.

    Raises:
        ValueError: There is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    return TASKS[name]


def find_preset(name: str = DEFAULT_PRESET) -> Preset:
    """Return the prompt preset of a name.

    Raises:
        ValueError: There is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no prompt preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def build_question(task: Task, query: str | None = None, *, preset: str = DEFAULT_PRESET) -> str:
    """Return the question for the model: the user's own words, or the prompt of a task with the query in it.

    Raises:
        ValueError: The task or the preset is unknown, or the task needs a query and got none.
    """
    if not find_task(task).has_own_query:
        return find_preset(preset).question(task, query)
    if query is None or not query.strip():
        raise ValueError(f"{task} needs a question, got {query!r}; say in words what you want to know")
    return query


def format_events(events: Sequence[Event], task: Task) -> str:
    """Write events in the wording of the original's training answers, times and scores to a tenth.

    `parse_events` reads the same events, if their times and scores are whole tenths and their captions end with a full
    stop.

    Args:
        events: Events in the order of the answer; grounding takes exactly one, or none.
        task: Task that answers in events.

    Returns:
        The text of the answer; `""` for no events if the original has no words for that.
    """
    write = find_task(task).write
    if write is None:
        writable = ", ".join(name for name, definition in TASKS.items() if definition.write)
        raise ValueError(f"task must be one of {writable}, got {task!r}")
    return write(events)


def parse_events(text: str, *, task: Task = "ask", duration: float | None = None) -> Parsed:
    """Read the events out of an answer, whatever its punctuation, units, list marks or order of ends.

    Dense captions (and steps and speech) are spans at the start of a sentence with the text after them; grounding is
    the first span of a text, or every span of a JSON list, without captions; highlights are times and their scores.
    A free answer gives every span and stated moment ("at 12.3 seconds") with its sentence as the caption; a free answer
    without any is no error.

    Args:
        text: Answer as the model wrote it.
        task: Task that decides how a number is understood.
        duration: Duration of the video in seconds. Events that start after it are dropped, and later ends are cut;
            "until the end" can be understood only if it is known.

    Returns:
        The events, and an account of the text that could not be parsed.
    """
    definition = find_task(task)
    check_duration(duration)
    if not definition.is_free and states_none(text):
        return Parsed([])
    parsed = clip_events(definition.parse(text, duration), duration)
    return replace(parsed, is_unparsed=not parsed.events and not definition.is_free)


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
    """Read the events out of an answer of the model; the text is kept, and what could not be parsed is a note."""
    parsed = parse_events(text, task=task, duration=duration)
    events = parsed.events
    if query and find_task(task).describes_query:
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


def event_title(event: Event, answer: Answer) -> str:
    """Return the caption on one line; without a caption the query, or else the title of the task."""
    return one_line(event.caption) or one_line(answer.question) or TASKS[answer.task].title or "Event"


# ------------------------------------------------------------------------------------------------- decoding


MAX_BEAMS = 64
"""Maximum number of beams of a search; its time and memory grow with their number."""


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """Decoding of an answer: greedy, by beam search, or sampled with a seed and so reproducible.

    The scores of an answer are the model's own probabilities in every case: temperature, penalty and minimum length
    change the choice of tokens, not the reported probabilities.

    Attributes:
        max_new_tokens: Maximum length of the answer in tokens.
        is_free: Whether the answer is unconstrained. Otherwise it follows the grammar of its task, with times in range
            and in order (`timechat.answers.grammar`).
        do_sample: Whether tokens are sampled; with the defaults below this is how the original answers.
        temperature: Temperature of sampling.
        top_p: Cumulative probability of the tokens that sampling considers.
        top_k: Number of tokens that sampling considers.
        seed: Random seed for sampling.
        json_schema: JSON schema, as JSON text, that a free answer follows; None for free text.
        num_beams: Number of beams of the search for the most likely answer; 1 is greedy decoding.
        length_penalty: Exponent of the length by which beam search divides the log probability of an answer: above 0,
            a larger value prefers longer answers. No effect with one beam.
        repetition_penalty: Penalty on tokens that the answer has already, with the definition of `transformers`; 1 is
            no penalty. Tokens of the prompt do not count.
        min_new_tokens: Minimum length of the answer in tokens. A constrained answer ends earlier where its grammar
            allows nothing else.
    """

    max_new_tokens: int = 512
    is_free: bool = False
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 50
    seed: int = 42
    json_schema: str | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0

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
            raise ValueError("json_schema constrains the answer and is_free does not; give one of them")
        if not 1 <= self.num_beams <= MAX_BEAMS:
            raise ValueError(f"num_beams must be from 1 to {MAX_BEAMS}, got {self.num_beams}")
        if self.num_beams > 1 and self.do_sample:
            raise ValueError(
                f"num_beams={self.num_beams} searches for the most likely answer and do_sample draws one; "
                "give one of them"
            )
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty must be a finite number, got {self.length_penalty}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}; 1 is no penalty")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens must be from 0 to max_new_tokens={self.max_new_tokens}, got {self.min_new_tokens}"
            )


GREEDY = DecodingOptions()


def caption_texts(event: Event, preset: str) -> tuple[str, str]:
    """Return an answer with one caption in the form of a preset: up to the caption, and up to its end."""
    caption = event.caption[:1].upper() + event.caption[1:]
    if find_preset(preset).forms.get("dense_caption") == "json_events":
        head = f'[{{"start": {event.start:.1f}, "end": {event.end:.1f}, "caption": "'
        return head, head + json.dumps(caption, ensure_ascii=False)[1:-1]
    head = format_events([Event(event.start, event.end)], "dense_caption")
    return head, format_events([Event(event.start, event.end, caption)], "dense_caption")
