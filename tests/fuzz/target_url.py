"""Any bytes as the URL of a request, or as what a redirect leads to: refused, or one and the same to every parser."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from toolpost import Egress, EgressDeniedError, EgressGuard
from toolpost.calls.errors import ConfigurationError
from toolpost.runners.http_client import _joined
from toolpost.security.egress_addresses import block_of
from toolpost.security.egress_transport import guarded_transport
from toolpost.security.egress_urls import DEFAULT_PORTS, Target, literal, read_url

REACH = EgressGuard(ports=tuple(range(1, 65536))).reach()
TRANSPORT = guarded_transport(REACH)
SLOW_S = 0.25
RULES = {"url", "scheme", "credentials", "host-form", "port", "private-address", "host", "host-header", "downgrade"}


def text_of(data: bytes) -> str:
    """Bytes as text that has every character, lone surrogates too."""
    return data.decode("utf-8", errors="surrogatepass" if data.count(b"\xed") else "surrogateescape")


def url(data: bytes) -> None:
    """What is accepted means the same to everybody behind the guard."""
    try:
        text = text_of(data)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    begun = time.perf_counter()
    try:
        target = read_url(text)
    except EgressDeniedError as error:
        target, denied = None, error
    assert time.perf_counter() - begun < SLOW_S
    if target is None:
        assert denied.details["rule"].removeprefix("egress.") in RULES
        assert denied.outcome == "not_run"
        assert len(denied.message) < 600
    else:
        agreed(text, target)
        admitted(target)


def agreed(text: str, target: Target) -> None:
    """Ours, httpx's and urllib's reading of the text, and of what is made of it, are one."""
    assert target.host.isascii()
    assert target.host == target.host.lower()
    assert 1 <= target.port <= 65535
    assert read_url(target.url) == target, "what is read again is another"
    for form in (text, target.url):
        with_urllib = urlsplit(form)
        assert with_urllib.scheme == target.scheme
        assert (with_urllib.port or DEFAULT_PORTS[target.scheme]) == target.port
        assert with_urllib.username is None
        assert with_urllib.password is None
        host = with_urllib.hostname or ""
        if host.isascii() and ":" not in host:
            assert host == target.host
        with_httpx = httpx.URL(form)
        assert with_httpx.scheme == target.scheme
        assert with_httpx.userinfo == b""
        assert (with_httpx.port or DEFAULT_PORTS[target.scheme]) == target.port
        if ":" not in target.host:
            assert with_httpx.raw_host == target.host.encode()
    sent = httpx.Request("GET", target.url)
    assert sent.url.raw_host == target.host.encode()
    assert sent.headers["Host"] == target.netloc
    assert sent.url.netloc == target.netloc.encode()
    assert not any(char in sent.url.raw_path for char in b"\r\n \t")


def admitted(target: Target) -> None:
    """No address that is not public passes, neither here nor in the transport."""
    address = literal(target.host)
    try:
        REACH.admit(target.scheme, target.host, target.port)
        TRANSPORT._admit(httpx.URL(target.url))
    except EgressDeniedError:
        assert address is not None
        assert block_of(address) is not None
    else:
        assert address is None or block_of(address) is None


def location(data: bytes) -> None:
    """Where a redirect leads is read as strictly, whatever it is joined with."""
    here = Target("https", "start.example", 443, "/a/b?c=d")
    try:
        target = read_url(_joined(here, data.decode("latin-1")))
    except EgressDeniedError:
        return
    assert target.scheme in ("http", "https")
    agreed(target.url, target)


def policy(data: bytes) -> None:
    """Entries of a policy are taken or refused at declaration, and none of them opens what nothing may open."""
    text = data.decode("utf-8", errors="replace")
    for field in ("hosts", "private"):
        try:
            chosen = Egress(**{field: (text,)})
        except ConfigurationError:
            continue
        reach = EgressGuard().reach(chosen)
        for never in ("::ffff:127.0.0.1", "0.0.0.0", "2002:7f00:1::1"):
            try:
                reach.admit("http", never, 80)
            except EgressDeniedError:
                continue
            raise AssertionError(f"{text!r} opened {never}")


TARGETS: dict[str, Callable[[bytes], None]] = {"url": url, "location": location, "policy": policy}
SEEDS: dict[str, list[bytes]] = {
    "url": [
        b"https://example.com/",
        b"http://user:pw@127.0.0.1:80/x?y#z",
        b"http://[::ffff:127.0.0.1]:8080/",
        b"http://0x7f.1/",
        "http://b\u00fccher.example:8443/\u00e4".encode(),
        "http://127\u30020\u30020\u30021/".encode(),
        b"http://a.b.c.d.e:65535?q",
        b"http://xn--bcher-kva.example",
        b"http://1.2.3.4.5/",
        b"HTTP://EXAMPLE.COM:080/",
        b"http://a\\@b/",
        b"http:///a",
        b"//a/b",
        b"http://[fe80::1%25eth0]/",
        b"http://example.com./",
    ],
    "location": [
        b"/next",
        b"//127.0.0.1/",
        b"?x",
        b"../y",
        b"https://other.example/",
        b"\\\\evil/",
        b"http:evil",
        b";x",
    ],
    "policy": [b"*.example.com", b"10.0.0.0/8:80", b"[::1]:*", b"::/0", b"a.b:1", b"127.0.0.1"],
}
