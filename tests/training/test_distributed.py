"""Processes find each other, also after a restart, and stop with one line if they cannot work together."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from timechat.errors import TrainingError
from timechat.training import distributed
from timechat.training.distributed import agree_on_prefix, check_shared_folder, on_first


def start(store: HashStore, size: int) -> list[str]:
    """Start processes, as threads."""
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(lambda number: agree_on_prefix(store, number, size, 10), range(size)))


def test_each_start_of_the_processes_has_its_own_prefix():
    store = HashStore()
    store.set("word/2", "left-by-a-process-that-was-killed")
    starts = [start(store, 3), start(store, 3), start(store, 3)]
    assert [len(set(prefixes)) for prefixes in starts] == [1, 1, 1]
    assert len({prefixes[0] for prefixes in starts}) == 3


def test_a_process_that_does_not_start_is_counted():
    with pytest.raises(TrainingError, match=r"1 of 2 processes did not start within 0.1 seconds; check the logs"):
        agree_on_prefix(HashStore(), 0, 2, 0.1)


def test_a_process_without_a_first_one_ends():
    store = HashStore()
    store.set_timeout(timedelta(seconds=0.1))
    message = r"another process has ended, or did not answer within 0.1 seconds"
    with pytest.raises(TrainingError, match=message), distributed._explain_lost_processes(0.1):
        agree_on_prefix(store, 1, 2, 0.1)


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Pretend to be the second of two processes; the reports of both are returned."""
    reports: list[list[str]] = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "gather", lambda items: reports.append(list(items)) or ["", *items])
    return reports


def test_a_folder_that_is_not_shared_is_named(two_processes, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "from_first", lambda _outcome: (".0.unfinished", None))
    with pytest.raises(TrainingError, match=r"run.output must be a folder that all machines share, but 1 of 2 proc"):
        check_shared_folder(tmp_path, seconds=0.1)
    (tmp_path / ".0.unfinished").touch()
    check_shared_folder(tmp_path, seconds=0.1)
    assert [bool(report) for [report] in two_processes] == [True, False]


def test_an_error_of_the_first_process_is_raised_everywhere(two_processes, monkeypatch):
    monkeypatch.setattr(distributed, "from_first", lambda _outcome: (None, TrainingError("no room")))
    with pytest.raises(TrainingError, match="no room"):
        on_first(lambda: 1)
