"""Questions and answers about synthetic videos as token ids, several about a video in one sequence."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from timechat.answers.prompts import SYSTEM_PROMPT, VIDEO_PLACEHOLDER, video_message
from timechat.data.packing import Packed, TokenizedTurn, pack_conversations
from timechat.model.processing import TimeChatProcessor
from timechat.synthetic.records import SyntheticRecord, negative_record, synthetic_records
from timechat.synthetic.scene import SyntheticVideo, write_scene
from timechat.synthetic.vocabulary import all_sentences
from timechat.synthetic.wording import ActionPhrase, absent_action, action_of_wrong_shape

# Maximum number of questions of each task about a video, and probability that the task is used at all. Grounding comes
# first, because the other tasks are made of it.
_SHARES: Mapping[str, tuple[int, float]] = {
    "grounding": (4, 1.0),
    "dense_caption": (1, 0.7),
    "highlights": (2, 0.8),
    "steps": (1, 0.2),
    "summary": (1, 0.15),
    "transcribe": (1, 0.2),
    "qa": (6, 1.0),
}
_BRIEF_SHARES: Mapping[str, tuple[int, float]] = {"grounding": (12, 1.0), "dense_caption": (1, 0.4), "steps": (1, 0.2)}
_WRONG_SHAPE_SHARE = 0.4  # share of the queries of absent events, beside those of `elsewhere`, that name a wrong shape
# Weights of the kinds of questions that are learned least, where they are preferred; 1 for all others.
_KIND_WEIGHTS: Mapping[str | None, float] = {"what_after": 2.0, "which_first": 2.0, "how_long": 2.0}
_NUM_WORDINGS = 4  # number of wordings of a question, of which the shortest is taken
_MAX_TOKENS = 600  # maximum length of all questions and answers about a video; one long row makes the whole batch long


class ConversationWriter:
    """Tokenizes questions exactly as in inference."""

    def __init__(self, processor: TimeChatProcessor) -> None:
        self.processor = processor

    def pack(self, timestamps: NDArray[np.float64], turns: Sequence[tuple[str, str]]) -> Packed:
        """Pack (question, answer) pairs about one video, each as a separate conversation, as many as fit."""
        processor = self.processor
        conversations: list[TokenizedTurn] = []
        shared: list[int] = []
        room = _MAX_TOKENS
        for question, answer in turns:
            before, _, after = processor.render_prompt(timestamps, question).partition(VIDEO_PLACEHOLDER)
            shared = self._encode(before, special=True)
            answer_ids = [*self._encode(f" {answer}"), processor.tokenizer.eos_token_id]
            conversation = TokenizedTurn(self._encode(after), answer_ids)
            room -= len(conversation.question) + len(answer_ids)
            if room < 0 and conversations:
                break
            conversations.append(conversation)
        video = [processor.config.image_token_id] * processor.config.num_video_tokens(len(timestamps))
        return pack_conversations([*shared, *video], conversations)

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=special).input_ids  # type: ignore[no-any-return]


def choose_records(
    video: SyntheticVideo,
    variant: int,
    num_questions: int,
    rng: random.Random,
    *,
    brief: bool = False,
    negative_share: float | None = None,
    elsewhere: Sequence[ActionPhrase] = (),
    highlights: int | None = None,
) -> list[SyntheticRecord]:
    """Choose questions about a video.

    Args:
        video: Script of the video.
        variant: Number of the variant, on which the wording of the questions depends.
        num_questions: Maximum number of questions.
        rng: Random number generator for the choice.
        brief: Whether to use the shortest wording of each question, and mostly questions about events. Most training
            tokens are then events and times.
        negative_share: Share of the grounding questions whose query does not happen; None keeps that of the records.
        elsewhere: Descriptions of events that do not happen in the video, for one half of these queries; the other
            half resembles events of the video.
        highlights: Maximum number of questions about highlights, each about other events; such a choice also prefers
            the kinds of questions that are learned least. None keeps the shares of the tasks.
    """
    records = _brief_records(video, variant) if brief else synthetic_records(video, variant=variant)
    if negative_share is not None:
        records = _with_negatives(records, video, rng, negative_share, elsewhere)
    shares = dict(_BRIEF_SHARES if brief else _SHARES)
    if highlights is not None:
        shares["highlights"] = (highlights, 1.0)
        records = [record for record in records if record.task != "highlights"]
        records += _highlight_records(video, variant, highlights)
    rng.shuffle(records)
    if highlights is not None:
        # Weighted sampling without replacement (Efraimidis and Spirakis, 2006).
        records.sort(key=lambda record: -(rng.random() ** (1 / _KIND_WEIGHTS.get(record.kind, 1.0))))
    chosen: list[SyntheticRecord] = []
    for task, (count, share) in shares.items():
        if rng.random() < share:
            chosen += [record for record in records if record.task == task][:count]
    rng.shuffle(chosen)
    return chosen[:num_questions]


def _with_negatives(
    records: Sequence[SyntheticRecord],
    video: SyntheticVideo,
    rng: random.Random,
    share: float,
    elsewhere: Sequence[ActionPhrase],
) -> list[SyntheticRecord]:
    """Replace a share of the grounding records by records whose query does not happen."""
    kept = []
    for record in records:
        if record.task == "grounding" and record.is_negative:
            continue
        if record.task == "grounding" and rng.random() < share:
            has_elsewhere = elsewhere and rng.random() < 0.5
            if has_elsewhere:
                phrase = rng.choice(elsewhere)
            elif rng.random() < _WRONG_SHAPE_SHARE:
                phrase = action_of_wrong_shape(video, rng)
            else:
                phrase = absent_action(video, rng)
            record = negative_record(video, phrase, rng)
        kept.append(record)
    return kept


def _highlight_records(video: SyntheticVideo, variant: int, count: int) -> list[SyntheticRecord]:
    """Return up to `count` records of highlights, each about other events, from several variants of the records."""
    by_events: dict[tuple[str, ...], SyntheticRecord] = {}
    for number in range(variant * count, (variant + 1) * count):
        for record in synthetic_records(video, variant=number):
            if record.task == "highlights" and len(by_events) < count:
                by_events.setdefault(tuple(event.id for event in record.events), record)
    return list(by_events.values())


def single_event_start(record: SyntheticRecord) -> float | None:
    """Start of the only event that an answer names in words, in seconds; None if there is no such event."""
    return record.events[0].start if record.task == "qa" and len(record.events) == 1 else None


def _brief_records(video: SyntheticVideo, variant: int) -> list[SyntheticRecord]:
    """Return one record for each task and set of events, the one with the shortest question."""
    shortest: dict[tuple[str, ...], SyntheticRecord] = {}
    for number in range(variant * _NUM_WORDINGS, (variant + 1) * _NUM_WORDINGS):
        for record in synthetic_records(video, variant=number):
            key = (record.task, *(event.id for event in record.events))
            if key not in shortest or len(record.question) < len(shortest[key].question):
                shortest[key] = record
    return list(shortest.values())


def vocabulary_sentences() -> Iterator[str]:
    """Yield sentences of every kind that nano reads or writes, as the corpus for its vocabulary."""
    yield from all_sentences()
    for seed in range(300):
        for record in synthetic_records(write_scene(seed, 0, level=(1, 2, 3)[seed % 3])):
            yield record.question
            yield record.response
    frame = video_message([0.0])
    yield from [f"[INST] <<SYS>>\n{SYSTEM_PROMPT}\n<</SYS>>\n\n{frame}  What happens? [/INST]"] * 200
