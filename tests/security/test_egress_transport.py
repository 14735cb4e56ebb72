"""The transport against real listeners: what was checked is what is connected to, and canaries are left alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.security.canaries import OK, has_ipv6, listening, redirect
from tests.security.egress_forms import NAMES_FOR_RESOLVER, urls
from toolpost import Egress, EgressDeniedError, EgressGuard
from toolpost.security.egress import Reach
from toolpost.security.egress_transport import MAX_ADDRESSES, guarded_transport


async def fetch(reach: EgressGuard | Reach, url: str, **options: Any) -> httpx.Response:
    """As a client of httpx would that follows redirects, with a transport of its own."""
    async with httpx.AsyncClient(
        transport=guarded_transport(reach), trust_env=False, follow_redirects=True, timeout=5
    ) as client:
        return await client.get(url, **options)


def names(known: dict[str, list[str]]) -> Any:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if host not in known:
            raise OSError("not known")
        return known[host]

    return resolve


async def test_no_form_of_any_address_reaches_a_listener_of_this_machine() -> None:
    async with listening() as canary, listening(host="::1", port=canary.port) if has_ipv6() else listening() as other:
        guard = EgressGuard(ports=(80, 443, canary.port))
        outcomes: dict[str, str] = {}
        for _, form in urls():
            url = form.replace("{p}", str(canary.port))
            try:
                await fetch(guard, url)
                outcomes[url] = "reached"
            except EgressDeniedError as denied:
                outcomes[url] = denied.details["rule"]
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:  # refused by httpx before any transport
                outcomes[url] = type(error).__name__
            except UnicodeError:  # lone surrogates: httpx cannot write them down
                outcomes[url] = "UnicodeError"
            except httpx.ConnectError as error:  # a name to httpx, unknown to the resolver
                outcomes[url] = type(error).__name__

    assert [url for url, outcome in outcomes.items() if outcome == "reached"] == []
    assert (canary.connections, other.connections) == (0, 0)
    assert len(outcomes) >= 270


async def test_the_canary_can_be_reached_where_it_is_allowed() -> None:
    async with listening() as canary:
        reach = EgressGuard().reach(Egress(private=(f"127.0.0.1:{canary.port}",)))

        assert (await fetch(reach, f"{canary.url}/canary")).status_code == 200

    assert canary.paths == ["/canary"]


@pytest.mark.parametrize("host", sorted(NAMES_FOR_RESOLVER))
async def test_a_name_that_leads_anywhere_else_than_to_public_addresses_is_not_connected_to(host: str) -> None:
    async with listening() as canary:
        guard = EgressGuard(ports=(canary.port,), resolve=names(NAMES_FOR_RESOLVER))

        with pytest.raises(EgressDeniedError) as refused:
            await fetch(guard, f"http://{host}:{canary.port}/")

    assert refused.value.details["rule"] == "egress.private-address"
    assert refused.value.outcome == "not_run"
    assert canary.connections == 0


async def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_connected_to() -> None:
    answers = itertools.chain([["127.0.0.99"]], itertools.repeat(["127.0.0.1"]))
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    async with listening(host="127.0.0.99") as good, listening(port=good.port) as canary:
        guard = EgressGuard(private=(f"127.0.0.99:{good.port}",), resolve=rebinding)
        answer = await fetch(guard, f"http://rebinding.test:{good.port}/")
        with pytest.raises(EgressDeniedError):  # the second look-up, for another connection, is checked as well
            await fetch(guard, f"http://rebinding.test:{good.port}/")

    assert answer.status_code == 200
    assert asked == ["rebinding.test"] * 2
    assert good.requests[0].split("\r\n")[1] == f"Host: rebinding.test:{good.port}"
    assert canary.connections == 0


async def test_a_look_up_that_changes_between_connections_never_leads_to_the_canary() -> None:
    flips = itertools.cycle([["127.0.0.99"], ["127.0.0.1"], ["127.0.0.99", "127.0.0.1"]])

    async def flipping(host: str, port: int) -> list[str]:
        return next(flips)

    async with listening(host="127.0.0.99") as good, listening(port=good.port) as canary:
        guard = EgressGuard(private=(f"127.0.0.99:{good.port}",), resolve=flipping)
        outcomes = await asyncio.gather(
            *(fetch(guard, f"http://flip.test:{good.port}/") for _ in range(30)), return_exceptions=True
        )

    assert sum(isinstance(outcome, httpx.Response) for outcome in outcomes) == 10
    assert sum(isinstance(outcome, EgressDeniedError) for outcome in outcomes) == 20
    assert (good.connections, canary.connections) == (10, 0)


async def test_a_connection_is_not_lent_to_a_tool_that_may_not_go_there() -> None:
    async with listening() as inner:
        resolve = names({"internal.test": ["127.0.0.1"]})
        guard = EgressGuard(resolve=resolve)
        allowed = guarded_transport(guard.reach(Egress(private=(f"internal.test:{inner.port}",))))
        other = guarded_transport(guard.reach(Egress(private=(f"127.0.0.2:{inner.port}",))))
        request = httpx.Request("GET", f"http://internal.test:{inner.port}/")
        response = await allowed.handle_async_request(request)
        await response.aread()
        await response.aclose()

        with pytest.raises(EgressDeniedError):
            await other.handle_async_request(httpx.Request("GET", f"http://internal.test:{inner.port}/"))
        await allowed.aclose()
        await other.aclose()

    assert (inner.connections, len(inner.requests)) == (1, 1)


async def test_a_kept_connection_is_used_again_without_another_look_up() -> None:
    asked = []

    async def counting(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with listening() as server:
        guard = EgressGuard(private=("127.0.0.1:*",), resolve=counting)
        async with httpx.AsyncClient(transport=guarded_transport(guard), trust_env=False) as client:
            for _ in range(5):
                await client.get(f"http://name.test:{server.port}/")

    assert (server.connections, asked) == (1, ["name.test"])


REDIRECTS = [
    "http://127.0.0.1:{p}/",
    "http://localhost:{p}/",
    "http://loop.test:{p}/",
    "http://mixed.test:{p}/",
    "http://[::1]:{p}/",
    "http://[::ffff:127.0.0.1]:{p}/",
    "http://2130706433:{p}/",
    "http://0x7f000001:{p}/",
    "http://0177.0.0.1:{p}/",
    "http://127.1:{p}/",
    "http://0:{p}/",
    "//127.0.0.1:{p}/",
    "//localhost:{p}/",
    "http:\\\\127.0.0.1:{p}\\",
    "\\\\127.0.0.1:{p}/",
    "/\\127.0.0.1:{p}/",
    "http://good.test@127.0.0.1:{p}/",
    "http://good.test:{p}@127.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{p}/",
    "javascript:alert(1)",
    "http://127.0.0.1:{p}",
]


@pytest.mark.parametrize("to", REDIRECTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_leads_to_the_canary(to: str, status: int) -> None:
    async with listening() as canary:
        location = to.replace("{p}", str(canary.port))
        async with listening(lambda path: redirect(location, status), host="127.0.0.99", port=canary.port) as good:
            guard = EgressGuard(
                private=(f"127.0.0.99:{good.port}",), resolve=names({**NAMES_FOR_RESOLVER, "good.test": ["127.0.0.99"]})
            )
            with pytest.raises((EgressDeniedError, httpx.HTTPError, httpx.InvalidURL)):
                await fetch(guard, f"http://good.test:{good.port}/")

    assert canary.connections == 0
    assert good.connections >= 1


async def test_the_first_address_that_answers_is_taken_and_all_of_them_were_checked() -> None:
    async with listening() as server:
        known = {"dead-first.test": ["127.0.0.98", "127.0.0.1"], "dead.test": ["127.0.0.98", "127.0.0.97"]}
        guard = EgressGuard(private=("127.0.0.0/8:*",), resolve=names(known))

        assert (await fetch(guard, f"http://dead-first.test:{server.port}/")).text == "ok"
        with pytest.raises(httpx.ConnectError):
            await fetch(guard, f"http://dead.test:{server.port}/")


async def test_of_very_many_addresses_only_some_are_tried() -> None:
    async with listening() as server:
        many = [f"127.0.1.{n}" for n in range(1, 60)] + ["127.0.0.1"]
        guard = EgressGuard(private=("127.0.0.0/8:*",), resolve=names({"many.test": many}))

        with pytest.raises(httpx.ConnectError):
            await fetch(guard, f"http://many.test:{server.port}/")

    assert len(many) > MAX_ADDRESSES
    assert server.connections == 0


async def test_a_name_that_is_unknown_is_no_refusal() -> None:
    with pytest.raises(httpx.ConnectError):
        await fetch(EgressGuard(resolve=names({})), "http://nowhere.test/")


async def test_a_resolver_that_hangs_is_given_up() -> None:
    async def hanging(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    transport = guarded_transport(EgressGuard(resolve=hanging))
    request = httpx.Request("GET", "http://slow.test/", extensions={"timeout": {"connect": 0.05}})

    with pytest.raises(httpx.ConnectTimeout):
        await transport.handle_async_request(request)


@pytest.mark.parametrize("headers", [{"Host": "127.0.0.1"}, {"Host": "other.test"}, {"host": ""}])
async def test_the_host_header_is_that_of_the_url(headers: dict[str, str]) -> None:
    async with listening() as server:
        reach = EgressGuard(private=("127.0.0.1:*",))

        with pytest.raises(EgressDeniedError) as refused:
            await fetch(reach, server.url, headers=headers)

    assert refused.value.details["rule"] == "egress.host-header"
    assert server.connections == 0


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as proxy, listening() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)

        await fetch(EgressGuard(private=("127.0.0.1:*",)), server.url)

    assert (proxy.connections, server.connections) == (0, 1)


async def test_a_proxy_of_the_settings_gets_the_requests_and_only_those_that_may_be_sent() -> None:
    async with listening(lambda path: OK) as proxy, listening() as canary:
        known = {"public.test": ["93.184.216.34"], "inner.test": ["10.0.0.1"], "mixed.test": ["93.184.216.34", "::1"]}
        guard = EgressGuard(proxy=f"http://me:secret@127.0.0.1:{proxy.port}", resolve=names(known))

        assert (await fetch(guard, "http://public.test/a")).text == "ok"
        assert (await fetch(guard, "http://only-the-proxy-knows.test/b")).text == "ok"
        for url in ("http://inner.test/", "http://mixed.test/", f"http://127.0.0.1:{canary.port}/", "http://127.1/"):
            with pytest.raises(EgressDeniedError):
                await fetch(guard, url)

    assert proxy.paths == ["http://public.test/a", "http://only-the-proxy-knows.test/b"]
    assert "proxy-authorization: basic bwu6c2vjcmv0" in proxy.requests[0].lower()
    assert canary.connections == 0


async def test_a_name_that_only_the_proxy_knows_gets_no_port_that_hangs_on_its_address() -> None:
    async with listening(lambda path: OK) as proxy:
        guard = EgressGuard(proxy=proxy.url, private=("10.0.0.0/8:9000",), resolve=names({}))

        with pytest.raises(EgressDeniedError) as refused:
            await fetch(guard, "http://unknown.test:9000/")

    assert refused.value.details["rule"] == "egress.port"
    assert proxy.connections == 0
