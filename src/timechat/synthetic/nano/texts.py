"""Films → questions and answers as token ids, many a film in one sequence."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from timechat.answers.prompts import SYSTEM_PROMPT, VIDEO_PLACEHOLDER, video_message
from timechat.data.packing import Conversation, Packed, pack_conversations
from timechat.model.processing import TimeChatProcessor
from timechat.synthetic.records import SyntheticRecord, synthetic_records
from timechat.synthetic.scene import SyntheticVideo, write_scene
from timechat.synthetic.vocabulary import all_sentences

# Of the questions about a film: how many of each task are asked at most, and how often at all. Grounding comes first:
# it is what the other tasks are made of.
_SHARES: Mapping[str, tuple[int, float]] = {
    "grounding": (4, 1.0),
    "dense_caption": (1, 0.7),
    "highlights": (2, 0.4),
    "steps": (1, 0.2),
    "summary": (1, 0.15),
    "transcribe": (1, 0.2),
    "qa": (4, 1.0),
}
_BRIEF_SHARES: Mapping[str, tuple[int, float]] = {"grounding": (12, 1.0), "dense_caption": (1, 0.4), "steps": (1, 0.2)}
_BRIEF_OF = 4  # ways to word a question, of which the shortest is taken
_MAX_TOKENS = 380  # of all questions and answers about a film together; a long one would make the whole batch long


class ConversationWriter:
    """Tokenises questions exactly as they are tokenised when the model is asked."""

    def __init__(self, processor: TimeChatProcessor) -> None:
        self.processor = processor

    def pack(self, timestamps: NDArray[np.float64], turns: Sequence[tuple[str, str]]) -> Packed:
        """Pack (question, answer) pairs about one video, each a conversation of its own, as many as fit."""
        processor = self.processor
        conversations: list[Conversation] = []
        shared: list[int] = []
        room = _MAX_TOKENS
        for question, answer in turns:
            before, _, after = processor.render_prompt(timestamps, question).partition(VIDEO_PLACEHOLDER)
            shared = self._encode(before, special=True)
            answer_ids = [*self._encode(f" {answer}"), processor.tokenizer.eos_token_id]
            conversation = Conversation(self._encode(after), answer_ids)
            room -= len(conversation.question) + len(answer_ids)
            if room < 0 and conversations:
                break
            conversations.append(conversation)
        video = [processor.config.image_token_id] * processor.config.num_video_tokens(len(timestamps))
        return pack_conversations([*shared, *video], conversations)

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=special).input_ids  # type: ignore[no-any-return]


def choose_records(
    film: SyntheticVideo, variant: int, num_questions: int, rng: random.Random, *, brief: bool = False
) -> list[SyntheticRecord]:
    """Choose questions about a film.

    Args:
        film: What is asked about.
        variant: Other variants word the questions differently.
        num_questions: How many at most.
        rng: Of the choice.
        brief: Whether to word them as shortly as they can be, and to ask little but after events: so that most of what
            is read in training are events and times.
    """
    records = _brief_records(film, variant) if brief else synthetic_records(film, variant=variant)
    rng.shuffle(records)
    chosen: list[SyntheticRecord] = []
    for task, (most, share) in (_BRIEF_SHARES if brief else _SHARES).items():
        if rng.random() < share:
            chosen += [record for record in records if record.task == task][:most]
    rng.shuffle(chosen)
    return chosen[:num_questions]


def event_times(record: SyntheticRecord) -> float | None:
    """When begins the one event that an answer tells in words; None where it is not one, or not told."""
    return record.events[0].start if record.task == "qa" and len(record.events) == 1 else None


def _brief_records(film: SyntheticVideo, variant: int) -> list[SyntheticRecord]:
    """One record of each task and set of events: of several, that with the shortest question."""
    shortest: dict[tuple[str, ...], SyntheticRecord] = {}
    for one in range(variant * _BRIEF_OF, (variant + 1) * _BRIEF_OF):
        for record in synthetic_records(film, variant=one):
            what = (record.task, *(event.id for event in record.events))
            if what not in shortest or len(record.question) < len(shortest[what].question):
                shortest[what] = record
    return list(shortest.values())


def vocabulary_sentences() -> Iterator[str]:
    """Every kind of sentence that nano reads or writes, to learn its vocabulary from."""
    yield from all_sentences()
    for seed in range(300):
        for record in synthetic_records(write_scene(seed, 0, level=(1, 2, 3)[seed % 3])):
            yield record.question
            yield record.response
    frame = video_message([0.0])
    yield from [f"[INST] <<SYS>>\n{SYSTEM_PROMPT}\n<</SYS>>\n\n{frame}  What happens? [/INST]"] * 200
