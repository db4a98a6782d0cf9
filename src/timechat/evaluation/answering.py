"""Many questions about one video at once: what their prompts share is read once, the answers are written together."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from timechat.model.modeling import TimeChatForConditionalGeneration, quiet_transformers
from timechat.model.processing import TimeChatProcessor, pad_left
from timechat.prompts import SYSTEM_PROMPT


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
        processor.encode_prompt(processor.render_prompt(timestamps, question, system=system), len(timestamps))
        for question in questions
    ]
    answers: list[str] = []
    for first in range(0, len(prompts), batch_size):
        rows = _generate(
            model, video_tokens, prompts[first : first + batch_size], max_new_tokens, processor.pad_token_id
        )
        answers += [processor.decode(row) for row in rows]
    return answers


@torch.inference_mode()
def _generate(
    model: TimeChatForConditionalGeneration,
    video_tokens: Tensor,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    pad_token_id: int,
) -> list[list[int]]:
    """Continue prompts about one video; padding stands between what they share and what is each one's own."""
    num_shared = _num_shared(prompts)
    own, own_mask = pad_left([ids[num_shared:] for ids in prompts], pad_token_id)  # (questions, rest)
    shared = torch.tensor([prompts[0][:num_shared]]).expand(len(prompts), -1)
    ids = torch.cat([shared, own], dim=1).to(model.device)
    mask = torch.cat([torch.ones_like(shared), own_mask], dim=1).to(model.device)
    embeds = model.embed_prompt(ids, video_tokens.repeat(len(prompts), 1))  # (questions, sequence, text hidden)
    cache = DynamicCache()
    model(inputs_embeds=embeds[:1, :num_shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(prompts))
    with quiet_transformers():
        new_ids = model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad_token_id,
        )
    rows: list[list[int]] = new_ids.tolist()
    return rows


def _num_shared(prompts: Sequence[list[int]]) -> int:
    """How many ids all prompts have in common from the start; the last of each stays its own."""
    shortest = min(map(len, prompts))
    differing = (i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)
    return min(next(differing, shortest), shortest - 1)
