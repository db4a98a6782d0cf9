"""Weight files, read and written in parts so that memory use stays far below their size."""

import json
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from timechat.errors import CheckpointError
from timechat.model.tensor_files import check_is_downloaded, save_tensors

_SHARD_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return self.num_elements * self.dtype.itemsize


class WeightFile:
    """One `.pth`, `.bin` or `.safetensors` file, whose tensors are read on demand.

    Attributes:
        path: Path of the file.
        tensors: Name → shape and dtype. A pickle's `{"model": {...}}` is unwrapped.
    """

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo]) -> None:
        self.path = path
        self.tensors = dict(tensors)

    @classmethod
    def inspect(cls, path: Path) -> "WeightFile":
        """Read the names, shapes and dtypes of a file, without its values.

        Raises:
            CheckpointError: The file is missing, damaged, or not a weights file.
        """
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "does not exist"
            raise CheckpointError(f"{path} {problem}; expected a weights file")
        check_is_downloaded(path)
        if path.suffix != ".safetensors":
            _check_members(path)
        with _open(path) as get:
            return cls(path, {name: get.info(name) for name in get.names})

    @contextmanager
    def reading(self) -> Iterator[Callable[[str], Tensor]]:
        """Open the file and yield a function from name to tensor; the memory is freed at the end."""
        with _open(self.path) as get:
            yield get.tensor


class _OpenPickle:
    def __init__(self, path: Path) -> None:
        content = _load_pickle(path)
        inner = content.get("model", content)
        if not isinstance(inner, dict) or not any(isinstance(value, Tensor) for value in inner.values()):
            raise CheckpointError(
                f"{path} contains no named tensors; expected a state dict, or one under the key 'model'"
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
            raise CheckpointError(f"{path} is not a readable safetensors file ({error}); download it again") from error
        self.names = list(self._file.keys())

    def info(self, name: str) -> TensorInfo:
        view = self._file.get_slice(name)
        dtype = view.get_dtype()
        if dtype not in _SAFETENSORS_DTYPES:
            known = ", ".join(_SAFETENSORS_DTYPES)
            raise CheckpointError(f"{self._path}: {name} is stored as {dtype}, expected one of {known}")
        return TensorInfo(tuple(view.get_shape()), _SAFETENSORS_DTYPES[dtype])

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


def _check_members(path: Path) -> None:
    """Refuse a zip archive of torch with damaged or compressed members, which torch reads as other numbers."""
    if not zipfile.is_zipfile(path):
        return  # a file from before torch 1.6, or a damaged file, which torch refuses
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(
                        f"{path}: its member {member.filename} is compressed (deflated), which torch does not write; "
                        "save the checkpoint again with torch.save, or download it again"
                    )
                with archive.open(member) as file:
                    while file.read(_CHUNK_BYTES):  # zipfile compares the checksum at the end
                        pass
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({_first_sentence(error)}); download it again") from error


def _first_sentence(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()


def _load_pickle(path: Path) -> dict[str, object]:
    """Map a pickle into memory without running any code in it."""
    options = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            content = torch.load(path, mmap=True, **options)  # type: ignore[arg-type]
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            content = torch.load(path, **options)  # type: ignore[arg-type]  # a file from before torch 1.6
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and (code := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise CheckpointError(
                f"{path} contains more than tensors and plain values ({code[1]}), and TimeChat runs no code from "
                "pickles; save only its state dict with torch.save and convert that file"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint{_reason(error)}; download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}; expected a dict of tensors")
    return content


# Errors that torch and pickle are known to raise for bytes that are not a checkpoint.
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
    """Return the message of torch in brackets if it helps: no bare key, no advice to run the code of a pickle."""
    if isinstance(error, EOFError):
        return " (the file ends too early)"
    if isinstance(error, pickle.UnpicklingError | LookupError | AssertionError) or not str(error):
        return ""
    return f" ({str(error).splitlines()[0].split('. ')[0].strip()})"


def read_json(path: Path) -> dict[str, Any]:
    """Read a file with one JSON object.

    Raises:
        CheckpointError: The file is not readable or contains something else.
    """
    try:
        check_is_downloaded(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}; expected a JSON object")
    return content


def inspect_model_folder(folder: Path) -> list[WeightFile]:
    """Inspect the weight files of a `transformers` folder: one file or shards.

    Raises:
        CheckpointError: There are no weights, a shard of the index is missing, or the index is damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (index := folder / f"{name}.index.json").is_file():
            weight_map = read_json(index).get("weight_map")
            if not weight_map or not isinstance(weight_map, dict):
                raise CheckpointError(
                    f"{index} has no weight_map; expected an object of tensor names and their shards: download it again"
                )
            return [WeightFile.inspect(folder / str(shard)) for shard in sorted(set(map(str, weight_map.values())))]
        if (folder / name).is_file():
            return [WeightFile.inspect(folder / name)]
    raise CheckpointError(
        f"{folder} contains no weights; expected model.safetensors or pytorch_model.bin, as one file or in shards"
    )


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor to write: its sources and the function that makes it from them.

    Attributes:
        name: Name of the tensor.
        info: Its shape and dtype; if it is written in parts, those before it is quantized.
        sources: Files and names from which it is made.
        make: Function that makes the tensor, or its parts by name.
        parts: Names of the parts in which it is written, with their shapes and dtypes; None for one tensor.
    """

    name: str
    info: TensorInfo
    sources: tuple[tuple[WeightFile, str], ...]
    make: Callable[..., Tensor | dict[str, Tensor]]
    parts: Mapping[str, TensorInfo] | None = None

    @property
    def written(self) -> Mapping[str, TensorInfo]:
        """Names of the written tensors, with their shapes and dtypes."""
        return self.parts or {self.name: self.info}

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return sum(info.num_bytes for info in self.written.values())

    @property
    def work_bytes(self) -> int:
        """Size in memory while the tensor is made: that of its sources, or on disk if that is larger."""
        return max(self.num_bytes, sum(file.tensors[key].num_bytes for file, key in self.sources))


def write_shards(
    folder: Path, tensors: Iterable[PlannedTensor], progress: Callable[[int, int], None] | None = None
) -> None:
    """Make and write tensors as `model*.safetensors`, with one shard in memory at a time.

    Args:
        folder: Output folder.
        tensors: Tensors to write.
        progress: Callback with the bytes written so far and the total bytes.

    Raises:
        CheckpointError: The disk is full or not writable.
    """
    shards = _split(tensors)
    total = sum(tensor.num_bytes for shard in shards for tensor in shard)
    if total > (free := shutil.disk_usage(folder).free):
        raise CheckpointError(
            f"{total / 1e9:.3g} GB of weights are to be written, but the disk has {free / 1e9:.3g} GB free; "
            "free some space, or name a folder on another disk"
        )
    done = 0
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(_make(shard), folder / name)
        weight_map.update({written: name for tensor in shard for written in tensor.written})
        done += sum(tensor.num_bytes for tensor in shard)
        if progress:
            progress(done, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2, sort_keys=True), encoding="utf-8"
        )


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_tensors(tensors, path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} cannot be written ({error}); free some space, or name a folder on another disk"
        ) from error


def _split(tensors: Iterable[PlannedTensor]) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.work_bytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.work_bytes
    return shards


def _check_finite(tensor: Tensor, path: Path, key: str) -> None:
    """Refuse a weight that contains NaN or an infinite number, with which every answer is noise."""
    if tensor.is_floating_point() and tensor.numel() and not all(map(torch.isfinite, torch.aminmax(tensor))):
        raise CheckpointError(
            f"{path}: {key} contains NaN or infinite numbers; the training of this checkpoint has failed, or the file "
            "is damaged: use an earlier checkpoint, or download it again"
        )


def _make(shard: list[PlannedTensor]) -> dict[str, Tensor]:
    """Make the tensors of a shard; each source file is opened once and closed before the next."""
    needed: dict[Path, tuple[WeightFile, list[str]]] = {}
    for tensor in shard:
        for file, key in tensor.sources:
            needed.setdefault(file.path, (file, []))[1].append(key)
    read: dict[tuple[Path, str], Tensor] = {}
    for path, (file, keys) in needed.items():
        with file.reading() as get:
            for key in keys:
                read[path, key] = get(key).clone()
                _check_finite(read[path, key], path, key)
    made = {}
    for tensor in shard:
        inputs = [read[file.path, key] for file, key in tensor.sources]
        result = tensor.make(*inputs)
        parts = {tensor.name: result} if isinstance(result, Tensor) else result
        made.update({name: parts[name].to(info.dtype).contiguous() for name, info in tensor.written.items()})
    return made
