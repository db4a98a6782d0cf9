"""Requests to vLLM: mixed prompts, checks before they are sent, and answers read from pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from timechat.answers.tasks import DecodingOptions
from timechat.errors import PromptTooLongError
from timechat.model.generation.generate import Prompt
from timechat.model.generation.grammar_state import GrammarState


@dataclass(frozen=True)
class MixedPrompt:
    """A prompt of token ids with the video tokens between them.

    Attributes:
        token_ids: Token ids; 0 at the places of video tokens.
        is_token: Whether each place holds a token id.
        embeds: `(sequence, text hidden)`: the video tokens at their places, 0 elsewhere.
    """

    token_ids: list[int]
    is_token: list[bool]
    embeds: Tensor = field(repr=False)


@dataclass(frozen=True)
class EngineRequest:
    """One request to the engine.

    Attributes:
        prompt: Prompt.
        max_new_tokens: Maximum number of generated tokens.
        arguments: Extra arguments for the logits processor; None for a greedy answer without rules.
        is_scored: Whether the log probabilities of the prompt are wanted, and no answer.
        is_streamed: Whether the answer is wanted token by token; otherwise it comes in one piece.
        priority: Rank among waiting requests; lower ranks are answered first.
        client: Text that keeps the cached prompts of clients apart; empty for a shared cache.
        adapter: Name of the LoRA adapter; empty for none.
    """

    prompt: MixedPrompt
    max_new_tokens: int
    arguments: dict[str, str] | None = None
    is_scored: bool = False
    is_streamed: bool = False
    priority: int = 0
    client: str = ""
    adapter: str = ""


@dataclass(frozen=True)
class OutputDelta:
    """A part of an answer.

    Attributes:
        token_ids: Further tokens.
        logprobs: Their log probabilities under the model, before any constraint.
        is_last: Whether the answer ends with them.
        num_cached_tokens: Number of prompt tokens whose states were cached.
        prompt_logprobs: Log probability of each prompt token, None for the first; None if not asked for.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    is_last: bool = False
    num_cached_tokens: int = 0
    prompt_logprobs: Sequence[float | None] | None = None


@dataclass(frozen=True, slots=True)
class AnswerEngineState:
    """Counters of the engine since its start, and its requests now.

    Attributes:
        tokens: Number of generated tokens.
        running: Number of requests that are in the engine.
        restarts: Number of times that the engine has died and was started again.
    """

    tokens: int
    running: int
    restarts: int


@dataclass(frozen=True)
class ModelFacts:
    """What a request is checked against.

    Attributes:
        placeholder: Token id of the places of video tokens.
        hidden_size: Width of the language model.
        max_length: Maximum number of tokens of prompt and answer.
        dtype: Number format of the embeddings.
    """

    placeholder: int
    hidden_size: int
    max_length: int
    dtype: torch.dtype


def mixed_prompt(prompt: Prompt, facts: ModelFacts, max_new_tokens: int) -> MixedPrompt:
    """Check a prompt and return it in the form that vLLM takes.

    A prompt that vLLM cannot compute ends its engine for all clients, so nothing wrong may be sent.

    Raises:
        PromptTooLongError: Prompt and answer are longer than the engine's context.
        ValueError: The video tokens have another width or number, or are no finite numbers.
    """
    ids, video = prompt.input_ids, prompt.video_tokens
    if video.ndim != 2 or video.shape[1] != facts.hidden_size:
        raise ValueError(
            f"video tokens have the shape {tuple(video.shape)}, the language model is {facts.hidden_size} wide; encode "
            "the video with this model"
        )
    is_token = [token != facts.placeholder for token in ids]
    if (places := len(ids) - sum(is_token)) != len(video):
        raise ValueError(
            f"the prompt has {places} placeholders for video tokens, but the video has {len(video)} video tokens; let "
            "TimeChatProcessor write the prompt for the same frames"
        )
    if not bool(torch.isfinite(video).all()):
        raise ValueError("the video tokens contain NaN or infinite numbers; encode the video again")
    if len(ids) + max_new_tokens > facts.max_length:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens and the answer may have {max_new_tokens}, but the engine reads "
            f"{facts.max_length} in all; take fewer frames, a shorter question or history, or lower max_new_tokens"
        )
    embeds = torch.zeros(len(ids), facts.hidden_size, dtype=facts.dtype)
    embeds[~torch.tensor(is_token)] = video.detach().cpu().to(facts.dtype)
    return MixedPrompt([token if real else 0 for token, real in zip(ids, is_token, strict=True)], is_token, embeds)


def check_decoding(decoding: DecodingOptions) -> None:
    """Refuse what the engine cannot do.

    Raises:
        ValueError: The answer needs a beam search.
    """
    if decoding.num_beams > 1:
        raise ValueError(
            f"num_beams={decoding.num_beams} is not offered by the engine vllm; use num_beams=1, or leave it out"
        )


def check_answer(start: GrammarState, token_ids: Sequence[int], decoding: DecodingOptions, ends: Sequence[int]) -> None:
    """Raise the error for which the logits processor has ended a constrained answer, if there was one.

    Args:
        start: State of the grammar at the start of the answer.
        token_ids: Tokens of the answer.
        decoding: Decoding options of the answer.
        ends: Token ids that end an answer.

    Raises:
        ValueError: The grammar of the answer cannot be enforced.
    """
    for token in token_ids[:-1]:
        start.accept_token(token)
    if token_ids and token_ids[-1] in ends and not start.is_finished:
        tokens_left = decoding.max_new_tokens - len(token_ids) + 1
        if not start.allowed_tokens(tokens_left)[token_ids[-1]]:
            raise ValueError("the grammar of the answer could not be enforced by the engine; see its log")


def continuation(prompt: Prompt, logprobs: Sequence[float | None] | None, length: int) -> list[float]:
    """Return the log probabilities of the last tokens of a prompt.

    Raises:
        RuntimeError: vLLM has computed none.
    """
    values: Any = () if logprobs is None else logprobs[-length:]
    if logprobs is None or len(logprobs) != len(prompt.input_ids) or any(value is None for value in values):
        raise RuntimeError(
            "vLLM returned no log probabilities of the prompt; this version does not compute them for video tokens"
        )
    return [float(value) for value in values]
