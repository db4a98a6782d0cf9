"""Verification of moments: how much more likely a caption is at its time with the video than with a blank one."""

from collections.abc import Callable, Sequence

import torch

from timechat.answers.events import Event
from timechat.answers.tasks import build_question, find_preset, format_events
from timechat.backbones.backbone import EncodedVideo
from timechat.model.generation.generate import Prompt
from timechat.model.processing import TimeChatProcessor

ContinuationLogprobs = Callable[[Sequence[Prompt], Sequence[int]], list[list[float]]]
"""Function that returns the log probabilities of the last ids of prompts, see `Executor.continuation_logprobs`."""


def verification_logprobs(
    compute: ContinuationLogprobs,
    processor: TimeChatProcessor,
    windows: Sequence[EncodedVideo],
    events: Sequence[Event],
    *,
    preset: str,
) -> list[float]:
    """Return how much more likely each caption is at its time with the video than with a blank one, in nats.

    Args:
        compute: Function that computes the log probabilities of the captions.
        processor: Processor of the model.
        windows: One window for each event.
        events: Events on the clocks of their windows, with the captions to verify.
        preset: Name of the prompt preset in which captions are asked for.
    """
    forced = [
        _forced_caption_ids(processor, window, event, preset) for window, event in zip(windows, events, strict=True)
    ]
    shown = [Prompt(ids, window.content) for (ids, _), window in zip(forced, windows, strict=True)]
    blank = [Prompt(prompt.input_ids, torch.zeros_like(prompt.video_tokens)) for prompt in shown]
    lengths = [length for _, length in forced]
    logprobs = [compute(prompts, lengths) for prompts in (shown, blank)]
    return [sum(with_video) - sum(without) for with_video, without in zip(*logprobs, strict=True)]


def _forced_caption_ids(
    processor: TimeChatProcessor, window: EncodedVideo, event: Event, preset: str
) -> tuple[list[int], int]:
    """Ids of the prompt for captions with this one as its answer, and the number of last ids that are its words."""
    prompt = processor.render_prompt(
        window.timestamps, build_question("dense_caption", preset=preset), system=find_preset(preset).system
    )
    caption = event.caption[:1].upper() + event.caption[1:]
    answer = format_events([Event(event.start, event.end, caption)], "dense_caption")
    head = format_events([Event(event.start, event.end)], "dense_caption")
    ids, _ = processor.encode_prompt_with_answer(prompt, answer, window.num_frames)
    before, _ = processor.encode_prompt_with_answer(prompt, head, window.num_frames)
    return ids, max(1, len(ids) - len(before))
