"""Features of videos: outputs of frozen parts of the model, computed once and read instead of the videos.

A store is a folder. `index.json` holds the hash of the weights, the sampling settings and the videos that cannot be
read. One safetensors file per video, or part of a video, holds the states of its frames and their times.
"""

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from timechat.data.records import Record
from timechat.data.settings import FrameRateSettings, SampleSettings, VideoLoader, read_frames
from timechat.data.threads import ordered_map
from timechat.errors import DataError, VideoError
from timechat.files import atomic_write, write_json_atomically
from timechat.model.fingerprint import weights_fingerprint
from timechat.model.modeling import TimeChatForConditionalGeneration
from timechat.model.processing import TimeChatProcessor
from timechat.model.tensor_files import save_tensors
from timechat.video import Frames
from timechat.video.frames import Interpolation

Parts = Literal["vision", "frames"]
"""`vision`: states of the vision tower; `frames`: states of the image Q-Former, if it is frozen too."""

INDEX_FILE = "index.json"
_VERSION = 1
_INPUT_NAMES: dict[str, str] = {"vision": "vision_states", "frames": "frame_tokens"}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_INDEX_EVERY = 200  # videos


@dataclass(frozen=True, kw_only=True)
class FeatureHeader(FrameRateSettings):
    """Settings and weights that features depend on; features with another header are refused.

    Attributes:
        parts: Parts of the model that computed the features.
        weights: SHA-256 of the weights of these parts.
        dtype: Number format on disk.
        image_size: Side of the square frames, in pixels.
        interpolation: Filter that resized the frames; `bicubic` in features of versions that do not name it.
        image_mean: Mean that is subtracted from pixels.
        image_std: Standard deviation that pixels are divided by.
        timestamp_tokenizer: Vocabulary of the time sentences for the image Q-Former; `""` for `vision`.
    """

    parts: Parts
    weights: str
    dtype: str
    image_size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    timestamp_tokenizer: str
    interpolation: Interpolation = "bicubic"

    @classmethod
    def of(
        cls, parts: Parts, weights: str, dtype: str, settings: SampleSettings, processor: TimeChatProcessor
    ) -> "FeatureHeader":
        """Make the header of features with these settings."""
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
            interpolation=processor.config.frame_size.interpolation,
        )

    def differences(self, other: "FeatureHeader") -> str:
        """Describe the differences, `""` if there are none."""
        return ", ".join(
            f"{name} is {mine!r}, not {getattr(other, name)!r}"
            for name, mine in vars(self).items()
            if mine != getattr(other, name)
        )


class FeatureStore:
    """A folder of features, for reading.

    Attributes:
        folder: Folder of the store.
        header: Settings and weights of the features.
    """

    def __init__(self, folder: str | Path, model: TimeChatForConditionalGeneration) -> None:
        """Open a store of features from this model.

        Raises:
            DataError: The folder holds no store, or the features were made with other weights or another number format.
        """
        self.folder = Path(folder)
        self.header, self._bad = _read_index(self.folder)
        if _hash_weights(model, self.header.parts) != self.header.weights:
            raise DataError(
                f"{folder}: these features were made by other weights, or in another number format, than this model's; "
                "make others with `timechat data encode` in another folder, or train from the videos"
            )

    def check(self, settings: SampleSettings, processor: TimeChatProcessor) -> None:
        """Check that the features were made with these settings.

        Raises:
            DataError: A setting differs; the message names it.
        """
        check_settings(settings)
        expected = FeatureHeader.of(self.header.parts, self.header.weights, self.header.dtype, settings, processor)
        if differences := self.header.differences(expected):
            raise DataError(
                f"{self.folder}: these features do not fit: {differences}; make others with `timechat data encode` in "
                "another folder"
            )

    def read(self, record: Record, processor: TimeChatProcessor) -> tuple[dict[str, Tensor], NDArray[np.float64]]:
        """Return the tensors of a record's video for a sample, and the times of its frames.

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
                f"{self.folder}: holds no features of {record.video}; add them with `timechat data encode`, which "
                "resumes"
            )
        with safe_open(path, framework="pt") as file:
            states = file.get_tensor("states")
            # Readers of vision states accept any number format; frame tokens are used without conversion.
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
) -> Generator[str | None, None, None]:
    """Compute the features of all videos that a store lacks. After an interruption, a new call resumes.

    The frames of a video pass the model in one batch, as in training, so that the results are equal.

    Args:
        model: Model in evaluation mode, on its device and in its number format.
        processor: Processor of the model.
        records: Records of the videos. A video of several records is encoded once.
        folder: Folder of the store: new, or one with the same weights and settings.
        settings: Sampling settings; `sampling` must be `uniform`, without augmentation.
        parts: Parts of the model, `vision` or `frames`.
        dtype: Number format on disk: `float32`, `float16` or `bfloat16`.
        workers: Number of decoding threads.
        video_loader: Function that returns the video of a record; by default the file of the record.

    Yields:
        For each video, the reason why it cannot be read, or None. The index lists such videos, and training counts and
        replaces them like damaged ones.

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

    size = processor.config.frame_size

    def read(record: Record) -> Frames | str | None:
        if _feature_file(folder, feature_key(record, folder)).exists():
            return None
        try:
            return read_frames(record, settings, size=size, source=(video_loader or _own_video)(record))
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
    """Check that the settings give the same frames in every epoch.

    Raises:
        DataError: Frames are sampled randomly, or augmented.
    """
    if settings.sampling != "uniform" or settings.augmentation:
        raise DataError(
            "features need uniformly sampled frames without augmentation: set sampling=uniform and "
            "augmentation=false, or train from the videos"
        )


def unique_videos(records: Iterable[Record]) -> list[Record]:
    """Return one record for each different video or part of a video, in order."""
    return list({(record.video, record.start, record.end, record.clock): record for record in records}.values())


def feature_key(record: Record, folder: Path) -> str:
    """Return the key of a record's video or part, from the path relative to the store, so both can move together."""
    part = json.dumps([_name_in_store(record.video, folder), record.start, record.end, record.clock])
    return hashlib.sha256(part.encode()).hexdigest()[:32]


def _name_in_store(video: str, folder: Path) -> str:
    """Return the path of a video relative to the store, an address unchanged."""
    if "://" in video:
        return Path(video).as_posix()
    try:
        return Path(os.path.relpath(video, folder)).as_posix()
    except ValueError:  # Windows: there is no relative path to another drive
        return Path(video).absolute().as_posix()


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
    """Write one file atomically, with the description of the video in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"states": states.cpu().contiguous(), "timestamps": torch.from_numpy(frames.timestamps.copy())}
    facts = {"video": record.video, "start": record.start, "end": record.end, "duration": frames.duration}
    with atomic_write(path) as unfinished:
        save_tensors(tensors, unfinished, {name: str(fact) for name, fact in facts.items()})


def _begin(folder: Path, header: FeatureHeader) -> dict[str, str]:
    """Create a store, or check that the existing one has the same header; return its unreadable videos."""
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
            raise DataError(f"{path}: has version {content['version']}, expected {_VERSION}; {_remake(folder)}")
        header: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content["header"].items()
        }
        return FeatureHeader(**header), dict(content["bad"])
    except FileNotFoundError as error:
        raise DataError(f"{folder}: holds no features; make them with `timechat data encode`") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is damaged: {error}; {_remake(folder)}") from error


def _remake(folder: Path) -> str:
    return f"remove the folder {folder} and make the features again with `timechat data encode`"


def _write_index(folder: Path, header: FeatureHeader, bad: Mapping[str, str]) -> None:
    """Write the index atomically."""
    content = {"version": _VERSION, "header": vars(header), "bad": dict(bad)}
    write_json_atomically(folder / INDEX_FILE, content)


def check_parts_are_frozen(trained: Sequence[str], parts: Parts) -> None:
    """Check that training does not change the parts of the model whose output is read from a store.

    Args:
        trained: Names of the trained parameters.
        parts: Parts of the model that computed the features.

    Raises:
        DataError: A trained parameter belongs to these parts.
    """
    prefix = "frame_encoder.vision_model." if parts == "vision" else "frame_encoder."
    if changed := [name for name in trained if name.startswith(prefix)]:
        raise DataError(
            f"features of the part {parts!r} cannot be used while it learns: {changed[0]} is trained; freeze it, or "
            "train from the videos"
        )
