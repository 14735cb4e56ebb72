"""What a SandboxNetwork allows, and what a program tried of it: the part of the sandbox's proxy that does no I/O."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, NamedTuple

from toolpost.calls.egress import read_host
from toolpost.calls.errors import EgressDeniedError
from toolpost.calls.needles import Finder, forms_of
from toolpost.calls.references import REFERENCE, references_in, replaced
from toolpost.calls.secret_names import secret_name
from toolpost.sandbox.outcome import SandboxTraffic
from toolpost.sandbox.profile import SandboxNetwork
from toolpost.security.egress_urls import DEFAULT_PORTS, Target, denied, read_url

MOST_HOSTS: Final = 100
"""Hosts that are counted by name: a program may try as many as it likes."""
OTHER: Final = "other"
_TLS_PORT: Final = DEFAULT_PORTS["https"]


class Entry(NamedTuple):
    """One host of the list. port None: the usual ones. headers: what the proxy adds, references not yet resolved."""

    host: str
    port: int | None
    headers: Mapping[str, str]

    def fits(self, host: str, port: int, *, tunnel: bool) -> bool:
        """Whether a program may ask for this host and port, by a tunnel or by plain http."""
        if self.host.startswith("*."):
            if not host.endswith(self.host[1:]) or len(host) < len(self.host):
                return False
        elif host != self.host:
            return False
        if self.port is not None:
            return port == self.port
        if tunnel:
            return port == _TLS_PORT
        return port == DEFAULT_PORTS["http"] or (bool(self.headers) and port == _TLS_PORT)


class Allowed:
    """The list, the most exact entries first. Raises ConfigurationError for entries that are no hosts."""

    def __init__(self, network: SandboxNetwork) -> None:
        entries = []
        for text in network.allow:
            host, _, port = text.partition(":")
            name = read_host(host, "SandboxNetwork.allow")
            entries.append(Entry(name, int(port) if port else None, network.headers.get(text, {})))
        self._entries = sorted(entries, key=lambda one: (one.host.startswith("*."), -len(one.host), one.port is None))
        self._said = ", ".join(network.allow)

    def tunnel(self, authority: str) -> Target:
        """The target of CONNECT. Raises EgressDeniedError."""
        if "/" in authority or ":" not in authority.rpartition("]")[2]:
            raise denied("url", "CONNECT takes a host and a port, as in api.example.com:443")
        target = read_url(f"https://{authority}")
        entry = self._find(target, tunnel=True)
        if entry.headers:
            raise denied(
                "tunnel",
                f"{target.host!r} is asked by plain http here, as in http://{target.host}/: the proxy speaks https to "
                "it and adds its credentials, which a tunnel would keep out",
                host=target.host,
                port=target.port,
            )
        return target

    def plain(self, url: str) -> tuple[Target, Entry]:
        """The target of a request that is no tunnel, as it goes on from the proxy. Raises EgressDeniedError."""
        if url.startswith("/"):
            raise denied("url", "a proxy is asked with a whole URL, as in GET http://api.example.com/")
        target = read_url(url)
        if target.scheme != "http":
            raise denied("scheme", "an https:// URL is asked for by CONNECT; this proxy takes http:// otherwise")
        entry = self._find(target, tunnel=False)
        if entry.headers:
            target = target._replace(scheme="https", port=entry.port or _TLS_PORT)
        return target, entry

    def led(self, location: str) -> str:
        """A redirect's target as a program is to ask for it: https at hosts with headers is http inside."""
        try:
            target = read_url(location)
        except EgressDeniedError:
            return location
        for entry in self._entries:
            if entry.headers and target.scheme == "https" and entry.fits(target.host, target.port, tunnel=True):
                port = target.port if entry.port is not None else DEFAULT_PORTS["http"]
                return target._replace(scheme="http", port=port).url
        return location

    def _find(self, target: Target, *, tunnel: bool) -> Entry:
        for entry in self._entries:
            if entry.fits(target.host, target.port, tunnel=tunnel):
                return entry
        raise denied(
            "sandbox",
            f"{target.host}:{target.port} is not allowed in this sandbox; allowed: {self._said}",
            host=target.host,
            port=target.port,
        )


class Credentials:
    """The headers that the proxy adds for one host, with their references resolved.

    finder finds what of them is secret, None where nothing is; longest is how many characters that has. repr and vars
    show neither.
    """

    __slots__ = ("finder", "headers", "longest", "names")

    def __init__(self, headers: Mapping[str, str], values: Mapping[str, str]) -> None:
        made = {name: str(replaced(text, lambda one: str(values[one]))) for name, text in headers.items()}
        secrets = {str(values[one]) for text in headers.values() for one in references_in(text)}
        secrets |= {made[name] for name, text in headers.items() if REFERENCE in text or secret_name(name)}
        secrets |= {one for value in secrets for one in _within_basic(value)}
        # In a body that is UTF-8 the letters beyond ASCII are other bytes than in a header.
        secrets |= {one.encode("utf-8", "replace").decode("latin-1") for one in secrets}
        self.names = frozenset(_alike(name) for name in headers)
        self.headers: Callable[[], Collection[tuple[str, str]]] = made.items
        self.longest = max(map(len, secrets), default=0)
        self.finder = Finder([forms_of(one) for one in secrets]) if secrets else None

    def replaces(self, name: str) -> bool:
        """Whether a program's own header of that name is left out: some servers take _ for -."""
        return _alike(name) in self.names


def _within_basic(value: str) -> Iterator[str]:
    """What the credentials of Basic (RFC 7617) decode to, and their password: servers say these rather than those."""
    for text in (value, value.rpartition(" ")[2]):
        try:
            both = base64.b64decode(text, validate=True).decode()
        except ValueError:
            continue
        if ":" in both and both.isprintable():
            yield from (both, both.partition(":")[2])


def _alike(name: str) -> str:
    return name.lower().replace("_", "-")


class Tally:
    """Counts what one program tried."""

    def __init__(self) -> None:
        self._allowed: Counter[str] = Counter()
        self._denied: Counter[str] = Counter()
        self.sent = self.received = self.logged = 0

    def allow(self, host: str, port: int) -> None:
        self._count(self._allowed, f"{host}:{port}")

    def deny(self, error: EgressDeniedError | None) -> None:
        """A refusal; None for what was no request."""
        host, port = (error.details.get("host"), error.details.get("port")) if error is not None else (None, None)
        self._count(self._denied, f"{host}:{port}" if host is not None and port is not None else OTHER)

    def _count(self, counts: Counter[str], name: str) -> None:
        counts[name if name in counts or len(counts) < MOST_HOSTS else OTHER] += 1

    def traffic(self) -> SandboxTraffic:
        """What was counted until now."""
        return SandboxTraffic(
            allowed=dict(self._allowed),
            denied=dict(self._denied),
            sent_bytes=self.sent,
            received_bytes=self.received,
        )
