"""Removal of secrets from log messages."""

import re

_SECRET_NAMES = (
    r"(?:[\w-]*[_-])?"
    r"(?:token|key|apikey|secret|password|passwd|pwd|signature|sig|credentials?|auth|authorization)"
)
_DATA_URL = re.compile(
    r"data:([\w.+-]{0,60}/?[\w.+-]{0,60}(?:;[\w.+=-]{1,60}){0,4}),([\w%+/=.~!*'()-]*)", re.IGNORECASE
)
_AUTHORIZATION = re.compile(r"\b(bearer|authorization[\"']?\s*[:=]\s*[\"']?basic)\s+[\w.~+/=-]+", re.IGNORECASE)
_QUERY_SECRET = re.compile(rf"([?&;#]{_SECRET_NAMES}=)[^&#;\s\"'<>]*", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^/?#\s\"'<>]*@", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def redact(text: str) -> str:
    """Remove secrets from a log message.

    `data:` addresses are shortened to their size. Keys after `Bearer` and `Basic`, values of `?token=`, `&api_key=` and
    similar parameters, and credentials in addresses are removed. Line breaks and other control characters are escaped,
    so that clients cannot inject lines into the log.
    """
    text = _DATA_URL.sub(_size, text)
    text = _AUTHORIZATION.sub(r"\1 …", text)
    text = _URL_CREDENTIALS.sub(r"\1", text)
    text = _QUERY_SECRET.sub(r"\1…", text)
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _size(found: re.Match[str]) -> str:
    head, body = found[1], found[2]
    num_bytes = len(body.rstrip("=")) * 3 // 4 if head.lower().endswith(";base64") else len(body)
    return f"data:…({num_bytes} bytes)"
