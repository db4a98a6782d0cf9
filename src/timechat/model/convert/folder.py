"""The output folder of a conversion: created complete or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timechat.errors import CheckpointError
from timechat.model.tensor_files import apply_umask


@contextmanager
def making_folder(out_dir: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out_dir` at the end; nothing remains of it after an error.

    Only a killed process leaves `.NAME.partial` beside `out_dir`; the next call for the same folder removes it.

    Raises:
        CheckpointError: `out_dir` is in use or cannot be created.
    """
    check_is_free(out_dir)
    partial_dir = _make_partial_dir(out_dir)
    try:
        yield partial_dir
        apply_umask(partial_dir)
        if out_dir.exists():
            out_dir.rmdir()
        partial_dir.rename(out_dir)
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)


def check_is_free(out_dir: Path) -> None:
    """Refuse an output folder that is a file or not empty.

    Raises:
        CheckpointError: `out_dir` is in use.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise CheckpointError(f"{out_dir} is a file; name a new folder")
    if out_dir.exists() and any(out_dir.iterdir()):
        raise CheckpointError(f"{out_dir} already exists and is not empty; name a new folder or remove it first")


def _make_partial_dir(out_dir: Path) -> Path:
    """Create the temporary output folder; remove one that a killed run has left."""
    out_dir = out_dir.resolve()
    partial_dir = out_dir.parent / f".{out_dir.name}.partial"
    shutil.rmtree(partial_dir, ignore_errors=True)
    try:
        partial_dir.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"{out_dir} cannot be created ({error}); name another folder") from error
    return partial_dir
