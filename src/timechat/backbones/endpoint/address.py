"""Addresses of endpoints (`http://host/v1#NAME`) and their keys, which appear in no text that is made here."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from timechat.errors import printable_line

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable of the key, unless another one is named."""

_HOW_TO = "expected http://HOST/v1#MODEL or https://HOST/v1#MODEL"
_DATA_URL = re.compile(r"data:[\w./+-]{1,40};base64,[A-Za-z0-9+/=,_-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """Address of an OpenAI-compatible server, and the model to ask.

    Attributes:
        base_url: Address without a slash at its end, to which `/chat/completions` is added.
        model: Name of the model; None for the only model that the server lists.
        host: Host name or IP address in lower case, without brackets and port.
    """

    base_url: str
    model: str | None
    host: str

    @classmethod
    def parse(cls, text: str) -> "EndpointAddress":
        """Read an address; without a path, it ends in `/v1`.

        Raises:
            ValueError: The text is no such address, or it contains a user name, a password or a query.
        """
        url, _, model = text.strip().partition("#")
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        if parts.scheme.lower() not in ("http", "https") or not host or re.search(r"[\s\\\x00-\x1f]", url):
            # The text is not repeated: it can contain a password.
            raise ValueError(f"the address of an endpoint cannot be read: {_HOW_TO}")
        shown = f"[{host}]" if ":" in host else host
        base = f"{parts.scheme.lower()}://{shown}{'' if port is None else f':{port}'}{parts.path.rstrip('/') or '/v1'}"
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(
                f"the address {base} must contain no user name, password or query; set the key of the endpoint in the "
                f"environment variable {KEY_VARIABLE}"
            )
        return cls(base, model.strip() or None, host)

    def __str__(self) -> str:
        return f"{self.base_url}#{self.model}" if self.model else self.base_url

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine by its name alone; names are not resolved."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            address = ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    def privacy_note(self) -> str | None:
        """Return the sentence that says what leaves this machine; None if nothing does."""
        if self.is_loopback:
            return None
        encryption = ", without encryption" if self.base_url.startswith("http://") else ""
        return (
            "Frames of the video (not the file, not the sound), your question, and the transcript if you give one "
            f"leave this machine to {self.host}{encryption}."
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Key of an endpoint.

    Attributes:
        variable: Environment variable that contains the key.
        secret: The key itself; it is not part of `repr`.
    """

    variable: str
    secret: str = field(repr=False)

    @classmethod
    def from_environment(
        cls, variable: str | None = None, environment: Mapping[str, str] | None = None
    ) -> "ApiKey | None":
        """Read the key; None if no variable is named and `OPENAI_API_KEY` is not set.

        Args:
            variable: Name of the environment variable; None for `OPENAI_API_KEY`.
            environment: Variables and their values; None for those of this process.

        Raises:
            ValueError: The named variable is not set, or its value cannot be sent in a header.
        """
        name = KEY_VARIABLE if variable is None else variable
        if not _VARIABLE.fullmatch(name):  # it may be the key itself, so it is not repeated
            raise ValueError(
                "the name of the environment variable with the key must be letters, digits and underscores"
            )
        secret = (os.environ if environment is None else environment).get(name, "").strip()
        if not secret:
            if variable is None:
                return None
            raise ValueError(f"the environment variable {name} is not set; set it to the key of the endpoint")
        if not re.fullmatch(r"[\x21-\x7e]+", secret):
            raise ValueError(f"the environment variable {name} has characters that no key has; check its value")
        return cls(name, secret)


def without_secrets(text: str, key: ApiKey | None, *, max_characters: int = 300) -> str:
    """Return a text of a server in one printable line without the key and without pictures.

    Args:
        text: Text that may repeat parts of the request.
        key: Key that was sent.
        max_characters: Maximum number of characters.
    """
    text = _DATA_URL.sub("data:…", text)
    if key is not None:
        text = text.replace(key.secret, "…")
        # A server may shorten the key that it refuses ("sk-ab***yz"), or escape it.
        text = re.sub(r"\bsk-[\w*.…-]+", "…", text)
    line = printable_line(text)
    return line if len(line) <= max_characters else f"{line[: max_characters - 1]}…"
