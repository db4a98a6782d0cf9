"""Confirmation of what was found: would the model, shown the same stretch, tell of it in the words of the query?

A language model that is asked when something happens tends to name a time whether it does or not. What it tells of the
time that it named is better evidence: the words of the query, as the caption of that time, are likelier with the video
than without where they are true of it. The difference, in nats, is how far the video speaks for them.
"""

from collections.abc import Sequence

import torch

from timechat.answers.events import Event, format_events
from timechat.answers.tasks import build_question, find_preset
from timechat.model.generation.generate import Prompt, continuation_logprobs
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline.encoded import EncodedVideo


@torch.inference_mode()
def verification_logprobs(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    windows: Sequence[EncodedVideo],
    events: Sequence[Event],
    *,
    preset: str,
) -> list[float]:
    """Tell how much likelier each caption is at its time with the video than with a blank one, in nats.

    Args:
        model: In evaluation mode.
        processor: The model's.
        windows: One for each event.
        events: On their windows' clocks, with the words that are to be confirmed as captions.
        preset: Wording in which the model is asked for captions.
    """
    forced = [
        _forced_caption_ids(processor, window, event, preset) for window, event in zip(windows, events, strict=True)
    ]
    seen = [Prompt(ids, window.video_tokens) for (ids, _), window in zip(forced, windows, strict=True)]
    blank = [Prompt(prompt.input_ids, torch.zeros_like(prompt.video_tokens)) for prompt in seen]
    lengths = [length for _, length in forced]
    logprobs = [
        continuation_logprobs(model, prompts, lengths, pad_token_id=processor.pad_token_id)
        for prompts in (seen, blank)
    ]  # fmt: skip
    return [sum(with_video) - sum(without) for with_video, without in zip(*logprobs, strict=True)]


def _forced_caption_ids(
    processor: TimeChatProcessor, window: EncodedVideo, event: Event, preset: str
) -> tuple[list[int], int]:
    """The prompt for captions with this one as its answer, and how many of its last ids are the caption's words."""
    prompt = processor.render_prompt(
        window.timestamps, build_question("dense_caption", preset=preset), system=find_preset(preset).system
    )
    caption = event.caption[:1].upper() + event.caption[1:]
    answer = format_events([Event(event.start, event.end, caption)], "dense_caption")
    head = format_events([Event(event.start, event.end)], "dense_caption")
    ids, _ = processor.encode_prompt_with_answer(prompt, answer, window.num_frames)
    before, _ = processor.encode_prompt_with_answer(prompt, head, window.num_frames)
    return ids, max(1, len(ids) - len(before))
