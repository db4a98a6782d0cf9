"""Web addresses: allowed hosts, and protection of the private network."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal
from urllib.parse import quote, urlsplit

from timechat.errors import AccessError

RESOLVE_TIMEOUT = 10.0
"""Maximum time of a name look-up, in seconds."""

MAX_ADDRESS_LENGTH = 8192
"""Maximum number of characters of an address."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_ENTRY = re.compile(r"(?:(https?)://)?(\*|\*\.[^*/:@]+|\[[^\]]+\]|[^*/:@]+)(?::(\d{1,5}))?/?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)

_PRIVATE_V4 = [
    IPv4Network(each) for each in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
]
_PRIVATE_V6 = [IPv6Network("::1/128"), IPv6Network("fc00::/7")]
_UNUSABLE_V4 = [IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24")]
_UNUSABLE_V6 = [IPv6Network("3fff::/20")]
_PUBLIC_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x5EFE, 0x2005EFE)

Reach = Literal["public", "private", "unusable"]


@dataclass(frozen=True)
class CheckedAddress:
    """An address that may be fetched, with the IP addresses that were checked.

    Attributes:
        url: Address in ASCII, without a fragment.
        scheme: `http` or `https`.
        host: Host name in lower-case ASCII, or IP address without brackets.
        port: Port of the address, or the default port of the scheme.
        target: Path and query, as in the request line.
        ips: IP addresses of the host, in the order of the resolver; connect to these only.
    """

    url: str
    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str
    ips: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """An allowed host; None stands for any scheme or port."""

    scheme: str | None
    host: str
    port: int | None

    def allows(self, scheme: str, host: str, port: int) -> bool:
        is_host = self.host in ("*", host) or (self.host.startswith("*.") and host.endswith(self.host[1:]))
        return is_host and self.scheme in (None, scheme) and self.port in (None, port)


class Addresses:
    """The hosts from which videos may be fetched."""

    def __init__(self, allowed: Sequence[str] = (), *, allows_private: bool = False) -> None:
        """Allow some hosts; without hosts, every address is refused.

        Args:
            allowed: `example.org` (any port, http and https), `*.example.org` (its subdomains only),
                `example.org:8080`, `https://example.org` (port 443) or `https://example.org:8443`; `*` is any host.
            allows_private: Whether names may lead to loopback and private addresses (10/8, 172.16/12, 192.168/16,
                100.64/10, fc00::/7). Link-local addresses, where clouds serve their keys, are always refused, and so
                are multicast and reserved addresses.
        """
        self._entries = [_parse_entry(each) for each in allowed]
        self._allows_private = allows_private

    def check(self, url: str) -> CheckedAddress:
        """Check an address and look up the IP addresses of its host.

        Raises:
            AccessError: The address cannot be used (`bad_address`), its host is not allowed or leads into a private
                network (`forbidden`), or its name is not known (`unreachable`).
        """
        scheme, host, port, target = _split(url)
        if not any(entry.allows(scheme, host, port) for entry in self._entries):
            reason = "this host is not allowed" if self._entries else "no host is allowed"
            raise AccessError(
                f"the address may not be fetched: {reason}; allow it with --allow-host, or give a file instead",
                "forbidden",
            )
        ips = _resolve_in_time(host, port)
        reaches = {reach(ip) for ip in ips}
        if "unusable" in reaches or ("private" in reaches and not self._allows_private):
            raise AccessError("the address may not be fetched: it leads into a private network", "forbidden")
        shown_host = f"[{host}]" if ":" in host else host
        shown_port = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
        return CheckedAddress(f"{scheme}://{shown_host}{shown_port}{target}", scheme, host, port, target, tuple(ips))


def reach(ip: str) -> Reach:
    """Classify an IP address; an IPv6 address that contains an IPv4 address is classified by that one.

    Returns:
        `private` for loopback and private networks; `unusable` for addresses without servers: link-local, multicast,
        reserved, unspecified and documentation addresses; else `public`.
    """
    address = ipaddress.ip_address(ip)
    if isinstance(address, IPv4Address):
        return _reach_v4(address)
    carried = _embedded_v4(address)
    if carried:
        reaches = {_reach_v4(each) for each in carried}
        return next(each for each in ("unusable", "private", "public") if each in reaches)
    if any(address in network for network in _PRIVATE_V6):
        return "private"
    is_usable = address in _PUBLIC_V6 and address.is_global and not any(address in each for each in _UNUSABLE_V6)
    return "public" if is_usable and not address.scope_id else "unusable"


def _reach_v4(address: IPv4Address) -> Reach:
    if any(address in network for network in _PRIVATE_V4):
        return "private"
    is_usable = address.is_global and not address.is_multicast and not address.is_reserved
    return "public" if is_usable and not any(address in each for each in _UNUSABLE_V4) else "unusable"


def _embedded_v4(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses to which packets for an IPv6 address may be forwarded."""
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if address in _NAT64 or (int(address) >> 32 & 0xFFFFFFFF) in _ISATAP:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return []


def resolve(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, by the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _resolve_in_time(host: str, port: int) -> list[str]:
    """Return the IP addresses of a name, or an IP address itself, within `RESOLVE_TIMEOUT`."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    found: list[str] = []

    def look_up() -> None:
        try:
            found.extend(resolve(host, port))
        except (OSError, UnicodeError):  # an unknown name: the list stays empty
            return

    thread = threading.Thread(
        target=look_up, name="name look-up", daemon=True
    )  # the system's look-up cannot be stopped
    thread.start()
    thread.join(RESOLVE_TIMEOUT)
    ips = list(found)
    if not ips:
        raise AccessError("the address cannot be reached: the name of its host is not known", "unreachable")
    return ips


def _split(url: str) -> tuple[Literal["http", "https"], str, int, str]:
    """Return scheme, host, port and target of an address."""
    if len(url) > MAX_ADDRESS_LENGTH or re.search(r"[\x00-\x20\x7f\\]", url):
        raise _address_error(
            f"it must have at most {MAX_ADDRESS_LENGTH} characters, without spaces, backslashes or control characters"
        )
    try:
        url.encode()  # refuses lone surrogates
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _address_error("host, port or a character of it cannot be read") from None
    scheme: Literal["http", "https"]
    if parts.scheme == "http":
        scheme = "http"
    elif parts.scheme == "https":
        scheme = "https"
    else:
        raise _address_error("it must begin with http:// or https://")
    if "@" in parts.netloc:
        raise _address_error("user name and password in it are not accepted")
    if port is None:
        port = _DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise _address_error("port must be 1 to 65535")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|{}^`") if parts.query else ""
    )
    return scheme, _plain_host(parts.hostname or "", is_bracketed="[" in parts.netloc), port, target


def _plain_host(host: str, *, is_bracketed: bool) -> str:
    """Return a host in its canonical spelling."""
    if is_bracketed:
        try:
            return str(IPv6Address(host.partition("%")[0] if "%" not in host else ""))
        except ValueError:
            raise _address_error("its IPv6 address cannot be read") from None
    try:
        host = host.removesuffix(".").encode("idna").decode("ascii").lower() if host else ""
    except UnicodeError:
        host = ""
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise _address_error("the name of its host cannot be read")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):  # not a name; C libraries read 0x7f.1 as 127.0.0.1
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise _address_error("an IPv4 address must be written as four decimal numbers") from None
    return host


def _parse_entry(entry: str) -> _Entry:
    match = _ENTRY.fullmatch(entry.strip())
    try:
        if match is None:
            raise _address_error("it must look like example.org, *.example.org, https://example.org:8443 or *")
        scheme, host, port = match[1] and match[1].lower(), match[2], match[3]
        prefix, host = ("*.", host[2:]) if host.startswith("*.") else ("", host)
        if host != "*":
            host = _plain_host(host.strip("[]"), is_bracketed=host.startswith("["))
    except AccessError as error:
        raise ValueError(f"{entry!r} cannot be allowed as a host: {str(error).partition(': ')[2]}") from None
    return _Entry(scheme, prefix + host, int(port) if port else _DEFAULT_PORTS.get(scheme or ""))


def _address_error(why: str) -> AccessError:
    return AccessError(f"the address cannot be used: {why}", "bad_address")
