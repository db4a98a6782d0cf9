"""`downloads.json`: which files are whole, and what the unfinished ones are parts of."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from timechat.download.hub import RemoteFile
from timechat.errors import DownloadError
from timechat.files import atomic_write

MANIFEST = "downloads.json"


@dataclass(frozen=True)
class Record:
    """What is kept of a whole file."""

    address: str
    size: int
    sha256: str
    checked_against: str
    date: str


@dataclass(frozen=True)
class Unfinished:
    """What is kept of a `.part` file, so that only the same file is resumed."""

    address: str
    size: int | None
    sha256: str | None
    validator: str | None
    """What `If-Range` may carry: a strong ETag, else the date of the last change."""

    def can_resume(self, file: RemoteFile, size: int) -> bool:
        """True if the first `size` bytes that are here may be kept."""
        if self.address != file.address or self.size is None or self.sha256 not in (None, file.sha256):
            return False
        is_whole = size == self.size
        return 0 < size <= self.size and (is_whole or bool(file.sha256 or self.validator))

    def is_same_file(self, now: "Unfinished") -> bool:
        """True if the server still sends the same: by the published checksum, else by how it calls it."""
        if self.size != now.size:
            return False
        return bool(now.sha256) or (self.validator is not None and self.validator == now.validator)


@dataclass
class Manifest:
    """The content of `downloads.json`, written at every change. Its keys are paths inside the checkpoint folder."""

    path: Path
    files: dict[str, Record] = field(default_factory=dict)
    unfinished: dict[str, Unfinished] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of a checkpoint folder, empty if it has none."""
        path = folder / MANIFEST
        if not path.exists():
            return cls(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                path,
                {name: Record(**record) for name, record in content["files"].items()},
                {name: Unfinished(**part) for name, part in content["unfinished"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DownloadError(
                f"{path} cannot be read ({error}); delete it, and what is in the folder is checked afresh"
            ) from None

    def begin(self, file: RemoteFile, unfinished: Unfinished) -> None:
        """Say what the bytes that come now are part of."""
        if self.unfinished.get(file.path) != unfinished:
            self.unfinished[file.path] = unfinished
            self._save()

    def drop(self, file: RemoteFile) -> None:
        """Forget an unfinished file, whose bytes are gone."""
        if self.unfinished.pop(file.path, None):
            self._save()

    def finish(self, file: RemoteFile, size: int, sha256: str) -> None:
        """Record a whole file."""
        checked_against = "published sha256" if file.sha256 else "length"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        self.files[file.path] = Record(file.address, size, sha256, checked_against, date)
        self.unfinished.pop(file.path, None)
        self._save()

    def _save(self) -> None:
        content = {
            "files": {name: asdict(record) for name, record in self.files.items()},
            "unfinished": {name: asdict(part) for name, part in self.unfinished.items()},
        }
        with atomic_write(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
