"""What a server is told when it starts."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from timechat.serving.access import Limits

DATA_VARIABLE = "TIMECHAT_DATA"


def default_data_folder() -> Path:
    """Where uploads and jobs are kept: `$TIMECHAT_DATA`, or the platform's folder for a user's data."""
    if given := os.environ.get(DATA_VARIABLE):
        return Path(given).expanduser()
    share = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (share if share.is_absolute() else Path.home() / ".local" / "share") / "timechat"


@dataclass(frozen=True)
class ServerSettings:
    """How a server behaves; the defaults are those of one person's own machine."""

    data: Path = field(default_factory=default_data_folder)
    """Folder of uploads and jobs; made when the server starts."""
    folders: tuple[Path, ...] = ()
    """Folders whose films may be asked about."""
    hosts: tuple[str, ...] = ()
    """Hosts from which films may be fetched: `example.org`, `*.example.org`, `*` for any public one."""
    allows_private: bool = False
    """Whether those hosts may lie in a private network."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys of which a request must show one; none lets everybody in who can reach the server."""
    names: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names under which the server may be asked (`Host`), without ports; `*` for any."""
    origins: tuple[str, ...] = ()
    """Web pages of other servers, such as `https://example.org`, that may ask from a browser."""
    limits: Limits = field(default_factory=Limits)
    """Of one video."""
    max_body_bytes: int = 100_000_000
    """Of one request other than an upload; `data:` addresses travel in it."""
    max_body_values: int = 1_000_000
    """Values in the JSON of such a request: a body of nothing but brackets takes many times its size in memory."""
    max_buffered_bytes: int = 1_000_000_000
    """Of all those requests that are in memory at once; more are turned away with 429."""
    max_store_bytes: int = 100_000_000_000
    """Of all uploads together."""
    silence_timeout: float = 30.0
    """Seconds without a byte after which a request's body is given up."""
    upload_timeout: float = 3600.0
    """Seconds that one body may take in all."""
    request_timeout: float = 600.0
    """Seconds that an answer may take; jobs have no such bound."""
    max_requests: int = 96
    """Questions that are answered at once, or wait for a row; more are turned away with 429."""
    max_rows: int = 16
    """Answers that are written at once, side by side."""
    max_state_bytes: int = 4 << 30
    """Memory of the language model's states of those answers."""
    preempt_after_tokens: int = 32
    """Tokens after which an answer makes room where others wait."""
    max_new_tokens: int = 2048
    """Most tokens of one answer that a request may ask for."""
    max_frames: int = 2000
    """Most frames of a window that a request may ask for."""
    max_open_videos: int = 16
    """Videos that stay open with what was made of them, for the next question."""
    job_workers: int = 2
    """Jobs that run at once."""
    max_waiting_jobs: int = 100
    """Jobs that wait; more are turned away with 429."""
    max_kept_jobs: int = 1000
    """Jobs that are remembered after they have ended; the oldest go first."""
