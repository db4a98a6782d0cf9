"""The scheduler alone: who joins the batch, who is preempted, and which kind of work is next."""

import pytest

from timechat.serving.context import RequestContext
from timechat.serving.scheduler import MIN_TURN_TOKENS, SequenceEntry, SequenceScheduler, TimeShares

TURN = 32


class FakeSequence:
    def __init__(self, num_tokens: int = 0) -> None:
        self.token_ids = [1] * num_tokens


class FakeBatch:
    """A batch of some rows, without a model."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.running: list[FakeSequence] = []
        self.prefilling: FakeSequence | None = None
        self.preempted: list[FakeSequence] = []
        self.without_memory: set[FakeSequence] = set()

    def has_room(self, _: FakeSequence) -> bool:
        return len(self.running) < self.max_rows

    def can_preempt(self, sequence: FakeSequence) -> bool:
        return sequence not in self.without_memory

    def preempt(self, sequence: FakeSequence) -> None:
        self.running.remove(sequence)
        self.preempted.append(sequence)


class Case:
    """A scheduler with a full or empty batch, and entries by their request's name."""

    def __init__(self, max_rows: int) -> None:
        self.batch = FakeBatch(max_rows)
        self.scheduler: SequenceScheduler[SequenceEntry] = SequenceScheduler(self.batch, preempt_after_tokens=TURN)
        self.requests: dict[str, RequestContext] = {}

    def entry(self, request: str, *, num_tokens: int = 0, turn: int = 0) -> SequenceEntry:
        context = self.requests.setdefault(request, RequestContext())
        return SequenceEntry(FakeSequence(num_tokens), context, turn)

    def run(self, request: str, *, num_tokens: int = 0, turn: int = 0) -> SequenceEntry:
        entry = self.entry(request, num_tokens=num_tokens, turn=turn)
        self.batch.running.append(entry.sequence)
        self.scheduler.running[entry.sequence] = entry
        return entry

    def wait(self, request: str, *, num_tokens: int = 0) -> SequenceEntry:
        entry = self.entry(request, num_tokens=num_tokens)
        self.scheduler.waiting.append(entry)
        return entry

    def schedule_all(self) -> list[SequenceEntry]:
        """Schedule as the engine does: what joins is in the batch at once."""
        joined = []
        while (entry := self.scheduler.schedule()) is not None:
            self.batch.running.append(entry.sequence)
            joined.append(entry)
        return joined


# ------------------------------------------------------------------------------------------------------ admission


def test_sequences_join_in_order_while_there_is_room():
    case = Case(max_rows=2)
    first, second, third = case.wait("a"), case.wait("b"), case.wait("c")
    assert case.schedule_all() == [first, second]
    assert list(case.scheduler.waiting) == [third]
    assert list(case.scheduler.running.values()) == [first, second]


def test_the_request_with_the_fewest_running_joins_first():
    case = Case(max_rows=3)
    case.run("a")
    case.wait("a")
    other = case.wait("b")
    assert case.scheduler.schedule() is other


def test_two_requests_share_the_rows_of_the_batch():
    case = Case(max_rows=4)
    many = [case.wait("a") for _ in range(6)]
    few = [case.wait("b") for _ in range(2)]
    assert case.schedule_all() == [many[0], few[0], many[1], few[1]]


def test_nothing_joins_while_a_prompt_is_prefilled():
    case = Case(max_rows=2)
    case.batch.prefilling = FakeSequence()
    case.wait("a")
    assert case.scheduler.schedule() is None


def test_nothing_is_preempted_while_a_prompt_is_prefilled():
    case = Case(max_rows=1)
    case.run("a", turn=TURN)
    case.batch.prefilling = FakeSequence()
    case.wait("b")
    assert case.scheduler.schedule() is None
    assert case.batch.preempted == []


def test_nothing_joins_when_nothing_waits():
    assert Case(max_rows=1).scheduler.schedule() is None


def test_nothing_is_preempted_while_there_is_room():
    case = Case(max_rows=2)
    case.run("a", turn=10 * TURN)
    waiting = case.wait("b")
    assert case.scheduler.schedule() is waiting
    assert case.batch.preempted == []


def test_a_sequence_that_joins_again_begins_a_new_turn():
    case = Case(max_rows=1)
    running = case.run("a", num_tokens=TURN, turn=TURN)
    case.wait("b", num_tokens=TURN)
    case.schedule_all()
    case.batch.max_rows = 2
    assert case.schedule_all() == [running]
    assert running.tokens_since_scheduled == 0


# ----------------------------------------------------------------------------------------------------- preemption


@pytest.mark.parametrize(("turn", "is_preempted"), [(TURN - 1, False), (TURN, True)])
def test_equally_long_sequences_take_turns(turn, is_preempted):
    case = Case(max_rows=1)
    running, waiting = case.run("a", num_tokens=50, turn=turn), case.wait("b", num_tokens=50)
    assert case.schedule_all() == ([waiting] if is_preempted else [])
    assert case.batch.preempted == ([running.sequence] if is_preempted else [])
    assert case.scheduler.num_preempted == int(is_preempted)


@pytest.mark.parametrize(("turn", "is_preempted"), [(MIN_TURN_TOKENS - 1, False), (MIN_TURN_TOKENS, True)])
def test_a_much_longer_sequence_is_preempted_at_once(turn, is_preempted):
    case = Case(max_rows=1)
    case.run("a", num_tokens=50 + TURN, turn=turn)
    waiting = case.wait("b", num_tokens=50)
    assert case.schedule_all() == ([waiting] if is_preempted else [])


@pytest.mark.parametrize(("num_tokens", "is_preempted"), [(TURN - 1, False), (TURN, True)])
def test_longer_by_a_turn_is_much_longer(num_tokens, is_preempted):
    case = Case(max_rows=1)
    case.run("a", num_tokens=num_tokens, turn=MIN_TURN_TOKENS)
    waiting = case.wait("b")
    assert case.schedule_all() == ([waiting] if is_preempted else [])


def test_a_request_does_not_preempt_its_own_sequences():
    case = Case(max_rows=1)
    case.run("a", num_tokens=500, turn=500)
    case.wait("a")
    assert case.schedule_all() == []
    assert case.batch.preempted == []


def test_a_request_with_fewer_running_is_not_preempted():
    case = Case(max_rows=3)
    case.run("a", turn=TURN)
    case.run("b", turn=TURN)
    case.run("b", turn=TURN)
    case.wait("b")
    assert case.schedule_all() == []
    assert case.batch.preempted == []


def test_a_request_with_as_many_running_is_preempted():
    case = Case(max_rows=2)
    running = case.run("a", turn=TURN)
    case.run("b", turn=TURN)
    waiting = case.wait("b")
    assert case.scheduler.schedule() is waiting
    assert case.batch.preempted == [running.sequence]


def test_a_sequence_without_memory_for_its_state_is_not_preempted():
    case = Case(max_rows=1)
    running = case.run("a", turn=TURN)
    case.batch.without_memory = {running.sequence}
    case.wait("b")
    assert case.schedule_all() == []
    assert case.batch.preempted == []


def test_the_request_with_the_most_running_is_preempted_first():
    case = Case(max_rows=3)
    case.run("a", turn=5 * TURN)
    case.run("b", turn=TURN)
    longer = case.run("b", turn=TURN + 1)
    waiting = case.wait("c")
    assert case.scheduler.schedule() is waiting
    assert case.batch.preempted == [longer.sequence]


def test_a_preempted_sequence_waits_behind_all_others():
    case = Case(max_rows=1)
    running = case.run("a", turn=TURN)
    case.wait("b")
    later = case.wait("c")
    case.scheduler.schedule()
    assert list(case.scheduler.waiting) == [later, running]
    assert running.sequence not in case.scheduler.running


def test_one_preemption_that_is_not_enough_lets_nothing_join():
    case = Case(max_rows=2)
    case.run("a", turn=TURN)
    case.run("a", turn=TURN)
    waiting = case.wait("b")
    case.batch.max_rows = 1
    assert case.scheduler.schedule() is None
    assert waiting in case.scheduler.waiting
    assert case.scheduler.num_preempted == 1


def test_removed_sequences_neither_wait_nor_run():
    case = Case(max_rows=2)
    running, waiting = case.run("a"), case.wait("b")
    case.scheduler.remove(running)
    case.scheduler.remove(waiting)
    assert case.scheduler.entries == []


# -------------------------------------------------------------------------------------------------- kinds of work


def test_the_kind_with_the_least_time_is_next():
    shares = TimeShares(["language", "vision"])
    shares.add("language", 2.0)
    shares.add("vision", 1.0)
    assert shares.choose(["language", "vision"]) == "vision"
    shares.add("vision", 1.5)
    assert shares.choose(["language", "vision"]) == "language"
    assert shares.seconds == {"language": 2.0, "vision": 2.5}


def test_an_idle_kind_gains_no_right_to_past_time():
    shares = TimeShares(["language", "vision"])
    for _ in range(10):
        assert shares.choose(["language"]) == "language"
        shares.add("language", 1.0)
    assert shares.choose(["language", "vision"]) == "vision"
    shares.add("vision", 2.0)
    assert shares.choose(["language", "vision"]) == "language"
