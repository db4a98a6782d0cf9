"""Safe access to the videos that clients name.

Clients of a server and of its tools cannot be trusted. Each kind of name has its own check:

    a path, file://   folders    must be in an allowed folder; lists the videos of these folders by id
    http(s)://        addresses  the host must be allowed and must not lead into the private network
                      fetching   downloads to a file, from the IP address that was checked
    data:             inline     base64, with a limit of size that is checked before decoding
    any of them       probing    reads the properties of the video in a separate process with few rights

`limits` holds the limits of size and time; `redaction` removes secrets from logs. Names are imported on first use, so
that the probing process loads only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timechat.errors import AccessError
    from timechat.serving.access.addresses import Addresses, CheckedAddress
    from timechat.serving.access.fetching import Fetched, fetch
    from timechat.serving.access.folders import Folders, FolderVideo, VideoIdentity
    from timechat.serving.access.inline import decode_data_url
    from timechat.serving.access.limits import Limits
    from timechat.serving.access.probing import Probed, probe_safely
    from timechat.serving.access.redaction import redact

_HOMES = {
    "AccessError": "timechat.errors",
    "Addresses": "timechat.serving.access.addresses",
    "CheckedAddress": "timechat.serving.access.addresses",
    "Fetched": "timechat.serving.access.fetching",
    "FolderVideo": "timechat.serving.access.folders",
    "Folders": "timechat.serving.access.folders",
    "Limits": "timechat.serving.access.limits",
    "Probed": "timechat.serving.access.probing",
    "VideoIdentity": "timechat.serving.access.folders",
    "decode_data_url": "timechat.serving.access.inline",
    "fetch": "timechat.serving.access.fetching",
    "probe_safely": "timechat.serving.access.probing",
    "redact": "timechat.serving.access.redaction",
}

__all__ = [
    "AccessError",
    "Addresses",
    "CheckedAddress",
    "Fetched",
    "FolderVideo",
    "Folders",
    "Limits",
    "Probed",
    "VideoIdentity",
    "decode_data_url",
    "fetch",
    "probe_safely",
    "redact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'timechat.serving.access' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
