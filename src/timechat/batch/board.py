"""The answers about the pieces of long videos that several processes work on, kept in one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from timechat.answers.merging import WindowAnswer
from timechat.answers.windows import Window
from timechat.batch.pieces import Seconds
from timechat.batch.stages import Piece


@dataclass
class _Known:
    """What is known of one row."""

    answers: dict[Window, WindowAnswer] = field(default_factory=dict)
    num_windows: int | None = None
    seconds: Seconds = field(default_factory=dict)
    is_outside: bool | None = None
    is_over: bool = False
    last: float | None = None


@dataclass(frozen=True)
class PieceState:
    """What a process needs to know before it answers a piece.

    Attributes:
        is_over: Whether the row has failed or is answered already, so that the piece is not needed.
        is_known: Whether all windows of the piece have been answered.
        is_outside: See `PieceTask`.
    """

    is_over: bool
    is_known: bool
    is_outside: bool | None


class PieceBoard:
    """The answers about the pieces of all rows that are not finished; one object for all processes of a job.

    A piece is named by the start of its first window. All methods can be repeated, as a process may die at any moment
    and another one repeats its piece.
    """

    def __init__(self, known: Mapping[str, Sequence[Piece]]) -> None:
        """Begin with the answers of an earlier run, by the identifiers of the rows."""
        self._rows: dict[str, _Known] = {}
        self._new: list[tuple[str, Piece]] = []
        for row_id, pieces in known.items():
            row = self._row(row_id)
            row.answers = {answer.window: answer for piece in pieces for answer in piece.answers}
            row.num_windows = max((piece.num_windows for piece in pieces), default=None)

    def begin_round(self) -> None:
        """Let rows without a result be finished by another process than the one that has begun to."""
        for row in self._rows.values():
            row.is_over, row.last = False, None

    def begin(self, row_id: str, windows: Sequence[Window]) -> PieceState:
        """Return what is known before a piece is answered."""
        row = self._row(row_id)
        return PieceState(row.is_over, row.answers.keys() >= set(windows), row.is_outside)

    def add(
        self, row_id: str, start: float, piece: Piece, seconds: Seconds, is_outside: bool | None
    ) -> tuple[tuple[WindowAnswer, ...], Seconds] | None:
        """Store the answers about a piece; return all answers about the video to the process that added the last.

        A piece without answers is one that is known, of a process that repeats it.
        """
        row = self._row(row_id)
        if any(answer.window not in row.answers for answer in piece.answers):
            row.answers |= {answer.window: answer for answer in piece.answers}
            row.seconds = {stage: row.seconds.get(stage, 0.0) + value for stage, value in seconds.items()}
            row.is_outside = is_outside
            row.num_windows = piece.num_windows
            self._new.append((row_id, piece))
        is_complete = row.num_windows is not None and len(row.answers) >= row.num_windows
        if row.is_over or not is_complete or not self.claim(row_id, start):
            return None
        return tuple(row.answers.values()), row.seconds

    def claim(self, row_id: str, start: float) -> bool:
        """Return whether the process with this piece finishes the row: the first one that asks."""
        row = self._row(row_id)
        row.last = start if row.last is None else row.last
        return row.last == start

    def finish(self, row_id: str) -> None:
        """Let the other pieces of a row be skipped, because it has failed."""
        self._row(row_id).is_over = True

    def forget(self, row_id: str) -> None:
        """Free the answers of a row whose result is stored."""
        self._rows[row_id] = _Known(is_over=True)

    def take(self) -> list[tuple[str, Piece]]:
        """Return the pieces that were added since the last call."""
        new, self._new = self._new, []
        return new

    def _row(self, row_id: str) -> _Known:
        return self._rows.setdefault(row_id, _Known())
