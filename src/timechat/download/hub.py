"""From a part to its files: their addresses, and the sizes and checksums that the hub lists."""

import json
import logging
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from timechat.download.catalogue import Part
from timechat.download.web import Dropped, Refused, Web, chunks
from timechat.errors import DownloadError

logger = logging.getLogger(__name__)

SHA256 = re.compile("[0-9a-f]{64}")
SAFE_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch; size and sha256 are what the hub publishes, None where it does not."""

    address: str
    path: str
    """Inside the checkpoint folder, with `/`."""
    part: Part
    size: int | None = None
    sha256: str | None = None


def files_of(part: Part, web: Web) -> list[RemoteFile]:
    """The files of a part, with the sizes and checksums that the hub lists, where it lists any."""
    if part.repository is None:
        return [RemoteFile(part.source, part.destination, part)]
    folder, _, pattern = part.source.rpartition("/")
    listed = _listing(part.repository, folder, web)
    names = sorted(name for name in listed if fnmatchcase(name, pattern)) or list(part.known_files)
    is_folder = part.destination.endswith("/")
    if len(names) != 1 and not is_folder:
        raise DownloadError(f"{part.repository} holds {', '.join(names)} where one file was expected")
    repository = f"{web.endpoint}/{part.repository}/resolve/main"
    remote = []
    for name in names:
        source = str(PurePosixPath(folder, name))
        size, sha256 = listed.get(name, (None, None))
        destination = part.destination + name if is_folder else part.destination
        remote.append(RemoteFile(f"{repository}/{quote(source)}", destination, part, size, sha256))
    return remote


def _listing(repository: str, folder: str, web: Web) -> dict[str, tuple[int | None, str | None]]:
    """File name → (bytes, sha256) of a folder on the hub; empty where the hub gives no listing."""
    if web.is_reached is False:
        return {}
    try:
        with web.open(f"{web.endpoint}/api/models/{repository}/tree/main/{folder}".rstrip("/")) as response:
            entries = json.loads(b"".join(chunks(response)))
    except (Dropped, Refused, ValueError) as error:
        # The files themselves are asked for next, and say better what is wrong.
        logger.info("no listing of %s (%s): sizes and checksums are not known beforehand", repository, error)
        return {}
    entries = entries if isinstance(entries, list) else []
    return dict(fact for entry in entries if isinstance(entry, dict) and (fact := _listed_file(entry)))


def _listed_file(entry: dict[str, Any]) -> tuple[str, tuple[int | None, str | None]] | None:
    """Name, bytes and sha256 of a listed file; None for a folder or a name that could leave its folder."""
    name = PurePosixPath(str(entry.get("path", ""))).name
    if entry.get("type") != "file" or not SAFE_NAME.fullmatch(name):
        return None
    large = entry.get("lfs")
    oid = str(large.get("oid", "")).removeprefix("sha256:") if isinstance(large, dict) else ""
    size = entry.get("size")
    return name, (size if isinstance(size, int) else None, oid if SHA256.fullmatch(oid) else None)


def explain_refusal(file: RemoteFile, status: int, web: Web) -> DownloadError:
    """What to tell a person about a status that another try will not change."""
    licence, repository = file.part.licence, file.part.repository
    if status in (401, 403) and licence.accept_at:
        page = f" and on {web.endpoint}/{repository}" if repository else ""
        if web.token:
            hint = "the account of the token that was given has not done so"
        else:
            hint = f"then give its token ({web.endpoint}/settings/tokens) in HF_TOKEN or with --token"
        return DownloadError(
            f"{repository or file.address} answered {status}: the {licence.title} must be accepted first, at "
            f"{licence.accept_at}{page}; {hint}"
        )
    if status in (401, 403):
        hint = "check the token" if web.token else "if it wants a log-in, give a token in HF_TOKEN or with --token"
        return DownloadError(f"{file.address} answered {status}: not public, or not there; {hint}")
    if status in (404, 410):
        return DownloadError(
            f"{file.address} answered {status}: the file is not there any more; `timechat convert` takes a "
            "copy from elsewhere by its own option"
        )
    return DownloadError(f"{file.address} answered {status}; try again later")
