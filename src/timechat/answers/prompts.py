"""All sentences that TimeChat reads: times of frames, chat format, system prompts, and its task prompts.

The wording is exactly that of the published checkpoints' training, including double spaces and spelling errors, because
the weights depend on it. The task prompts of other models are in `presets`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

FormName = Literal[
    "captions",
    "speech",
    "grounding",
    "highlights",
    "event_sentence",
    "answer_tags",
    "json_spans",
    "json_events",
    "json_moments",
]
"""Name of the form of an answer, see `forms.FORMS`."""

ChatStyle = Literal["llama_2", "vicuna"]
Role = Literal["user", "assistant"]

VIDEO_PLACEHOLDER = "<ImageHere>"
CHAT_MARKS = ("<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", VIDEO_PLACEHOLDER)
"""Marks of the chat format and of the tokenizer; in the text of a user they are no marks."""
VICUNA_MARK = "###"
"""Start of every turn in the vicuna format; an answer ends where the next one starts."""
BERT_BOS_TOKEN = "[DEC]"  # added to the BERT vocabulary by BLIP-2; never part of a prompt

SYSTEM_PROMPT = (
    "You are able to understand the visual content that the user provides. "
    "Follow the instructions carefully and explain your answers in detail."
)
TRAINING_SYSTEM_PROMPT = " "
BENCHMARK_SYSTEM_PROMPT = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement "
    "of objects, and the action and pose of persons. Based on your observations, select the best option that "
    "accurately addresses the question.\n"
)

NOT_FOUND_ANSWER = "The given query does not happen in the video."
"""Answer of a model that was trained to report a missing moment; the original has no words for it."""


def time_text(seconds: float) -> str:
    """Write a time as the model reads it: seconds with one decimal, `"117.0"`."""
    return str(round(float(seconds), 1))


def frame_prompt(timestamp: float) -> str:
    """Return the sentence that the image Q-Former reads beside one frame sampled at `timestamp` seconds."""
    return f"This frame is sampled at {time_text(timestamp)} second."


def frame_message(timestamps: Iterable[float]) -> str:
    """Return the sentence that states to the language model when the frames were sampled, in seconds."""
    times = [time_text(timestamp) for timestamp in timestamps]
    return f"The video contains {len(times)} frames sampled at {', '.join(times)} seconds. "


def video_message(timestamps: Iterable[float], *, num_placeholders: int = 1, names_times: bool = True) -> str:
    """Return the text before the first question: the placeholder of the video, then the times of its frames.

    Args:
        timestamps: Seconds of each frame.
        num_placeholders: Number of placeholders for the video.
        names_times: Whether a sentence states the times of the frames, as in the original.
    """
    times = frame_message(timestamps) if names_times else ""
    return f"<Video>{VIDEO_PLACEHOLDER * num_placeholders}</Video> {times}"


def transcript_text(speech: Iterable[tuple[float, float, str]]) -> str:
    """Write the speech of a video, `(start, end, words)` in seconds, as instructions and answers quote it."""
    lines = [f"{start:.1f} - {end:.1f} seconds, {words} " for start, end, words in speech]
    return f"Transcribed speech: {''.join(lines) or 'None.'}"


def transcript_question(question: str, speech: Iterable[tuple[float, float, str]]) -> str:
    """Return the question with the speech of the video before it, unless the question already contains it."""
    if question.startswith("Transcribed speech:"):
        return question
    return f"{transcript_text(speech)} Based on the video content and possible transcribed speech, {question}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; an assistant's turn without text is the one to generate."""

    role: Role
    text: str | None


def render_chat(system: str, messages: Sequence[Message], *, style: ChatStyle = "llama_2") -> str:
    """Write a conversation as the one string that the language model continues."""
    return _CHAT_STYLES[style](system, messages)


def _render_llama_2(system: str, messages: Sequence[Message]) -> str:
    text = ""
    for i, message in enumerate(messages):
        if message.role == "user":
            header = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if i == 0 else ""
            text += f"<s>[INST] {header}{message.text} [/INST]"
        elif message.text is not None:
            text += f" {message.text} </s>"
    return text.lstrip("<s>")


def _render_vicuna(system: str, messages: Sequence[Message]) -> str:
    turns = [
        f"{_VICUNA_NAMES[message.role]}:"
        if message.text is None
        else f"{_VICUNA_NAMES[message.role]}: {message.text}{VICUNA_MARK}"
        for message in messages
    ]
    return f"{system}{VICUNA_MARK}" + "".join(turns)


def vicuna_training_pieces(system: str, messages: Sequence[Message]) -> list[tuple[Role | None, str]]:
    """Return the pieces of a training conversation in the vicuna format: the header, each turn, and the last mark.

    Unlike at inference, there is an empty line after the system prompt and a line break after each turn. The last mark
    belongs to the assistant.
    """
    header: tuple[Role | None, str] = (None, f"{system.strip()}\n\n")
    turns: list[tuple[Role | None, str]] = [
        (message.role, f"{VICUNA_MARK}{_VICUNA_NAMES[message.role]}: {message.text}\n") for message in messages
    ]
    return [header, *turns, ("assistant", VICUNA_MARK)]


_VICUNA_NAMES: dict[Role, str] = {"user": "Human", "assistant": "Assistant"}


_CHAT_STYLES = {"llama_2": _render_llama_2, "vicuna": _render_vicuna}


@dataclass(frozen=True, slots=True)
class Preset:
    """The wording of every task under one versioned name.

    Attributes:
        name: Name of the preset.
        prompts: Prompt of each task; `{query}` stands for the user's words. A task with an optional query has a second
            prompt, whose name ends in `_without_query`.
        system: System prompt; empty for the model's own.
        forms: Form of each task's answer; a task that is not listed has its own form, `TaskDefinition.form`.
        source: Origin of the wording.
    """

    name: str
    prompts: Mapping[str, str]
    system: str = SYSTEM_PROMPT
    forms: Mapping[str, FormName] = field(default_factory=dict)
    source: str = "training and evaluation of the original TimeChat"

    def question(self, task: str, query: str | None = None) -> str:
        """Return the question of a task with the query in its place.

        Args:
            task: Task name with a prompt in this preset.
            query: Description of what to find; a full stop at its end is dropped, as the original does.

        Raises:
            ValueError: The task needs a query and got none.
        """
        without_query = f"{task}_without_query"
        template = self.prompts[without_query if query is None and without_query in self.prompts else task]
        if "{query}" not in template:
            return template
        if query is None or not query.strip().rstrip("."):
            raise ValueError(f"{task} needs a query, got {query!r}; say in words what to look for")
        return template.replace("{query}", query.strip().rstrip("."))

    def to_dict(self) -> dict[str, str]:
        """Return name, prompts and system prompt in one flat object, ready for JSON."""
        return {"name": self.name, **self.prompts, "system": self.system}


_DENSE_CAPTION_ORIGINAL = (
    "Localize a series of activity events in the video, output the start and end timestamp for each event, and "
    "describe each event with sentences. The output format of each predicted event should be like: 'start - end "
    "seconds, event description'. A specific example is : ' 90 - 102 seconds, spread margarine on two slices of "
    "white bread in the video' ."
)
_DENSE_CAPTION_WITH_SPEECH = (
    "You are able to understand the visual content that the user provides. Localize a series of activity events in "
    "the video with the aid of transcribed speech, output the start and end timestamp for each event, and describe "
    "each event with sentences. The output format of each predicted event should be like: 'start - end seconds, event "
    "description'. An specific example is : ' 90 - 102 seconds, spread margarine on two slices of white bread in the "
    "video' ."
)
_STEPS = (
    "Locate and describe a series of actions or steps in the video, including their start and end timestamps. "
    "The output format of each step should be like: 'start - end seconds, step description'."
)
_HIGHLIGHTS_WITHOUT_QUERY = (
    "Please find the highlight moments in the video, determining each highlight moment's timestamp and its saliency "
    "score. The output format should be like: 'The highlight timestamps are in the 82, 84, 86, 88 seconds. Their "
    "saliency scores are 1.3, 1.7, 1.7, 2.3'."
)
_SUMMARY = "Summarize what happens in the video in a few sentences, in the order of time."
_TRANSCRIBE = (
    "Transcribe the speech of the video, including the start and end timestamps of each sentence. "
    "The output format should be like: 'Transcribed speech: start - end seconds, sentence.'"
)

_ORIGINAL_FINETUNED = Preset(
    name="original-finetuned@1",  # for checkpoints tuned on YouCook2, Charades-STA, QVHighlights
    prompts={
        "dense_caption": _DENSE_CAPTION_ORIGINAL,
        "grounding": (
            "Localize the visual content described by the given textual query {query} in the video, and output "
            "the start and end timestamps in seconds. The output format of the predicted timestamp should be "
            "like: 'start - end seconds'. A specific example is : 20.8 - 30.0 seconds' ."
        ),
        "highlights": (
            "You are given a video from the qvhighlights dataset. Please find the highlight moments in the video "
            "described by a sentence query, determining the highlight moment's timestamp and its saliency score. "
            "The output format should be like: 'There are 10 highlight moments in the 82, 84, 86, 88, 90, 92, 94, "
            "96, 98, 100 second. Their saliency scores are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3'. Now "
            "I will give you the sentence query: {query}. Please return the query-based highlight moments."
        ),
        "highlights_without_query": _HIGHLIGHTS_WITHOUT_QUERY,
        "steps": _STEPS,
        "summary": _SUMMARY,
        "transcribe": _TRANSCRIBE,
    },
)

_TIMECHAT = Preset(
    name="timechat@1",
    prompts={
        "dense_caption": _DENSE_CAPTION_ORIGINAL,
        "grounding": (
            "Localize the visual content described by the given textual query '{query}' in the video, and "
            "output the start and end timestamps in seconds."
        ),
        "highlights": (
            "Please find the highlight moments in the video described by a sentence query, determining the "
            "highlight moment's timestamp and its saliency score. The output format should be like: 'There are "
            "10 highlight moments in the 82, 84, 86, 88, 90, 92, 94, 96, 98, 100 second. Their saliency scores "
            "are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3'. Now I will give you the sentence query: "
            "{query}. Please return the query-based highlight moments."
        ),
        "highlights_without_query": _HIGHLIGHTS_WITHOUT_QUERY,
        "steps": _STEPS,
        "summary": _SUMMARY,
        "transcribe": _TRANSCRIBE,
    },
)

_ORIGINAL_ZERO_SHOT = Preset(
    name="original-zeroshot@1",  # the published zero-shot numbers; data sets have the names of the original's scripts
    prompts={
        "dense_caption": (
            "You are given a cooking video from the YouCook2 dataset. Please watch the video and extract a "
            "maximum of 10 significant cooking steps. For each step, determine the starting and ending times and "
            "provide a concise description. The format should be: 'start time - end time, brief step "
            "description'. For example, ' 90 - 102 seconds, spread margarine on two slices of white bread'."
        ),
        "grounding": (
            "You are given a video from the charades dataset. Please find the visual event described by a "
            "sentence in the video, determining its starting and ending times. The format should be: 'The event "
            "happens in the start time - end time'. For example, The event 'person turn a light on' happens in "
            "the 24.3 - 30.4 seonds. Now I will give you the textual sentence: {query}. Please return its start "
            "time and end time."
        ),
        "highlights": (
            "You are given a video from the qvhighlights dataset. Please find the highlight contents in the video "
            "described by a sentence query, determining the highlight timestamps and its saliency score on a "
            "scale from 1 to 5. The output format should be like: 'The highlight timestamps are in the 82, 84, "
            "86, 88, 90, 92, 94, 96, 98, 100 seconds. Their saliency scores are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, "
            "1.7, 2.3, 2.3, 2.3'. Now I will give you the sentence query: {query}. Please return the query-based "
            "highlight timestamps and salient scores."
        ),
        "highlights_without_query": _HIGHLIGHTS_WITHOUT_QUERY,
        "steps": _STEPS,
        "summary": _SUMMARY,
        "transcribe": _TRANSCRIBE,
    },
)

TIMECHAT_PRESETS = (
    _TIMECHAT,
    _ORIGINAL_FINETUNED,
    replace(  # the same, for a video with its transcript
        _ORIGINAL_FINETUNED,
        name="original-finetuned-speech@1",
        prompts={**_ORIGINAL_FINETUNED.prompts, "dense_caption": _DENSE_CAPTION_WITH_SPEECH},
    ),
    # Questions with options (EgoSchema, MVBench, TempCompass, Video-MME) bring their own prompt.
    replace(_ORIGINAL_FINETUNED, name="original-benchmarks@1", system=BENCHMARK_SYSTEM_PROMPT),
    _ORIGINAL_ZERO_SHOT,
)
"""The presets that TimeChat was trained or evaluated with."""

DEFAULT_PRESET = "timechat@1"

POST_CHECKS = {
    "dense_caption": (
        "Be careful about your output format, you should provide start time and end time for each step. The format "
        "should be: 'start time - end time, brief step description', for example, ' 90 - 102 seconds, spread margarine "
        "on two slices of white bread'."
    ),
    "grounding": (
        "Be careful about your output format, you should provide start time and end time for the visual event. The "
        "format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a "
        "light on' happens in the 24.3 - 30.4 seonds."
    ),
    "highlights": (
        "Be careful about your output format, you should provide timestamp and saliency score for the highlight "
        "moment. The output format should be like: 'There are 10 highlight moments in the 82, 84, 86, 88, 90, 92, 94, "
        "96, 98, 100 second. Their saliency scores are 1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3'."
    ),
}
"""Second turn of the original's evaluation (`post_check`), by task: a request to correct the form of the answer.

The recorded text for highlights shortens its two lists of numbers ("82, ..., 100"). Here they are those of the first
turn, whose form it repeats.
"""

PROMPT_EXAMPLES = (
    "90 - 102 seconds, spread margarine on two slices of white bread in the video",
    "90 - 102 seconds, spread margarine on two slices of white bread",
    "20.8 - 30.0 seconds",
    "The event 'person turn a light on' happens in the 24.3 - 30.4 seonds",
    "There are 10 highlight moments in the 82, 84, 86, 88, 90, 92, 94, 96, 98, 100 second. Their saliency scores are "
    "1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3",
    "The highlight timestamps are in the 82, 84, 86, 88, 90, 92, 94, 96, 98, 100 seconds. Their saliency scores are "
    "1.3, 1.7, 1.7, 1.7, 1.7, 1.3, 1.7, 2.3, 2.3, 2.3",
    "The highlight timestamps are in the 82, 84, 86, 88 seconds. Their saliency scores are 1.3, 1.7, 1.7, 2.3",
)
"""Examples of answers in the prompts. A model that repeats its prompt writes them, and they are no answer."""
