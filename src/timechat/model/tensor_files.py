"""Files of tensors: written with the permissions of the umask, and checked before they are read."""

import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from timechat.errors import CheckpointError

_POINTER_START = b"version https://git-lfs.github.com/spec/"


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file that has the permissions of any new file.

    Args:
        tensors: Tensors by name.
        path: Path of the file.
        metadata: Metadata of the file; None writes the format name, which `transformers` expects.
    """
    save_file(dict(tensors), path, metadata=dict(metadata or {"format": "pt"}))
    apply_umask(path)


def apply_umask(path: Path) -> None:
    """Give a file, or all safetensors files below a folder, the permissions that the umask gives to new files.

    The safetensors library writes files that only their owner can read.
    """
    probe = (path if path.is_dir() else path.parent) / f".{secrets.token_hex(8)}.unfinished"
    probe.touch()
    try:
        mode = probe.stat().st_mode & 0o777
    finally:
        probe.unlink()
    for file in path.rglob("*.safetensors") if path.is_dir() else [path]:
        file.chmod(mode)


def check_is_downloaded(path: Path) -> None:
    """Refuse a git-lfs pointer, which a clone without git-lfs leaves in place of a large file.

    Raises:
        CheckpointError: The file is such a pointer, or it is empty.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER_START))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); download it again") from error
    if start == _POINTER_START:
        raise CheckpointError(
            f"{path} is a git-lfs pointer, not the file itself; run `git lfs install` and `git lfs pull` in its "
            "folder, or download the file from its page"
        )
    if not start:
        raise CheckpointError(f"{path} is empty; download it again")
