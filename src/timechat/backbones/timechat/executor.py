"""Executors run the work of the model: in the caller's thread, or in the engine of a server."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from timechat.answers.grammar import AnswerGrammar
from timechat.answers.tasks import DecodingOptions
from timechat.model.generation.generate import (
    GenerationOutput,
    PrefixCache,
    Prompt,
    Sampler,
    continuation_logprobs,
    end_token_ids,
    generate_answers,
)
from timechat.model.generation.grammar_state import GrammarCompiler
from timechat.model.generation.score_processors import score_processors
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor

Result = TypeVar("Result")


@dataclass(frozen=True)
class GenerationBatch:
    """Prompts that are answered in one call.

    Attributes:
        prompts: Prompts about one video or several.
        grammars: Grammar of each answer; None for an unconstrained answer.
        decoding: Decoding options of all answers.
        window_numbers: Number of each prompt's window in the plan of its video, which is added to the seed, so that a
            sampled answer does not depend on the other prompts of the batch. Empty if all numbers are 0.
        streamer: Streamer of `generate` that receives each token, or all tokens at once after a beam search; for a
            single prompt only.
        stopping_criteria: Stopping criteria of `generate`; for a single prompt only.
    """

    prompts: Sequence[Prompt]
    grammars: Sequence[AnswerGrammar | None]
    decoding: DecodingOptions
    window_numbers: Sequence[int] = ()
    streamer: BaseStreamer | None = None
    stopping_criteria: StoppingCriteriaList | None = None

    @property
    def decodings(self) -> list[DecodingOptions]:
        """Decoding options of each prompt, with the seed of its window."""
        numbers = self.window_numbers or [0] * len(self.prompts)
        return [replace(self.decoding, seed=(self.decoding.seed + number) % 2**63) for number in numbers]


class Executor(Protocol):
    """Runs the work that needs the model; called from any thread, it returns when the work is done."""

    @property
    def language_model_facts(self) -> Mapping[str, Any] | None:
        """Facts for cache keys about a language model that another process runs; None if the network has it."""

    def check(self) -> None:
        """Raise if the result is no longer needed; called repeatedly, from any thread."""

    def encode_frames(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode a few frames of one video; arguments and result are those of `get_frame_features`."""

    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Answer prompts; each answer is independent of the others."""

    def continuation_logprobs(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> list[list[float]]:
        """Return the log probabilities of given continuations; see `generate.continuation_logprobs`."""

    def call(self, function: Callable[[], Result]) -> Result:
        """Call any other function that uses the model."""

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Count an answer of `num_tokens` tokens that is reused from the cache, and its prompt."""

    def close(self) -> None:
        """Release what the executor has started; it is not used afterwards."""


class LocalExecutor:
    """Runs the work in the caller's thread, one batch of prompts at a time."""

    language_model_facts = None

    def __init__(self, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor) -> None:
        """Make an executor of one model.

        Args:
            model: Network in evaluation mode.
            processor: Processor of the model.
        """
        self._model, self._processor = model, processor
        self._prefix = PrefixCache()
        self._lock = threading.RLock()

    def check(self) -> None:
        """Do nothing: the caller waits for the result."""

    @torch.inference_mode()
    def encode_frames(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode frames."""
        return self._model.get_frame_features(pixel_values, qformer_input_ids, qformer_attention_mask)

    @torch.inference_mode()
    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Generate answers; a single prompt reuses the key-value states of the prompt before it."""
        prompts, decoding, scale = batch.prompts, batch.decoding, self._model.lora_scale
        is_search = decoding.num_beams > 1
        callbacks = {"streamer": None if is_search else batch.streamer, "stopping_criteria": batch.stopping_criteria}
        beams = {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty} if is_search else {}
        arguments: dict[str, Any] = {
            "pad_token_id": self._processor.pad_token_id,
            "arguments": {"max_new_tokens": decoding.max_new_tokens, "do_sample": False, **beams}
            | {name: value for name, value in callbacks.items() if value is not None},
        }
        if decoding.do_sample:
            arguments["samplers"] = [Sampler(own, self._model.device) for own in batch.decodings]
        with self._lock:
            constraint = None
            if None not in batch.grammars:
                constraint = self.grammar_compiler.logits_processor(
                    batch.grammars, decoding.max_new_tokens, decoding.num_beams
                )
            arguments["processors"] = score_processors(
                decoding, end_token_ids(self._model), constraint, self._processor.ends_turn
            )
            if len(prompts) > 1:
                return generate_answers(self._model, prompts, **arguments)
            prompt = prompts[0]
            cache = self._prefix.take(prompt.video_tokens, prompt.input_ids, scale)
            written = generate_answers(self._model, prompts, cache=cache, **arguments)
            self._prefix.store(prompt.video_tokens, prompt.input_ids + written[0].token_ids, scale, cache)
        if is_search and batch.streamer is not None:
            batch.streamer.put(torch.tensor(written[0].token_ids))
            batch.streamer.end()
        return written

    @torch.inference_mode()
    def continuation_logprobs(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> list[list[float]]:
        """Return the log probabilities of given continuations."""
        return continuation_logprobs(self._model, prompts, lengths, pad_token_id=self._processor.pad_token_id)

    def call(self, function: Callable[[], Result]) -> Result:
        """Call the function."""
        return function()

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Do nothing: tokens are not counted here."""

    def close(self) -> None:
        """Do nothing: the memory is released with the object."""

    @cached_property
    def grammar_compiler(self) -> GrammarCompiler:
        """Compiler of answer grammars for this model."""
        return make_grammar_compiler(self._model, self._processor)


def make_grammar_compiler(model: TimeChatForConditionalGeneration, processor: TimeChatProcessor) -> GrammarCompiler:
    """Return the grammar compiler of a model; make it once, because preparing the vocabulary takes time."""
    return GrammarCompiler(processor.tokenizer, model.config.text_config.vocab_size, end_token_ids(model))
