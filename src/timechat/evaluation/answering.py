"""Many questions about one video at once: what their prompts share is read once, the answers are written together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from timechat.answers.prompts import SYSTEM_PROMPT
from timechat.answers.tasks import find_preset
from timechat.model.generation.generate import Prompt, continuation_logprobs, generate_answers
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline import EncodedVideo


@torch.inference_mode()
def answer_questions(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    video_tokens: Tensor,
    timestamps: Sequence[float],
    questions: Sequence[str],
    *,
    max_new_tokens: int,
    system: str = SYSTEM_PROMPT,
    batch_size: int = 64,
) -> list[str]:
    """Answer questions about one video greedily, each as if it were asked alone.

    Args:
        model: In evaluation mode.
        processor: Wording and tokenizers.
        video_tokens: `(video tokens, text hidden)`, as the model encodes the video.
        timestamps: `(frames,)` seconds, of the frames that were encoded.
        questions: Any number, in words.
        max_new_tokens: Longest answer, in tokens.
        system: System prompt of every conversation.
        batch_size: Most questions that are answered at once.

    Returns:
        The answers as text, in the order of the questions.
    """
    prompts = [
        Prompt(
            processor.encode_prompt(processor.render_prompt(timestamps, question, system=system), len(timestamps)),
            video_tokens,
        )
        for question in questions
    ]
    answers: list[str] = []
    for first in range(0, len(prompts), batch_size):
        written = generate_answers(
            model,
            prompts[first : first + batch_size],
            pad_token_id=processor.pad_token_id,
            arguments={"max_new_tokens": max_new_tokens, "do_sample": False},
        )
        answers += [processor.decode(one.token_ids) for one in written]
    return answers


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
    """Tell how likely a model is to answer with each of several options.

    Args:
        model: In evaluation mode.
        processor: Wording and tokenizers.
        video: What the question is about.
        question: In words, without the options.
        options: At least one.
        preset: Whose system prompt is used.

    Returns:
        For each option the natural logarithm of the probability of its words.
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
