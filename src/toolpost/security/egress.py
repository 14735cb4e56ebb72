"""Egress: the guard of where requests may go. Whoever sends one over HTTP sends it through this guard.

    from toolpost.security.egress_transport import guarded_transport      # needs httpx

    transport = guarded_transport(guard)                         # what every tool may reach, by the settings
    transport = guarded_transport(guard.reach(Egress(...)))      # narrowed or opened by a tool's policy
    transport = guarded_transport(guard.at(issuer_url))          # for URLs that the operator's settings name
    httpx.AsyncClient(transport=transport, trust_env=False)      # each redirect it follows is checked as well

A transport belongs to one event loop. The guard of an executor is `guards.egress` (engine/guards.py). Checks need no
packages; they raise EgressDeniedError, and leave a name that cannot be resolved to whoever wanted to connect.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from toolpost.calls.egress import Egress, Opening, read_host as read_allowed_host
from toolpost.calls.errors import ConfigurationError, EgressDeniedError
from toolpost.security.egress_addresses import Address, Block, block_of, read_address
from toolpost.security.egress_urls import Target, denied, literal, read_host, read_url

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Resolves a host and port to addresses. Raises OSError when it cannot."""

MAX_BYTES: Final = 10_485_760
_REACHES: Final = 1024
_NO_POLICY: Final = Egress()
logger = logging.getLogger("toolpost.egress")


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver knows, in its order."""
    # As bytes: for text Python would apply rules of its own to the name before it asks.
    found = await asyncio.get_running_loop().getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class EgressGuard:
    """What the tools of one executor may reach, as its settings say. Safe from any thread.

    Hosts empty means all that are public. resolve is a resolver of one's own; each name is looked up once for each
    connection, and connected to at exactly the addresses that were checked. Raises ConfigurationError.
    """

    def __init__(
        self,
        *,
        hosts: Sequence[str] = (),
        ports: Sequence[int] = (80, 443),
        private: Sequence[str] = (),
        proxy: str | None = None,
        max_bytes: int = MAX_BYTES,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        self.hosts = tuple(read_allowed_host(host, "egress_allowed_hosts") for host in hosts)
        self.ports = tuple(ports)
        self.private = tuple(Opening.read(entry, "egress_private") for entry in private)
        self.proxy = None if proxy is None else Proxy.read(proxy)
        self.max_bytes = max_bytes
        self.resolve = resolve
        self._reaches: dict[Egress, Reach] = {}

    def reach(self, policy: Egress | None = None) -> Reach:
        """What a tool with this policy may reach: its hosts and ports narrow, its private opens."""
        policy = policy or _NO_POLICY
        known = self._reaches.get(policy)
        if known is None:
            known = Reach(
                guard=self,
                hosts=(self.hosts, policy.hosts),
                ports=(self.ports, policy.ports or self.ports),
                private=(*self.private, *(Opening.read(entry, "Egress.private") for entry in policy.private)),
            )
            if len(self._reaches) >= _REACHES:
                self._reaches.clear()
            self._reaches[policy] = known
        return known

    def at(self, *urls: str) -> Reach:
        """For URLs that the operator wrote himself: their hosts and ports, be they public or not, and public hosts.

        The lists of what tools may reach have no meaning for it. Raises ConfigurationError for what is no URL.
        """
        openings: list[Opening] = []
        for url in urls:
            try:
                target = read_url(url)
            except EgressDeniedError as error:
                raise ConfigurationError(f"a URL of the settings cannot be reached: {error}") from error
            host = f"[{target.host}]" if ":" in target.host else target.host
            openings.append(Opening.read(f"{host}:{target.port}", "a URL of the settings"))
        ports = (80, 443, *(opening.port for opening in openings if opening.port))
        return Reach(guard=self, hosts=((), ()), ports=(ports, ports), private=tuple(openings))

    def opens(self, host: str, port: int) -> bool:
        """Whether an entry of private names this host, or has the address that it is; what it leads to is not asked."""
        address = literal(host)
        return any(
            opening.port in (None, 0, port)
            and (_matches(host, opening.name) if opening.network is None else address in opening.network)
            for opening in self.private
            if opening.network is None or address is not None
        )


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What one tool may reach: the executor's rules and its own together. Equal ones may share connections.

    hosts and ports are the executor's and the tool's, of which each must allow a target.
    """

    guard: EgressGuard
    hosts: tuple[tuple[str, ...], tuple[str, ...]]
    ports: tuple[tuple[int, ...], tuple[int, ...]]
    private: tuple[Opening, ...]

    def target(self, url: object) -> Target:
        """Read a URL, and check all of it that can be without asking anybody. Raises EgressDeniedError."""
        target = read_url(url)
        self.admit(target.scheme, target.host, target.port)
        return target

    def admit(self, scheme: str, host: str, port: int) -> str:
        """Check what a request is about to be sent to; the host as it is to be connected to."""
        if scheme not in ("http", "https"):
            raise denied("scheme", f"only https and http are allowed, got the scheme {scheme!r:.40}")
        host = read_host(f"[{host}]" if ":" in host else host)
        for allowed, whose in zip(self.hosts, ("the settings allow", "this tool allows"), strict=True):
            if allowed and not any(_matches(host, pattern) for pattern in allowed):
                raise denied("host", f"{host!r} is none of the hosts that {whose}", host=host, port=port)
        address = literal(host)
        if address is not None and (block := self._closed(address, host, port)) is not None:
            self._log(host, address, block)
            raise denied("private-address", f"{host!r} is not a public address", host=host, port=port)
        self._check_port(host, address, port)
        return host

    async def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host once: the addresses to connect to, all of them allowed. One that is not refuses them all.

        Raises EgressDeniedError; OSError where the name cannot be resolved.
        """
        host = read_host(f"[{host}]" if ":" in host else host)
        address = literal(host)
        try:
            texts = [host] if address is not None else list(await self.guard.resolve(host, port))
        except UnicodeError as error:  # a name that the system's resolver cannot write down
            raise OSError(f"{host!r} cannot be resolved") from error
        if not texts:
            raise OSError(f"{host!r} has no address")
        found: list[Address] = []
        for text in texts:
            address = read_address(text)
            block = None if address is None else self._closed(address, host, port)
            if address is None or block is not None:
                self._log(host, text, block)
                raise denied(
                    "private-address",
                    f"{host!r} leads to an address that is not public; Egress(private=...) of the tool, or the setting "
                    "egress_private, can allow it",
                    host=host,
                    port=port,
                )
            found.append(address)
        for address in found:
            self._check_port(host, address, port)
        return [str(address) for address in found]

    def check_unresolved(self, host: str, port: int) -> None:
        """For a name that only the proxy can resolve: a port that hangs on its address is not open then."""
        if not self._lists_port(port) and not any(
            opening.network is None and opening.port in (0, port) and _matches(host, opening.name)
            for opening in self.private
        ):
            raise self._wrong_port(host, port)

    def _closed(self, address: Address, host: str, port: int) -> Block | None:
        """The block that keeps this address from being reached, None where nothing does."""
        block = block_of(address)
        if block is None or any(_opens(opening, address, block, host, port) for opening in self.private):
            return None
        return block

    def _lists_port(self, port: int) -> bool:
        return all(port in allowed for allowed in self.ports)

    def _check_port(self, host: str, address: Address | None, port: int) -> None:
        """Refuse a port that neither the lists have nor an entry of private opens here.

        A name passes whose address is not known yet, but could be in an entry's network: addresses() asks again.
        """
        if self._lists_port(port):
            return
        for opening in self.private:
            if opening.port in (0, port):
                if opening.network is None:
                    if _matches(host, opening.name):
                        return
                elif address is None or address in opening.network:
                    return
        raise self._wrong_port(host, port)

    def _wrong_port(self, host: str, port: int) -> EgressDeniedError:
        allowed = ", ".join(str(one) for one in self.ports[0] if one in self.ports[1]) or "none"
        return denied("port", f"port {port} of {host!r} is not allowed; allowed: {allowed}", host=host, port=port)

    def _log(self, host: str, address: object, block: Block | None) -> None:
        """For operators: refusals do not say this, as it would draw a map of the network for whoever asks."""
        what = block.what if block is not None else "no address"
        known = host if str(address) == host else f"{host}, which is {str(address)[:100]!r}"
        logger.warning("refused a request to %s: %s", known, what)


def _opens(opening: Opening, address: Address, block: Block, host: str, port: int) -> bool:
    if opening.port not in (None, 0, port):
        return False
    if block.how == "never":
        return False
    if opening.network is None:
        return block.how == "name" and _matches(host, opening.name)
    if address not in opening.network:
        return False
    return block.how == "name" or (
        opening.network.version == block.network.version and opening.network.subnet_of(block.network)  # type: ignore[arg-type]
    )


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy of all requests; its repr hides the password."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = ""

    @classmethod
    def read(cls, url: str) -> Proxy:
        """Of a URL, which may hold a user and a password. Raises ConfigurationError."""
        from urllib.parse import unquote, urlsplit

        try:
            parts = urlsplit(url)
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            target = read_url(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
        except (ValueError, EgressDeniedError) as error:
            raise ConfigurationError(f"egress_proxy must be an http:// or https:// URL: {error}") from None
        return cls(target.scheme, target.host, target.port, user, password)

    def __repr__(self) -> str:
        return f"Proxy({self.scheme}://{self.host}:{self.port})"


__all__ = ["Egress", "EgressGuard", "Proxy", "Reach", "Resolve", "Target", "resolve_by_system"]
