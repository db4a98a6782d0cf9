"""Stages without a model, whose rows say by their names what happens."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timechat.answers.events import Answer, Event
from timechat.answers.merging import WindowAnswer
from timechat.answers.windows import Window
from timechat.batch.manifest import Row
from timechat.batch.pieces import DecodePiece, MergeTask, PieceTask, PlanPieces
from timechat.batch.stages import Piece, PlanVideo
from timechat.errors import CheckpointError, VideoError

EVENT = Event(1.0, 2.5, "a light", 0.5)


def result_of(row: Row) -> dict[str, Any]:
    answer = Answer(f"about {row.video}", [EVENT], task=row.task, duration=10.0, model="fake", timings={"answer": 0.25})
    return {**answer.to_dict(), "windows": 2}


@dataclass
class FakeStage:
    """Answers rows; `notes` is a folder in which every attempt leaves a file."""

    notes: Path

    def load(self) -> None:
        pass

    def __call__(self, row: Row, pieces: Any, on_piece: Any) -> dict[str, Any]:
        name = Path(row.video).stem
        attempts = len(list(self.notes.glob(f"{name}-*")))
        (self.notes / f"{name}-{attempts}-{len(pieces)}").touch()
        if name == "crash" or (name == "crash_once" and not attempts):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "hang" or (name == "hang_once" and not attempts):
            on_piece(Piece((WindowAnswer(Window(0, 60), "first"),), 2))
            time.sleep(60)
        if name == "bad":
            raise VideoError("bad.mp4: is damaged")
        if name == "bug":
            raise KeyError("a mistake")
        return result_of(row)


class BrokenModel:
    """A stage whose model cannot be loaded."""

    def load(self) -> None:
        raise CheckpointError("there is no model of that name")

    def __call__(self, *_: Any) -> dict[str, Any]:
        raise AssertionError


class PlanWithModules(PlanVideo):
    """`PlanVideo` that also says whether torch was imported."""

    def __call__(self, row: Row, pieces: Any, on_piece: Any) -> dict[str, Any]:
        return {**super().__call__(row, pieces, on_piece), "has_torch": "torch" in sys.modules}


class PlanPiecesWithModules(PlanPieces):
    """`PlanPieces` that also says whether torch was imported."""

    def __call__(self, row, pieces, on_piece, /) -> dict[str, Any]:
        return {**super().__call__(row, pieces, on_piece), "has_torch": "torch" in sys.modules}


class DecodeWithModules(DecodePiece):
    """`DecodePiece` that also says whether torch was imported."""

    def __call__(self, row, pieces, on_piece, /) -> dict[str, Any]:
        return {**super().__call__(row, pieces, on_piece), "has_torch": "torch" in sys.modules}


@dataclass
class FakePieces:
    """Plans and answers rows of several pieces without a model; every answer leaves a file in `notes`.

    Attributes:
        notes: Folder.
        num_pieces: Number of pieces of each row; a piece has two windows.
        seconds: Time that each piece takes, in seconds.
    """

    notes: Path
    num_pieces: int = 4
    seconds: float = 0.0

    def load(self) -> None:
        pass

    def windows(self) -> list[Window]:
        return [Window(10.0 * i, 10.0 * (i + 1)) for i in range(2 * self.num_pieces)]

    def __call__(self, row: Any, pieces: Any, on_piece: Any) -> dict[str, Any]:
        if isinstance(row, MergeTask):
            texts = [answer.text for answer in sorted(row.answers, key=lambda answer: answer.window.start)]
            return {**result_of(row.row), "text": " ".join(texts), "windows": len(texts)}
        name, number = Path(row.video).stem, int(row.windows[0].start // 20)
        (self.notes / f"{name}-{number}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        if (name, number) == ("bad", 1):
            raise VideoError("bad.mp4: is damaged")
        answers = tuple(WindowAnswer(window, f"{window.start:g}") for window in row.windows)
        return {"answers": answers, "seconds": {}, "is_outside": False, "total": 2 * self.num_pieces}


@dataclass
class FakePlan(FakePieces):
    """The plan of `FakePieces`, which leaves out pieces that are known."""

    def __call__(self, row: Any, pieces: Any, on_piece: Any) -> dict[str, Any]:
        windows = self.windows()
        known = {answer.window for piece in pieces for answer in piece.answers}
        groups = [tuple(windows[i : i + 2]) for i in range(0, len(windows), 2)]
        todo = [group for group in groups if not known.issuperset(group)]
        return {"tasks": [PieceTask(row, group, self.num_pieces) for group in todo or [()]]}
