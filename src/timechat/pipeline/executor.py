"""Where the model's work is done: here and now, unless somebody else, such as a server's engine, takes it over."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from timechat.answers.grammar import AnswerGrammar
from timechat.answers.tasks import DecodingOptions
from timechat.model.generation.generate import GenerationOutput, Prompt, Sampler, generate_answers
from timechat.model.generation.grammar_state import GrammarCompiler
from timechat.model.generation.prefix_cache import PrefixCache
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor

Result = TypeVar("Result")


@dataclass(frozen=True)
class GenerationBatch:
    """Prompts that are to be answered.

    Attributes:
        prompts: Any number, about one video or several.
        grammars: The form of each answer; None where it is free.
        decoding: How they are written.
        window_numbers: Number of each prompt's window in the plan of its video, which is added to the seed: so a
            drawn answer depends on its window alone, whatever is answered beside it. Empty for 0 everywhere.
        streamer: Of a single prompt: told each token as it is written, then the end; as `generate` takes it.
        stopping_criteria: Of a single prompt: end it early; as `generate` takes them.
    """

    prompts: Sequence[Prompt]
    grammars: Sequence[AnswerGrammar | None]
    decoding: DecodingOptions
    window_numbers: Sequence[int] = ()
    streamer: BaseStreamer | None = None
    stopping_criteria: StoppingCriteriaList | None = None

    @property
    def decodings(self) -> list[DecodingOptions]:
        """The decoding of each prompt, with the seed of its window."""
        numbers = self.window_numbers or [0] * len(self.prompts)
        return [replace(self.decoding, seed=(self.decoding.seed + number) % 2**63) for number in numbers]


class Executor(Protocol):
    """Does the three kinds of work that need the model; called from any thread, returns when it is done."""

    def check(self) -> None:
        """Raise if nobody wants the result any more; called from any thread, again and again."""

    def encode_frames(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode a few frames of one video; arguments and result as of `get_frame_features`."""

    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Answer prompts, each as if it were alone."""

    def call(self, function: Callable[[], Result]) -> Result:
        """Do anything else that calls the model."""

    def count_cached(self, num_tokens: int, decoding: DecodingOptions) -> None:
        """Take note of an answer of so many tokens that was written earlier and is taken over."""


class LocalExecutor:
    """Work that is done in the caller's thread, one prompt batch at a time."""

    def __init__(self, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor) -> None:
        """Take a model.

        Args:
            model: In evaluation mode.
            processor: The model's.
        """
        self._model, self._processor = model, processor
        self._prefix = PrefixCache()
        self._lock = threading.RLock()

    def check(self) -> None:
        """Never raises: the caller waits."""

    @torch.inference_mode()
    def encode_frames(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode frames now."""
        return self._model.get_frame_features(pixel_values, qformer_input_ids, qformer_attention_mask)

    @torch.inference_mode()
    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Write answers; a single one starts from what is still known of the prompt before it."""
        prompts, decoding, scale = batch.prompts, batch.decoding, self._model.lora_scale
        watchers = {"streamer": batch.streamer, "stopping_criteria": batch.stopping_criteria}
        arguments: dict[str, Any] = {
            "pad_token_id": self._processor.pad_token_id,
            "arguments": {"max_new_tokens": decoding.max_new_tokens, "do_sample": False}
            | {name: value for name, value in watchers.items() if value is not None},
        }
        if decoding.do_sample:
            arguments["samplers"] = [Sampler(own, self._model.device) for own in batch.decodings]
        with self._lock:
            if None not in batch.grammars:
                arguments["constraint"] = self.grammar_compiler.logits_processor(
                    batch.grammars, decoding.max_new_tokens
                )
            if len(prompts) > 1:
                return generate_answers(self._model, prompts, **arguments)
            prompt = prompts[0]
            cache = self._prefix.take(prompt.video_tokens, prompt.input_ids, scale)
            written = generate_answers(self._model, prompts, cache=cache, **arguments)
            self._prefix.store(prompt.video_tokens, prompt.input_ids + written[0].token_ids, scale, cache)
        return written

    def call(self, function: Callable[[], Result]) -> Result:
        """Do it now."""
        return function()

    def count_cached(self, num_tokens: int, decoding: DecodingOptions) -> None:
        """Nothing: nobody counts."""

    @cached_property
    def grammar_compiler(self) -> GrammarCompiler:
        """What keeps this model's answers in form."""
        return make_grammar_compiler(self._model, self._processor)


def make_grammar_compiler(model: TimeChatForConditionalGeneration, processor: TimeChatProcessor) -> GrammarCompiler:
    """Return what keeps a model's answers in form; to be made once, since its vocabulary takes a moment to prepare."""
    ends = model.generation_config.eos_token_id
    vocab_size = model.config.text_config.vocab_size
    return GrammarCompiler(processor.tokenizer, vocab_size, [ends] if isinstance(ends, int) else list(ends or ()))
