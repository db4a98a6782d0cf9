"""Settings of the serving service and of the HTTP server."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from timechat.files import user_folder
from timechat.serving.access import Limits


def default_data_folder() -> Path:
    """Return the folder of uploads and jobs: `$TIMECHAT_DATA`, or the platform's folder for user data."""
    if given := os.environ.get("TIMECHAT_DATA"):
        return Path(given).expanduser()
    folder = user_folder("data")
    if folder is None:
        raise ValueError("no home folder is known; name a folder with --data or in $TIMECHAT_DATA")
    return folder


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server; the defaults suit one person's own machine."""

    data: Path = field(default_factory=default_data_folder)
    """Folder of uploads, jobs and fetched videos; created when the server starts."""
    folders: tuple[Path, ...] = ()
    """Folders whose videos may be opened."""
    library: Path | None = None
    """Library that is searched, of which clients see the videos of the folders; None for no library."""
    hosts: tuple[str, ...] = ()
    """Hosts from which videos may be fetched: `example.org`, `*.example.org`, `*` for any public host."""
    allows_private: bool = False
    """Whether these hosts may be in a private network."""
    opens_paths: bool = False
    """Whether requests name videos by their path in an allowed folder instead of an id."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """API keys, one of which each request must send; without keys, everyone who can reach the server may use it."""
    names: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Accepted host names (`Host` header), without ports; `*` for any."""
    origins: tuple[str, ...] = ()
    """Web pages of other servers, such as `https://example.org`, that may send requests from a browser."""
    limits: Limits = field(default_factory=Limits)
    """Limits of one video."""
    max_body_bytes: int = 100_000_000
    """Maximum size of a request that is not an upload; `data:` addresses are part of it."""
    max_body_values: int = 1_000_000
    """Maximum number of values in the JSON of such a request: brackets take many times their size in memory."""
    max_buffered_bytes: int = 1_000_000_000
    """Maximum size of all such requests in memory together; further requests get 429."""
    max_store_bytes: int = 100_000_000_000
    """Maximum size of all uploads together."""
    max_fetched_bytes: int = 10_000_000_000
    """Maximum size of all fetched videos together, with those that are being fetched."""
    silence_timeout: float = 30.0
    """Seconds without a byte after which reading the body of a request ends."""
    upload_timeout: float = 3600.0
    """Maximum time to receive one body, in seconds."""
    request_timeout: float = 600.0
    """Maximum time of an answer, in seconds; jobs have no such limit."""
    max_requests: int = 96
    """Maximum number of requests that are answered or wait at the same time; further requests get 429."""
    max_rows: int = 16
    """Maximum number of answers that are decoded at the same time."""
    max_state_bytes: int = 4 << 30
    """Maximum size of the KV cache of these answers."""
    preempt_after_tokens: int = 32
    """Number of tokens after which an answer is preempted if others wait."""
    max_new_tokens: int = 2048
    """Maximum number of tokens of one answer that a request may ask for."""
    max_frames: int = 2000
    """Maximum number of frames of a window that a request may ask for."""
    max_open_videos: int = 16
    """Maximum number of idle videos that stay open with their tokens."""
    job_workers: int = 2
    """Number of jobs that run at the same time."""
    max_waiting_jobs: int = 100
    """Maximum number of waiting jobs; further jobs get 429."""
    max_kept_jobs: int = 1000
    """Maximum number of finished jobs that are kept; the oldest are deleted first."""
