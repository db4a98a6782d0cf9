"""Files from their address to the checkpoint folder; models from the hub to the hub's cache."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_token, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # the base of every network error: of httpx or httpx2, depending on the version of huggingface_hub
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, silent_tqdm, tqdm

from timechat.errors import DownloadError
from timechat.files import atomic_write
from timechat.files.cache import readable_size
from timechat.model.download.catalogue import Licence, Part, choose_parts

_RECORD_NAME = "downloads.json"
_TIMEOUT = 30.0  # seconds without an answer
_CHUNK_BYTES = 1 << 20
_MODEL_FILES = (
    *("config.json", "generation_config.json", "processor_config.json", "conversion.json"),
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges.txt"),
    *("qformer_tokenizer/*", "lora/*.json", "lora/*.safetensors"),
)
"""Patterns of the files that `load_model` reads; a repository may hold the same weights in other formats too."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)  # a listed name that cannot leave its folder


@dataclass(frozen=True)
class DownloadedFile:
    """A complete file in the checkpoint folder."""

    path: str
    """Path inside the checkpoint folder, with `/`."""
    size: int
    """Bytes."""
    sha256: str
    is_kept: bool
    """True if the file existed and was checked, False if this call downloaded it."""


def download(
    directory: str | Path,
    parts: Sequence[Part] | None = None,
    *,
    token: str | None = None,
    endpoint: str | None = None,
    show_progress: bool = False,
) -> list[DownloadedFile]:
    """Download files of the original checkpoint into `directory`; resume where an earlier call stopped.

    Each file is written to `NAME.part` and renamed when it is complete. Its size, sha256, address and date are
    recorded in `downloads.json`. An existing file is checked and never overwritten.

    Args:
        directory: The checkpoint folder; created if missing.
        parts: The parts to download, from `choose_parts`. None for the whole original layout.
        token: Hub access token; None for `$HF_TOKEN` or the saved login. It is sent to `endpoint` and to no other host.
        endpoint: Address of the hub; None for `$HF_ENDPOINT`, else the public hub.
        show_progress: Show a progress bar for each file on stderr, if it is a terminal.

    Returns:
        The files of `parts`, all complete and checked.

    Raises:
        DownloadError: A file cannot be downloaded, or an existing file differs from its record or from the published
            file.
    """
    folder = Path(directory)
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    token = (token or get_token() or "").strip()
    if not re.fullmatch(r"[!-~]*", token):  # the message must not show the token
        raise ValueError("the token contains blanks or characters outside ASCII; copy it again from the hub's settings")
    downloader = _Downloader(folder, _Record.read(folder), endpoint, token, show_progress)
    chosen = choose_parts() if parts is None else parts
    return [downloader.obtain(file) for part in chosen for file in downloader.list_files(part)]


def fetch_config(repository: str) -> Path:
    """Return the local copy of a hub repository; download only its `config.json` if needed.

    Raises:
        DownloadError: The hub does not give the repository, and its cache has no copy.
    """
    return fetch_files(repository, ("config.json",))


def fetch_model(repository: str) -> Path:
    """Return the local copy of a hub repository; download the files that a model needs into the hub's cache if needed.

    Raises:
        DownloadError: The hub does not give the repository, and its cache has no copy.
    """
    return fetch_files(repository, _MODEL_FILES)


def fetch_files(repository: str, patterns: Sequence[str]) -> Path:
    """Return the local copy of a hub repository; download the files of some patterns into the hub's cache if needed.

    Raises:
        DownloadError: The hub does not give the repository, and its cache has no copy.
    """
    page = f"{constants.ENDPOINT}/{repository}"
    with _explained(page, page, has_token=bool(get_token())):
        return Path(snapshot_download(repository, allow_patterns=[*patterns]))


@dataclass(frozen=True)
class _RemoteFile:
    """A published file. Size, sha256 and validator are None where they are not known."""

    part: Part
    address: str
    path: str
    """Path inside the checkpoint folder, with `/`."""
    size: int | None = None
    sha256: str | None = None
    validator: str | None = None
    """Value for `If-Range` that identifies this version of the file."""


@dataclass(frozen=True)
class _Downloader:
    """One call of `download`."""

    folder: Path
    record: "_Record"
    endpoint: str
    token: str = field(repr=False)
    """Empty for no token."""
    show_progress: bool

    def list_files(self, part: Part) -> list[_RemoteFile]:
        """List the files of a part, with the sizes and checksums that the hub publishes."""
        if part.repository is None:
            return [_RemoteFile(part, part.source, part.destination)]
        with self._explained(part, f"{self.endpoint}/{part.repository}"):
            api = HfApi(endpoint=self.endpoint, token=self.token or False)
            info = api.model_info(part.repository, files_metadata=True, timeout=_TIMEOUT)
        is_folder = part.destination.endswith("/")
        folder, _, pattern = part.source.rpartition("/")
        remote = []
        for file in info.siblings or ():
            parent, _, name = file.rfilename.rpartition("/")
            if parent == folder and fnmatchcase(name, pattern) and _SAFE_NAME.fullmatch(name):
                address = hf_hub_url(part.repository, file.rfilename, revision=info.sha, endpoint=self.endpoint)
                path = part.destination + name if is_folder else part.destination
                sha256 = file.lfs.sha256 if file.lfs else None
                remote.append(_RemoteFile(part, address, path, file.size, sha256, f'"{file.blob_id}"'))
        if not remote or (len(remote) > 1 and not is_folder):
            raise DownloadError(f"{part.repository} has {len(remote)} files {part.source}; expected one")
        return remote

    def obtain(self, file: _RemoteFile) -> DownloadedFile:
        """Keep the file if it exists and is correct, else download it."""
        path = self.folder / file.path
        with self._explained(file.part, file.address):
            entry = self.record.files.get(file.path)
            if path.exists() and entry:
                self._check(path, entry.size, entry.sha256, f"the file that was downloaded on {entry.date[:10]}")
                return DownloadedFile(file.path, entry.size, entry.sha256, is_kept=True)
            if file.size is None:
                file = _with_size(file)
            is_kept = path.exists()
            sha256 = self._check(path, file.size, file.sha256, "the published file") if is_kept else self._fetch(file)
            size = path.stat().st_size
            self.record.finish(file, size, sha256)
            return DownloadedFile(file.path, size, sha256, is_kept)

    def _check(self, path: Path, size: int | None, sha256: str | None, expected: str) -> str:
        """Return the sha256 of an existing file; refuse a file that is not the expected one."""
        found_size = path.stat().st_size
        found_sha256 = self._sha256(path) if found_size == size else ""
        if found_size != size or found_sha256 != (sha256 or found_sha256):
            raise DownloadError(
                f"{path} is not {expected} ({_difference(size, sha256, found_size, found_sha256)}); delete it or move "
                "it away, then run the command again"
            )
        return found_sha256

    def _fetch(self, file: _RemoteFile) -> str:
        """Download the file to `NAME.part`, check it, rename it; return its sha256."""
        path = self.folder / file.path
        unfinished = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        start = unfinished.stat().st_size if unfinished.exists() else 0
        if start > (file.size or 0) or not self.record.can_resume(file):
            unfinished.unlink(missing_ok=True)
            start = 0
        missing, free = (file.size or 0) - start, shutil.disk_usage(path.parent).free
        if missing > free:
            raise DownloadError(
                f"{file.path} needs {readable_size(missing)} more, but {path.parent} has {readable_size(free)} free; "
                "free some space or choose another folder"
            )
        self.record.begin(file)
        self._transfer(file, unfinished)
        size, sha256 = unfinished.stat().st_size, self._sha256(unfinished)
        if size != file.size or sha256 != (file.sha256 or sha256):
            unfinished.unlink()
            raise DownloadError(
                f"{file.address} arrived damaged ({_difference(file.size, file.sha256, size, sha256)}) and was "
                "deleted; run the command again"
            )
        unfinished.replace(path)
        return sha256

    def _transfer(self, file: _RemoteFile, unfinished: Path) -> None:
        """Append the missing bytes; try again as long as each try adds some."""
        headers = {"accept-encoding": "identity"}
        if file.validator and not file.sha256:
            headers["if-range"] = file.validator
        if file.part.repository:  # the token belongs to addresses of the hub only
            headers = build_hf_headers(token=self.token or False, headers=headers)
        while True:
            with unfinished.open("ab") as handle:
                start = handle.tell()
                try:
                    http_get(
                        file.address,
                        handle,
                        resume_size=start,
                        headers=headers,
                        expected_size=file.size,
                        displayed_filename=Path(file.path).name,
                        tqdm_class=self._bar_class,
                    )
                    return
                except HTTPError:
                    if handle.tell() <= start:
                        raise

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        size, title = path.stat().st_size, f"checking {path.name.removesuffix('.part')}"
        bar = self._bar_class(total=size, desc=title, unit="B", unit_scale=True, disable=None)
        with path.open("rb") as handle, bar:
            while chunk := handle.read(_CHUNK_BYTES):
                digest.update(chunk)
                bar.update(len(chunk))
        return digest.hexdigest()

    @property
    def _bar_class(self) -> Any:
        return tqdm if self.show_progress else silent_tqdm  # tqdm shows bars on a terminal only

    def _explained(self, part: Part, address: str) -> AbstractContextManager[None]:
        page = f"{self.endpoint}/{part.repository}" if part.repository else None
        return _explained(address, page, has_token=bool(self.token), licence=part.licence)


def _with_size(file: _RemoteFile) -> _RemoteFile:
    """Ask the server of a plain address for the size and the validator of its file."""
    response = get_session().head(file.address, headers={"accept-encoding": "identity"}, timeout=_TIMEOUT)
    hf_raise_for_status(response)
    length = response.headers.get("content-length", "")
    if response.headers.get("content-type", "").startswith("text/html"):
        raise DownloadError(f"{file.address} is a web page, expected a file; does this network need a login first?")
    if not length.isdecimal():
        raise DownloadError(f"{file.address} has no Content-Length, so a complete file cannot be recognised")
    etag = response.headers.get("etag", "")
    strong_etag = "" if etag.startswith("W/") else etag
    return replace(file, size=int(length), validator=strong_etag or response.headers.get("last-modified"))


@dataclass(frozen=True)
class _FinishedEntry:
    """The record of a complete file."""

    address: str
    size: int
    sha256: str
    checked_against: str
    date: str


@dataclass(frozen=True)
class _UnfinishedEntry:
    """The record of a `.part` file: which version of which file its bytes belong to."""

    address: str
    size: int | None
    sha256: str | None
    validator: str | None


@dataclass
class _Record:
    """The content of `downloads.json`, written at every change. The keys are paths inside the checkpoint folder."""

    path: Path
    files: dict[str, _FinishedEntry] = field(default_factory=dict)
    unfinished: dict[str, _UnfinishedEntry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "_Record":
        """Read the record of a checkpoint folder; empty if it has none."""
        path = folder / _RECORD_NAME
        if not path.exists():
            return cls(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                path,
                {name: _FinishedEntry(**entry) for name, entry in content["files"].items()},
                {name: _UnfinishedEntry(**entry) for name, entry in content["unfinished"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DownloadError(
                f"{path} cannot be read ({error}); delete it, then the existing files are checked again"
            ) from None

    def can_resume(self, file: _RemoteFile) -> bool:
        """Whether the `.part` file holds bytes of this version of the file."""
        before = self.unfinished.get(file.path)
        if before is None or before.size != file.size or before.sha256 != file.sha256:
            return False
        return bool(file.sha256) or (file.validator is not None and before.validator == file.validator)

    def begin(self, file: _RemoteFile) -> None:
        """Record which file the next bytes belong to."""
        self.unfinished[file.path] = _UnfinishedEntry(file.address, file.size, file.sha256, file.validator)
        self._save()

    def finish(self, file: _RemoteFile, size: int, sha256: str) -> None:
        """Record a complete file."""
        checked_against = "published sha256" if file.sha256 else "length"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        self.files[file.path] = _FinishedEntry(file.address, size, sha256, checked_against, date)
        self.unfinished.pop(file.path, None)
        self._save()

    def _save(self) -> None:
        content = {
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "unfinished": {name: asdict(entry) for name, entry in self.unfinished.items()},
        }
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _explained(address: str, page: str | None, *, has_token: bool, licence: Licence | None = None) -> Iterator[None]:
    """Turn errors of `huggingface_hub` and of the disk into a `DownloadError` of one line.

    Args:
        address: The address that was requested.
        page: The page of the repository on the hub; None for a plain address.
        has_token: Whether a token was sent.
        licence: The licence of the requested part.
    """
    try:
        yield
    except HfHubHTTPError as error:
        raise DownloadError(_explain_status(error, address, page, has_token, licence)) from error
    except OfflineModeIsEnabled as error:
        raise DownloadError(f"{address} was not requested, because HF_HUB_OFFLINE is set; unset it") from error
    except LocalEntryNotFoundError as error:
        reason = error.__cause__ or error
        raise DownloadError(f"cannot reach {address}: {_first_line(reason)}; check the network") from error
    except HTTPError as error:
        raise DownloadError(
            f"cannot reach {urlsplit(address).netloc}: {_first_line(error)}; check the network, then run the command "
            "again"
        ) from error
    except OSError as error:
        if error.strerror:
            raise DownloadError(f"cannot use {error.filename}: {error.strerror}") from error
        raise DownloadError(
            f"{address} did not arrive complete: {_first_line(error)}; run the command again"
        ) from error


def _explain_status(
    error: HfHubHTTPError, address: str, page: str | None, has_token: bool, licence: Licence | None
) -> str:
    status = error.response.status_code
    accept_at = licence.accept_at if licence else None
    if status in (401, 403) and (accept_at or isinstance(error, GatedRepoError)):
        title = f"the {licence.title}" if licence else "its licence"
        pages = " and on ".join(filter(None, (accept_at, page)))
        hint = f"then give a token ({constants.ENDPOINT}/settings/tokens) in HF_TOKEN"
        if has_token:
            hint = "the account of the given token has not accepted it"
        return f"{address} answered {status}: {title} must be accepted first, at {pages}; {hint}"
    if status in (401, 403):
        hint = "check the token" if has_token else "if it is private, give a token in HF_TOKEN"
        return f"{address} answered {status}: it does not exist or is not public; {hint}"
    if status in (404, 410):
        hint = "; `timechat convert` has an option for a copy from elsewhere" if licence else ""
        return f"{address} answered {status}: it does not exist{hint}"
    return f"{address} answered {status}; try again later"


def _difference(size: int | None, sha256: str | None, found_size: int, found_sha256: str) -> str:
    if size != found_size:
        return f"{size:,} bytes expected, {found_size:,} found"
    return f"sha256 {(sha256 or '')[:12]}… expected, {found_sha256[:12]}… found"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
