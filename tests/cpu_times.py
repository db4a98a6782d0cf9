"""Processor time of the tests: `python -m pytest -n 2 --dist loadfile -p tests.cpu_times`.

The time is that of the test processes and of the processes that they started and waited for. It depends less on other
work of the machine than the time on a clock.
"""

import os
from collections import defaultdict
from collections.abc import Generator, Mapping
from typing import Any

import pytest

NUM_FILES = 30
START = "start and collection"

_seconds: defaultdict[str, float] = defaultdict(float)  # of each file; in the first process, those of all


def cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children, in seconds."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        _seconds[START] += cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Add what a test and its fixtures take to its file; a fixture of several files counts for the first."""
    before = cpu_seconds()
    try:
        return (yield)
    finally:
        _seconds[item.nodeid.partition("::")[0]] += cpu_seconds() - before


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["cpu_seconds"] = dict(_seconds)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be missing
def pytest_testnodedown(node: Any) -> None:
    for file, seconds in getattr(node, "workeroutput", {}).get("cpu_seconds", {}).items():
        _seconds[file] += seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    folders: defaultdict[str, float] = defaultdict(float)
    for file, seconds in _seconds.items():
        folders["/".join(file.split("/")[:2])] += seconds
    terminalreporter.section(f"processor time: {sum(_seconds.values()):.0f} s")
    for times in (folders, _seconds):
        for name, seconds in _most(times):
            terminalreporter.write_line(f"{seconds:8.1f} s  {name}")
        terminalreporter.write_line("")


def _most(times: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])[:NUM_FILES]
