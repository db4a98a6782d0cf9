"""Weights on disk, read and written piece by piece so that memory stays far below their size."""

import json
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from timechat.errors import CheckpointError

_SHARD_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What can be known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        """Numbers in the tensor."""
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return self.num_elements * self.dtype.itemsize


class WeightFile:
    """One `.pth`, `.bin` or `.safetensors` file: what it holds, and its tensors on demand.

    Attributes:
        path: The file.
        tensors: Name → shape and dtype. A pickle's `{"model": {...}}` is taken apart.
    """

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo]) -> None:
        self.path = path
        self.tensors = dict(tensors)

    @classmethod
    def inspect(cls, path: Path) -> "WeightFile":
        """Look into a file without reading its numbers.

        Raises:
            CheckpointError: The file is missing, damaged, or no weights file.
        """
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise CheckpointError(f"{path} {what}; expected a file of weights there")
        with _open(path) as get:
            return cls(path, {name: get.info(name) for name in get.names})

    @contextmanager
    def reading(self) -> Iterator[Callable[[str], Tensor]]:
        """Open the file and give a function from name to tensor; everything is let go at the end."""
        with _open(self.path) as get:
            yield get.tensor


class _OpenPickle:
    def __init__(self, path: Path) -> None:
        content = _load_pickle(path)
        inner = content.get("model", content)
        if not isinstance(inner, dict) or not any(isinstance(value, Tensor) for value in inner.values()):
            raise CheckpointError(
                f"{path} holds no tensors by name; expected a state dict, or one under the key 'model'"
            )
        self._tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
        self.names = list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        return TensorInfo(tuple(self._tensors[name].shape), self._tensors[name].dtype)

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def close(self) -> None:
        self._tensors = {}


class _OpenSafetensors:
    def __init__(self, path: Path) -> None:
        try:
            self._path, self._file = path, safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is no readable safetensors file ({error}); fetch it again") from error
        self.names = list(self._file.keys())

    def info(self, name: str) -> TensorInfo:
        piece = self._file.get_slice(name)
        dtype = piece.get_dtype()
        if dtype not in _SAFETENSORS_DTYPES:
            known = ", ".join(_SAFETENSORS_DTYPES)
            raise CheckpointError(f"{self._path}: {name} is stored as {dtype}, expected any of {known}")
        return TensorInfo(tuple(piece.get_shape()), _SAFETENSORS_DTYPES[dtype])

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(name)  # type: ignore[no-any-return]

    def close(self) -> None:
        del self._file


_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@contextmanager
def _open(path: Path) -> Iterator[_OpenPickle | _OpenSafetensors]:
    file = _OpenSafetensors(path) if path.suffix == ".safetensors" else _OpenPickle(path)
    try:
        yield file
    finally:
        file.close()


def _load_pickle(path: Path) -> dict[str, object]:
    """Map a pickle into memory without running any code that it may carry."""
    options = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            content = torch.load(path, mmap=True, **options)  # type: ignore[arg-type]
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            content = torch.load(path, **options)  # type: ignore[arg-type]  # written before torch 1.6
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and (code := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise CheckpointError(
                f"{path} needs more than tensors and plain values to load ({code[1]}), and TimeChat runs no code "
                "from pickles; save its state dict alone with torch.save and convert that"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint{_reason(error)}; fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a dict of tensors")
    return content


# What torch and pickle are known to raise over bytes that are no checkpoint.
_UNREADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def _reason(error: Exception) -> str:
    """Return what torch says, in brackets, where it helps: not a bare key, and not how to run a pickle's code."""
    if isinstance(error, EOFError):
        return " (it ends too early)"
    if isinstance(error, pickle.UnpicklingError | LookupError | AssertionError) or not str(error):
        return ""
    return f" ({str(error).splitlines()[0].split('. ')[0].strip()})"


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        CheckpointError: It does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def inspect_model_folder(folder: Path) -> list[WeightFile]:
    """Look into the weight files of a `transformers` folder, whole or in shards.

    Raises:
        CheckpointError: There are no weights, a shard of the index is missing, or the index is damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (index := folder / f"{name}.index.json").is_file():
            weight_map = read_json(index).get("weight_map")
            if not weight_map or not isinstance(weight_map, dict):
                raise CheckpointError(
                    f"{index} has no weight_map; expected an object of tensor names and their shards: fetch it again"
                )
            return [WeightFile.inspect(folder / str(shard)) for shard in sorted(set(map(str, weight_map.values())))]
        if (folder / name).is_file():
            return [WeightFile.inspect(folder / name)]
    raise CheckpointError(
        f"{folder} holds no weights; expected model.safetensors or pytorch_model.bin, whole or in shards"
    )


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor to be written: where it comes from and what is done to it."""

    name: str
    info: TensorInfo
    sources: tuple[tuple[WeightFile, str], ...]
    make: Callable[..., Tensor]


def write_shards(
    folder: Path, tensors: Iterable[PlannedTensor], progress: Callable[[int, int], None] | None = None
) -> None:
    """Make and write tensors as `model*.safetensors`, one shard in memory at a time.

    Args:
        folder: Where to write.
        tensors: What to write.
        progress: Called with bytes written so far and bytes in all.

    Raises:
        CheckpointError: The disk is too full, or cannot be written to.
    """
    shards = _split(tensors)
    total = sum(tensor.info.num_bytes for shard in shards for tensor in shard)
    if total > (free := shutil.disk_usage(folder).free):
        raise CheckpointError(
            f"{total / 1e9:.3g} GB of weights are to be written, but the disk has {free / 1e9:.3g} GB free; "
            "make room, or name a folder on another disk"
        )
    done = 0
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(_make(shard), folder / name)
        weight_map.update({tensor.name: name for tensor in shard})
        done += sum(tensor.info.num_bytes for tensor in shard)
        if progress:
            progress(done, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} cannot be written ({error})") from error


def _split(tensors: Iterable[PlannedTensor]) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.info.num_bytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.info.num_bytes
    return shards


def _make(shard: list[PlannedTensor]) -> dict[str, Tensor]:
    """Read what a shard needs, each file opened once and let go before the next."""
    needed: dict[Path, tuple[WeightFile, list[str]]] = {}
    for tensor in shard:
        for file, key in tensor.sources:
            needed.setdefault(file.path, (file, []))[1].append(key)
    read: dict[tuple[Path, str], Tensor] = {}
    for path, (file, keys) in needed.items():
        with file.reading() as get:
            read.update({(path, key): get(key).clone() for key in keys})
    made = {}
    for tensor in shard:
        pieces = [read[file.path, key] for file, key in tensor.sources]
        made[tensor.name] = tensor.make(*pieces).to(tensor.info.dtype).contiguous()
    return made
