"""Batched generation with the log probability of every token."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from timechat.answers.tasks import DecodingOptions
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.pretrained import quiet_transformers
from timechat.model.processing import TimeChatProcessor


@dataclass(frozen=True)
class Prompt:
    """A prompt ready for generation.

    Attributes:
        input_ids: Token ids of the rendered prompt, with one placeholder for every video token.
        video_tokens: Video tokens, `(video tokens, text hidden)`.
    """

    input_ids: list[int]
    video_tokens: Tensor = field(repr=False)


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """Tokens of an answer.

    Attributes:
        token_ids: Token ids without padding; the end token is included unless the answer was cut off.
        logprobs: Natural logarithm of the probability of each token under the model, before any constraint.
        num_prompt_tokens: Number of tokens of the prompt.
    """

    token_ids: list[int]
    logprobs: list[float]
    num_prompt_tokens: int = 0


def generate_answers(
    model: TimeChatForConditionalGeneration,
    prompts: Sequence[Prompt],
    *,
    pad_token_id: int,
    arguments: dict[str, Any],
    processors: Sequence[LogitsProcessor] = (),
    samplers: Sequence["Sampler"] | None = None,
    cache: DynamicCache | None = None,
) -> list[GenerationOutput]:
    """Continue prompts, each as if it were alone; a common prefix of prompts about one video is read once.

    Args:
        model: Model in evaluation mode.
        prompts: Prompts about one or more videos.
        pad_token_id: Token id that pads shorter prompts.
        arguments: Arguments of `model.generate`: `max_new_tokens`, `do_sample`, `num_beams`, ...
        processors: Logits processors that change the scores before a token is chosen, see `score_processors`.
        samplers: Sampler of each prompt, which draws its tokens; `arguments` must be greedy then. None leaves the
            choice to `generate`, whose draws for one prompt depend on the other prompts.
        cache: States of the beginning of a single prompt; holds the whole conversation afterwards.
    """
    num_shared = _shared_prefix_length(prompts)
    ids, mask = _pad(prompts, num_shared, pad_token_id)
    ids, mask = ids.to(model.device), mask.to(model.device)
    # (prompts, sequence, text hidden)
    embeds = model.embed_prompt(ids, torch.cat([prompt.video_tokens for prompt in prompts]))
    if cache is None:
        cache = DynamicCache()
        if num_shared:
            model(inputs_embeds=embeds[:1, :num_shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
    given = {"inputs_embeds": embeds, "attention_mask": mask, "pad_token_id": pad_token_id, **arguments}
    if arguments.get("num_beams", 1) > 1:
        new_ids, logprobs = _search(model, given, cache, processors)
    else:
        recorder = _LogprobRecorder()
        draws = [] if samplers is None else [_Draws(samplers)]
        with quiet_transformers():
            new_ids = model.generate(
                **given, past_key_values=cache, logits_processor=LogitsProcessorList([recorder, *processors, *draws])
            )
        logprobs = recorder.finish(new_ids)
    outputs = _without_padding(new_ids, logprobs, model)
    return [
        replace(output, num_prompt_tokens=len(prompt.input_ids))
        for output, prompt in zip(outputs, prompts, strict=True)
    ]


def _search(
    model: TimeChatForConditionalGeneration,
    arguments: dict[str, Any],
    cache: DynamicCache,
    processors: Sequence[LogitsProcessor],
) -> tuple[Tensor, Tensor]:
    """Answer prompts by beam search; the prompts are read once, and their states are repeated for the beams.

    Args:
        model: Model in evaluation mode.
        arguments: Arguments of `model.generate`, with the embeddings and the mask of the prompts.
        cache: States of the beginning of the prompts, one row for each; holds prompts and answers afterwards.
        processors: Logits processors.

    Returns:
        Token ids and their log probabilities, `(prompts, steps)` each.
    """
    embeds, mask, num_beams = arguments["inputs_embeds"], arguments["attention_mask"], arguments["num_beams"]
    _read(model, embeds[:, cache.get_seq_length() : -1], mask[:, :-1], cache)
    beams = DynamicCache()
    for i, layer in enumerate(cache.layers):
        beams.update(layer.keys.repeat_interleave(num_beams, 0), layer.values.repeat_interleave(num_beams, 0), i)
    with quiet_transformers():
        new_ids = model.generate(
            **arguments, past_key_values=beams, logits_processor=LogitsProcessorList(list(processors))
        )
    # The search has seen scores in which every beam has its own history: the model reads the chosen answer once more.
    answer = model.get_input_embeddings()(new_ids[:, :-1])
    mask = torch.cat([mask, torch.ones_like(new_ids[:, :-1])], dim=1)
    logits = _read(model, torch.cat([embeds[:, -1:], answer], dim=1), mask, cache, new_ids.shape[1]).float()
    logprobs = logits.gather(2, new_ids[..., None])[..., 0] - logits.logsumexp(-1)  # (prompts, steps)
    return new_ids, logprobs


def _read(
    model: TimeChatForConditionalGeneration, embeds: Tensor, mask: Tensor, cache: DynamicCache, num_logits: int = 1
) -> Tensor:
    """Read embeddings `(rows, new, text hidden)` behind the states of the cache; returns `(rows, num_logits, vocab)`.

    Args:
        model: Model in evaluation mode.
        embeds: Embeddings that follow the states.
        mask: `(rows, states + new)`, 0 for padding.
        cache: States, which grow by the new ones.
        num_logits: Number of last positions whose logits are returned.
    """
    if not embeds.shape[1]:
        return embeds
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)[:, -embeds.shape[1] :]
    return model(  # type: ignore[no-any-return]
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=num_logits,
    ).logits


def continuation_logprobs(
    model: TimeChatForConditionalGeneration,
    prompts: Sequence[Prompt],
    lengths: Sequence[int],
    *,
    pad_token_id: int,
) -> list[list[float]]:
    """Compute the log probability of given continuations.

    Args:
        model: Model in evaluation mode.
        prompts: Prompts that end with the continuation.
        lengths: Number of ids of the continuation of each prompt.
        pad_token_id: Token id that pads shorter prompts.

    Returns:
        For each prompt, the natural logarithm of the probability of each continuation id given all ids before it.
    """
    ids, mask = _pad(prompts, 0, pad_token_id)
    ids, mask = ids.to(model.device), mask.to(model.device)
    embeds = model.embed_prompt(ids, torch.cat([prompt.video_tokens for prompt in prompts]))
    longest = max(lengths)
    logits = model(inputs_embeds=embeds, attention_mask=mask, logits_to_keep=longest + 1).logits[:, :-1]
    logprobs = logits.float().log_softmax(-1).gather(2, ids[:, -longest:, None])[..., 0]  # (prompts, longest)
    return [row[longest - length :] for row, length in zip(logprobs.tolist(), lengths, strict=True)]


def _shared_prefix_length(prompts: Sequence[Prompt]) -> int:
    """Return the length of the common prefix of prompts about one video, without the last id of the shortest."""
    first = prompts[0]
    if len(prompts) == 1 or any(prompt.video_tokens is not first.video_tokens for prompt in prompts):
        return 0
    rows = [prompt.input_ids for prompt in prompts]
    shortest = min(map(len, rows))
    differing = (i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1)
    return min(next(differing, shortest), shortest - 1)


def _pad(prompts: Sequence[Prompt], num_shared: int, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask, `(prompts, sequence)`, padded between the shared prefix and the rest of each prompt."""
    longest = max(len(prompt.input_ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        own = longest - len(prompt.input_ids) + num_shared
        ids[row, :num_shared] = torch.tensor(prompt.input_ids[:num_shared])
        ids[row, own:] = torch.tensor(prompt.input_ids[num_shared:])
        mask[row, :num_shared] = mask[row, own:] = 1
    return ids, mask


class Sampler:
    """Draw the tokens of one answer as `generate` does, from a random generator of its own."""

    def __init__(self, decoding: DecodingOptions, device: torch.device) -> None:
        """Seed the generator.

        Args:
            decoding: Temperature, top_k, top_p and seed.
            device: Device of the scores.
        """
        self._generator = torch.Generator(device).manual_seed(decoding.seed)
        self._warpers = LogitsProcessorList()
        if decoding.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(decoding.temperature))
        self._warpers.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(decoding.top_p))

    def skip(self, num_tokens: int, vocab_size: int) -> None:
        """Draw tokens and forget them, so that the next draw is that of a sampler which has drawn as many.

        The random numbers of a draw depend on the size of the vocabulary and not on the scores.
        """
        weights = torch.ones(1, vocab_size, device=self._generator.device)
        for _ in range(num_tokens):
            torch.multinomial(weights, 1, generator=self._generator)

    def __call__(self, scores: Tensor) -> Tensor:
        """Draw from scores `(1, vocab)`; returns the token id, `()`."""
        probabilities = self._warpers(None, scores).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=self._generator)[0, 0]


class _Draws(LogitsProcessor):  # type: ignore[misc]
    """Let each row's sampler choose its token, and leave greedy decoding no other."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self._samplers = samplers

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - as transformers calls it
        rows = zip(self._samplers, scores, strict=True)
        chosen = torch.stack([sampler(row[None]) for sampler, row in rows])  # (prompts,)
        return torch.full_like(scores, float("-inf")).scatter(1, chosen[:, None], 0.0)


class _LogprobRecorder(LogitsProcessor):  # type: ignore[misc]
    """Records the log probability of each token; stores the scores of one step only."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._recorded: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._last is not None:
            self._record(input_ids[:, -1])
        self._last = scores.float().log_softmax(-1)
        return scores

    def finish(self, new_ids: Tensor) -> Tensor:
        """Return the log probabilities of all generated tokens, `(prompts, steps)`."""
        if len(self._recorded) < new_ids.shape[1]:
            self._record(new_ids[:, -1])
        return torch.stack(self._recorded, dim=1)

    def _record(self, chosen: Tensor) -> None:
        assert self._last is not None
        self._recorded.append(self._last.gather(1, chosen[:, None].to(self._last.device))[:, 0])


def _without_padding(
    new_ids: Tensor, logprobs: Tensor, model: TimeChatForConditionalGeneration
) -> list[GenerationOutput]:
    """Return each row up to its end token."""
    ends = end_token_ids(model)
    outputs = []
    for ids, values in zip(new_ids.tolist(), logprobs.tolist(), strict=True):
        length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
        outputs.append(GenerationOutput(ids[:length], values[:length]))
    return outputs


def end_token_ids(model: TimeChatForConditionalGeneration) -> list[int]:
    """Return the token ids that end an answer."""
    ends = model.generation_config.eos_token_id
    return [ends] if isinstance(ends, int) else list(ends or ())


def token_spans(processor: TimeChatProcessor, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of an answer and the character span `(first, end)` of each token."""
    return decoded_spans(partial(processor.tokenizer.decode, skip_special_tokens=True), token_ids, processor.first_turn)


def decoded_spans(
    decode: Callable[[list[int]], str], token_ids: Sequence[int], first_turn: Callable[[str], str] = str
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of an answer and the character span `(first, end)` of each token.

    Args:
        decode: Function that returns the text of token ids.
        token_ids: Token ids of the answer.
        first_turn: Function that cuts a text where another turn begins.
    """
    ids = list(token_ids)
    decoded = first_turn(decode(ids))
    text = decoded.strip()
    shift = len(decoded) - len(decoded.lstrip())
    ends = [min(max(0, len(decode(ids[: i + 1])) - shift), len(text)) for i in range(len(ids))]
    return text, list(pairwise([0, *ends]))


# --------------------------------------------------------------------------------- states of earlier prompts


@dataclass(frozen=True)
class _CachedPrefix:
    """The key-value states of one prompt, for each layer `(1, heads, positions, head size)`."""

    video: "weakref.ref[object]"
    ids: list[int]
    lora_scale: float | None
    states: list[tuple[Tensor, Tensor]]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.states for tensor in pair)


class PrefixCache:
    """Key-value states of the last prompt about each of the last videos.

    Two prompts about one video are the same up to the question; so are the turns of a conversation. The states of the
    shared part are reused instead of being computed again.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Maximum size of all states; the prompt that was used last is kept whatever its size.
        """
        self._max_bytes = max_bytes
        self._known: OrderedDict[int, _CachedPrefix] = OrderedDict()

    def take(self, video: object, ids: list[int], lora_scale: float | None) -> DynamicCache:
        """Return a new cache that contains the longest known prefix of `ids`."""
        cache = DynamicCache()
        known = self._known.get(id(video))
        if known is None or known.video() is not video or known.lora_scale != lora_scale:
            return cache
        self._known.move_to_end(id(video))
        # At least one token must be computed again: the answer starts from its output.
        shared = min(_common_length(known.ids, ids), len(ids) - 1, known.states[0][0].shape[2])
        for layer, (keys, values) in enumerate(known.states):
            cache.update(keys[:, :, :shared], values[:, :, :shared], layer)
        return cache

    def store(self, video: object, ids: list[int], lora_scale: float | None, cache: DynamicCache) -> None:
        """Keep the states of `ids`; the model may not have read the last of them."""
        if any(getattr(cache, "is_sliding", ())):
            return  # the states of a sliding window cannot be cut to a prefix
        key = id(video)
        reference = weakref.ref(video, lambda _: self._known.pop(key, None))
        # A dynamic cache never writes into its tensors, it makes new ones.
        states = [(layer.keys, layer.values) for layer in cache.layers]
        self._known[key] = _CachedPrefix(reference, ids, lora_scale, states)
        self._known.move_to_end(key)
        while len(self._known) > 1 and sum(known.num_bytes for known in list(self._known.values())) > self._max_bytes:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Remove all states."""
        self._known.clear()


def _common_length(a: list[int], b: list[int]) -> int:
    """Number of ids that two prompts share from the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
