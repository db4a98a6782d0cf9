"""Collate samples into a batch: tensors padded on the right, with the real size of every video."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from timechat.data.dataset import TrainingSample
from timechat.model.processing import TimeChatProcessor, pad_right
from timechat.model.training_text import IGNORED_LABEL


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as inputs of the model: `model(**batch.inputs)` returns the loss.

    Attributes:
        step: Number of the batch.
        inputs: Tensors. One of `pixel_values` `(batch, frames, 3, height, width)`, `vision_states` and `frame_tokens`
            `(batch, frames, tokens, hidden)`; `qformer_input_ids` and `qformer_attention_mask` `(batch, frames,
            tokens)`; `video_sizes` `(batch, 2)`; `input_ids`, `attention_mask` and `labels` `(batch, sequence)`.
        samples: Samples of the batch.
    """

    step: int
    inputs: dict[str, Tensor]
    samples: tuple[TrainingSample, ...]

    @property
    def record_ids(self) -> list[str]:
        """Ids of the records, in order."""
        return [sample.record.id for sample in self.samples]


def collate(samples: Sequence[TrainingSample], processor: TimeChatProcessor, *, step: int = 0) -> Batch:
    """Stack samples of different lengths.

    The model encodes each video as if it were alone, because `video_sizes` holds its real size.
    """
    videos = [sample.video for sample in samples]
    inputs = {key: _stack([video[key] for video in videos]) for key in videos[0]}
    inputs["video_sizes"] = torch.tensor([list(video["qformer_input_ids"].shape) for video in videos])
    inputs["input_ids"], inputs["attention_mask"] = pad_right(
        [sample.input_ids for sample in samples], processor.pad_token_id
    )
    inputs["labels"], _ = pad_right([sample.labels for sample in samples], IGNORED_LABEL)
    return Batch(step, inputs, tuple(samples))


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of different sizes, each padded with zeros at its ends."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stacked = tensors[0].new_zeros(len(tensors), *shape)
    for row, tensor in zip(stacked, tensors, strict=True):
        row[tuple(map(slice, tensor.shape))] = tensor
    return stacked
