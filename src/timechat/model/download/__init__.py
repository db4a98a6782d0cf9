"""Downloads: the files of the original TimeChat, and models of the hub.

`catalogue` lists the parts of the original checkpoint, `fetch` brings their files into a checkpoint folder.

`huggingface_hub` makes every request. It lists the repositories, sends the token, retries and resumes. What is ours:
one `.part` file for each unfinished file, so that a later run resumes it (`hf_hub_download` deletes an unfinished
file: huggingface_hub issue 4196), the check of size and sha256, and the record `downloads.json`.

The tests use a server on loopback. The real addresses (`original_files.json`) were not reachable during development.
"""

from timechat.model.download.catalogue import Licence, Part, choose_parts, describe_parts, original_parts
from timechat.model.download.fetch import DownloadedFile, download, fetch_config, fetch_files, fetch_model

__all__ = [
    "DownloadedFile",
    "Licence",
    "Part",
    "choose_parts",
    "describe_parts",
    "download",
    "fetch_config",
    "fetch_files",
    "fetch_model",
    "original_parts",
]
