"""What many tests of evaluation share, made once a session."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from timechat.evaluation.metrics.java import MeteorProcess, java_is_ready


@pytest.fixture(scope="session")
def meteor_process() -> Iterator[MeteorProcess | None]:
    """METEOR takes some seconds to start; None without Java."""
    if not java_is_ready():
        yield None
        return
    with MeteorProcess() as process:
        yield process


@pytest.fixture
def meteor(meteor_process: MeteorProcess | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions are scored by the session's METEOR."""
    if meteor_process is not None:
        monkeypatch.setattr("timechat.evaluation.metrics.java.MeteorProcess", lambda: nullcontext(meteor_process))
