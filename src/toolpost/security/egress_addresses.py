"""Which addresses are public, by tables of our own: what `ipaddress` calls global differs between Python versions.

Source: the IANA IPv4 and IPv6 Special-Purpose Address Registries (as of 2025-10: RFC 6890, 8190, 9602, 9637, 9780), the
IPv6 global unicast space 2000::/3 (RFC 4291, section 2.4), and the clouds' documentation of their metadata services.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

How = Literal["name", "network", "never"]
"""How a block that is not public may be opened: by a host's name or any network that holds it; only by a network that
lies wholly inside it, so that nobody opens it by the way; not at all."""


class Block(NamedTuple):
    """Addresses that are not public: what they are for, and how they may be opened."""

    network: Network
    what: str
    how: How


def _blocks(how: How, *rows: tuple[str, str]) -> Iterable[Block]:
    return (Block(ip_network(network), what, how) for network, what in rows)


# The first block that holds an address decides, so the smaller stands before the larger.
_BLOCKS: Final = (
    *_blocks(
        "network",
        ("168.63.129.16/32", "a cloud's own service (Azure)"),
        ("100.100.100.200/32", "a cloud's metadata (Alibaba)"),
        ("169.254.0.0/16", "link-local, where clouds have metadata (RFC 3927)"),
        ("192.0.0.0/24", "protocol assignments (RFC 6890)"),
        ("192.0.2.0/24", "documentation (RFC 5737)"),
        ("198.51.100.0/24", "documentation (RFC 5737)"),
        ("203.0.113.0/24", "documentation (RFC 5737)"),
        ("192.31.196.0/24", "AS112 (RFC 7535)"),
        ("192.175.48.0/24", "AS112 (RFC 7534)"),
        ("192.52.193.0/24", "multicast relays (RFC 7450)"),
        ("198.18.0.0/15", "benchmarks (RFC 2544)"),
        ("fd00:ec2::/32", "a cloud's metadata (AWS)"),
        ("fd20:ce::/32", "a cloud's metadata (Google)"),
        ("fd00:42::42/128", "a cloud's metadata (Scaleway)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("2001:db8::/32", "documentation (RFC 3849)"),
        ("3fff::/20", "documentation (RFC 9637)"),
        ("2001:2::/48", "benchmarks (RFC 5180)"),
        ("2620:4f:8000::/48", "AS112 (RFC 7534)"),
        ("5f00::/16", "segment routing (RFC 9602)"),
    ),
    *_blocks(
        "name",
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("10.0.0.0/8", "private (RFC 1918)"),
        ("172.16.0.0/12", "private (RFC 1918)"),
        ("192.168.0.0/16", "private (RFC 1918)"),
        ("100.64.0.0/10", "shared by a carrier's customers (RFC 6598)"),
        ("::1/128", "loopback (RFC 4291)"),
        ("fc00::/7", "unique local (RFC 4193)"),
        ("fec0::/10", "site-local (RFC 3879)"),
    ),
    *_blocks(
        "never",
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("192.88.99.0/24", "6to4 relays (RFC 7526)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("240.0.0.0/4", "reserved, and broadcast (RFC 1112, 8190)"),
        ("::/128", "unspecified (RFC 4291)"),
        ("::ffff:0:0/96", "an IPv4 address, mapped (RFC 4291)"),
        ("::ffff:0:0:0/96", "an IPv4 address, translated (RFC 2765)"),
        ("::/96", "an IPv4 address, the old compatible form (RFC 4291)"),
        ("64:ff9b:1::/48", "an IPv4 address, for local translators (RFC 8215)"),
        ("2002::/16", "an IPv4 address, 6to4 (RFC 3056)"),
        ("2001::/32", "an IPv4 address, Teredo (RFC 4380)"),
        ("2001:10::/28", "ORCHID (RFC 4843)"),
        ("2001:20::/28", "ORCHIDv2 (RFC 7343)"),
        ("2001::/23", "protocol assignments (RFC 2928)"),
        ("100::/64", "discard (RFC 6666)"),
        ("100:0:0:1::/64", "dummy (RFC 9780)"),
        ("ff00::/8", "multicast (RFC 4291)"),
    ),
)
_GLOBAL: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_OUTSIDE: Final = Block(IPv6Network("::/0"), "outside of the global unicast space (RFC 4291)", "never")
_EMBEDDED: Final = Block(IPv6Network("::/0"), "holds an IPv4 address that is not public (RFC 6052, 5214)", "never")
_V4: Final = tuple(block for block in _BLOCKS if block.network.version == 4)
_V6: Final = tuple(block for block in _BLOCKS if block.network.version == 6)


@lru_cache(maxsize=4096)
def block_of(address: Address) -> Block | None:
    """The block that an address is in, None where it is public."""
    for block in _V4 if address.version == 4 else _V6:
        if address in block.network:
            return block
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:  # how networks without IPv4 reach the IPv4 addresses of public hosts (RFC 6147)
        return None if block_of(IPv4Address(int(address) & 0xFFFFFFFF)) is None else _EMBEDDED
    if address not in _GLOBAL:
        return _OUTSIDE
    return _EMBEDDED if _in_isatap(address) else None


def _in_isatap(address: IPv6Address) -> bool:
    """Whether it is an ISATAP interface's (RFC 5214, section 6.1) and leads to an IPv4 address that is not public."""
    low = int(address) & 0xFFFFFFFFFFFFFFFF
    return (low >> 32) & 0xFCFFFFFF == 0x5EFE and block_of(IPv4Address(low & 0xFFFFFFFF)) is not None


def read_address(text: object) -> Address | None:
    """An address as a resolver gives it; None for anything else, and for one with a zone."""
    if not isinstance(text, str) or "%" in text or len(text) > 45:
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None
