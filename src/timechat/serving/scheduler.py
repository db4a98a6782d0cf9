"""What the engine does next: shares of time, admission to the batch and preemption. Knows no model and no threads."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from timechat.serving.context import RequestContext

if TYPE_CHECKING:
    from timechat.model.generation.batch import GenerationState

MIN_TURN_TOKENS = 4
"""Minimum number of tokens between two preemptions of a sequence, so that it always makes progress."""


class SchedulableBatch(Protocol):
    """The part of `ContinuousBatch` that scheduling needs."""

    running: "list[GenerationState]"
    prefilling: "GenerationState | None"

    def has_room(self, sequence: "GenerationState") -> bool:
        """Whether a sequence may join now."""

    def can_preempt(self, sequence: "GenerationState") -> bool:
        """Whether there is memory to keep the state of a preempted sequence."""

    def preempt(self, sequence: "GenerationState") -> None:
        """Take a sequence out of the batch and keep its state."""


@dataclass(eq=False)
class SequenceEntry:
    """A sequence in the queue or in the batch.

    Attributes:
        sequence: State of the generation.
        context: Context of the request.
        tokens_since_scheduled: Number of tokens that were generated since the sequence last joined the batch.
    """

    sequence: "GenerationState"
    context: RequestContext
    tokens_since_scheduled: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens that were generated so far."""
        return len(self.sequence.token_ids)


Entry = TypeVar("Entry", bound=SequenceEntry)


class SequenceScheduler(Generic[Entry]):
    """Chooses the sequences of the batch: first those of the requests with the fewest running sequences.

    Attributes:
        waiting: Waiting sequences in order of arrival, preempted ones included; other threads may append to it.
        running: Entries of the sequences in the batch.
        num_preempted: Number of preemptions so far.
    """

    def __init__(self, batch: SchedulableBatch, *, preempt_after_tokens: int) -> None:
        """Schedule the sequences of a batch.

        Args:
            batch: Batch that the sequences join.
            preempt_after_tokens: Number of tokens after which a sequence may be preempted. For a waiting sequence that
                is shorter by as many tokens, `MIN_TURN_TOKENS` are enough.
        """
        self._batch, self._preempt_after_tokens = batch, preempt_after_tokens
        self.waiting: deque[Entry] = deque()
        self.running: dict[GenerationState, Entry] = {}
        self.num_preempted = 0

    @property
    def entries(self) -> list[Entry]:
        """All waiting and running entries."""
        return [*self.waiting, *self.running.values()]

    def schedule(self) -> Entry | None:
        """Move a waiting sequence to the running ones; preempt another one if there is no room.

        The caller adds the sequence to the batch.

        Returns:
            None if no sequence can join now.
        """
        if not self.waiting or self._batch.prefilling is not None:
            return None
        num_running = Counter(entry.context for entry in self.running.values())
        entry = min(list(self.waiting), key=lambda entry: num_running[entry.context])  # the first of equals
        if not self._batch.has_room(entry.sequence):
            self._preempt(entry, num_running)
            if not self._batch.has_room(entry.sequence):
                return None
        self.waiting.remove(entry)
        entry.tokens_since_scheduled = 0
        self.running[entry.sequence] = entry
        return entry

    def remove(self, entry: Entry) -> None:
        """Forget a sequence."""
        if entry in self.waiting:
            self.waiting.remove(entry)
        self.running.pop(entry.sequence, None)

    def clear(self) -> None:
        """Forget all sequences."""
        self.waiting.clear()
        self.running.clear()

    def _preempt(self, entry: Entry, num_running: Counter[RequestContext]) -> None:
        """Preempt one sequence for a waiting one, if there is one that may be preempted.

        It belongs to the request with the most running sequences, and has generated the most tokens since it joined.
        """
        running = [self.running[sequence] for sequence in self._batch.running]
        candidates = [other for other in running if self._may_preempt(other, entry, num_running)]
        if not candidates:
            return
        chosen = max(candidates, key=lambda other: (num_running[other.context], other.tokens_since_scheduled))
        self._batch.preempt(chosen.sequence)
        del self.running[chosen.sequence]
        self.waiting.append(chosen)
        self.num_preempted += 1

    def _may_preempt(self, other: Entry, entry: Entry, num_running: Counter[RequestContext]) -> bool:
        """Whether a running sequence may be preempted for a waiting one."""
        if other.context is entry.context or num_running[other.context] < num_running[entry.context]:
            return False
        is_longer = other.num_tokens - entry.num_tokens >= self._preempt_after_tokens
        min_tokens = MIN_TURN_TOKENS if is_longer else self._preempt_after_tokens
        return other.tokens_since_scheduled >= min_tokens and self._batch.can_preempt(other.sequence)


class TimeShares:
    """Lets kinds of work take turns by the time that each has used.

    Attributes:
        seconds: Seconds that each kind has used.
    """

    def __init__(self, kinds: Iterable[str]) -> None:
        """Start at 0 for each kind."""
        self.seconds = dict.fromkeys(kinds, 0.0)
        self._fair_seconds = dict(self.seconds)

    def choose(self, kinds: Sequence[str]) -> str:
        """Return the kind with the least time.

        Args:
            kinds: Kinds that have work now. The others are idle and gain no right to the time that passes meanwhile.
        """
        kind = min(kinds, key=self._fair_seconds.__getitem__)
        for other in self._fair_seconds:
            if other not in kinds:
                self._fair_seconds[other] = max(self._fair_seconds[other], self._fair_seconds[kind])
        return kind

    def add(self, kind: str, seconds: float) -> None:
        """Count the time of a piece of work."""
        self.seconds[kind] += seconds
        self._fair_seconds[kind] += seconds
