"""Waiting that can be called off."""

import threading

import pytest

from timechat.backbones.backbone import acquire


class NobodyWaitsError(Exception):
    pass


def nobody_waits():
    raise NobodyWaitsError


def test_a_lock_that_is_free_is_held_and_let_go_whatever_happens():
    lock = threading.Lock()
    with acquire(lock, nobody_waits):
        assert lock.locked()
    with pytest.raises(KeyError), acquire(lock, nobody_waits):
        raise KeyError
    assert not lock.locked()


def test_waiting_ends_when_check_raises_and_the_lock_stays_held():
    lock, asked = threading.Lock(), []

    def check():
        asked.append(True)
        if len(asked) == 3:
            raise NobodyWaitsError

    with lock:
        with pytest.raises(NobodyWaitsError), acquire(lock, check):
            pytest.fail("somebody else has it")
        assert lock.locked()
    assert len(asked) == 3


def test_a_waiting_thread_gets_the_lock_when_it_is_free():
    lock = threading.Lock()
    with lock:
        waits = threading.Event()
        seen = []

        def wait():
            with acquire(lock, waits.set):
                seen.append(lock.locked())

        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(5)
        assert not seen
    thread.join(5)
    assert seen == [True]
