"""Videos that somebody outside names: which may be opened, and how they get to a local file safely.

A server and tools that an agent calls are handed addresses by people whom nobody knows. Each kind has one door:

    a path, file://   folders    must lie under a folder that was allowed; films in those folders, listed by id
    http(s)://        addresses  the host must be allowed, and may not lead into the private network
                      fetching   copied to a file, from the very IP address that was checked
    data:             inline     base64, measured before it is decoded
    any of them       probing    what video it is, found out by another process that can do no harm

`limits` says how large and how slow all of this may be; `redaction` keeps secrets out of logs. Names are imported on
first use, so that the process that probes loads nothing it does not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timechat.errors import AccessError
    from timechat.serving.access.addresses import Addresses, CheckedAddress
    from timechat.serving.access.fetching import Fetched, fetch
    from timechat.serving.access.folders import Folders, FolderVideo
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
