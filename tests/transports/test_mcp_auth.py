"""The MCP door as an OAuth resource server: who may come, what a refusal asks for, and whose a session is."""

from typing import Any

import httpx
import pytest
from mcp import Client

from tests.transports.mcp_door import Mcp, key_of, mcp_door, over_http
from toolpost import Access, Caller, Tool, ToolExecutor, policy
from toolpost.engine.registry import ToolRegistry
from toolpost.transports import mcp_http
from toolpost.transports.http_routes import Door
from toolpost.transports.mcp_auth import METADATA_PATHS, step_up
from toolpost.worker.service import Service

ISSUER = "https://idp.example"
JWT = {"jwt_issuer": ISSUER, "jwt_audience": "https://tools.example/mcp", "jwt_jwks_url": f"{ISSUER}/keys"}


@Tool(register=False)
def free() -> str:
    """For all."""
    return "free"


@Tool(register=False)
@policy(Access(scopes=("books:read", "books:write")))
def write_book() -> str:
    """For those with two scopes."""
    return "written"


@pytest.mark.parametrize("path", METADATA_PATHS)
async def test_the_metadata_names_the_issuer_and_the_scopes(path: str) -> None:
    async with mcp_door(free, write_book, base_url="https://tools.example", authentication="required", **JWT) as door:
        told = (await door.client.get(path)).json()

        assert told["resource"] == "https://tools.example/mcp"
        assert told["authorization_servers"] == [ISSUER]
        assert told["scopes_supported"] == ["books:read", "books:write"]


async def test_without_an_issuer_there_is_no_metadata() -> None:
    async with mcp_door(free) as door:
        assert (await door.client.get(METADATA_PATHS[0])).status_code == 404


@pytest.mark.parametrize(
    ("header", "says"), [(None, 'scope="books:read books:write"'), ("Bearer nonsense", 'error="invalid_token"')]
)
async def test_who_is_not_known_is_told_where_tokens_are_had(header: str | None, says: str) -> None:
    async with mcp_door(free, write_book, base_url="https://tools.example", authentication="required", **JWT) as door:
        sent = door.request("tools/list", headers={} if header is None else {"authorization": header})
        response = await door.client.send(sent)

        assert response.status_code == 401
        challenge = response.headers["www-authenticate"]
        metadata = "https://tools.example/.well-known/oauth-protected-resource/mcp"
        assert f'resource_metadata="{metadata}"' in challenge
        assert says in challenge


@pytest.mark.parametrize("gateway", [False, True], ids=["alone", "in the gateway"])
async def test_a_key_is_good_where_one_is_asked_for(gateway: bool) -> None:
    async with mcp_door(free, authentication="required", gateway=gateway) as door:
        assert (await door.client.send(door.request("tools/list"))).status_code == 401
        plain = await door.client.send(door.request("tools/call", {"name": "free", "arguments": {}}))
        assert (plain.status_code, "Bearer" in plain.headers["www-authenticate"]) == (401, True)
        assert (await door.call("free", headers=key_of(door.executor, "ann")))["content"][0]["text"] == "free"


async def test_a_caller_without_a_scope_is_asked_for_a_token_that_has_it() -> None:
    async with mcp_door(free, write_book, base_url="https://tools.example", **JWT) as door:
        some = key_of(door.executor, "ann", scopes=["books:read", "other"])
        all_of_them = key_of(door.executor, "ann", scopes=["books:read", "books:write"])
        call = {"name": "write_book", "arguments": {}}
        refused = await door.client.send(door.request("tools/call", call, headers=some))
        nobody = await door.client.send(door.request("tools/call", call))

        assert refused.status_code == 403
        challenge = refused.headers["www-authenticate"]
        assert 'error="insufficient_scope"' in challenge
        assert 'scope="books:read books:write"' in challenge
        assert "other" not in challenge
        assert nobody.status_code in (401, 403) or nobody.json()["result"]["isError"]
        assert (await door.call("write_book", headers=all_of_them))["content"][0]["text"] == "written"
        assert (await door.call("free", headers=some))["content"][0]["text"] == "free"


async def test_a_token_would_not_help_where_no_issuer_is_set_or_no_scope_is_lacking() -> None:
    @Tool(register=False)
    @policy(Access(users=("bob",)))
    def bobs() -> str:
        """For bob."""
        return "bob"

    async with mcp_door(write_book, bobs) as open_door, mcp_door(write_book, bobs, **JWT) as door:
        ann = Caller(user_id="ann")
        write, his = (door.executor.registry.get_tool(name) for name in ("write_book", "bobs"))

        assert step_up(open_door.executor, ann, write, "https://x") is None
        assert step_up(door.executor, ann, his, "https://x") is None
        assert step_up(door.executor, ann, write, "https://x") is not None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8080"}, 200),
        ({"host": "localhost:8080"}, 200),
    ],
)
async def test_a_rebound_page_reaches_nothing(headers: dict[str, str], status: int) -> None:
    async with mcp_door(free) as door:
        response = await door.client.send(door.request("tools/list", headers=headers))

        assert response.status_code == status


async def test_a_session_is_of_whoever_began_it() -> None:
    async with mcp_door(free) as door, over_http(door) as url:
        ann, bob = key_of(door.executor, "ann"), key_of(door.executor, "bob")
        begin: dict[str, Any] = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "c", "version": "1"},
            },
        }
        accept = {"accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient() as client:
            begun = await client.post(url, json=begin, headers={**accept, **ann})
            session = {"mcp-session-id": begun.headers["mcp-session-id"], **accept}
            ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
            hers = await client.post(url, json=ping, headers={**session, **ann})
            his = await client.post(url, json=ping, headers={**session, **bob})
            nobodys = await client.post(url, json=ping, headers=session)

        assert hers.status_code == 200
        assert (his.status_code, nobodys.status_code) == (404, 404)


async def test_one_caller_cannot_take_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.transports.mcp_replay.MOST_OF_ONE", 2)
    begin = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
    }
    accept = {"accept": "application/json, text/event-stream"}
    async with mcp_door(free) as door:
        ann, bob = key_of(door.executor, "ann"), key_of(door.executor, "bob")
        hers = [await door.client.post("/mcp", json=begin, headers={**accept, **ann}) for _ in range(3)]
        his = await door.client.post("/mcp", json=begin, headers={**accept, **bob})

        assert [one.status_code for one in (*hers, his)] == [200, 200, 503, 200]


async def test_one_caller_cannot_take_all_streams_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.transports.mcp_server.MOST_LISTENING", 1)
    async with mcp_door(free) as door, over_http(door) as url, httpx.AsyncClient() as client:

        def listening(who: dict[str, str]) -> Any:
            sent = door.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, headers=who)
            return client.stream("POST", url, content=sent.content, headers=sent.headers)

        ann, bob = key_of(door.executor, "ann"), key_of(door.executor, "bob")
        async with listening(ann) as first:
            heard = await anext(first.aiter_lines())
            async with listening(ann) as second, listening(bob) as his:
                refused = await second.aread()
                assert (await anext(his.aiter_lines()), heard) == ("event: message", "event: message")
        async with listening(ann) as again:
            assert await anext(again.aiter_lines()) == "event: message"

        assert b"a caller may listen on 1 streams at a time" in refused


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with mcp_door(free, max_body_size=1024) as door:
        response = await door.client.send(door.request("tools/call", {"name": "free", "arguments": {"x": "y" * 2000}}))

        assert response.status_code == 413


async def test_several_workers_serve_older_clients_without_sessions() -> None:
    async with mcp_door(free, serve_workers=2) as door, over_http(door) as url, Client(url, mode="legacy") as client:
        called = await client.call_tool("free", {})

        assert called.content[0].text == "free"  # type: ignore[union-attr]


async def test_without_the_sdk_the_door_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_http, "find_spec", lambda name: None)
    async with mcp_door(free) as door:
        response = await door.client.send(door.request("tools/list"))

        assert response.status_code == 501
        assert "toolpost[mcp]" in response.json()["error_description"]


async def test_it_serves_without_a_lifespan_too() -> None:
    with ToolExecutor(registry=ToolRegistry()) as executor:
        executor.add(free)
        service = Service(executor)
        app = mcp_http.mcp_app(Door(service=service, executor=executor))
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with service, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            called = await Mcp(executor, service, app, client).call("free")
            await app.stop()

        assert called["content"][0]["text"] == "free"
