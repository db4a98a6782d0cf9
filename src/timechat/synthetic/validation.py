"""Validation during training: grounding with greedy decoding on synthetic videos that are drawn in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from timechat.answers.prompts import SYSTEM_PROMPT
from timechat.answers.tasks import DecodingOptions, parse_events
from timechat.backbones.timechat.backbone import TimeChatBackbone
from timechat.backbones.timechat.encoding import compress_frames, encode_frames
from timechat.evaluation.answering import answer_batch, make_prompt
from timechat.evaluation.baselines import MODEL, grounding_rows
from timechat.evaluation.metrics.grounding import Span
from timechat.model.configuration import TimeChatConfig
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline import EncodedVideo, TimeChat
from timechat.synthetic.benchmark import tells_speech
from timechat.synthetic.records import synthetic_records
from timechat.synthetic.render import draw_frames
from timechat.synthetic.scene import SyntheticVideo
from timechat.video import Frames, uniform_indices
from timechat.video.frames import Size

_DECODING = DecodingOptions(max_new_tokens=32, is_free=True)
_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class GroundingQuestion:
    """A question about one event of a video.

    Attributes:
        text: Complete question.
        ground_truth: Start and end of the event in seconds.
        others: Start and end of every other event of the video, `(events, 2)` seconds.
    """

    text: str
    ground_truth: Span
    others: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ValidationVideo:
    """Frames of a video and the questions about it."""

    frames: Frames
    questions: tuple[GroundingQuestion, ...]


def sampled_times(video: SyntheticVideo, num_frames: int) -> NDArray[np.float64]:
    """Times of the frames that `load_frames(num_frames=...)` samples from the file of a scene, `(frames,)` seconds."""
    return uniform_indices(round(video.duration * video.fps), num_frames) / video.fps


def default_times(video: SyntheticVideo, config: TimeChatConfig) -> NDArray[np.float64]:
    """Times of the frames that a model samples by default from the file of a scene, `(frames,)` seconds."""
    if config.fps is None:
        return sampled_times(video, config.max_frame_positions)
    num_frames = round(video.duration * config.fps)
    if config.max_frames is not None and num_frames > config.max_frames:
        return sampled_times(video, config.max_frames)
    return np.arange(num_frames) / config.fps


def draw_validation_video(
    video: SyntheticVideo,
    timestamps: Callable[[SyntheticVideo], NDArray[np.float64]],
    *,
    size: Size | None = None,
    variant: int = 0,
) -> ValidationVideo:
    """Draw the frames of a scene in memory and word a question about each of its events.

    Questions that quote the speech of the video are skipped: the quoted words can be enough to answer them.

    Args:
        video: Scene of the video.
        timestamps: Function from the scene to the times of its frames, `(frames,)` seconds, such as `sampled_times`.
        size: Size of the frames; None keeps the size of the scene.
        variant: Index of the questions' wording.
    """
    times = timestamps(video)
    frames = Frames.from_images(draw_frames(video, times), times, duration=video.duration, size=size)
    records = [
        record
        for record in synthetic_records(video, variant=variant)
        if record.task == "grounding" and record.events and not tells_speech(record.question)
    ]
    questions = tuple(
        GroundingQuestion(
            text=record.question,
            ground_truth=(record.events[0].start, record.events[0].end),
            others=np.array([(h.start, h.end) for h in video.actions if h.id != record.events[0].id]).reshape(-1, 2),
        )
        for record in records
    )
    return ValidationVideo(frames, questions)


def validate_grounding(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    videos: Sequence[ValidationVideo],
    *,
    system: str = SYSTEM_PROMPT,
) -> dict[str, float]:
    """Answer all questions greedily and score the answers.

    The model is in evaluation mode during the call, and in its earlier mode afterwards.

    Args:
        model: The model that is trained, without wrappers.
        processor: Processor of the model.
        videos: Videos with their questions; the same videos in every call make the metrics comparable.
        system: System prompt of all questions.

    Returns:
        `r1_iou_0.3`, `r1_iou_0.5`, `r1_iou_0.7`, `miou`; at IoU 0.5 `other_event` (the answers scored on the other
        events of their video), `margin_other_event` (the difference) and `random_event`; `unparsed`, the share of
        answers without a span.

    Raises:
        ValueError: There is no question.
    """
    if not any(video.questions for video in videos):
        raise ValueError("validation needs at least one question, got none")
    was_training = model.training
    try:
        timechat = TimeChat(TimeChatBackbone(model, processor, name="validation"))  # in evaluation mode
        answered = [answer for video in videos for answer in _answer(timechat, video, system)]
    finally:
        model.train(was_training)
    rows = [grounding_rows(span, question.ground_truth, question.others) for question, span in answered]
    means = {name: float(np.mean([row[MODEL][name] for row in rows])) for name in rows[0][MODEL]}
    for name in ("other_event", "random_event"):
        means[name] = float(np.mean([row[name]["r1_iou_0.5"] for row in rows if name in row] or [0.0]))
    means["margin_other_event"] = means["r1_iou_0.5"] - means["other_event"]
    means["unparsed"] = float(np.mean([span is None for _, span in answered]))
    return means


@torch.inference_mode()
def _answer(timechat: TimeChat, video: ValidationVideo, system: str) -> list[tuple[GroundingQuestion, Span | None]]:
    if not video.questions:
        return []
    frames = video.frames
    tokens = compress_frames(timechat.model, encode_frames(timechat.model, timechat.processor, frames))
    encoded = EncodedVideo(tokens, frames.timestamps, frames.duration, model=timechat.name)
    prompts = [make_prompt(timechat, encoded, question.text, system=system) for question in video.questions]
    answered = []
    for first in range(0, len(prompts), _BATCH_SIZE):
        written = answer_batch(timechat, prompts[first : first + _BATCH_SIZE], _DECODING)
        for question, one in zip(video.questions[first:], written, strict=False):
            text = one.text
            events = parse_events(text, task="grounding", duration=frames.duration).events
            answered.append((question, (events[0].start, events[0].end) if events else None))
    return answered
