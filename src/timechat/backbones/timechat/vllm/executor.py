"""An executor whose answers are written by vLLM, while frames are encoded in this process."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from timechat.answers.tasks import DecodingOptions
from timechat.backbones.timechat.executor import GenerationBatch, make_grammar_compiler
from timechat.backbones.timechat.vllm.adapters import Adapter
from timechat.backbones.timechat.vllm.requests import (
    AnswerEngineState,
    EngineRequest,
    ModelFacts,
    OutputDelta,
    check_answer,
    check_decoding,
    continuation,
    mixed_prompt,
)
from timechat.backbones.timechat.vllm.token_chooser import answer_arguments
from timechat.model.generation.generate import GenerationOutput, Prompt, end_token_ids
from timechat.model.generation.grammar_state import GrammarCompiler
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor

Result = TypeVar("Result")
Check = Callable[[], object]

_POLL_SECONDS = 0.1  # interval at which a waiting caller checks whether it still waits


class Call(Protocol):
    """Requests of one caller; see `EngineCall`."""

    pieces: "queue.SimpleQueue[tuple[int, OutputDelta | Exception]]"

    def cancel(self) -> None:
        """End the requests that are not answered yet."""


class RequestEngine(Protocol):
    """The members of `AnswerEngine` that are used here, so that this file needs no vLLM."""

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of prompt and answer."""

    @property
    def is_alive(self) -> bool:
        """Whether the engine takes requests."""

    @property
    def state(self) -> AnswerEngineState:
        """Counters and requests."""

    def submit(self, requests: Sequence[EngineRequest]) -> Call:
        """Send requests."""

    def stop(self) -> None:
        """End the engine."""


class VllmWriter:
    """Writes answers and scores through an engine; called from any thread."""

    def __init__(
        self,
        model: TimeChatForConditionalGeneration,
        processor: TimeChatProcessor,
        engine: RequestEngine,
        *,
        dtype: torch.dtype,
        facts: Mapping[str, Any],
        adapters: Mapping[str, Adapter] = MappingProxyType({}),
    ) -> None:
        """Join a model and its engine.

        Args:
            model: Network, whose language model may be without weights.
            processor: Processor of the model.
            engine: Engine that has started.
            dtype: Number format of the language model.
            facts: Everything about the language model that answers depend on, for cache keys.
            adapters: LoRA adapters of the engine by name.
        """
        self.engine, self.adapters = engine, adapters
        self._facts = facts
        self._model, self._processor = model, processor
        self._lock = threading.Lock()
        text = model.config.text_config
        self._limits = ModelFacts(model.config.image_token_id, text.hidden_size, engine.max_length, dtype)

    def facts(self, adapter: str = "") -> Mapping[str, Any]:
        """Return everything about the language model that answers depend on, with an adapter if one is named."""
        return {**self._facts, "adapter": self.adapters[adapter].facts} if adapter else self._facts

    @cached_property
    def grammar_compiler(self) -> GrammarCompiler:
        """Compiler of answer grammars, which finds a wrong grammar before it is sent."""
        return make_grammar_compiler(self._model, self._processor)

    def close(self) -> None:
        """End the engine."""
        self.engine.stop()
        if "grammar_compiler" in self.__dict__:
            self.grammar_compiler.close()

    def generate(
        self, batch: GenerationBatch, check: Check, client: str = "", adapter: str = ""
    ) -> tuple[list[GenerationOutput], int]:
        """Answer prompts; each answer is independent of the others.

        Answers of one call rank behind each other, so that a video of many windows does not delay single questions.

        Args:
            batch: Prompts.
            check: Function that raises if the answers are no longer needed.
            client: Text that keeps the cached prompts of clients apart.
            adapter: Name of the LoRA adapter; empty for none.

        Returns:
            The answers, and the number of prompt tokens whose states were cached.

        Raises:
            EngineError: The engine failed.
            ValueError: A prompt or a grammar cannot be used.
        """
        check()
        check_decoding(batch.decoding)
        ends = end_token_ids(self._model)
        with self._lock:
            compiler = self.grammar_compiler
        starts = [None if grammar is None else compiler.state(grammar) for grammar in batch.grammars]
        is_streamed = batch.streamer is not None or batch.stopping_criteria is not None
        requests = [
            EngineRequest(
                mixed_prompt(prompt, self._limits, decoding.max_new_tokens),
                decoding.max_new_tokens,
                answer_arguments(decoding, grammar, needs_turn_end=self._processor.ends_turn is not None),
                is_streamed=is_streamed,
                priority=rank,
                client=client,
                adapter=adapter,
            )
            for rank, (prompt, grammar, decoding) in enumerate(
                zip(batch.prompts, batch.grammars, batch.decodings, strict=True)
            )
        ]
        token_ids: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        num_cached = 0
        for place, piece in self._pieces(requests, check):
            is_stopped = False
            for token, logprob in zip(piece.token_ids, piece.logprobs, strict=True):
                token_ids[place].append(token)
                logprobs[place].append(logprob)
                if batch.streamer is not None:
                    batch.streamer.put(torch.tensor([token]))
                if batch.stopping_criteria is not None and not piece.is_last:
                    is_stopped = bool(batch.stopping_criteria(torch.tensor([token_ids[place]]), None).any())
                    if is_stopped:
                        break
            num_cached += piece.num_cached_tokens if piece.is_last else 0
            if is_stopped:
                break
        if batch.streamer is not None:
            batch.streamer.end()
        for start, ids, decoding in zip(starts, token_ids, batch.decodings, strict=True):
            if start is not None:
                check_answer(start, ids, decoding, ends)
        rows = zip(token_ids, logprobs, batch.prompts, strict=True)
        return [GenerationOutput(ids, values, len(prompt.input_ids)) for ids, values, prompt in rows], num_cached

    def continuation_logprobs(
        self, prompts: Sequence[Prompt], lengths: Sequence[int], check: Check, client: str = "", adapter: str = ""
    ) -> list[list[float]]:
        """Return the log probabilities of the last tokens of prompts.

        Args:
            prompts: Prompts that end with the continuation.
            lengths: Number of ids of the continuation of each prompt.
            check: Function that raises if the result is no longer needed.
            client: Text that keeps the cached prompts of clients apart.
            adapter: Name of the LoRA adapter; empty for none.

        Raises:
            EngineError: The engine failed.
            RuntimeError: vLLM has computed none.
        """
        check()
        requests = [
            EngineRequest(mixed_prompt(prompt, self._limits, 1), 1, is_scored=True, client=client, adapter=adapter)
            for prompt in prompts
        ]
        found: dict[int, Sequence[float | None] | None] = {}
        for place, piece in self._pieces(requests, check):
            found[place] = piece.prompt_logprobs
        return [
            continuation(prompt, found.get(place), length)
            for place, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
        ]

    def _pieces(self, requests: Sequence[EngineRequest], check: Check) -> Iterator[tuple[int, OutputDelta]]:
        """Yield the pieces of all answers; end all requests if the caller leaves or one of them fails."""
        call = self.engine.submit(requests)
        num_open = len(requests)
        try:
            while num_open:
                try:
                    place, piece = call.pieces.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    check()
                    continue
                if isinstance(piece, Exception):
                    raise piece
                num_open -= piece.is_last
                yield place, piece
                check()
        finally:
            call.cancel()


class VllmExecutor:
    """Encodes frames in the caller's thread and lets vLLM write the answers; see `Executor`."""

    def __init__(self, model: TimeChatForConditionalGeneration, writer: VllmWriter, *, adapter: str = "") -> None:
        """Join a model and its writer.

        Args:
            model: Network, whose language model may be without weights.
            writer: Writer of the answers.
            adapter: Name of the LoRA adapter that writes them; empty for none.
        """
        self.writer, self._model, self._adapter = writer, model, adapter

    @property
    def language_model_facts(self) -> Mapping[str, Any]:
        """Facts of the language model that vLLM runs."""
        return self.writer.facts(self._adapter)

    def check(self) -> None:
        """Do nothing: the caller waits for the result."""

    @torch.inference_mode()
    def encode_frames(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode frames."""
        return self._model.get_frame_features(pixel_values, qformer_input_ids, qformer_attention_mask)

    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Answer prompts."""
        return self.writer.generate(batch, self.check, adapter=self._adapter)[0]

    def continuation_logprobs(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> list[list[float]]:
        """Return the log probabilities of given continuations."""
        return self.writer.continuation_logprobs(prompts, lengths, self.check, adapter=self._adapter)

    def call(self, function: Callable[[], Result]) -> Result:
        """Call the function."""
        return function()

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Do nothing: tokens are not counted here."""

    def close(self) -> None:
        """End the engine."""
        self.writer.close()
