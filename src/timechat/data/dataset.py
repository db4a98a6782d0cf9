"""Training samples from records: frames, time sentences, token ids and labels, determined by the sample number."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from timechat.data.augmentation import random_resized_crop
from timechat.data.features import FeatureStore
from timechat.data.indexed import open_video
from timechat.data.mixture import Mixture
from timechat.data.records import Record
from timechat.data.settings import SampleSettings, VideoLoader, check_max_length, conversation, read_frames
from timechat.data.skipped import Kind, SkippedRecord
from timechat.data.threads import ThreadLocalCopies
from timechat.errors import DataError, VideoError
from timechat.model.processing import TimeChatProcessor
from timechat.model.training_text import IGNORED_LABEL

_MAX_SKIPPED = 20  # unusable records in a row; more mean a wrong folder or a max_length that is too small


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """One training sample, before it is padded.

    Attributes:
        number: Number of the sample, from 0 over all processes.
        record: Record of the sample.
        source: Name of the record's source.
        video: Tensors. `pixel_values` `(frames, 3, height, width)`, or `vision_states` `(frames, patches + 1, hidden)`,
            or `frame_tokens` `(frames, num_query_tokens + tokens, hidden)`; and `qformer_input_ids` and
            `qformer_attention_mask` `(frames, tokens)`.
        timestamps: Times `(frames,)` in seconds, as the model gets them.
        input_ids: Token ids of the conversation.
        labels: Label of each token; -100 for tokens without loss.
        skipped: Records that were skipped or shortened for this sample.
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
    """The endless sequence of samples of a run; `dataset[number]` is always the same, in every process."""

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
            mixture: Sequence of records.
            processor: Processor with prompts and tokenizers.
            settings: Settings of the samples.
            video_loader: Function that returns the video of a record; by default the file of the record.
            features: Precomputed outputs of frozen parts of the model, read instead of the videos.

        Raises:
            DataError: The features were made with other settings.
            ValueError: `max_length` is more than the language model reads.
        """
        self.mixture = mixture
        self.processor = processor
        self.settings = settings or SampleSettings()
        check_max_length(self.settings, processor)
        self._processors = ThreadLocalCopies(processor)
        self._video_loader = video_loader or open_video
        self._features = features
        if features is not None:
            features.check(self.settings, processor)

    def __getitem__(self, number: int) -> TrainingSample:
        """Make a sample.

        The next record of the source replaces an unusable one; `skipped` lists such records.

        Raises:
            DataError: Too many records in a row are unusable.
        """
        unusable: list[SkippedRecord] = []
        for skipped in range(_MAX_SKIPPED):
            location = self.mixture.locate(number, skipped=skipped)
            record, source = self.mixture.record(location), self.mixture.sources[location.source]
            try:
                sample = self._make(number, record, source.name, self.mixture.generator(number, skipped=skipped))
            except _UnusableRecordError as error:
                unusable.append(SkippedRecord(error.kind, source.name, record.id, record.video, str(error), number))
                if skipped + 1 >= len(source.records):
                    break
            else:
                return replace(sample, skipped=(*unusable, *sample.skipped))
        last = unusable[-1]
        raise DataError(
            f"{len(unusable)} records in a row of the source {last.source!r} cannot be used; the last, {last.record}, "
            f"is {last.kind}: {last.reason}. Check the source with `timechat data check`"
        )

    def _make(self, number: int, record: Record, source: str, generator: np.random.Generator) -> TrainingSample:
        """Make a sample of one record, or raise an error if it is unusable."""
        if not all(answer.strip() for _, answer in record.turns):
            raise _UnusableRecordError("empty", "an answer is empty")
        video, timestamps, notes = self._read_video(record, generator)
        input_ids, labels = self._processors.get().encode_training(
            timestamps,
            conversation(record, transcripts=self.settings.transcripts),
            max_length=self.settings.max_length,
            system=self.settings.system,
        )
        if all(label == IGNORED_LABEL for label in labels):
            raise _UnusableRecordError(
                "truncated", f"no part of the answer is within max_length={self.settings.max_length} tokens"
            )
        issues = [SkippedRecord("degraded", source, record.id, record.video, note, number) for note in notes]
        is_cut = input_ids[-1] != self.processor.tokenizer.eos_token_id
        if len(input_ids) == self.settings.max_length and is_cut:
            reason = f"the answer is longer than max_length={self.settings.max_length} tokens allow"
            issues.append(SkippedRecord("shortened", source, record.id, record.video, reason, number))
        return TrainingSample(number, record, source, video, timestamps, input_ids, labels, tuple(issues))

    def _read_video(
        self, record: Record, generator: np.random.Generator
    ) -> tuple[dict[str, Tensor], NDArray[np.float64], tuple[str, ...]]:
        """Read frames or their features; return the tensors, the times, and notes about damage."""
        try:
            if self._features is not None:
                return (*self._features.read(record, self._processors.get()), ())
            frames = read_frames(
                record,
                self.settings,
                size=self.processor.config.frame_size,
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
    """Error for a record from which no sample can be made."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
