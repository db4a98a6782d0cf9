"""The published files of the original TimeChat, fetched into the folders that `timechat convert` reads.

    catalogue (parts) ─▶ hub (their files) ─▶ fetching (keep or fetch each) ─▶ transfer (one file, resumable)

`web` makes the requests, `manifest` remembers what is here. Plain urllib rather than huggingface_hub: one
resumable way for both hosts, bytes hashed where they land (no second copy of 17 GB in a cache), and a server on
loopback can play every failure.

Only a local HTTP server was ever asked: the real hosts could not be reached where this was written, so their
addresses (`original_files.json`), their hub listing and their redirects are as documented, not as tried.
"""

from timechat.download.catalogue import Licence, Part, choose_parts, describe_parts, original_parts
from timechat.download.fetching import Downloaded, download
from timechat.download.transfer import Progress

__all__ = [
    "Downloaded",
    "Licence",
    "Part",
    "Progress",
    "choose_parts",
    "describe_parts",
    "download",
    "original_parts",
]
