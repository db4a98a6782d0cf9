"""Records → samples: frames, time sentences, token ids and labels, all by the number of the sample."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from timechat.data.augmentation import random_resized_crop
from timechat.data.features import FeatureStore
from timechat.data.mixture import Mixture
from timechat.data.records import Record
from timechat.data.settings import SampleSettings, VideoLoader, conversation, read_frames
from timechat.data.skipped import Kind, SkippedRecord
from timechat.data.threads import ThreadLocalCopies
from timechat.errors import DataError, VideoError
from timechat.model.processing import IGNORED_LABEL, TimeChatProcessor

_MAX_SKIPPED = 20  # bad records in a row: no accident, but a wrong folder or too small a max_length


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """One training sample, before it is padded.

    Attributes:
        number: Of the sample, counted from 0 over all processes.
        record: What it was made of.
        source: Name of the record's source.
        video: `pixel_values` `(frames, 3, height, width)`, or `vision_states` `(frames, patches + 1, hidden)`, or
            `frame_tokens` `(frames, num_query_tokens + tokens, hidden)`; `qformer_input_ids` and
            `qformer_attention_mask` `(frames, tokens)`.
        timestamps: `(frames,)` seconds, as the model is told them.
        input_ids: Token ids of the conversation.
        labels: As many; -100 where there is no loss.
        skipped: What was lost on the way.
    """

    number: int
    record: Record
    source: str
    video: Mapping[str, Tensor]
    timestamps: NDArray[np.float64]
    input_ids: list[int]
    labels: list[int]
    skipped: tuple[SkippedRecord, ...] = ()


class InstructionDataset:
    """The endless sequence of samples of a run; `dataset[number]` is the same whenever and wherever it is asked."""

    def __init__(
        self,
        mixture: Mixture,
        processor: TimeChatProcessor,
        settings: SampleSettings | None = None,
        *,
        video_loader: VideoLoader | None = None,
        features: FeatureStore | None = None,
    ) -> None:
        """Prepare to make samples.

        Args:
            mixture: Which record a sample is made of.
            processor: Wording and tokenizers.
            settings: How samples are made.
            video_loader: Gives the video of a record; by default the file that it names.
            features: What frozen parts of the model made of the videos, to be read instead of these.

        Raises:
            DataError: The features were not made as these settings want them.
        """
        self.mixture = mixture
        self.processor = processor
        self.settings = settings or SampleSettings()
        self._processors = ThreadLocalCopies(processor)
        self._video_loader = video_loader or (lambda record: record.video)
        self._features = features
        if features is not None:
            features.check(self.settings, processor)

    def __getitem__(self, number: int) -> TrainingSample:
        """Make a sample.

        A record that cannot be used is passed over for the next one of its source, which `skipped` tells.

        Raises:
            DataError: One record after the other cannot be used.
        """
        losses: list[SkippedRecord] = []
        for skipped in range(_MAX_SKIPPED):
            place = self.mixture.locate(number, skipped=skipped)
            record, source = self.mixture.record(place), self.mixture.sources[place.source]
            try:
                sample = self._make(number, record, source.name, self.mixture.generator(number, skipped=skipped))
            except _UnusableRecordError as error:
                losses.append(SkippedRecord(error.kind, source.name, record.id, record.video, str(error), number))
                if skipped + 1 >= len(source.records):
                    break
            else:
                return replace(sample, skipped=(*losses, *sample.skipped))
        last = losses[-1]
        raise DataError(
            f"{len(losses)} records in a row of the source {last.source!r} cannot be used; the last, {last.record}, is "
            f"{last.kind}: {last.reason}. Check the source with `timechat data check`"
        )

    def _make(self, number: int, record: Record, source: str, generator: np.random.Generator) -> TrainingSample:
        """Make a sample of one record, or raise if it is of no use."""
        video, timestamps, notes = self._read_video(record, generator)
        input_ids, labels = self._processors.get().encode_training(
            timestamps,
            conversation(record, transcripts=self.settings.transcripts),
            max_length=self.settings.max_length,
            system=self.settings.system,
        )
        if all(label == IGNORED_LABEL for label in labels):
            raise _UnusableRecordError(
                "truncated", f"none of the answer is within max_length={self.settings.max_length} tokens"
            )
        losses = [SkippedRecord("degraded", source, record.id, record.video, note, number) for note in notes]
        is_cut = input_ids[-1] != self.processor.tokenizer.eos_token_id
        if len(input_ids) == self.settings.max_length and is_cut:
            reason = f"the answer runs on after max_length={self.settings.max_length} tokens"
            losses.append(SkippedRecord("shortened", source, record.id, record.video, reason, number))
        return TrainingSample(number, record, source, video, timestamps, input_ids, labels, tuple(losses))

    def _read_video(
        self, record: Record, generator: np.random.Generator
    ) -> tuple[dict[str, Tensor], NDArray[np.float64], tuple[str, ...]]:
        """Read frames, or what was made of them; also their times and what was lost of them."""
        try:
            if self._features is not None:
                return (*self._features.read(record, self._processors.get()), ())
            frames = read_frames(
                record,
                self.settings,
                size=self.processor.config.vision_config.image_size,
                source=self._video_loader(record),
                generator=generator if self.settings.sampling == "random" else None,
            )
        except VideoError as error:
            kind: Kind = "damaged" if "://" in record.video or Path(record.video).exists() else "missing"
            raise _UnusableRecordError(kind, str(error)) from error
        if self.settings.augmentation:
            frames = random_resized_crop(frames, generator)
        return self._processors.get().encode_frames(frames), frames.timestamps, frames.notes


class _UnusableRecordError(Exception):
    """A record that no sample can be made of."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
