"""Every file of the chosen parts, kept where it is there and right, else fetched."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from timechat.download.catalogue import Part, choose_parts
from timechat.download.hashed_file import HashedFile
from timechat.download.hub import RemoteFile, explain_refusal, files_of
from timechat.download.manifest import Manifest
from timechat.download.transfer import Progress, Transfer, announced, difference
from timechat.download.web import Dropped, Refused, Web, reason_of
from timechat.errors import DownloadError

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Downloaded:
    """A file that lies whole in the checkpoint folder."""

    path: str
    """Inside the checkpoint folder, with `/`."""
    size: int
    """Bytes."""
    sha256: str
    was_there: bool
    """True if it was checked and kept, False if it was fetched now."""


def download(
    directory: str | Path,
    parts: Sequence[Part] | None = None,
    *,
    token: str | None = None,
    endpoint: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Downloaded]:
    """Fetch the original checkpoint's files into `directory`, going on where an earlier call stopped.

    A file is written to `NAME.part` and renamed when it is whole. Its size, sha256, address and date are
    kept in `downloads.json`; a file that is already there is checked against them and kept. Tested against a
    local HTTP server only.

    Args:
        directory: The checkpoint folder; made if it is missing.
        parts: What to fetch, as from `choose_parts`. None for the whole original layout.
        token: A hub access token; None for `$HF_TOKEN`. It is sent to `endpoint` and to no other host.
        endpoint: The hub's address; None for `$HF_ENDPOINT`, else the public hub.
        on_progress: Called as bytes arrive, or are read from the disk to be checked.

    Returns:
        The files of `parts`, all of them whole and checked.

    Raises:
        DownloadError: A file could not be fetched whole, or one that is there is not what it should be.
    """
    folder = Path(directory)
    web = Web(endpoint or os.environ.get("HF_ENDPOINT") or HUB, token or os.environ.get("HF_TOKEN", ""))
    try:
        visit = _Visit(folder, Manifest.read(folder), web, on_progress or (lambda _: None))
        chosen = choose_parts() if parts is None else parts
        return [visit.obtain(file) for part in chosen for file in files_of(part, web)]
    except OSError as error:  # the disk's; the network's are turned into Dropped where they occur
        raise DownloadError(f"cannot use {error.filename or folder}: {reason_of(error)}") from error


@dataclass(frozen=True)
class _Visit:
    """One call of `download`: the folder, what is known of it, and the way out."""

    folder: Path
    manifest: Manifest
    web: Web
    report: Callable[[Progress], None]

    def obtain(self, file: RemoteFile) -> Downloaded:
        """The file, kept if it is there and right, else fetched."""
        path = self.folder / file.path
        try:
            return self._keep(file, path) if path.exists() else self._fetch(file, path)
        except Refused as refusal:
            raise explain_refusal(file, refusal.status, self.web) from None

    def _keep(self, file: RemoteFile, path: Path) -> Downloaded:
        """The file that is there, if it is the one recorded, or else the one published."""
        record = self.manifest.files.get(file.path)
        size = path.stat().st_size
        expected = record.size if record else self._published_size(file)
        if size != expected:
            raise DownloadError(
                f"{path} has {size:,} bytes where {'its record' if record else 'the published file'} has "
                f"{expected:,}; delete it or move it away, then run the command again"
            )
        sha256 = self._read(file, path).sha256
        if record and sha256 != record.sha256:
            raise DownloadError(
                f"{path} has changed since it was fetched on {record.date[:10]} "
                f"({difference(record.sha256, sha256)}); delete it and run the command again, or, if the "
                f'change is yours, delete its entry under "files" in {self.manifest.path}'
            )
        if not record and file.sha256 and sha256 != file.sha256:
            raise DownloadError(
                f"{path} is not the published file ({difference(file.sha256, sha256)}); delete it or move it "
                "away, then run the command again"
            )
        if not record:
            self.manifest.finish(file, size, sha256)
        return Downloaded(file.path, size, sha256, was_there=True)

    def _published_size(self, file: RemoteFile) -> int:
        """Bytes of the published file, by the hub's listing or by asking for it and reading nothing."""
        if file.size is not None:
            return file.size
        try:
            with self.web.open(file.address) as response:
                size = announced(file, response).size
        except Dropped as drop:
            raise DownloadError(
                f"{file.path} is there, but {file.address} gave no answer to check it by: {drop}"
            ) from None
        if size is None:
            raise DownloadError(f"{file.path} is there, but {file.address} names no length to check it by")
        return size

    def _fetch(self, file: RemoteFile, path: Path) -> Downloaded:
        """The file, fetched to `NAME.part` and renamed; where nothing is published, it must be the recorded one."""
        before = self.manifest.unfinished.get(file.path)
        if before and before.sha256 and file.sha256 is None:  # the hub gives no listing this time
            file = replace(file, size=before.size, sha256=before.sha256)
        partial = self._read(file, path.with_name(path.name + ".part"))
        Transfer(file, partial, self.manifest, self.web, self.report).run()
        record = self.manifest.files.get(file.path)
        if record and not file.sha256 and partial.sha256 != record.sha256:
            raise DownloadError(
                f"{file.address} is not the file recorded on {record.date[:10]} "
                f"({difference(record.sha256, partial.sha256)}); if it was published anew, delete its entry under "
                f'"files" in {self.manifest.path} and run the command again'
            )
        partial.path.replace(path)
        self.manifest.finish(file, partial.size, partial.sha256)
        return Downloaded(file.path, partial.size, partial.sha256, was_there=False)

    def _read(self, file: RemoteFile, path: Path) -> HashedFile:
        """What lies at `path`, hashed, with reports on the way."""
        return HashedFile(path, lambda done, total: self.report(Progress(file.path, "checking", done, total)))
