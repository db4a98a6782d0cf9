"""One file from its address to `NAME.part`, in as many requests as bring it further."""

import http.client
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from timechat.download.hashed_file import HashedFile
from timechat.download.hub import RemoteFile
from timechat.download.manifest import Manifest, Unfinished
from timechat.download.sizes import readable_size
from timechat.download.web import Dropped, Refused, Web, chunks
from timechat.errors import DownloadError

logger = logging.getLogger(__name__)

MAX_TRIES = 6  # in a row that bring no new byte; one that does starts the count again
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0  # seconds between two tries, doubled each time


@dataclass(frozen=True)
class Progress:
    """How far one file is, in bytes. `total` is None where no size is known."""

    path: str
    stage: Literal["checking", "fetching"]
    done: int
    total: int | None


@dataclass(frozen=True)
class Transfer:
    """Brings `partial` to the whole file."""

    file: RemoteFile
    partial: HashedFile
    manifest: Manifest
    web: Web
    report: Callable[[Progress], None]

    def run(self) -> None:
        """Ask until the file is whole, and check it."""
        self._ask_until_whole()
        file, partial = self.file, self.partial
        if partial.path.stat().st_size != partial.size:
            raise DownloadError(f"{partial.path} was changed by another process; let one download run at a time")
        if file.sha256 and partial.sha256 != file.sha256:
            came = difference(file.sha256, partial.sha256)
            self._start_over()
            raise DownloadError(f"{file.address} came damaged ({came}) and was thrown away; run the command again")

    def _ask_until_whole(self) -> None:
        longest = fruitless = 0
        while True:
            try:
                return self._ask_once()
            except Dropped as drop:
                if not self.web.is_reached:
                    host = urlsplit(self.file.address).netloc
                    raise DownloadError(f"cannot reach {host}: {drop}; is this machine online?") from None
                fruitless = 0 if self.partial.size > longest else fruitless + 1
                longest = max(longest, self.partial.size)
                if fruitless >= MAX_TRIES:
                    raise DownloadError(
                        f"{self.file.address} could not be fetched: {fruitless} tries in a row brought nothing "
                        f"new ({drop}); {readable_size(self.partial.size)} are kept: run the command again to go on"
                    ) from None
                logger.info("%s: %s; trying again", self.file.path, drop)
                pause = drop.retry_after
                if pause is None:
                    pause = FIRST_PAUSE * 2 ** max(fruitless - 1, 0)
                time.sleep(min(pause, MAX_PAUSE))

    def _ask_once(self) -> None:
        """One request: for what is missing of the file, or for all of it where that cannot be had."""
        before = self.manifest.unfinished.get(self.file.path)
        if before and not before.can_resume(self.file, self.partial.size):
            before = None
        if before and before.size == self.partial.size:
            return
        headers = {}
        if before:
            headers["Range"] = f"bytes={self.partial.size}-"
            if before.validator and not self.file.sha256:  # a published checksum vouches for every host that serves it
                headers["If-Range"] = before.validator
        try:
            with self.web.open(self.file.address, headers) as response:
                now = announced(self.file, response)
                if response.status != 206:
                    self._start_over()
                elif not (before and before.is_same_file(now) and _first_byte(response) == self.partial.size):
                    self._start_over()
                    raise Dropped("the file on the server changed")
                self._receive(response, now)
        except Refused as refusal:
            if refusal.status != 416:
                raise
            self._start_over()
            raise Dropped("the server has nothing after what is here") from None

    def _receive(self, response: http.client.HTTPResponse, now: Unfinished) -> None:
        """Append the response to `partial`; with a known size, end with exactly that or a `Dropped`."""
        partial = self.partial
        folder = partial.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        missing = (now.size or 0) - partial.size
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise DownloadError(
                f"{self.file.path} needs {readable_size(missing)} more, and {readable_size(free)} are free in "
                f"{folder}; make room or choose another folder"
            )
        self.manifest.begin(self.file, now)
        with partial.path.open("ab") as handle:
            for chunk in chunks(response):
                partial.append(handle, chunk)
                self.report(Progress(self.file.path, "fetching", partial.size, now.size))
            os.fsync(handle.fileno())
        if now.size is not None and partial.size < now.size:
            raise Dropped(f"the connection closed after {partial.size:,} of {now.size:,} bytes")
        if now.size is not None and partial.size > now.size:
            self._start_over()
            raise Dropped(f"the server sent more than the {now.size:,} bytes expected")

    def _start_over(self) -> None:
        self.partial.delete()
        self.manifest.drop(self.file)


def announced(file: RemoteFile, response: http.client.HTTPResponse) -> Unfinished:
    """The file as this response describes it."""
    headers = response.headers
    if (encoding := headers.get("Content-Encoding", "identity")) != "identity":
        raise DownloadError(f"{file.address} was sent as {encoding} though nobody asked for that")
    if headers.get_content_type() == "text/html":
        raise DownloadError(
            f"{file.address} gave a web page and not the file; does the network here want a log-in first?"
        )
    is_rest = response.status == 206
    named = headers.get("Content-Range" if is_rest else "Content-Length", "").rpartition("/")[2]
    size = int(named) if named.isdecimal() else None
    if file.size is not None and size is not None and size != file.size:
        raise DownloadError(
            f"{file.address} is sent with {size:,} bytes where the hub lists {file.size:,}; try again later"
        )
    size = file.size if size is None else size
    if size is None and not is_rest and not headers.get("Transfer-Encoding"):
        raise DownloadError(f"{file.address} names no length, so a lost connection would look like its end")
    etag = headers.get("ETag", "")
    strong_etag = "" if etag.startswith("W/") else etag
    return Unfinished(file.address, size, file.sha256, strong_etag or headers.get("Last-Modified"))


def difference(expected: str, found: str) -> str:
    """Two checksums beside each other, for an error message."""
    return f"sha256 {expected[:12]}… expected, {found[:12]}… found"


def _first_byte(response: http.client.HTTPResponse) -> int | None:
    """Where in the file a 206 starts."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None
