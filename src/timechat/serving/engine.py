"""The thread that does all work of the model, in small pieces of many requests.

Requests run in threads of their own and hand over what needs the model (`EngineExecutor`). The engine alternates
between small pieces of work: one token of every running answer, a part of a prompt, a few frames of videos. The
scheduler chooses them (`timechat.serving.scheduler`), so that a short request never waits for the end of a long one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from timechat.answers.tasks import DecodingOptions
from timechat.backbones.timechat.executor import Executor, GenerationBatch, make_grammar_compiler
from timechat.model.generation.batch import ContinuousBatch, GenerationState
from timechat.model.generation.generate import GenerationOutput, PrefixCache, Prompt, continuation_logprobs
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.serving.calls import CallEntry, FrameBatch, FunctionCall, GenerationCall
from timechat.serving.context import RequestContext
from timechat.serving.errors import EngineFailedError, EngineStoppedError
from timechat.serving.scheduler import SequenceScheduler, TimeShares

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_PREFIX_BYTES = 512 << 20
_FRAMES_PER_BATCH = {"cpu": 8}
_FRAMES_PER_BATCH_ON_GPU = 128
_IDLE_CHECK_SECONDS = 0.25  # interval at which an idle engine looks for requests that are over
_LANGUAGE, _VISION, _OTHER = "language", "vision", "errands"  # kinds of work, as the metrics name them


@dataclass(frozen=True, slots=True)
class EngineState:
    """Counters of the engine since its start, and its queues now.

    Attributes:
        tokens: Number of generated tokens.
        steps: Number of decode steps.
        frames: Number of encoded frames.
        preempted: Number of preemptions.
        running: Number of answers in the batch.
        waiting: Number of answers that wait for the batch.
        frame_batches: Number of waiting batches of frames.
        seconds: Seconds of work, by kind.
    """

    tokens: int
    steps: int
    frames: int
    preempted: int
    running: int
    waiting: int
    frame_batches: int
    seconds: dict[str, float]


class Engine:
    """Owns the model and the thread that uses it; a context manager.

    Attributes:
        batch: The running answers.
        grammar_compiler: Compiler of answer grammars.
    """

    def __init__(
        self,
        model: TimeChatForConditionalGeneration,
        processor: TimeChatProcessor,
        *,
        max_rows: int = 16,
        max_bytes: int = 4 << 30,
        preempt_after_tokens: int = 32,
    ) -> None:
        """Prepare the engine; it starts with `start`.

        Args:
            model: Model in evaluation mode.
            processor: Processor of the model.
            max_rows: Maximum number of answers in the batch.
            max_bytes: Maximum size of their KV cache.
            preempt_after_tokens: Number of tokens after which an answer may be preempted.
        """
        self._model, self._pad_token_id = model, processor.pad_token_id
        self.batch = ContinuousBatch(
            model,
            max_rows=max_rows,
            max_bytes=max_bytes,
            prefixes=PrefixCache(max_bytes=_PREFIX_BYTES),
            ends_turn=processor.ends_turn,
        )
        self.grammar_compiler = make_grammar_compiler(model, processor)
        self._max_frames = _FRAMES_PER_BATCH.get(model.device.type, _FRAMES_PER_BATCH_ON_GPU)
        self._wakeup = threading.Condition()
        self._scheduler: SequenceScheduler[CallEntry] = SequenceScheduler(
            self.batch, preempt_after_tokens=preempt_after_tokens
        )
        self._frame_batches: deque[FrameBatch] = deque()
        self._functions: deque[FunctionCall] = deque()
        self._work = {_LANGUAGE: self._decode, _VISION: self._encode, _OTHER: self._run_function}
        self._shares = TimeShares(self._work)
        self._num_tokens = self._num_steps = self._num_frames = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="timechat-engine", daemon=True)

    def __enter__(self) -> "Engine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step; all waiting calls raise `EngineStoppedError`."""
        with self._wakeup:
            self._is_stopping = True
            self._wakeup.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self.grammar_compiler.close()

    @property
    def is_alive(self) -> bool:
        """Whether requests can be answered."""
        return self._takes_work

    @property
    def _takes_work(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    @property
    def state(self) -> EngineState:
        """Counters and queues."""
        return EngineState(
            self._num_tokens,
            self._num_steps,
            self._num_frames,
            self._scheduler.num_preempted,
            len(self.batch.running),
            len(self._scheduler.waiting),
            len(self._frame_batches),
            dict(self._shares.seconds),
        )

    def executor(self, context: RequestContext) -> Executor:
        """Return the executor of one request."""
        return EngineExecutor(self, context)

    def wake(self) -> None:
        """Let the engine notice that a request was cancelled."""
        with self._wakeup:
            self._wakeup.notify_all()

    # ------------------------------------------------------------------------------- called from other threads

    def generate(self, batch: GenerationBatch, context: RequestContext) -> "Future[list[GenerationOutput]]":
        """Generate the answers to prompts."""
        context.check()
        if batch.decoding.num_beams > 1:
            raise ValueError(
                f"num_beams={batch.decoding.num_beams} is not offered by the engine, which decodes one token of every "
                "answer per step; use num_beams=1, or the commands"
            )
        call = GenerationCall(batch)
        for prompt, grammar, decoding in zip(batch.prompts, batch.grammars, batch.decodings, strict=True):
            constraint = None if grammar is None else self.grammar_compiler.state(grammar)
            sequence = GenerationState(prompt, decoding, constraint)
            call.entries.append(CallEntry(sequence, context, call=call))
            context.prompt_tokens += len(prompt.input_ids)
        self._add(self._scheduler.waiting, *call.entries)
        return call.future

    def encode_frames(
        self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, context: RequestContext
    ) -> "Future[Tensor]":
        """Encode frames of one video; the arguments are those of `get_frame_features`."""
        context.check()
        frames = FrameBatch(context, pixels, input_ids, attention_mask)
        self._add(self._frame_batches, frames)
        return frames.future

    def call(self, function: Callable[[], Result], context: RequestContext) -> "Future[Result]":
        """Call a function that needs the model."""
        context.check()
        item = FunctionCall(context, function)
        self._add(self._functions, item)
        return item.future

    def continuation_logprobs(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> list[list[float]]:
        """Return the log probabilities of given continuations; to be called through `call`."""
        return continuation_logprobs(self._model, prompts, lengths, pad_token_id=self._pad_token_id)

    def _add(self, queue: "deque[Any]", *items: Any) -> None:
        with self._wakeup:
            if not self._takes_work:
                raise EngineStoppedError("the server is shutting down")
            queue.extend(items)
            self._wakeup.notify_all()

    # ------------------------------------------------------------------------------- called in the engine's thread

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while True:
                with self._wakeup:
                    while not self._is_stopping and not self._find_kinds():
                        self._wakeup.wait(_IDLE_CHECK_SECONDS)
                    if self._is_stopping:
                        return
                try:
                    self._drop_cancelled()
                    self._run_next()
                except Exception:
                    logger.exception("a step of the engine failed; the running requests fail with it")
                    self._fail_all(EngineFailedError("the model failed during the answer; try again"))
        finally:
            self._is_stopping = True
            self._fail_all(EngineStoppedError("the server is shutting down"))

    def _find_kinds(self) -> list[str]:
        """Return the kinds of work that have work now."""
        language = self._scheduler.waiting or self.batch.running or self.batch.prefilling
        queues = {_LANGUAGE: language, _VISION: self._frame_batches, _OTHER: self._functions}
        return [kind for kind, items in queues.items() if items]

    def _run_next(self) -> None:
        """Do one piece of work of the kind that has used the least time."""
        kinds = self._find_kinds()
        if not kinds:
            return
        kind = self._shares.choose(kinds)
        began = time.perf_counter()
        self._work[kind]()
        self._shares.add(kind, time.perf_counter() - began)

    def _decode(self) -> None:
        """Schedule waiting answers, prefill a part of a prompt, and decode one token of every running answer."""
        while (entry := self._scheduler.schedule()) is not None:
            try:
                self.batch.add(entry.sequence)
            except Exception as error:
                self._fail(entry, error)
        if self.batch.prefilling is not None:
            self._prefill(self._scheduler.running[self.batch.prefilling])
        if self.batch.running:
            running = [self._scheduler.running[sequence] for sequence in self.batch.running]
            finished = self.batch.decode_step()
            self._num_steps += 1
            self._num_tokens += len(running)
            for entry in running:
                self._emit(entry)
            for sequence in finished:
                self._finish(sequence)

    def _prefill(self, entry: CallEntry) -> None:
        try:
            self.batch.prefill()
        except Exception as error:  # an error of this prompt, which does not concern the other answers
            self._fail(entry, error)
            return
        if self.batch.prefilling is None:  # the last part of the prompt gives the first token
            self._num_tokens += 1
            self._emit(entry)
            if entry.sequence.is_finished:
                self._finish(entry.sequence)

    def _emit(self, entry: CallEntry) -> None:
        """Pass new tokens to the streamer and the stopping criteria."""
        sequence, batch = entry.sequence, entry.call.batch
        new = sequence.token_ids[entry.num_emitted :]
        entry.num_emitted += len(new)
        entry.tokens_since_scheduled += len(new)
        entry.context.written_tokens += len(new)
        if batch.streamer is not None:
            batch.streamer.put(torch.tensor(new))
        if batch.stopping_criteria is not None and not sequence.is_finished:
            ids = torch.tensor([sequence.token_ids])
            if bool(batch.stopping_criteria(ids, None).any()):
                sequence.is_finished = True
                self.batch.abort(sequence)
                self._finish(sequence)

    def _finish(self, sequence: GenerationState) -> None:
        entry = self._scheduler.running.pop(sequence, None)
        if entry is None:
            return
        entry.context.cached_tokens += sequence.num_cached_tokens
        entry.context.reached_length_limit |= len(sequence.token_ids) >= sequence.decoding.max_new_tokens
        if entry.call.batch.streamer is not None:
            entry.call.batch.streamer.end()
        entry.call.finish()

    def _encode(self) -> None:
        """Encode frames of several requests: the vision tower takes all at once, the rest goes video by video."""
        batches = [self._frame_batches.popleft()]
        num_frames = batches[0].num_frames
        while self._frame_batches and num_frames + self._frame_batches[0].num_frames <= self._max_frames:
            batches.append(self._frame_batches.popleft())
            num_frames += batches[-1].num_frames
        try:
            pixels = torch.cat([batch.pixel_values[0] for batch in batches])  # (frames of all, 3, height, width)
            states = self._model.frame_encoder.vision_states(pixels).split([batch.num_frames for batch in batches])
            for batch, own in zip(batches, states, strict=True):
                tokens = self._model.get_frame_features(
                    None, batch.qformer_input_ids, batch.qformer_attention_mask, vision_states=own[None]
                )
                batch.future.set_result(tokens)
                self._num_frames += batch.num_frames
        except Exception as error:
            for batch in batches:
                if not batch.future.done():
                    batch.future.set_exception(error)

    def _run_function(self) -> None:
        item = self._functions.popleft()
        try:
            item.future.set_result(item.function())
        except Exception as error:
            item.future.set_exception(error)

    def _drop_cancelled(self) -> None:
        """End the work of requests that were cancelled or whose deadline has passed."""
        for entry in self._scheduler.entries:
            if entry.context.is_over:
                self._fail(entry, entry.context.error)
        queues: list[deque[Any]] = [self._frame_batches, self._functions]
        for queue in queues:
            for item in [item for item in list(queue) if item.context.is_over]:
                queue.remove(item)
                item.future.set_exception(item.context.error)

    def _fail(self, entry: CallEntry, error: Exception) -> None:
        """End the whole call of a sequence with an error."""
        for one in entry.call.entries:
            self._scheduler.remove(one)
            self.batch.abort(one.sequence)
        entry.call.fail(error)

    def _fail_all(self, error: Exception) -> None:
        """End all calls with an error."""
        with self._wakeup:
            calls = {id(entry.call): entry.call for entry in self._scheduler.entries}
            futures: list[Future[Any]] = [frames.future for frames in self._frame_batches]
            futures += [item.future for item in self._functions]
            self._scheduler.clear()
            self._frame_batches.clear()
            self._functions.clear()
            self.batch.clear()
        for call in calls.values():
            call.fail(error)
        for future in futures:
            future.set_exception(error)


class EngineExecutor:
    """Passes the model's work of one request to the engine; see `timechat.backbones.timechat.executor.Executor`."""

    language_model_facts: Mapping[str, Any] | None = None

    def __init__(self, engine: Engine, context: RequestContext) -> None:
        """Join an engine and a request."""
        self._engine, self._context = engine, context

    def check(self) -> None:
        """Raise if the request was cancelled or its deadline has passed."""
        self._context.check()

    def encode_frames(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode frames of one video."""
        return self._engine.encode_frames(
            pixel_values, qformer_input_ids, qformer_attention_mask, self._context
        ).result()

    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Generate the answers to prompts."""
        return self._engine.generate(batch, self._context).result()

    def continuation_logprobs(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> list[list[float]]:
        """Return the log probabilities of given continuations."""
        return self.call(partial(self._engine.continuation_logprobs, prompts, lengths))

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function that needs the model."""
        return self._engine.call(function, self._context).result()

    def count_cached(self, num_prompt_tokens: int, num_tokens: int, decoding: DecodingOptions) -> None:
        """Count the tokens of an answer from the cache, and those of its prompt as cached."""
        self._context.count_cached(num_prompt_tokens, num_tokens, decoding.max_new_tokens)

    def close(self) -> None:
        """Do nothing: the engine belongs to the service."""
