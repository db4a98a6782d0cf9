"""Make the batches of a recipe from its records, which `timechat.data` mixes, reads and collates."""

import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from timechat.data.dataset import InstructionDataset
from timechat.data.features import FeatureHeader, FeatureStore, check_parts_are_frozen
from timechat.data.hub_records import DatasetRecords
from timechat.data.indexed import RecordIndex, folder_of, index_records, short_name
from timechat.data.loader import BatchLoader
from timechat.data.mixture import Mixture, RecordSource
from timechat.data.settings import SampleSettings
from timechat.data.skipped import DataIssues
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.training.config import DataSettings, SourceSettings, TrainingRecipe
from timechat.training.distributed import on_first, rank, world_size
from timechat.training.parameters import trainable

SKIPPED_FILE = "lost-records-{rank}.jsonl"


class InstructionBatches:
    """Batches of instruction records for the training loop.

    Attributes:
        loader: Loader of the batches of this process.
    """

    def __init__(self, loader: BatchLoader, find_fingerprint: Callable[[], str]) -> None:
        self.loader = loader
        self._find_fingerprint = find_fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the records; all of them are read."""
        return self._find_fingerprint()

    def batches(self, first_iteration: int) -> Generator[dict[str, Any], None, None]:
        """Yield the batches of this process from an iteration on, without end."""
        batches = self.loader.batches(first_iteration)
        try:
            for batch in batches:
                yield {**batch.inputs, "record_ids": batch.record_ids}
        finally:
            batches.close()  # ends its threads and writes its report


def make_source(
    recipe: TrainingRecipe, model: TimeChatForConditionalGeneration, processor: TimeChatProcessor
) -> InstructionBatches:
    """Make the batches of this process; unreadable records are listed in the folder of the run.

    Raises:
        DataError: A file of records cannot be read, or features do not fit the model.
        ValueError: The recipe names no records.
    """
    data = recipe.data
    if data.films is not None:
        raise ValueError(f"data.films is for objectives of synthetic videos, not for {recipe.objective}; leave it out")
    if not data.sources:
        raise ValueError("data.sources is empty; name at least one file of records")
    sources = [
        RecordSource(
            source.name or short_name(source.records),
            on_first(partial(_index, source)),
            weight=source.weight,
        )
        for source in data.sources
    ]
    batch_size = recipe.run.samples_per_process(world_size())
    mixture = Mixture(sources, seed=recipe.run.seed, batch_size=batch_size * world_size())
    features = None
    if data.features is not None:
        features = FeatureStore(data.features, model)
        check_parts_are_frozen(list(trainable(model)), features.header.parts)
    dataset = InstructionDataset(mixture, processor, sample_settings(data), features=features)
    report = DataIssues(Path(recipe.run.output) / SKIPPED_FILE.format(rank=rank()), max_bad_share=data.max_bad_share)
    loader = BatchLoader(
        dataset,
        batch_size=batch_size,
        rank=rank(),
        world_size=world_size(),
        workers=data.workers,
        report=report,
    )
    header = None if features is None else features.header
    return InstructionBatches(loader, partial(_fingerprint, data, sources, header))


def _index(source: SourceSettings) -> RecordIndex | DatasetRecords:
    """Check the records of a source; the other processes get their places from the first one."""
    return index_records(source.records, videos=source.videos, format=source.format, transcripts=source.transcripts)


def _fingerprint(data: DataSettings, sources: Sequence[RecordSource], features: FeatureHeader | None) -> str:
    """Return the SHA-256 of records and of the settings of features; video paths count without their base folder."""
    digest = hashlib.sha256()
    for settings, source in zip(data.sources, sources, strict=True):
        base = folder_of(settings.records) if settings.videos is None else settings.videos
        for record in source.records:
            content = record.to_dict() | {record.source_key: _below(record.video, base), "id": ""}
            digest.update(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    digest.update(repr(features).encode())
    return digest.hexdigest()


def _below(video: str, folder: str) -> str:
    if "://" in video:
        return video.removeprefix(f"{folder}/")
    return Path(os.path.relpath(video, folder)).as_posix()


def sample_settings(data: DataSettings) -> SampleSettings:
    """Return the sample settings of a recipe."""
    return SampleSettings(
        num_frames=data.num_frames,
        fps=data.fps,
        max_frames=data.max_frames,
        sampling=data.sampling,
        augmentation=data.augmentation,
        max_length=data.max_length,
        transcripts=data.transcripts,
        timeout=data.timeout,
    )
