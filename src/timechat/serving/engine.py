"""One model and many who ask: the thread that does all of the model's work, a little of each in turn.

Requests run in threads of their own and hand over what needs the model, as `Work`. The engine does it in small pieces:
a token of every answer that is being written, a piece of a prompt, a few frames of videos. Language and vision take
turns by the time that they have had, so that neither starves; answers that have been written for long make room for
new ones and go on later; among requests those with the least at work come first. So a short request never waits for a
long one to end.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from timechat.answers.tasks import DecodingOptions
from timechat.model.generation.batch import ContinuousBatch, GenerationState
from timechat.model.generation.generate import GenerationOutput
from timechat.model.generation.prefix_cache import PrefixCache
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline.executor import GenerationBatch, make_grammar_compiler
from timechat.serving.context import RequestContext
from timechat.serving.errors import EngineFailedError, EngineStoppedError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_PREFIX_BYTES = 512 << 20
_FRAMES_PER_BATCH = {"cpu": 8}
_FRAMES_PER_BATCH_ON_GPU = 128
_MIN_TURN_TOKENS = 4  # tokens that an answer writes before it makes room again: so that it gets on, however many come
_IDLE_CHECK_SECONDS = 0.25  # seconds, after which an idle engine looks for requests whose time is up


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine has done so far, and what it is doing.

    Attributes:
        tokens: Tokens written.
        steps: Steps of the language model that wrote them.
        frames: Frames encoded.
        preempted: How often an answer made room for another.
        running: Answers that are being written.
        waiting: Answers that wait for a row.
        frame_batches: Pieces of videos that wait.
        seconds: Seconds at work, by kind.
    """

    tokens: int
    steps: int
    frames: int
    preempted: int
    running: int
    waiting: int
    frame_batches: int
    seconds: dict[str, float]


@dataclass(eq=False)
class _SequenceEntry:
    """One answer of an order."""

    sequence: GenerationState
    context: RequestContext
    call: "_GenerationCall"
    num_emitted: int = 0
    """Tokens that the streamer has been told."""
    tokens_since_scheduled: int = 0
    """Tokens written since it got its row."""

    @property
    def length(self) -> int:
        """Tokens written in all."""
        return len(self.sequence.token_ids)


@dataclass(eq=False)
class _GenerationCall:
    """An order, waited for by the thread that gave it."""

    batch: GenerationBatch
    entries: list[_SequenceEntry] = field(default_factory=list)
    future: "Future[list[GenerationOutput]]" = field(default_factory=Future)

    def finish(self) -> None:
        """Hand the answers over once all are written."""
        if self.future.done():
            return
        if error := next((entry.sequence.error for entry in self.entries if entry.sequence.error), None):
            self.future.set_exception(error)
        elif all(entry.sequence.is_finished for entry in self.entries):
            self.future.set_result([entry.sequence.output for entry in self.entries])


@dataclass(eq=False)
class _FrameBatch:
    """A few frames of one video, and who waits for them."""

    context: RequestContext
    pixel_values: Tensor
    qformer_input_ids: Tensor
    qformer_attention_mask: Tensor
    future: "Future[Tensor]" = field(default_factory=Future)


@dataclass(eq=False)
class _Callable:
    """Anything else."""

    context: RequestContext
    function: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)


class Engine:
    """The thread that owns the model; a context manager.

    Attributes:
        batch: What is being written.
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
        """Take a model; nothing runs before `start`.

        Args:
            model: In evaluation mode.
            processor: The model's.
            max_rows: Most answers that are written at once.
            max_bytes: Of their states.
            preempt_after_tokens: Tokens after which an answer makes room where others wait.
        """
        self._model, self._preempt_after_tokens = model, preempt_after_tokens
        self.batch = ContinuousBatch(
            model, max_rows=max_rows, max_bytes=max_bytes, prefixes=PrefixCache(max_bytes=_PREFIX_BYTES)
        )
        self.grammar_compiler = make_grammar_compiler(model, processor)
        self._frames_at_once = _FRAMES_PER_BATCH.get(model.device.type, _FRAMES_PER_BATCH_ON_GPU)
        self._wakeup = threading.Condition()
        self._waiting: deque[_SequenceEntry] = deque()
        self._frame_batches: deque[_FrameBatch] = deque()
        self._callables: deque[_Callable] = deque()
        self._scheduled: dict[GenerationState, _SequenceEntry] = {}
        self._seconds = {"language": 0.0, "vision": 0.0, "errands": 0.0}
        self._fair_seconds = dict.fromkeys(self._seconds, 0.0)
        self._tokens = self._steps = self._frames = self._preempted = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="timechat-engine", daemon=True)

    def __enter__(self) -> "Engine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step at work; whoever waits gets an `EngineStoppedError`."""
        with self._wakeup:
            self._is_stopping = True
            self._wakeup.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive() and not self._is_stopping

    @property
    def state(self) -> EngineState:
        """What it has done and is doing."""
        return EngineState(
            self._tokens,
            self._steps,
            self._frames,
            self._preempted,
            len(self.batch.running),
            len(self._waiting),
            len(self._frame_batches),
            dict(self._seconds),
        )

    def wake(self) -> None:
        """Look for requests that were called off."""
        with self._wakeup:
            self._wakeup.notify_all()

    # ------------------------------------------------------------------------------------------ handing work over

    def generate(self, batch: GenerationBatch, context: RequestContext) -> "Future[list[GenerationOutput]]":
        """Answer prompts; see `Order`."""
        context.check()
        call = _GenerationCall(batch)
        for i, (prompt, shape) in enumerate(zip(batch.prompts, batch.grammars, strict=True)):
            constraint = None if shape is None else self.grammar_compiler.state(shape)
            # Each draws for itself; the same seed would give windows the same luck.
            decoding = replace(batch.decoding, seed=(batch.decoding.seed + i) % 2**63)
            call.entries.append(_SequenceEntry(GenerationState(prompt, decoding, constraint), context, call))
            context.prompt_tokens += len(prompt.input_ids)
        self._add(self._waiting, *call.entries)
        return call.future

    def encode_frames(
        self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, context: RequestContext
    ) -> "Future[Tensor]":
        """Encode frames; arguments as of `get_frame_features`, for one video."""
        context.check()
        look = _FrameBatch(context, pixels, input_ids, attention_mask)
        self._add(self._frame_batches, look)
        return look.future

    def call(self, function: Callable[[], Result], context: RequestContext) -> "Future[Result]":
        """Do anything else with the model."""
        context.check()
        errand = _Callable(context, function)
        self._add(self._callables, errand)
        return errand.future

    def _add(self, queue: "deque[Any]", *items: Any) -> None:
        with self._wakeup:
            if not self.is_alive:
                raise EngineStoppedError("the server is shutting down")
            queue.extend(items)
            self._wakeup.notify_all()

    # ------------------------------------------------------------------------------------------------- the thread

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while True:
                with self._wakeup:
                    while not self._is_stopping and not self._kinds():
                        self._wakeup.wait(_IDLE_CHECK_SECONDS)
                    if self._is_stopping:
                        return
                try:
                    self._drop_cancelled()
                    self._run_next()
                except Exception:
                    logger.exception("a step of the engine failed; the requests that were at work fail with it")
                    self._fail_all(EngineFailedError("the model failed in the midst of the answer; try again"))
        finally:
            self._is_stopping = True
            self._fail_all(EngineStoppedError("the server is shutting down"))

    def _kinds(self) -> list[str]:
        """Kinds of work that there are."""
        language = self._waiting or self.batch.running or self.batch.prefilling
        there = {"language": language, "vision": self._frame_batches, "errands": self._callables}
        return [kind for kind, items in there.items() if items]

    def _run_next(self) -> None:
        """Do a piece of the kind of work that has had the least time."""
        kinds = self._kinds()
        if not kinds:
            return
        kind = min(kinds, key=self._fair_seconds.__getitem__)
        # Who was idle has no claim to the time that others have had meanwhile.
        for other in self._fair_seconds:
            if other not in kinds:
                self._fair_seconds[other] = max(self._fair_seconds[other], self._fair_seconds[kind])
        began = time.perf_counter()
        {"language": self._decode, "vision": self._encode, "errands": self._run_callable}[kind]()
        elapsed = time.perf_counter() - began
        self._fair_seconds[kind] += elapsed
        self._seconds[kind] += elapsed

    def _decode(self) -> None:
        """Let answers join, read a piece of a prompt, and write a token of every answer."""
        self._schedule()
        reading = self.batch.prefilling
        if reading is not None:
            try:
                self.batch.prefill()
            except Exception as error:  # of this one's prompt: the others know nothing of it
                self._fail(self._scheduled[reading], error)
                reading = None
            if reading is not None and self.batch.prefilling is None:
                self._tokens += 1
                self._emit(self._scheduled[reading])
                if reading.is_finished:
                    self._finish(reading)
        if self.batch.running:
            rows = list(self.batch.running)
            ended = self.batch.decode_step()
            self._steps += 1
            self._tokens += len(rows)
            for answering in rows:
                self._emit(self._scheduled[answering])
            for answering in ended:
                self._finish(answering)

    def _schedule(self) -> None:
        """Give rows to who waits, parked ones among them."""
        while self._waiting and self.batch.prefilling is None:
            working: dict[int, int] = {}
            for entry in self._scheduled.values():
                working[id(entry.context)] = working.get(id(entry.context), 0) + 1
            waiting = list(self._waiting)
            entry = min(waiting, key=lambda entry: working.get(id(entry.context), 0))  # the first of equals
            if not self.batch.has_room(entry.sequence):
                if not self._preempt(entry, working):
                    return
                if not self.batch.has_room(entry.sequence):
                    return
            self._waiting.remove(entry)
            entry.tokens_since_scheduled = 0
            self._scheduled[entry.sequence] = entry
            try:
                self.batch.add(entry.sequence)
            except Exception as error:
                self._fail(entry, error)

    def _preempt(self, entry: _SequenceEntry, running_per_request: dict[int, int]) -> bool:
        """Park the answer that has been at work for longest, of the request with the most at work.

        One that is longer by a turn than the one that waits makes room at once; among equals each has its turn.
        """
        rows = [self._scheduled[row] for row in self.batch.running]
        patient = [
            other
            for other in rows
            if other.context is not entry.context
            and self.batch.can_preempt(other.sequence)
            and running_per_request[id(other.context)] >= running_per_request.get(id(entry.context), 0)
            and other.tokens_since_scheduled
            >= (
                _MIN_TURN_TOKENS
                if other.length - entry.length >= self._preempt_after_tokens
                else self._preempt_after_tokens
            )
        ]
        if not patient:
            return False
        longest = max(patient, key=lambda other: (running_per_request[id(other.context)], other.tokens_since_scheduled))
        self.batch.preempt(longest.sequence)
        del self._scheduled[longest.sequence]
        self._waiting.append(longest)
        self._preempted += 1
        return True

    def _emit(self, entry: _SequenceEntry) -> None:
        """Tell who watches about the tokens that are new."""
        answering, order = entry.sequence, entry.call.batch
        new = answering.token_ids[entry.num_emitted :]
        entry.num_emitted += len(new)
        entry.tokens_since_scheduled += len(new)
        entry.context.written_tokens += len(new)
        if order.streamer is not None:
            order.streamer.put(torch.tensor(new))
        if order.stopping_criteria is not None and not answering.is_finished:
            ids = torch.tensor([answering.token_ids])
            if bool(order.stopping_criteria(ids, None).any()):
                answering.is_finished = True
                self.batch.abort(answering)
                self._finish(answering)

    def _finish(self, sequence: GenerationState) -> None:
        """Hand an answer over."""
        entry = self._scheduled.pop(sequence, None)
        if entry is None:
            return
        entry.context.reached_length_limit |= len(sequence.token_ids) >= sequence.decoding.max_new_tokens
        if entry.call.batch.streamer is not None:
            entry.call.batch.streamer.end()
        entry.call.finish()

    def _encode(self) -> None:
        """Encode frames of several requests: the tower looks at all of them at once, the rest goes video by video."""
        looks = [self._frame_batches.popleft()]
        while self._frame_batches and sum(look.pixel_values.shape[1] for look in [*looks, self._frame_batches[0]]) <= (
            self._frames_at_once
        ):
            looks.append(self._frame_batches.popleft())
        try:
            encoder = self._model.frame_encoder
            pixels = torch.cat([look.pixel_values[0] for look in looks])  # (frames of all, 3, height, width)
            states = encoder.vision_states(pixels).split([look.pixel_values.shape[1] for look in looks])
            for look, own in zip(looks, states, strict=True):
                tokens = self._model.get_frame_features(
                    None, look.qformer_input_ids, look.qformer_attention_mask, vision_states=own[None]
                )
                look.future.set_result(tokens)
                self._frames += look.pixel_values.shape[1]
        except Exception as error:
            for look in looks:
                if not look.future.done():
                    look.future.set_exception(error)

    def _run_callable(self) -> None:
        errand = self._callables.popleft()
        try:
            errand.future.set_result(errand.function())
        except Exception as error:
            errand.future.set_exception(error)

    def _drop_cancelled(self) -> None:
        """Forget the work of requests that were called off or whose time is up."""
        for entry in [*self._waiting, *self._scheduled.values()]:
            if entry.context.is_over:
                self._fail(entry, entry.context.error)
        for look in [look for look in list(self._frame_batches) if look.context.is_over]:
            self._frame_batches.remove(look)
            look.future.set_exception(look.context.error)
        for errand in [errand for errand in list(self._callables) if errand.context.is_over]:
            self._callables.remove(errand)
            errand.future.set_exception(errand.context.error)

    def _fail(self, entry: _SequenceEntry, error: Exception) -> None:
        """Give a call up with all its answers, because of one."""
        for one in entry.call.entries:
            if one in self._waiting:
                self._waiting.remove(one)
            self._scheduled.pop(one.sequence, None)
            self.batch.abort(one.sequence)
        self._abort_call(entry.call, error)

    def _fail_all(self, error: Exception) -> None:
        """Let everybody who waits know that it came to nothing."""
        with self._wakeup:
            calls = {id(entry.call): entry.call for entry in [*self._waiting, *self._scheduled.values()]}
            others: list[Future[Any]] = [item.future for item in self._frame_batches]
            others += [item.future for item in self._callables]
            self._waiting.clear()
            self._scheduled.clear()
            self._frame_batches.clear()
            self._callables.clear()
            self.batch.clear()
        for call in calls.values():
            self._abort_call(call, error)
        for future in others:
            future.set_exception(error)

    def _abort_call(self, call: _GenerationCall, error: Exception) -> None:
        if not call.future.done():
            call.future.set_exception(error)
            if call.batch.streamer is not None:
                call.batch.streamer.end()


class EngineExecutor:
    """The model's work of one request, handed to the engine; see `timechat.pipeline.executor.Work`."""

    def __init__(self, engine: Engine, context: RequestContext) -> None:
        """Join an engine and a request."""
        self._engine, self._context = engine, context

    def check(self) -> None:
        """Raise if the request was called off or its time is up."""
        self._context.check()

    def encode_frames(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode frames of one video."""
        return self._engine.encode_frames(
            pixel_values, qformer_input_ids, qformer_attention_mask, self._context
        ).result()

    def generate(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Answer prompts."""
        return self._engine.generate(batch, self._context).result()

    def call(self, function: Callable[[], Result]) -> Result:
        """Do anything else."""
        return self._engine.call(function, self._context).result()

    def count_cached(self, num_tokens: int, decoding: DecodingOptions) -> None:
        """Count an answer that was written earlier."""
        self._context.written_tokens += num_tokens
        self._context.reached_length_limit |= num_tokens >= decoding.max_new_tokens
