"""Videos inside the request, as `data:` addresses."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from timechat.errors import AccessError
from timechat.serving.access.limits import Limits

_MAX_HEAD = 300  # characters before the comma; media types with their parameters are shorter


def decode_data_url(
    url: str, limits: Limits, *, kinds: tuple[str, ...] = ("video/", "application/octet-stream")
) -> bytes:
    """Decode a base64 `data:` address.

    Args:
        url: `data:video/mp4;base64,…`.
        limits: Limits; `max_inline_bytes` is checked before decoding.
        kinds: Accepted media types in lower case; one that ends with `/` is a prefix.

    Raises:
        AccessError: The content is `too_large`, or the address is a `bad_address`: another media type, not base64, or
            empty.
    """
    comma = url.find(",", 0, _MAX_HEAD)
    if url[:5].lower() != "data:" or comma < 0:
        raise AccessError("a data: address must look like data:video/mp4;base64,…", "bad_address")
    media_type, *parameters = [part.strip().lower() for part in url[5:comma].split(";")]
    if not parameters or parameters[-1] != "base64":
        raise AccessError("a data: address must be written in base64, as data:video/mp4;base64,…", "bad_address")
    if not any(media_type.startswith(kind) if kind.endswith("/") else media_type == kind for kind in kinds):
        wanted = " or ".join(f"{kind}…" if kind.endswith("/") else kind for kind in kinds)
        raise AccessError(f"the data: address must hold {wanted}", "bad_address")
    num_characters = len(url) - comma - 1 - 2 * url.count("%", comma)
    ending = url[-6:].upper().replace("%3D", "=")
    num_bytes = num_characters * 3 // 4 - ending.endswith("=") - ending.endswith("==")
    if num_bytes > limits.max_inline_bytes:
        raise AccessError(
            f"the data: address holds {num_bytes} bytes, more than the {limits.max_inline_bytes} that are allowed; "
            "upload the file, or give its address",
            "too_large",
        )
    text = unquote_to_bytes(url[comma + 1 :]) if "%" in url[comma:] else url[comma + 1 :].encode("utf-8", "replace")
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise AccessError("the data: address is not valid base64", "bad_address") from None
    if not data:
        raise AccessError("the data: address is empty", "bad_address")
    return data
