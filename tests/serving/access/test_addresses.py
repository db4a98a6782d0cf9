import socket
import time

import pytest

from timechat.errors import AccessError
from timechat.serving.access import Addresses, addresses

PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255"),
    *("::1", "fc00::1", "fd12:3456::1"),
    *(
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "2002:c0a8:101::",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a00:1",
    ),
]
UNUSABLE = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("192.88.99.1", "::", "fe80::1", "ff02::1", "fec0::1", "2001:db8::1", "3fff::1", "64:ff9b:1::1", "100::1"),
    *("::ffff:169.254.169.254", "2002:a9fe:a9fe::", "64:ff9b::169.254.169.254", "::127.0.0.1", "fe80::1%lo"),
    "2001:0:5ef5:79fd:0:0:5601:5601",  # Teredo of 169.254.169.254, whose bits it writes inverted
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::"]


def resolving(monkeypatch: pytest.MonkeyPatch, *ips: str) -> list[str]:
    """Resolve every name to these IP addresses; return the names that are looked up."""
    asked = list[str]()
    monkeypatch.setattr(addresses, "resolve", lambda host, _: asked.append(host) or list(ips))
    return asked


def reason_of(url: str, *allowed: str, allows_private: bool = False) -> str | None:
    try:
        Addresses(allowed or ("*",), allows_private=allows_private).check(url)
    except AccessError as error:
        return error.reason
    return None


@pytest.mark.parametrize("ip", PRIVATE)
def test_names_of_private_addresses_need_allow_private(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "8.8.8.8", ip)
    assert reason_of("http://example.org/a.mp4") == "forbidden"
    assert reason_of("http://example.org/a.mp4", allows_private=True) is None


@pytest.mark.parametrize("ip", UNUSABLE)
def test_link_local_and_reserved_addresses_are_always_refused(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ip)
    assert reason_of("http://example.org/a.mp4") == "forbidden"
    assert reason_of("http://example.org/a.mp4", allows_private=True) == "forbidden"


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_pass(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ip)
    assert Addresses(["*"]).check("https://example.org/a.mp4").ips == (ip,)


def test_teredo_of_a_private_client_is_private() -> None:
    assert addresses.reach("2001:0:808:808:0:0:80ff:fffe") == "private"  # client 127.0.0.1, inverted


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "0", "0x", "1.2.3.4.5", "127.0.0.01"),
        *("256.1.1.1", "017700000001", "0xA9FEA9FE", "example.0x7f"),
    ],
)
def test_odd_spellings_of_ipv4_are_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, "8.8.8.8")
    assert reason_of(f"http://{host}/") == "bad_address"
    assert reason_of(f"http://{host}/", allows_private=True) == "bad_address"
    assert asked == []


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://127.0.0.1/",
            "http://127.0.0.1./",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://[0:0:0:0:0:ffff:10.0.0.1]/",
        ),
        *(
            "http://１２７.0.0.1/",
            "http://127。0。0。1/",
            "http://①②⑦.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
        ),
    ],
)
def test_private_addresses_are_forbidden_in_every_spelling(url: str) -> None:
    assert reason_of(url) == "forbidden"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org/",
            "example.org/a.mp4",
            "//example.org/",
            "",
        ),
        *(
            "http://",
            "http:///a",
            "http://user@example.org/",
            "http://user:secret@example.org/",
            "http://@example.org/",
        ),
        *(
            "http://example.org:0/",
            "http://example.org:65536/",
            "http://example.org:x/",
            "http://[::1/",
            "http://[fe80::1%25lo]/",
        ),
        *(
            "http://exa mple.org/",
            "http://example.org/\r\nHost: x",
            "http://example.org\\@evil.org/",
            "http://example.org/\x00",
        ),
        *("http://-a.org/", "http://a..org/", "http://a" + "b" * 64 + ".org/", "http://example.org/" + "a" * 9000),
        *("http://ex%61mple.org/", "http://example.org/\ud800", "http://*/", "http://exam ple.org"),
    ],
)
def test_a_malformed_address_is_refused_without_a_lookup(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, "8.8.8.8")
    assert reason_of(url) == "bad_address"
    assert asked == []


def test_messages_do_not_repeat_credentials() -> None:
    with pytest.raises(AccessError, match="user name and password") as caught:
        Addresses(["*"]).check("http://somebody:geheim@example.org/")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "url", "is_allowed"),
    [
        ("example.org", "http://example.org/", True),
        ("example.org", "https://EXAMPLE.org./", True),
        ("example.org", "https://example.org:8443/", True),
        ("example.org", "https://www.example.org/", False),
        ("example.org", "https://example.org.evil.net/", False),
        ("example.org", "https://evilexample.org/", False),
        ("*.example.org", "https://a.b.example.org/", True),
        ("*.example.org", "https://example.org/", False),
        ("*.example.org", "https://evilexample.org/", False),
        ("https://example.org:8443", "https://example.org:8443/", True),
        ("https://example.org:8443", "https://example.org/", False),
        ("https://example.org:8443", "http://example.org:8443/", False),
        ("https://example.org", "https://example.org:443/", True),
        ("https://example.org", "https://example.org:444/", False),
        ("example.org:81", "http://example.org:81/", True),
        ("example.org:81", "http://example.org/", False),
        ("*", "http://anything.net:99/", True),
        ("bücher.example", "https://xn--bcher-kva.example/", True),
        ("xn--bcher-kva.example", "https://BÜCHER.example/", True),
        ("8.8.8.8", "http://8.8.8.8/", True),
        ("[2606:4700::1111]", "http://[2606:4700:0:0::1111]/", True),
    ],
)
def test_a_host_is_allowed_by_its_entry(
    entry: str, url: str, is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolving(monkeypatch, "8.8.8.8")
    assert reason_of(url, entry) == (None if is_allowed else "forbidden")
    assert not asked or is_allowed


@pytest.mark.parametrize(
    "entry", ["", "ftp://example.org", "exa mple.org", "a@b", "http://x/path", "*.*.org", "2130706433"]
)
def test_an_entry_that_is_not_a_host_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="cannot be allowed as a host"):
        Addresses([entry])


def test_without_hosts_every_address_is_refused() -> None:
    with pytest.raises(AccessError, match="no host is allowed") as caught:
        Addresses().check("https://example.org/a.mp4")
    assert caught.value.reason == "forbidden"


def test_an_address_is_split_into_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "8.8.8.8", "2606:4700::1111")
    found = Addresses(["*"]).check("https://Bücher.example:8443/ä b".replace(" ", "%20") + "/c.mp4?x=%41&y=ö#t=5")
    assert (found.scheme, found.host, found.port) == ("https", "xn--bcher-kva.example", 8443)
    assert found.target == "/%C3%A4%20b/c.mp4?x=%41&y=%C3%B6"
    assert found.url == "https://xn--bcher-kva.example:8443" + found.target
    assert found.ips == ("8.8.8.8", "2606:4700::1111")


def test_an_unknown_name_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(addresses, "resolve", fail)
    assert reason_of("https://nowhere.example/") == "unreachable"


def test_a_slow_name_lookup_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "RESOLVE_TIMEOUT", 0.1)
    monkeypatch.setattr(addresses, "resolve", lambda *_: time.sleep(1) or ["8.8.8.8"])
    began = time.monotonic()
    assert reason_of("https://slow.example/") == "unreachable"
    assert time.monotonic() - began < 0.9


def test_localhost_resolves_to_private_addresses() -> None:
    assert reason_of("http://localhost:8000/") == "forbidden"
    assert reason_of("http://localhost:8000/", allows_private=True) is None
