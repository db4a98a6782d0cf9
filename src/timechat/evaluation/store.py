"""Raw answers on disk, so that a run that was stopped goes on where it was."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timechat.errors import DataError
from timechat.files import atomic_write


class AnswerStore:
    """Answers by film and by what was done to the film; each batch of answers is one line of a file.

    The first line tells the settings under which all of them were given. A last line that was cut when the run was
    stopped is dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open the file of answers, or begin it.

        Args:
            path: The file.
            settings: All that the answers depend on, ready for JSON.

        Raises:
            DataError: The file holds answers that were given under other settings.
        """
        self.path = path
        self._answers: dict[tuple[str, str], dict[str, str]] = {}
        lines = _whole_lines(path)
        if not lines:
            self._begin(settings)
            return
        _check_settings(path, json.loads(lines[0]), settings)
        for line in lines[1:]:
            row = json.loads(line)
            self._answers.setdefault((row["video"], row["shown"]), {}).update(row["answers"])

    def get(self, video: str, shown: str) -> dict[str, str]:
        """The answers that are there, by the id of the record that asked."""
        return dict(self._answers.get((video, shown), {}))

    def shown(self, shown: str) -> dict[str, dict[str, str]]:
        """All answers about films that were shown in one way, by film and record."""
        return {video: dict(answers) for (video, how), answers in self._answers.items() if how == shown}

    def add(self, video: str, shown: str, answers: Mapping[str, str]) -> None:
        """Keep answers, safely on disk when this returns."""
        row = {"video": video, "shown": shown, "answers": dict(answers)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._answers.setdefault((video, shown), {}).update(answers)

    def _begin(self, settings: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as unfinished:
            unfinished.write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")


def _whole_lines(path: Path) -> list[str]:
    """Lines that were written to their end; a rest behind them is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return content[:whole].decode().split("\n")[:-1]


def _check_settings(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
    if differing:
        told = ", ".join(f"{key} {there.get(key)!r} instead of {wanted.get(key)!r}" for key in differing)
        raise DataError(f"the answers in {path} were given with {told}; give another file, or delete this one")
