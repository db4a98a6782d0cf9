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

from timechat.errors import TimeChatError
from timechat.model.answering import Written
from timechat.model.batching import Answering, ContinuousBatch
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.prefix_cache import PrefixCache
from timechat.model.processing import TimeChatProcessor
from timechat.pipeline.work import Order, constraints_of
from timechat.tasks import Decoding

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_PREFIX_BYTES = 512 << 20
_FRAMES_AT_ONCE = {"cpu": 8}
_FRAMES_AT_ONCE_ELSEWHERE = 128
_LEAST_TURN = 4  # tokens that an answer writes before it makes room again: so that it gets on, however many come
_LOOK_AROUND = 0.25  # seconds, after which an idle engine looks for requests whose time is up


class CancelledRequestError(TimeChatError):
    """A request whose client has gone, or that was called off."""


class DeadlineError(TimeChatError):
    """A request that took longer than it may."""


class EngineFailedError(TimeChatError):
    """A step of the model has failed that a request shared with others."""


class EngineStoppedError(TimeChatError):
    """The server is going down."""


@dataclass(eq=False)
class Ticket:
    """One request, as the engine knows it.

    Attributes:
        deadline: When it is given up, on the clock of `time.monotonic`; None never.
        prompt_tokens: Tokens that were read for it.
        written_tokens: Tokens that were written for it.
        was_cut: Whether an answer ended because it was as long as it may be.
    """

    deadline: float | None = None
    prompt_tokens: int = 0
    written_tokens: int = 0
    was_cut: bool = False
    _error: TimeChatError | None = None

    def cancel(self, error: TimeChatError | None = None) -> None:
        """Call the request off: what is at work for it ends within a step, and raises."""
        self._error = self._error or error or CancelledRequestError("the request was called off")

    def check(self) -> None:
        """Raise if the request was called off or its time is up.

        Raises:
            CancelledRequestError: It was called off.
            DeadlineError: Its time is up.
        """
        if self._error is None and self.deadline is not None and time.monotonic() > self.deadline:
            self._error = DeadlineError("the request took longer than this server allows; ask about less of the video")
        if self._error is not None:
            raise self._error

    @property
    def is_over(self) -> bool:
        """Whether it was called off or its time is up."""
        try:
            self.check()
        except TimeChatError:
            return True
        return False

    @property
    def error(self) -> TimeChatError:
        """Why it is over."""
        return self._error or CancelledRequestError("the request was called off")


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine has done so far, and what it is doing.

    Attributes:
        tokens: Tokens written.
        steps: Steps of the language model that wrote them.
        frames: Frames encoded.
        parked: How often an answer made room for another.
        rows: Answers that are being written.
        waiting: Answers that wait for a row.
        looks: Pieces of videos that wait.
        seconds: Seconds at work, by kind.
    """

    tokens: int
    steps: int
    frames: int
    parked: int
    rows: int
    waiting: int
    looks: int
    seconds: dict[str, float]


@dataclass(eq=False)
class _Entry:
    """One answer of an order."""

    answering: Answering
    ticket: Ticket
    call: "_Call"
    told: int = 0
    """Tokens that the streamer has been told."""
    since: int = 0
    """Tokens written since it got its row."""

    @property
    def length(self) -> int:
        """Tokens written in all."""
        return len(self.answering.token_ids)


@dataclass(eq=False)
class _Call:
    """An order, waited for by the thread that gave it."""

    order: Order
    entries: list[_Entry] = field(default_factory=list)
    future: "Future[list[Written]]" = field(default_factory=Future)

    def finish(self) -> None:
        """Hand the answers over once all are written."""
        if self.future.done():
            return
        if error := next((entry.answering.error for entry in self.entries if entry.answering.error), None):
            self.future.set_exception(error)
        elif all(entry.answering.has_ended for entry in self.entries):
            self.future.set_result([entry.answering.written for entry in self.entries])


@dataclass(eq=False)
class _Look:
    """A few frames of one video, and who waits for them."""

    ticket: Ticket
    pixel_values: Tensor
    qformer_input_ids: Tensor
    qformer_attention_mask: Tensor
    future: "Future[Tensor]" = field(default_factory=Future)


@dataclass(eq=False)
class _Errand:
    """Anything else."""

    ticket: Ticket
    work: Callable[[], Any]
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
        turn_tokens: int = 32,
    ) -> None:
        """Take a model; nothing runs before `start`.

        Args:
            model: In evaluation mode.
            processor: The model's.
            max_rows: Most answers that are written at once.
            max_bytes: Of their states.
            turn_tokens: Tokens after which an answer makes room where others wait.
        """
        self._model, self._turn_tokens = model, turn_tokens
        self.batch = ContinuousBatch(
            model, max_rows=max_rows, max_bytes=max_bytes, prefixes=PrefixCache(max_bytes=_PREFIX_BYTES)
        )
        self.constraints = constraints_of(model, processor)
        self._frames_at_once = _FRAMES_AT_ONCE.get(model.device.type, _FRAMES_AT_ONCE_ELSEWHERE)
        self._news = threading.Condition()
        self._waiting: deque[_Entry] = deque()
        self._looks: deque[_Look] = deque()
        self._errands: deque[_Errand] = deque()
        self._at_work: dict[Answering, _Entry] = {}
        self._seconds = {"language": 0.0, "vision": 0.0, "errands": 0.0}
        self._turns = dict.fromkeys(self._seconds, 0.0)
        self._tokens = self._steps = self._frames = self._parked = 0
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
        with self._news:
            self._is_stopping = True
            self._news.notify_all()
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
            self._parked,
            len(self.batch.rows),
            len(self._waiting),
            len(self._looks),
            dict(self._seconds),
        )

    def wake(self) -> None:
        """Look for requests that were called off."""
        with self._news:
            self._news.notify_all()

    # ------------------------------------------------------------------------------------------ handing work over

    def write(self, order: Order, ticket: Ticket) -> "Future[list[Written]]":
        """Answer prompts; see `Order`."""
        ticket.check()
        call = _Call(order)
        for i, (prompt, shape) in enumerate(zip(order.prompts, order.shapes, strict=True)):
            constraint = None if shape is None else self.constraints.constraint(shape)
            # Each draws for itself; the same seed would give windows the same luck.
            decoding = replace(order.decoding, seed=(order.decoding.seed + i) % 2**63)
            call.entries.append(_Entry(Answering(prompt, decoding, constraint), ticket, call))
            ticket.prompt_tokens += len(prompt.input_ids)
        self._add(self._waiting, *call.entries)
        return call.future

    def look(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, ticket: Ticket) -> "Future[Tensor]":
        """Encode frames; arguments as of `get_frame_features`, for one video."""
        ticket.check()
        look = _Look(ticket, pixels, input_ids, attention_mask)
        self._add(self._looks, look)
        return look.future

    def do(self, work: Callable[[], Result], ticket: Ticket) -> "Future[Result]":
        """Do anything else with the model."""
        ticket.check()
        errand = _Errand(ticket, work)
        self._add(self._errands, errand)
        return errand.future

    def _add(self, queue: "deque[Any]", *items: Any) -> None:
        with self._news:
            if not self.is_alive:
                raise EngineStoppedError("the server is going down")
            queue.extend(items)
            self._news.notify_all()

    # ------------------------------------------------------------------------------------------------- the thread

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while True:
                with self._news:
                    while not self._is_stopping and not self._kinds():
                        self._news.wait(_LOOK_AROUND)
                    if self._is_stopping:
                        return
                try:
                    self._drop_those_over()
                    self._take_turn()
                except Exception:
                    logger.exception("a step of the engine failed; the requests that were at work fail with it")
                    self._fail_all(EngineFailedError("the model failed in the midst of the answer; try again"))
        finally:
            self._is_stopping = True
            self._fail_all(EngineStoppedError("the server is going down"))

    def _kinds(self) -> list[str]:
        """Kinds of work that there are."""
        language = self._waiting or self.batch.rows or self.batch.reading
        there = {"language": language, "vision": self._looks, "errands": self._errands}
        return [kind for kind, items in there.items() if items]

    def _take_turn(self) -> None:
        """Do a piece of the kind of work that has had the least time."""
        kinds = self._kinds()
        if not kinds:
            return
        kind = min(kinds, key=self._turns.__getitem__)
        # Who was idle has no claim to the time that others have had meanwhile.
        for other in self._turns:
            if other not in kinds:
                self._turns[other] = max(self._turns[other], self._turns[kind])
        began = time.perf_counter()
        {"language": self._speak, "vision": self._see, "errands": self._run_errand}[kind]()
        elapsed = time.perf_counter() - began
        self._turns[kind] += elapsed
        self._seconds[kind] += elapsed

    def _speak(self) -> None:
        """Let answers join, read a piece of a prompt, and write a token of every answer."""
        self._admit()
        reading = self.batch.reading
        if reading is not None:
            try:
                self.batch.read()
            except Exception as error:  # of this one's prompt: the others know nothing of it
                self._fail(self._at_work[reading], error)
                reading = None
            if reading is not None and self.batch.reading is None:
                self._tokens += 1
                self._tell(self._at_work[reading])
                if reading.has_ended:
                    self._end(reading)
        if self.batch.rows:
            rows = list(self.batch.rows)
            ended = self.batch.step()
            self._steps += 1
            self._tokens += len(rows)
            for answering in rows:
                self._tell(self._at_work[answering])
            for answering in ended:
                self._end(answering)

    def _admit(self) -> None:
        """Give rows to who waits, parked ones among them."""
        while self._waiting and self.batch.reading is None:
            working: dict[int, int] = {}
            for entry in self._at_work.values():
                working[id(entry.ticket)] = working.get(id(entry.ticket), 0) + 1
            waiting = list(self._waiting)
            entry = min(waiting, key=lambda entry: working.get(id(entry.ticket), 0))  # the first of equals
            if not self.batch.has_room(entry.answering):
                if not self._make_room(entry, working):
                    return
                if not self.batch.has_room(entry.answering):
                    return
            self._waiting.remove(entry)
            entry.since = 0
            self._at_work[entry.answering] = entry
            try:
                self.batch.join(entry.answering)
            except Exception as error:
                self._fail(entry, error)

    def _make_room(self, entry: _Entry, working: dict[int, int]) -> bool:
        """Park the answer that has been at work for longest, of the request with the most at work.

        One that is longer by a turn than the one that waits makes room at once; among equals each has its turn.
        """
        rows = [self._at_work[row] for row in self.batch.rows]
        patient = [
            other
            for other in rows
            if other.ticket is not entry.ticket
            and self.batch.can_park(other.answering)
            and working[id(other.ticket)] >= working.get(id(entry.ticket), 0)
            and other.since >= (_LEAST_TURN if other.length - entry.length >= self._turn_tokens else self._turn_tokens)
        ]
        if not patient:
            return False
        longest = max(patient, key=lambda other: (working[id(other.ticket)], other.since))
        self.batch.park(longest.answering)
        del self._at_work[longest.answering]
        self._waiting.append(longest)
        self._parked += 1
        return True

    def _tell(self, entry: _Entry) -> None:
        """Tell who watches about the tokens that are new."""
        answering, order = entry.answering, entry.call.order
        new = answering.token_ids[entry.told :]
        entry.told += len(new)
        entry.since += len(new)
        entry.ticket.written_tokens += len(new)
        if order.streamer is not None:
            order.streamer.put(torch.tensor(new))
        if order.stopping_criteria is not None and not answering.has_ended:
            ids = torch.tensor([answering.token_ids])
            if bool(order.stopping_criteria(ids, None).any()):
                answering.has_ended = True
                self.batch.drop(answering)
                self._end(answering)

    def _end(self, answering: Answering) -> None:
        """Hand an answer over."""
        entry = self._at_work.pop(answering, None)
        if entry is None:
            return
        entry.ticket.was_cut |= len(answering.token_ids) >= answering.decoding.max_new_tokens
        if entry.call.order.streamer is not None:
            entry.call.order.streamer.end()
        entry.call.finish()

    def _see(self) -> None:
        """Encode frames of several requests: the tower looks at all of them at once, the rest goes video by video."""
        looks = [self._looks.popleft()]
        while self._looks and sum(look.pixel_values.shape[1] for look in [*looks, self._looks[0]]) <= (
            self._frames_at_once
        ):
            looks.append(self._looks.popleft())
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

    def _run_errand(self) -> None:
        errand = self._errands.popleft()
        try:
            errand.future.set_result(errand.work())
        except Exception as error:
            errand.future.set_exception(error)

    def _drop_those_over(self) -> None:
        """Forget the work of requests that were called off or whose time is up."""
        for entry in [*self._waiting, *self._at_work.values()]:
            if entry.ticket.is_over:
                self._fail(entry, entry.ticket.error)
        for look in [look for look in list(self._looks) if look.ticket.is_over]:
            self._looks.remove(look)
            look.future.set_exception(look.ticket.error)
        for errand in [errand for errand in list(self._errands) if errand.ticket.is_over]:
            self._errands.remove(errand)
            errand.future.set_exception(errand.ticket.error)

    def _fail(self, entry: _Entry, error: Exception) -> None:
        """Give a call up with all its answers, because of one."""
        for one in entry.call.entries:
            if one in self._waiting:
                self._waiting.remove(one)
            self._at_work.pop(one.answering, None)
            self.batch.drop(one.answering)
        self._break_off(entry.call, error)

    def _fail_all(self, error: Exception) -> None:
        """Let everybody who waits know that it came to nothing."""
        with self._news:
            calls = {id(entry.call): entry.call for entry in [*self._waiting, *self._at_work.values()]}
            others: list[Future[Any]] = [item.future for item in self._looks]
            others += [item.future for item in self._errands]
            self._waiting.clear()
            self._at_work.clear()
            self._looks.clear()
            self._errands.clear()
            self.batch.clear()
        for call in calls.values():
            self._break_off(call, error)
        for future in others:
            future.set_exception(error)

    def _break_off(self, call: _Call, error: Exception) -> None:
        if not call.future.done():
            call.future.set_exception(error)
            if call.order.streamer is not None:
                call.order.streamer.end()


class TicketWork:
    """The model's work of one request, handed to the engine; see `timechat.pipeline.work.Work`."""

    def __init__(self, engine: Engine, ticket: Ticket) -> None:
        """Join an engine and a request."""
        self._engine, self._ticket = engine, ticket

    def check(self) -> None:
        """Raise if the request was called off or its time is up."""
        self._ticket.check()

    def look(self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor) -> Tensor:
        """Encode frames of one video."""
        return self._engine.look(pixel_values, qformer_input_ids, qformer_attention_mask, self._ticket).result()

    def write(self, order: Order) -> list[Written]:
        """Answer prompts."""
        return self._engine.write(order, self._ticket).result()

    def do(self, work: Callable[[], Result]) -> Result:
        """Do anything else."""
        return self._engine.do(work, self._ticket).result()

    def recall(self, num_tokens: int, decoding: Decoding) -> None:
        """Count an answer that was written earlier."""
        self._ticket.written_tokens += num_tokens
        self._ticket.was_cut |= num_tokens >= decoding.max_new_tokens
