"""HTTP tools and the egress guard: an author's own URL is held to the same rules as everybody's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.security.canaries import OK, listening, redirect
from toolpost import (
    Breaker,
    Egress,
    EgressDeniedError,
    EgressGuard,
    HttpToolSpec,
    RemoteToolError,
    StringParameter,
    ToolExecutor,
    tool_from_json,
    tool_to_json,
)
from toolpost.testing import executor_for


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with executor_for(enable_security_checks=False) as made:
        yield made


def spec_for(url: str, **changes: Any) -> HttpToolSpec:
    values: dict[str, Any] = {"id": "h", "tool_name": "shop", "description": "", "parameters": [], "method": "get"}
    return HttpToolSpec(**{**values, "url": url, **changes})


async def run(executor: ToolExecutor, spec: HttpToolSpec, **arguments: Any) -> Any:
    executor.registry.register_tool(spec.define(), replace=True)
    return await executor.call(spec.tool_name, **arguments)


async def test_an_authors_own_url_is_refused_when_it_is_not_public_and_nothing_says_it_may_be(
    executor: ToolExecutor,
) -> None:
    async with listening() as canary:
        for egress in (None, Egress(ports=(canary.port,)), Egress(private=("127.0.0.1",))):
            with pytest.raises(EgressDeniedError) as refused:
                await run(executor, spec_for(canary.url, egress=egress))

    assert refused.value.outcome == "not_run"
    assert refused.value.details["host"] == "127.0.0.1"
    assert not refused.value.retryable
    assert canary.connections == 0


async def test_the_spec_or_the_settings_may_say_so(executor: ToolExecutor) -> None:
    async with listening() as server:
        by_spec = await run(executor, spec_for(server.url, egress=Egress(private=(f"127.0.0.1:{server.port}",))))
        with executor_for(egress_private=("127.0.0.0/8",), egress_allowed_ports=(server.port,)) as other:
            by_settings = await run(other, spec_for(server.url))

    assert by_spec["body"] == by_settings["body"] == "ok"


async def test_settings_that_name_hosts_hold_for_authors_too() -> None:
    async with listening() as canary:
        with executor_for(egress_allowed_hosts=("api.example.com",)) as executor:
            with pytest.raises(EgressDeniedError) as refused:
                await run(executor, spec_for(canary.url, egress=Egress(private=("127.0.0.1:*",))))

    assert refused.value.details["rule"] == "egress.host"
    assert canary.connections == 0


async def test_two_tools_with_different_rules_share_no_connection() -> None:
    async def inner(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with executor_for(egress=EgressGuard(resolve=inner)) as executor:
        async with listening() as server:
            url = f"http://internal.example:{server.port}/"
            opens = Egress(private=(f"internal.example:{server.port}",))
            assert (await run(executor, spec_for(url, egress=opens)))["body"] == "ok"
            with pytest.raises(EgressDeniedError):
                await run(executor, spec_for(url, tool_name="other"))
            assert (await run(executor, spec_for(url, tool_name="third", egress=opens)))["body"] == "ok"

    assert (server.connections, len(server.requests)) == (1, 2)


async def test_a_redirect_is_given_back_and_not_followed(executor: ToolExecutor) -> None:
    async with listening() as canary, listening(lambda path: redirect(canary.url)) as server:
        result = await run(executor, spec_for(server.url, egress=Egress(private=(f"127.0.0.1:{server.port}",))))

    assert (result["status_code"], result["headers"]["location"]) == (302, canary.url)
    assert canary.connections == 0


async def test_a_refusal_counts_against_no_breaker_and_a_name_that_is_unknown_does() -> None:
    async def nobody(host: str, port: int) -> Sequence[str]:
        raise OSError("not known")

    with executor_for(egress=EgressGuard(resolve=nobody)) as executor:
        codes = {}
        for url in ("http://10.0.0.1/", "http://nowhere.test/"):
            spec = spec_for(url, circuit_breaker_policy=Breaker(failures=2), tool_name=url[7:11].replace(".", "_"))
            executor.registry.register_tool(spec.define())
            codes[url] = []
            for _ in range(4):
                with pytest.raises(Exception) as raised:  # noqa: PT011 - what each is, is below
                    await executor.call(spec.tool_name)
                codes[url].append(raised.value.code)

    assert codes["http://10.0.0.1/"] == ["egress_denied"] * 4
    assert codes["http://nowhere.test/"] == ["upstream_failed"] * 2 + ["circuit_open"] * 2


async def test_no_argument_changes_where_a_request_goes(executor: ToolExecutor) -> None:
    place = StringParameter(name="place")
    async with listening() as canary, listening(host="127.0.0.2", port=canary.port) as server:
        spec = spec_for(
            f"http://127.0.0.2:{server.port}/at/{{place}}",
            parameters=[place],
            headers={"X-Place": "{place}"},
            egress=Egress(private=(f"127.0.0.2:{server.port}",)),
        )
        for text in ("@127.0.0.1", f"//127.0.0.1:{server.port}/", "\\\\127.0.0.1", "?x", "#y", "http://127.0.0.1/"):
            await run(executor, spec, place=text)

    assert canary.connections == 0
    assert len(server.requests) == 6
    assert all(request.startswith("GET /at/") for request in server.requests)


async def test_a_host_header_of_the_authors_does_not_lead_elsewhere(executor: ToolExecutor) -> None:
    async with listening() as server:
        spec = spec_for(server.url, headers={"Host": "other.test"}, egress=Egress(private=("127.0.0.1:*",)))
        with pytest.raises(EgressDeniedError) as refused:
            await run(executor, spec)

    assert refused.value.details["rule"] == "egress.host-header"
    assert server.connections == 0


async def test_the_setting_bounds_what_an_answer_may_have() -> None:
    async with listening(lambda path: OK.replace(b"2\r", b"2000\r") + b"x" * 1998) as server:
        with executor_for(egress_private=("127.0.0.1:*",), egress_max_bytes=1999) as executor:
            with pytest.raises(RemoteToolError, match="more than 1999 bytes"):
                await run(executor, spec_for(server.url))


def test_a_spec_is_written_and_read_with_its_egress() -> None:
    spec = spec_for("http://10.0.0.7:8080/x", egress=Egress(private=("10.0.0.7:8080",), ports=(8080,)))

    again = tool_from_json(tool_to_json(spec))

    assert again == spec
    assert again.define().policies.egress == spec.egress
