"""A quick look at how well a model grounds while it is trained: films drawn in memory, real decoding, few figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from timechat.answers.prompts import SYSTEM_PROMPT
from timechat.answers.tasks import parse_events
from timechat.evaluation.answering import answer_questions
from timechat.evaluation.metrics.grounding import Span
from timechat.evaluation.scoring import GroundedQuery, tells_speech
from timechat.model.configuration import TimeChatConfig
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline.session import compress_frames, encode_frames
from timechat.synthetic.records import synthetic_records
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import SyntheticVideo
from timechat.video import Frames, uniform_indices

_MAX_NEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class GroundingQuestion:
    """A question after one event of a film.

    Attributes:
        text: What the model is asked.
        truth: Seconds, of the event that is meant.
        others: `(events, 2)` seconds, of every other event of the film.
    """

    text: str
    truth: Span
    others: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroundingFilm:
    """Frames and what is asked about them."""

    frames: Frames
    questions: tuple[GroundingQuestion, ...]


def sampled_times(film: SyntheticVideo, num_frames: int) -> NDArray[np.float64]:
    """Times of the frames that `load_frames(num_frames=...)` takes from the film's file: `(frames,)` seconds."""
    return uniform_indices(round(film.duration * film.fps), num_frames) / film.fps


def film_times(film: SyntheticVideo, config: TimeChatConfig) -> NDArray[np.float64]:
    """Times at which a model looks at a film where nobody says otherwise: `(frames,)` seconds."""
    if config.fps is None:
        return sampled_times(film, config.max_frame_positions)
    num_frames = round(film.duration * config.fps)
    if config.max_frames is not None and num_frames > config.max_frames:
        return sampled_times(film, config.max_frames)
    return np.arange(num_frames) / config.fps


def draw_grounding_film(
    film: SyntheticVideo,
    timestamps: Callable[[SyntheticVideo], NDArray[np.float64]],
    *,
    size: int | None = None,
    variant: int = 0,
) -> GroundingFilm:
    """Draw a film in memory and ask after its events.

    Questions that tell what is said in the film are left out: the words may be enough to answer them.

    Args:
        film: The script.
        timestamps: Gives the times that are looked at, `(frames,)` seconds, such as `sampled_times`.
        size: Pixels to stretch the frames to; None keeps the film's own shape.
        variant: Of the questions' wording.
    """
    times = timestamps(film)
    frames = Frames.from_images(draw_frames(film, times), times, duration=film.duration, size=size)
    records = [
        record
        for record in synthetic_records(film, variant=variant)
        if record.task == "grounding" and record.events and not tells_speech(record.question)
    ]
    questions = tuple(
        GroundingQuestion(
            text=record.question,
            truth=(record.events[0].start, record.events[0].end),
            others=np.array([(h.start, h.end) for h in film.actions if h.id != record.events[0].id]),
        )
        for record in records
    )
    return GroundingFilm(frames, questions)


@torch.inference_mode()
def grounding_validation(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    films: Sequence[GroundingFilm],
    *,
    system: str = SYSTEM_PROMPT,
) -> dict[str, float]:
    """Ask all questions greedily and score the answers.

    The model is in evaluation mode meanwhile, and then as it was.

    Args:
        model: What is trained, without wrappers.
        processor: Wording and tokenizers.
        films: What is asked about; the same ones every time make the figures comparable.
        system: System prompt of the conversations.

    Returns:
        `r1_iou_0.3`, `r1_iou_0.5`, `r1_iou_0.7`, `miou`; at IoU 0.5 `different_event` (the answers scored on other
        events of their film), `gap` (asked minus different event) and `random_event`; `unread`, the share of answers
        without a span.
    """
    if not any(film.questions for film in films):
        raise ValueError("validation needs at least one question, got none")
    was_training = model.training
    model.eval()
    try:
        scored = [query for film in films for query in _answer(model, processor, film, system)]
    finally:
        model.train(was_training)
    figures = [query.figures() for query in scored]
    means = {name: float(np.mean([one["asked"][name] for one in figures])) for name in figures[0]["asked"]}
    for row in ("different_event", "random_event"):
        means[row] = float(np.mean([one[row]["r1_iou_0.5"] for one in figures]))
    means["gap"] = means["r1_iou_0.5"] - means["different_event"]
    means["unread"] = float(np.mean([query.predicted is None for query in scored]))
    return means


def _answer(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, film: GroundingFilm, system: str
) -> list[GroundedQuery]:
    if not film.questions:
        return []
    answers = answer_questions(
        model,
        processor,
        compress_frames(model, encode_frames(model, processor, film.frames)),
        film.frames.timestamps.tolist(),
        [question.text for question in film.questions],
        max_new_tokens=_MAX_NEW_TOKENS,
        system=system,
    )
    queries = []
    for question, text in zip(film.questions, answers, strict=True):
        found = parse_events(text, task="grounding", duration=film.frames.duration).events
        predicted = (found[0].start, found[0].end) if found else None
        queries.append(GroundedQuery(predicted, question.truth, question.others))
    return queries
