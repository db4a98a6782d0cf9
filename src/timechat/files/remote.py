"""Files of object stores, by `fsspec`: `s3://`, `gs://`, `az://`, `hf://`, `memory://`, ...

`http(s)://` and `file://` are no object stores here: the first is read by the decoder library, the second is a path.
Errors are `OSError`s that carry the address, and `ModuleNotFoundError`s that name the package to install.
"""

import errno
import glob
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)(?:::[^/]*)?://", re.IGNORECASE)  # at least two letters: C:// is a drive
_READ_BY_OTHERS = {"http", "https", "file"}
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
}
_BLOCK_BYTES = 4 << 20  # of one request
_MAX_BLOCKS = 16  # of one open file in memory


def is_remote(name: str) -> bool:
    """Return whether a name is an address that `fsspec` opens: with a scheme, but not `http(s)://` and `file://`."""
    found = _SCHEME.match(name)
    return found is not None and found[1].lower() not in _READ_BY_OTHERS


def open_remote(address: str) -> IO[bytes]:
    """Open a file of an object store for reading at any place; blocks of 4 MiB are fetched and up to 16 are kept.

    Raises:
        OSError: The file is missing, or the store does not answer or refuses.
        ModuleNotFoundError: The package of the store is not installed.
        ValueError: The scheme is unknown.
    """
    with _translated(address):
        files, path = _file_system(address)
        options = {"cache_type": "blockcache", "cache_options": {"maxblocks": _MAX_BLOCKS}}
        file = files.open(path, "rb", block_size=_BLOCK_BYTES, **options)
    return io.BufferedReader(_RemoteFile(file, address), buffer_size=1 << 16)


def find_remote(address: str) -> list[str] | None:
    """Return the addresses of the files below a folder, or of those that match a pattern, in order.

    Returns:
        None for any other address, such as that of a file.

    Raises:
        OSError, ModuleNotFoundError, ValueError: As `open_remote`.
    """
    with _translated(address):
        files, path = _file_system(address)
        if glob.has_magic(path) and not files.exists(path):
            found = files.glob(path)
        elif files.isdir(path):
            found = files.find(path)
        else:
            return None
        return sorted(files.unstrip_protocol(each) for each in found)


def parent_address(address: str) -> str:
    """Return the address of the folder of a file."""
    return address.rpartition("/")[0]


class RemoteFolder:
    """A folder of an object store into which whole files are written.

    Attributes:
        address: Address of the folder, without a slash at the end.
    """

    def __init__(self, address: str) -> None:
        """Choose a folder; it need not exist.

        Args:
            address: Address of the folder.

        Raises:
            ModuleNotFoundError: The package of the store is not installed.
            ValueError: The scheme is unknown.
        """
        self.address = address.rstrip("/")
        with _translated(address):
            self._files, path = _file_system(self.address)
        self._path = path.rstrip("/")

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the files in a subfolder, in order; empty if there is none."""
        path = f"{self._path}/{folder}".rstrip("/")
        with _translated(f"{self.address}/{folder}"):
            self._files.invalidate_cache()  # other machines write here too
            if not self._files.isdir(path):
                return []
            entries = self._files.ls(path, detail=True)
        return sorted(each["name"].rpartition("/")[2] for each in entries if each["type"] == "file")

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file of the folder to a path."""
        with _translated(f"{self.address}/{name}"):
            self._files.get_file(f"{self._path}/{name}", str(path))

    def send(self, path: Path, name: str) -> None:
        """Copy a file into the folder, completely or not at all where the store writes whole objects."""
        with _translated(f"{self.address}/{name}"):
            self._files.put_file(str(path), f"{self._path}/{name}")

    def delete(self, name: str) -> None:
        """Delete a file of the folder."""
        with _translated(f"{self.address}/{name}"):
            self._files.rm_file(f"{self._path}/{name}")


class _RemoteFile(io.RawIOBase):
    """A file of `fsspec` whose errors carry its address."""

    def __init__(self, file: Any, address: str) -> None:
        self._file, self.name = file, address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _translated(self.name):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _translated(self.name):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(address)
    return files, str(path)


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Convert the errors of any store."""
    scheme = address.partition(":")[0].lower()
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such file", address) from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        raise OSError(error.errno or errno.EIO, reason, address) from error
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        advice = f"{package}; install it: pip install {package}" if package else f"another package: {error}"
        raise ModuleNotFoundError(f"{address}: {scheme}:// needs {advice}") from error
    except ValueError as error:
        if "Protocol not known" in str(error):
            raise ValueError(f"{address}: {scheme}:// is no known file system; give a path or an address") from error
        raise OSError(errno.EIO, " ".join(str(error).split()), address) from error
    except Exception as error:  # each store has errors of its own, such as those about credentials
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(errno.EIO, reason, address) from error
