"""Egress: where a tool's requests may go, on top of what the executor allows; a policy that all its requests keep.

An entry of hosts or private is written as an operator writes it in the settings, so that both are read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.errors import ConfigurationError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

_LABEL: Final = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}\Z")
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
_PRIVATE: Final = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<colons>[^:\[\]]*:[^\[\]]*:[^\[\]]*)|(?P<plain>[^:\[\]]*))"
    r"(?::(?P<port>\*|[1-9][0-9]{0,4}))?\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """Hosts ("api.example.com", "*.example.com") and ports that a tool may reach; empty leaves it to the executor.

    hosts and ports only narrow what the executor allows. private holds what the tool may reach though it is not public:
    networks ("10.0.0.0/8"), addresses ("127.0.0.1") and hosts ("internal.example"); "127.0.0.1:8080" and
    "internal.example:*" open that port, or all, besides those that the executor allows. In executors whose settings
    name hosts, only those are reached, private or not. Raises ConfigurationError.
    """

    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    private: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("hosts", "ports", "private"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, (list, tuple)):
                raise ConfigurationError(f"Egress: {name} must be a tuple, got {value!r:.100}")
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "hosts", tuple(read_host(host, "Egress.hosts") for host in self.hosts))
        for port in self.ports:
            if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
                raise ConfigurationError(f"Egress: ports must be numbers from 1 to 65535, got {port!r:.100}")
        for entry in self.private:
            Opening.read(entry, "Egress.private")


def read_host(entry: Any, where: str) -> str:
    """An entry of a list of hosts: a name in ASCII, "*." and a name for all below it, or an address; in lower case."""
    host = entry.lower() if isinstance(entry, str) else ""
    if _is_name(host):
        return host
    address = _network(host.strip("[]"))
    if address is not None and address.prefixlen == address.max_prefixlen:
        return str(address.network_address)
    raise ConfigurationError(
        f"{where}: an entry must be a host such as 'api.example.com' or '*.example.com', in ASCII and without a scheme "
        f"or port, got {entry!r:.100}"
    )


@dataclass(frozen=True, slots=True)
class Opening:
    """An entry of a list of what may be reached though it is not public: a network or a name, and maybe a port.

    port None: the ports that are allowed anyway; 0: every port.
    """

    network: IPv4Network | IPv6Network | None
    name: str
    port: int | None

    @classmethod
    def read(cls, entry: Any, where: str) -> Opening:
        """Raises ConfigurationError for what is neither, and for the forms of IPv4 addresses that IPv6 has."""
        found = _PRIVATE.match(entry.lower()) if isinstance(entry, str) else None
        if found is not None:
            text = found["bracketed"] or found["colons"] or found["plain"] or ""
            port = None if found["port"] is None else 0 if found["port"] == "*" else int(found["port"])
            network = _network(text)
            if (port or 0) <= 65535 and (network is not None or _is_name(text)):
                return cls(network, "" if network is not None else text, port)
        raise ConfigurationError(
            f"{where}: an entry must be a network such as '10.0.0.0/8', an address or a host, each with a port or "
            f"without, as in '127.0.0.1:8080' or 'internal.example:*', got {entry!r:.100}"
        )


def _is_name(text: str) -> bool:
    return len(text) <= 253 and _NAME.match(text) is not None and not _NUMERIC.match(text)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    from ipaddress import ip_network  # only where a policy or setting is read: most programs have none

    try:
        return None if "%" in text else ip_network(text)
    except ValueError:
        return None
