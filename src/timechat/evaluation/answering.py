"""Answers to prompts through the executor of `TimeChat`. The predictions of a run use the same executor."""

from collections.abc import Sequence

import torch

from timechat.answers.tasks import DecodingOptions, find_preset
from timechat.model.generation.generate import GenerationOutput, Prompt, continuation_logprobs
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline import EncodedVideo, TimeChat
from timechat.pipeline.executor import GenerationBatch


def make_prompt(
    timechat: TimeChat, video: EncodedVideo, question: str, *, system: str, history: Sequence[tuple[str, str]] = ()
) -> Prompt:
    """Make the prompt of a question about a video.

    Args:
        timechat: The model.
        video: The video, encoded by this model.
        question: The whole question.
        system: System prompt.
        history: Earlier (question, answer) pairs.
    """
    text = timechat.processor.render_prompt(video.timestamps, question, history=history, system=system)
    return Prompt(timechat.processor.encode_prompt(text, video.num_frames), video.video_tokens)


def answer_batch(
    timechat: TimeChat, prompts: Sequence[Prompt], decoding: DecodingOptions, seed_offsets: Sequence[int] = ()
) -> list[GenerationOutput]:
    """Answer prompts in one batch without a grammar; each answer is independent of the rest of the batch.

    Args:
        timechat: The model.
        prompts: Prompts about one video or several.
        decoding: Decoding options of all answers.
        seed_offsets: Number added to the seed of each prompt. Empty for 0 everywhere.
    """
    return (
        timechat.executor.generate(GenerationBatch(prompts, [None] * len(prompts), decoding, seed_offsets))
        if prompts
        else []
    )


@torch.inference_mode()
def option_logprobs(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    video: EncodedVideo,
    question: str,
    options: Sequence[str],
    *,
    preset: str,
) -> list[float]:
    """Compute how likely a model is to answer with each of several options.

    Args:
        model: Model in evaluation mode.
        processor: Processor of the model.
        video: Video of the question.
        question: Question without the options.
        options: Options, at least one.
        preset: Preset of the system prompt.

    Returns:
        Natural logarithm of the probability of each option's words.
    """
    prompt = processor.render_prompt(video.timestamps, question, system=find_preset(preset).system)
    encoded = [processor.encode_prompt_with_answer(prompt, option, video.num_frames) for option in options]
    logprobs = continuation_logprobs(
        model,
        [Prompt(ids, video.video_tokens) for ids, _ in encoded],
        [length for _, length in encoded],
        pad_token_id=processor.pad_token_id,
    )
    return [sum(words) for words in logprobs]
