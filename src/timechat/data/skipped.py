"""What a run could not learn from, and why: counted, named in a file, and too much of it an error."""

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

Kind = Literal["missing", "damaged", "truncated", "shortened", "degraded"]

BAD_VIDEO: frozenset[Kind] = frozenset({"missing", "damaged"})

_ENOUGH_SAMPLES = 100
_WRITE_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """Something of a record that was lost.

    Attributes:
        kind: `missing` or `damaged`: the video cannot be read, and the next record of the source took its place.
            `truncated`: so did it where the whole answer would have been cut off. `shortened`: a part of the answer
            was cut off. `degraded`: some frames are damaged and were left out.
        source: Name of the source.
        record: Id of the record.
        video: Path of its video.
        reason: In words.
        sample: Number of the sample in which it was first met.
    """

    kind: Kind
    source: str
    record: str
    video: str
    reason: str
    sample: int


class DataIssues:
    """Counts losses, writes each record's to a file once, and stops a run that loses too much.

    Attributes:
        counts: Samples that suffered each kind of loss.
        samples: Samples seen.
    """

    def __init__(self, path: Path | None = None, *, max_bad_share: float = 0.01) -> None:
        """Go on with the report at `path` if there is one.

        Args:
            path: JSON Lines file, one a process; None keeps no file.
            max_bad_share: Share of unreadable videos among the videos tried, above which `DataError` is raised; it is
                judged from 100 samples on, and at the end.
        """
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share must be from 0 to 1, got {max_bad_share}")
        self.path = path
        self.max_bad_share = max_bad_share
        self.counts: Counter[Kind] = Counter()
        self.samples = 0
        self._losses: dict[tuple[str, str, str], SkippedRecord] = {}
        self._written = 0.0
        self._is_changed = False
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._name(SkippedRecord(**json.loads(line)))

    @property
    def skipped(self) -> list[SkippedRecord]:
        """Each record's loss once, in the order in which they were met."""
        return list(self._losses.values())

    @property
    def bad_share(self) -> float:
        """Share of the videos tried that could not be read."""
        bad = sum(self.counts[kind] for kind in BAD_VIDEO)
        return bad / max(1, self.samples + bad)

    def add(self, skipped: Iterable[SkippedRecord]) -> None:
        """Count one sample and what was lost on the way to it.

        Raises:
            DataError: Too large a share of the videos cannot be read.
        """
        self.samples += 1
        for loss in skipped:
            self.counts[loss.kind] += 1
            if self._name(loss):
                logger.warning("%s: %s is %s: %s", loss.source, loss.record, loss.kind, loss.reason)
        if self._is_changed and time.monotonic() - self._written > _WRITE_SECONDS:
            self.write()
        if self.samples >= _ENOUGH_SAMPLES:
            self.check()

    def check(self) -> None:
        """Raise if too large a share of the videos cannot be read."""
        if self.bad_share > self.max_bad_share:
            self.write()
            named = [loss for loss in self.skipped if loss.kind in BAD_VIDEO]
            where = f"; all are named in {self.path}" if self.path else ""
            raise DataError(
                f"{self.bad_share:.1%} of the videos cannot be read, more than max_bad_share={self.max_bad_share:.1%} "
                f"allows ({self.samples} samples, {self.summary()}); the first is {named[0].video}: "
                f"{named[0].reason}{where}. Mend or leave out these records (`timechat data check` lists them), or "
                "raise max_bad_share"
            )

    def summary(self) -> str:
        """The counts in words."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items())) or "nothing lost"

    def write(self) -> None:
        """Write the file, whole or not at all."""
        self._written, self._is_changed = time.monotonic(), False
        if self.path is not None and self._losses:
            write_lines(self.path, (asdict(loss) for loss in self._losses.values()))

    def _name(self, skipped: SkippedRecord) -> bool:
        """Remember a loss; True if it is new."""
        key = (skipped.kind, skipped.source, skipped.record)
        is_new = key not in self._losses
        if is_new:
            self._losses[key] = skipped
            self._is_changed = True
        return is_new
