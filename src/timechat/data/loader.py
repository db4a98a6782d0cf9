"""Load the batches of one process: samples are made in parallel, batches are returned in order."""

from collections.abc import Generator, Iterator
from itertools import count

from timechat.data.collate import Batch, collate
from timechat.data.dataset import InstructionDataset
from timechat.data.skipped import DataIssues
from timechat.data.threads import ordered_map


class BatchLoader:
    """Loader of the batches of one process. The batches do not depend on the number of workers.

    Batch `k` of all processes together is one range of samples, divided by rank. Two processes get the same samples as
    one process with twice the batch size.

    Attributes:
        report: Records that could not be used.
    """

    def __init__(
        self,
        dataset: InstructionDataset,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        batches_ahead: int = 2,
        report: DataIssues | None = None,
    ) -> None:
        """Prepare to load.

        Args:
            dataset: Dataset of samples.
            batch_size: Number of samples per batch and process. The mixture of the dataset must be made for
                `batch_size * world_size`.
            rank: Rank of this process.
            world_size: Number of processes.
            workers: Number of threads that make samples; 0 makes each batch on request.
            batches_ahead: Maximum number of batches that are made in advance.
            report: Report of unusable records; by default one without a file.
        """
        if batch_size < 1 or world_size < 1 or batches_ahead < 1:
            raise ValueError(
                "batch_size, world_size and batches_ahead must be at least 1, got "
                f"{batch_size}, {world_size} and {batches_ahead}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
        dataset.mixture.check_batches(batch_size * world_size)
        self.report = report or DataIssues()
        self._dataset = dataset
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._workers, self._ahead = workers, batches_ahead * batch_size

    def batches(self, first_step: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of this process from number `first_step` on, without end.

        Closing the iterator (also by leaving its loop) ends the threads and writes the report.

        Raises:
            DataError: Too many videos cannot be read, or features are missing.
        """
        made = ordered_map(
            self._numbers(first_step), self._dataset.__getitem__, workers=self._workers, ahead=self._ahead
        )
        try:
            for step in count(first_step):
                samples = []
                for _ in range(self._batch_size):
                    _, sample = next(made)
                    self.report.add(sample.skipped)
                    samples.append(sample)
                yield collate(samples, self._dataset.processor, step=step)
        finally:
            made.close()
            self.report.write()

    def _numbers(self, first_step: int) -> Iterator[int]:
        """Yield the numbers of this process's samples."""
        for step in count(first_step):
            first = (step * self._world_size + self._rank) * self._batch_size
            yield from range(first, first + self._batch_size)
