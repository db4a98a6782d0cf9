"""Records that a run skipped or shortened: they are counted and listed in a file, and too many are an error."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from timechat.data.records import write_lines
from timechat.errors import DataError

Kind = Literal["missing", "damaged", "truncated", "shortened", "degraded", "empty"]

BAD_VIDEO: frozenset[Kind] = frozenset({"missing", "damaged"})

_ENOUGH_SAMPLES = 100
_WRITE_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """A record that was skipped or changed.

    Attributes:
        kind: `missing` or `damaged`: the video cannot be read, and the next record of the source replaces the record.
            `truncated`: the whole answer is beyond the maximum length, and the next record replaces the record.
            `shortened`: a part of the answer is beyond the maximum length. `degraded`: damaged frames were dropped.
            `empty`: an answer is empty, and the next record replaces the record.
        source: Name of the source.
        record: Id of the record.
        video: Path of its video.
        reason: Description of the reason.
        sample: Number of the first sample with this record.
    """

    kind: Kind
    source: str
    record: str
    video: str
    reason: str
    sample: int


class DataIssues:
    """Counts skipped records, lists each of them in a file once, and stops a run with too many of them.

    Attributes:
        counts: Number of samples with each kind of issue.
        samples: Number of samples so far.
    """

    def __init__(self, path: Path | None = None, *, max_bad_share: float = 0.01) -> None:
        """Continue the report at `path` if there is one.

        Args:
            path: JSON Lines file, one per process; None writes no file.
            max_bad_share: Maximum share of unreadable videos, from 0 to 1. Above it, `DataError` is raised; it is
                checked from 100 samples on, and at the end.
        """
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share must be from 0 to 1, got {max_bad_share}")
        self.path = path
        self.max_bad_share = max_bad_share
        self.counts: Counter[Kind] = Counter()
        self.samples = 0
        self._skipped: dict[tuple[str, str, str], SkippedRecord] = {}
        self._written = 0.0
        self._is_changed = False
        if path is not None and path.exists():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    self._remember(SkippedRecord(**json.loads(line)))
                except (ValueError, TypeError) as error:
                    raise DataError(f"{path}:{number} is no line of a report ({error}); remove this file") from error

    @property
    def skipped(self) -> list[SkippedRecord]:
        """All issues, once per record, in the order of their first sample."""
        return list(self._skipped.values())

    @property
    def bad_share(self) -> float:
        """Share of unreadable videos among all videos that were read."""
        bad = sum(self.counts[kind] for kind in BAD_VIDEO)
        return bad / max(1, self.samples + bad)

    def add(self, skipped: Iterable[SkippedRecord]) -> None:
        """Count one sample and its issues.

        Raises:
            DataError: The share of unreadable videos is too large.
        """
        self.samples += 1
        for item in skipped:
            self.counts[item.kind] += 1
            if self._remember(item):
                logger.warning("%s: %s is %s: %s", item.source, item.record, item.kind, item.reason)
        if self._is_changed and time.monotonic() - self._written > _WRITE_SECONDS:
            self.write()
        if self.samples >= _ENOUGH_SAMPLES:
            self.check()

    def check(self) -> None:
        """Raise an error if the share of unreadable videos is too large."""
        if self.bad_share > self.max_bad_share:
            self.write()
            named = [item for item in self.skipped if item.kind in BAD_VIDEO]
            where = f"; all are listed in {self.path}" if self.path else ""
            raise DataError(
                f"{self.bad_share:.1%} of the videos cannot be read, more than max_bad_share={self.max_bad_share:.1%} "
                f"allows ({self.samples} samples, {self.summary()}); the first is {named[0].video}: "
                f"{named[0].reason}{where}. Repair or remove these records (`timechat data check` lists them), or "
                "raise data.max_bad_share; the run resumes from its last checkpoint"
            )

    def summary(self) -> str:
        """Return the counts as text."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items())) or "no issues"

    def write(self) -> None:
        """Write the file atomically."""
        self._written, self._is_changed = time.monotonic(), False
        if self.path is not None and self._skipped:
            write_lines(self.path, (asdict(item) for item in self._skipped.values()))

    def _remember(self, skipped: SkippedRecord) -> bool:
        """Add an issue; return whether it is new."""
        key = (skipped.kind, skipped.source, skipped.record)
        is_new = key not in self._skipped
        if is_new:
            self._skipped[key] = skipped
            self._is_changed = True
        return is_new
