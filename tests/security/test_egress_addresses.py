"""The table of addresses against laws that hold for all of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, strategies as st

from toolpost.security.egress_addresses import block_of, read_address

NAT64 = ip_network("64:ff9b::/96")
V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(IPv6Address)


@given(V4)
def test_what_python_calls_private_or_special_is_never_public(address: IPv4Address) -> None:
    if (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    ):
        assert block_of(address) is not None


@given(V6)
def test_nothing_outside_of_global_unicast_is_public_but_what_leads_to_public_ipv4(address: IPv6Address) -> None:
    if block_of(address) is None:
        assert (int(address) >> 125) == 1 or address in NAT64
        assert not address.is_private
        assert not address.is_multicast


@given(V4, st.sampled_from([0xFFFF << 32, 0, 0xFFFF << 48]))
def test_an_ipv4_address_mapped_translated_or_compatible_is_never_public(address: IPv4Address, prefix: int) -> None:
    assert block_of(IPv6Address(prefix | int(address))) is not None


@given(V4)
def test_by_nat64_an_address_is_public_if_and_only_if_it_is_so_itself(address: IPv4Address) -> None:
    translated = IPv6Address((0x64FF9B << 96) | int(address))

    assert (block_of(translated) is None) == (block_of(address) is None)


@given(V4, st.integers(0, 2**80 - 1))
def test_6to4_and_teredo_are_never_public(address: IPv4Address, rest: int) -> None:
    assert block_of(IPv6Address((0x2002 << 112) | (int(address) << 80) | rest)) is not None
    assert block_of(IPv6Address((0x20010000 << 96) | (int(address) << 64) | (rest & (2**64 - 1)))) is not None


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "172.32.0.1", "172.15.0.1", "100.63.0.1", "100.128.0.1", "11.0.0.1"]
)
def test_neighbours_of_private_blocks_are_public(text: str) -> None:
    assert block_of(ip_address(text)) is None


@pytest.mark.parametrize(
    "text", ["2606:4700::1111", "2a00:1450:4001::200e", "2001:4860:4860::8888", "64:ff9b::808:808"]
)
def test_public_ipv6_addresses_are_public(text: str) -> None:
    assert block_of(ip_address(text)) is None


@pytest.mark.parametrize(
    "text", ["", "x", "127.1", "0x7f.0.0.1", "127.0.0.01", "::1%lo", "[::1]", "1" * 100, None, 7, b"x"]
)
def test_only_an_address_written_out_is_read(text: object) -> None:
    assert read_address(text) is None
