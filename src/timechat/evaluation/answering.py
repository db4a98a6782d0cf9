"""Answers to prompts of TimeChat models, and probabilities of given answers."""

from collections.abc import Sequence

from timechat.answers.tasks import DecodingOptions, find_preset
from timechat.backbones.backbone import GeneratedText
from timechat.model.generation.generate import Prompt
from timechat.pipeline import EncodedVideo, TimeChat


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
    return Prompt(timechat.processor.encode_prompt(text, video.num_frames), video.content)


def answer_batch(
    timechat: TimeChat, prompts: Sequence[Prompt], decoding: DecodingOptions, seed_offsets: Sequence[int] = ()
) -> list[GeneratedText]:
    """Answer prompts in one batch without a grammar; each answer is independent of the rest of the batch.

    Args:
        timechat: The model.
        prompts: Prompts about one video or several.
        decoding: Decoding options of all answers.
        seed_offsets: Number added to the seed of each prompt. Empty for 0 everywhere.
    """
    return (
        timechat.backbone.generate(prompts, [None] * len(prompts), decoding, window_numbers=seed_offsets)
        if prompts
        else []
    )


def option_logprobs(
    timechat: TimeChat,
    video: EncodedVideo,
    question: str,
    options: Sequence[str],
    *,
    preset: str,
) -> list[float]:
    """Compute how likely a model is to answer with each of several options.

    Args:
        timechat: The model.
        video: Video of the question.
        question: Question without the options.
        options: Options, at least one.
        preset: Preset of the system prompt.

    Returns:
        Natural logarithm of the probability of each option's words.
    """
    processor = timechat.processor
    prompt = processor.render_prompt(video.timestamps, question, system=find_preset(preset).system)
    encoded = [processor.encode_prompt_with_answer(prompt, option, video.num_frames) for option in options]
    prompts = [Prompt(ids, video.content) for ids, _ in encoded]
    logprobs = timechat.own_backbone.executor.continuation_logprobs(prompts, [length for _, length in encoded])
    return [sum(words) for words in logprobs]
