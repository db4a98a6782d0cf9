"""The mixture of records: the record of a sample is a pure function of the seed and the sample number.

So the samples of a run do not depend on interruptions or on the number of processes and workers.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from timechat.data.records import Record
from timechat.errors import DataError

_BLOCK = 4096  # number of units whose sources are drawn together
_CHOICE, _ORDER, _SAMPLE = 1, 2, 3  # purposes of the random number streams


@dataclass(frozen=True)
class RecordSource:
    """One set of records, and its share of the samples.

    Attributes:
        name: Name in reports.
        records: Records, at least one.
        weight: Share of the samples relative to the weights of the other sources, independent of their sizes. The
            original draws from all sets equally often.
    """

    name: str
    records: Sequence[Record] = field(repr=False)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.records:
            raise DataError(f"the source {self.name!r} holds no record")
        if not (np.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"the weight of the source {self.name!r} must be above 0, got {self.weight}")


@dataclass(frozen=True, slots=True)
class SampleLocation:
    """Location of a sample in the sources.

    Attributes:
        source: Index of the source.
        index: Index of the record in its source.
        epoch: Number of complete passes over the source before.
    """

    source: int
    index: int
    epoch: int


class Mixture:
    """Sources, shuffled and mixed into one endless sequence of samples.

    Each source is repeated, every time in a new random order. Unless batches are mixed, all samples of a batch, over
    all processes, come from one source, which is drawn by the weights, as in the original.
    """

    def __init__(
        self, sources: Sequence[RecordSource], *, seed: int, batch_size: int = 1, mixed_batches: bool = False
    ) -> None:
        """Prepare to mix.

        Args:
            sources: Sources to mix.
            seed: Random seed for order and choice.
            batch_size: Number of samples of a batch on all processes together.
            mixed_batches: Whether to draw a source for every sample instead of for every batch.
        """
        if not sources:
            raise ValueError("sources must name at least one set of records, got none")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.sources = tuple(sources)
        self.seed = seed
        self._batch_size = batch_size
        self._unit = 1 if mixed_batches else batch_size  # number of samples that share a source
        weights = np.array([source.weight for source in sources])
        self._borders = np.cumsum(weights / weights.sum())
        self._taken = [np.zeros(len(sources), dtype=np.int64)]  # units of each source before each block
        self._lock = threading.Lock()
        self._choices = lru_cache(maxsize=8)(self._draw_choices)
        self._order = lru_cache(maxsize=4 * len(self.sources))(self._draw_order)

    def locate(self, number: int, *, skipped: int = 0) -> SampleLocation:
        """Return the location of the record of a sample.

        Args:
            number: Number of the sample, from 0 over all processes.
            skipped: Number of records to skip, in the order of the source in this epoch.
        """
        unit, offset = divmod(number, self._unit)
        block, row = divmod(unit, _BLOCK)
        choices = self._choices(block)
        source = int(choices[row])
        taken = int(self._taken_before(block)[source] + (choices[:row] == source).sum())
        size = len(self.sources[source].records)
        epoch, position = divmod(taken * self._unit + offset, size)
        # Within the epoch, so that skipping reaches every record of the source once.
        return SampleLocation(source, int(self._order(source, epoch)[(position + skipped) % size]), epoch)

    def check_batches(self, batch_size: int) -> None:
        """Raise an error if the batch size differs from that of the mixture."""
        if self._unit > 1 and batch_size != self._batch_size:
            raise ValueError(
                f"the mixture was made for batches of {self._batch_size} samples on all processes together, got "
                f"{batch_size}; make it with Mixture(..., batch_size={batch_size})"
            )

    def record(self, location: SampleLocation) -> Record:
        """Return the record at a location."""
        return self.sources[location.source].records[location.index]

    def generator(self, number: int, *, skipped: int = 0) -> np.random.Generator:
        """Return the random number generator for making sample `number`."""
        return np.random.default_rng([self.seed, _SAMPLE, number, skipped])

    def _draw_choices(self, block: int) -> NDArray[np.int64]:
        """Draw the sources of the units of a block, `(_BLOCK,)`."""
        drawn = np.random.default_rng([self.seed, _CHOICE, block]).random(_BLOCK)
        choices: NDArray[np.int64] = np.searchsorted(self._borders[:-1], drawn, side="right")
        return choices

    def _draw_order(self, source: int, epoch: int) -> NDArray[np.int64]:
        """Draw the order of a source's records in one epoch, `(records,)`."""
        generator = np.random.default_rng([self.seed, _ORDER, source, epoch])
        order: NDArray[np.int64] = generator.permutation(len(self.sources[source].records))
        return order

    def _taken_before(self, block: int) -> NDArray[np.int64]:
        """Count the units of each source before a block, `(sources,)`."""
        with self._lock:
            while len(self._taken) <= block:
                counts = np.bincount(self._choices(len(self._taken) - 1), minlength=len(self.sources))
                self._taken.append(self._taken[-1] + counts)
            return self._taken[block]
