"""The results of a batch in an object store: written in a local folder, and sent file by file.

A store keeps whole objects, so rows are collected in `open.jsonl` of a local folder. A part is sent when it is closed;
`open.jsonl` and `pieces/` stay on this machine until then.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from timechat.files import atomic_write, user_folder
from timechat.files.remote import RemoteFolder

_ANSWERS = "answers"


class StoredResults:
    """The folder of an object store that holds the results, and the local folder in which they are written.

    Attributes:
        path: Local folder.
    """

    def __init__(self, address: str) -> None:
        """Choose the local folder of an address, the same in every run.

        Args:
            address: Address of the output folder.

        Raises:
            ModuleNotFoundError: The package of the store is not installed.
            ValueError: The scheme is unknown.
        """
        self._folder = RemoteFolder(address)
        data = user_folder("data") or Path(tempfile.gettempdir()) / "timechat"
        self.path = data / "batch" / hashlib.sha256(self._folder.address.encode()).hexdigest()[:16]

    def fetch(self) -> None:
        """Replace the local recipe and parts by those of the store, which are what counts."""
        answers = self.path / _ANSWERS
        for path in [self.path / "recipe.json", *answers.glob("part-*")]:
            path.unlink(missing_ok=True)
        names = [name for name in self._folder.names() if name == "recipe.json"]
        names += [f"{_ANSWERS}/{name}" for name in self._folder.names(_ANSWERS) if name.startswith("part-")]
        for name in names:
            with atomic_write(self.path / name) as unfinished:
                self._folder.fetch(name, unfinished)

    def send(self, *paths: Path) -> None:
        """Copy local files to the store."""
        for path in paths:
            self._folder.send(path, path.relative_to(self.path).as_posix())

    def delete(self, path: Path) -> None:
        """Delete the copy of a local file if there is one."""
        name = path.relative_to(self.path)
        if name.name in self._folder.names(name.parent.as_posix()):
            self._folder.delete(name.as_posix())

    def remove_local(self) -> None:
        """Delete the local folder, whose files have all been sent."""
        shutil.rmtree(self.path, ignore_errors=True)
