"""The command, called in this process, and a short video."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.clips import RECIPES, draw_clip
from timechat.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clock.mp4"
    draw_clip(RECIPES["constant rate"], path)
    return path


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Call the command in this process; the result is its exit status, stdout and stderr."""
    with patch.object(sys, "argv", ["timechat", *map(str, arguments)]), pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Function that calls the command."""
    return partial(run_command, capsys)


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Call the command with bad input; the result is its one line without the name of the program."""

    def call(*arguments: object) -> str:
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        return err.removeprefix("timechat: ").rstrip("\n")

    return call
