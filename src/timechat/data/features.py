"""What frozen parts of the model make of videos, computed once and read instead of the videos.

A store is a folder: `index.json` says which weights and which sampling made it and which videos cannot be read, and
one safetensors file for each video, or part of a video, holds the states of its frames and their times.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from timechat.data.records import Record
from timechat.data.settings import FrameRateSettings, SampleSettings, VideoLoader, read_frames
from timechat.data.threads import ordered_map
from timechat.errors import DataError, VideoError
from timechat.files import atomic_write
from timechat.model.fingerprint import weights_fingerprint
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.video import Frames

Parts = Literal["vision", "frames"]
"""`vision`: the vision tower's states; `frames`: the image Q-Former's, where that is frozen as well."""

INDEX_FILE = "index.json"
_VERSION = 1
_INPUT_NAMES: dict[str, str] = {"vision": "vision_states", "frames": "frame_tokens"}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_INDEX_EVERY = 200  # videos


@dataclass(frozen=True, kw_only=True)
class FeatureHeader(FrameRateSettings):
    """What features depend on; those of another header are refused.

    Attributes:
        parts: Which parts of the model made them.
        weights: SHA-256 of these parts' weights.
        dtype: Number format on disk.
        image_size: Pixels.
        image_mean: What is taken from the pixels.
        image_std: What they are divided by.
        timestamp_tokenizer: Vocabulary of the time sentences that the image Q-Former read; `""` for `vision`.
    """

    parts: Parts
    weights: str
    dtype: str
    image_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    timestamp_tokenizer: str

    @classmethod
    def of(
        cls, parts: Parts, weights: str, dtype: str, settings: SampleSettings, processor: TimeChatProcessor
    ) -> "FeatureHeader":
        """Tell what features of these settings depend on."""
        return cls(
            parts=parts,
            weights=weights,
            dtype=dtype,
            num_frames=settings.num_frames if settings.fps is None else 0,
            fps=settings.fps,
            max_frames=settings.max_frames,
            image_size=processor.config.vision_config.image_size,
            image_mean=tuple(processor.image_mean),
            image_std=tuple(processor.image_std),
            timestamp_tokenizer=processor.config.timestamp_tokenizer if parts == "frames" else "",
        )

    def differences(self, other: "FeatureHeader") -> str:
        """Name what differs, `""` for nothing."""
        return ", ".join(
            f"{name} is {mine!r}, not {getattr(other, name)!r}"
            for name, mine in vars(self).items()
            if mine != getattr(other, name)
        )


class FeatureStore:
    """A folder of features, to be read.

    Attributes:
        folder: Where they are.
        header: What they depend on.
    """

    def __init__(self, folder: str | Path, model: TimeChatForConditionalGeneration) -> None:
        """Open a store of features that this model has made.

        Raises:
            DataError: There is none in the folder, or other weights (or the same in another number format) made it.
        """
        self.folder = Path(folder)
        self.header, self._bad = _read_index(self.folder)
        if _hash_weights(model, self.header.parts) != self.header.weights:
            raise DataError(
                f"{folder}: these features were made by other weights, or in another number format, than this model's; "
                "make them again with `timechat data encode`, or train from the videos"
            )

    def check(self, settings: SampleSettings, processor: TimeChatProcessor) -> None:
        """Refuse features that these settings would not make.

        Raises:
            DataError: Something differs; the message says what.
        """
        check_settings(settings)
        wanted = FeatureHeader.of(self.header.parts, self.header.weights, self.header.dtype, settings, processor)
        if differences := self.header.differences(wanted):
            raise DataError(
                f"{self.folder}: these features do not fit: {differences}; make them again with `timechat data encode`"
            )

    def read(self, record: Record, processor: TimeChatProcessor) -> tuple[dict[str, Tensor], NDArray[np.float64]]:
        """Return what stands for a record's video in a sample, and its frames' times.

        Raises:
            VideoError: The video could not be read when the features were made.
            DataError: The record is not in the store.
        """
        key = feature_key(record, self.folder)
        if key in self._bad:
            raise VideoError(self._bad[key])
        states, timestamps = self._load(key, record)
        input_ids, attention_mask = processor.encode_timestamps(timestamps)
        video = {
            _INPUT_NAMES[self.header.parts]: states,
            "qformer_input_ids": input_ids,
            "qformer_attention_mask": attention_mask,
        }
        return video, timestamps

    def _load(self, key: str, record: Record) -> tuple[Tensor, NDArray[np.float64]]:
        path = _feature_file(self.folder, key)
        if not path.exists():
            raise DataError(
                f"{self.folder}: holds no features of {record.video}; add them with `timechat data encode`, which goes "
                "on where it stopped"
            )
        with safe_open(path, framework="pt") as file:
            states = file.get_tensor("states")
            # What reads vision states takes any number format; frame tokens go on as they are.
            states = states.float() if self.header.parts == "frames" else states
            return states, file.get_tensor("timestamps").numpy()


def encode_features(
    model: TimeChatForConditionalGeneration,
    processor: TimeChatProcessor,
    records: Iterable[Record],
    folder: str | Path,
    settings: SampleSettings,
    *,
    parts: Parts = "vision",
    dtype: str = "float32",
    workers: int = 2,
    video_loader: VideoLoader | None = None,
) -> Iterator[str | None]:
    """Compute the features of all videos that a store lacks; stopped, it goes on where it was.

    A video's frames go through the model at once, as they do in training, so that the results are the same.

    Args:
        model: In evaluation mode; its device and number format are used.
        processor: The model's.
        records: Videos that several records share are encoded once.
        folder: Of the store, new or begun with the same weights and settings.
        settings: Which frames; `sampling` must be `uniform`, without augmentation.
        parts: `vision` or `frames`.
        dtype: Number format on disk: `float32`, `float16` or `bfloat16`.
        workers: Threads that decode.
        video_loader: Gives the video of a record; by default the file that it names.

    Yields:
        For each video in turn why it could not be read, None where it could. Such videos are named in the index, and
        training counts and replaces them as it does damaged ones.

    Raises:
        DataError: The folder holds features of other weights or settings.
    """
    folder = Path(folder)
    if parts not in get_args(Parts):
        raise ValueError(f"parts must be one of {', '.join(get_args(Parts))}, got {parts!r}")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    check_settings(settings)
    if model.training:
        raise ValueError("the model must be in evaluation mode to make features: call model.eval()")
    header = FeatureHeader.of(parts, _hash_weights(model, parts), dtype, settings, processor)
    bad = _begin(folder, header)
    videos = unique_videos(records)

    def read(record: Record) -> Frames | str | None:
        if _feature_file(folder, feature_key(record, folder)).exists():
            return None
        try:
            return read_frames(record, settings, size=header.image_size, source=(video_loader or _own_video)(record))
        except VideoError as error:
            return str(error)

    try:
        for number, (record, found) in enumerate(ordered_map(videos, read, workers=workers), 1):
            key = feature_key(record, folder)
            bad.pop(key, None)
            if isinstance(found, Frames):
                states = _encode(model, processor, found, parts)
                _save(_feature_file(folder, key), states.to(_DTYPES[dtype]), found, record)
            elif found is not None:
                bad[key] = found
            if number % _INDEX_EVERY == 0:
                _write_index(folder, header, bad)
            yield found if isinstance(found, str) else None
    finally:
        _write_index(folder, header, bad)


def check_settings(settings: SampleSettings) -> None:
    """Refuse settings by which every look at a video is another one.

    Raises:
        DataError: Frames are drawn, or augmented.
    """
    if settings.sampling != "uniform" or settings.augmentation:
        raise DataError(
            "features stand for uniformly sampled frames without augmentation: set sampling=uniform and "
            "augmentation=false, or train from the videos"
        )


def unique_videos(records: Iterable[Record]) -> list[Record]:
    """Return one record for each part of a video that is looked at, in order."""
    return list({(record.video, record.start, record.end, record.clock): record for record in records}.values())


def feature_key(record: Record, folder: Path) -> str:
    """Name the part of a video that a record looks at, by its path from the store: both can move together."""
    video = record.video if "://" in record.video else os.path.relpath(record.video, folder)
    part = json.dumps([Path(video).as_posix(), record.start, record.end, record.clock])
    return hashlib.sha256(part.encode()).hexdigest()[:32]


def _hash_weights(model: TimeChatForConditionalGeneration, parts: Parts) -> str:
    """Return the SHA-256 of the weights that features depend on."""
    encoder = model.frame_encoder
    return weights_fingerprint(encoder.vision_model if parts == "vision" else encoder)


def _own_video(record: Record) -> str:
    return record.video


@torch.no_grad()
def _encode(
    model: TimeChatForConditionalGeneration, processor: TimeChatProcessor, frames: Frames, parts: Parts
) -> Tensor:
    inputs = {key: value.to(model.device) for key, value in processor.encode_frames(frames).items()}
    if parts == "vision":
        return model.frame_encoder.vision_states(inputs["pixel_values"])
    return model.get_frame_features(**{key: value[None] for key, value in inputs.items()})[0]


def _feature_file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"


def _save(path: Path, states: Tensor, frames: Frames, record: Record) -> None:
    """Write one file, whole or not at all; its metadata tell what it was made of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"states": states.cpu().contiguous(), "timestamps": torch.from_numpy(frames.timestamps.copy())}
    facts = {"video": record.video, "start": record.start, "end": record.end, "duration": frames.duration}
    with atomic_write(path) as unfinished:
        save_file(tensors, unfinished, metadata={name: str(fact) for name, fact in facts.items()})


def _begin(folder: Path, header: FeatureHeader) -> dict[str, str]:
    """Start a store, or make sure that the one in the folder is of the same kind; returns its bad videos."""
    if not (folder / INDEX_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_index(folder, header, {})
        return {}
    found, bad = _read_index(folder)
    if differences := found.differences(header):
        raise DataError(f"{folder}: holds features of another kind: {differences}; choose another folder")
    return bad


def _read_index(folder: Path) -> tuple[FeatureHeader, dict[str, str]]:
    path = folder / INDEX_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise DataError(f"{path}: is of version {content['version']}, expected {_VERSION}; make the features again")
        header: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content["header"].items()
        }
        return FeatureHeader(**header), dict(content["bad"])
    except FileNotFoundError as error:
        raise DataError(f"{folder}: holds no features; make them with `timechat data encode`") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is damaged: {error}; make the features again") from error


def _write_index(folder: Path, header: FeatureHeader, bad: Mapping[str, str]) -> None:
    """Write the index, whole or not at all."""
    content = {"version": _VERSION, "header": vars(header), "bad": dict(bad)}
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{INDEX_FILE}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    Path(name).chmod(0o644)
    Path(name).replace(folder / INDEX_FILE)


def check_parts_are_frozen(trained: Sequence[str], parts: Parts) -> None:
    """Refuse to train a part of the model whose output is read from a store.

    Args:
        trained: Names of the parameters that learn.
        parts: What the store holds.

    Raises:
        DataError: One of them has made the features.
    """
    prefix = "frame_encoder.vision_model." if parts == "vision" else "frame_encoder."
    if changed := [name for name in trained if name.startswith(prefix)]:
        raise DataError(
            f"features of the part {parts!r} cannot be used while it learns: {changed[0]} is trained; freeze it, or "
            "train from the videos"
        )
