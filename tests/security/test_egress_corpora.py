"""Every URL of the corpora of request forgery, in the worst world: where each name leads to the canary."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import urlsplit

import httpcore
import httpx

from tests.corpora import items
from tests.security.canaries import listening
from toolpost import EgressDeniedError, EgressGuard
from toolpost.security.egress_addresses import block_of, read_address
from toolpost.security.egress_transport import GuardedTransport, guarded_transport

EVERY_PORT = tuple(range(1, 65536))
PORT = re.compile(r"(?<=[\w\].])(:\d+)?(?=[/?#]|$)")


class Dialled(httpcore.AsyncNetworkBackend):
    """Connects nowhere, and keeps where it was to connect to."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    async def connect_tcp(self, host: str, port: int, *args: object, **kwargs: object) -> httpcore.AsyncNetworkStream:
        self.addresses.append(host)
        raise httpcore.ConnectError("this is a test")


async def sent(transport: GuardedTransport, url: str) -> str:
    """What becomes of a request to it: the rule that refuses it, or how else it ends."""
    try:
        await transport.handle_async_request(httpx.Request("GET", transport.reach.target(url).url))
    except EgressDeniedError as denied:
        return str(denied.details["rule"])
    except httpx.ConnectError:
        return "dialled"
    return "answered"


async def test_every_item_is_refused_or_leads_to_a_public_address_that_stands_in_it() -> None:
    async def to_the_canary(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    transport = guarded_transport(EgressGuard(ports=EVERY_PORT, resolve=to_the_canary))
    transport._pool._network_backend._plain = dialled = Dialled()
    ends = Counter([await sent(transport, text) for text in items("mal_ssrf*")])

    assert sum(ends.values()) >= 250
    assert ends["answered"] == 0
    assert len(dialled.addresses) == ends["dialled"]
    for text in dialled.addresses:  # each is a literal of the corpus: names all lead to the canary
        address = read_address(text)
        assert address is not None
        assert block_of(address) is None


async def test_no_item_reaches_the_canary_at_its_own_port() -> None:
    async with listening() as canary:

        async def to_the_canary(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        transport = guarded_transport(EgressGuard(ports=(canary.port,), resolve=to_the_canary))
        ends = Counter([await sent(transport, with_port(text, canary.port)) for text in items("mal_ssrf*")])
        await transport.aclose()

    assert canary.connections == 0
    assert ends["answered"] == 0
    assert ends["egress.private-address"] >= 50  # many are well-formed, and only their address is wrong


async def test_innocent_urls_pass_where_their_names_lead_to_public_addresses() -> None:
    async def to_the_public(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    transport = guarded_transport(EgressGuard(ports=EVERY_PORT, resolve=to_the_public))
    transport._pool._network_backend._plain = Dialled()
    texts = [text for text in items("ben_urls") if text.startswith(("http://", "https://"))]
    refused = {text: end for text in texts if (end := await sent(transport, text)) != "dialled"}

    assert len(texts) >= 500
    assert {text: end for text, end in refused.items() if not is_local(text)} == {}


def with_port(text: str, port: int) -> str:
    scheme, slashes, rest = text.partition("//")
    return f"{scheme}{slashes}{PORT.sub(f':{port}', rest, count=1)}"


def is_local(text: str) -> bool:
    """Whether its host is an address that is not public, which programmers' own pages are full of."""
    address = read_address(urlsplit(text).hostname or "")
    return address is not None and block_of(address) is not None
