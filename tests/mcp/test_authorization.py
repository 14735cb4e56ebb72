"""The gateway as an OAuth resource server: the SDK's client finds out where to be granted what, and comes with it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, types
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from tests.conftest import serving
from tests.mcp.gateway import Gateway
from tests.services import Oidc
from tests.services.oidc import parameters


@pytest.fixture(scope="module")
def gateway(oidc_server: Oidc, pytestconfig: pytest.Config) -> Iterator[Gateway]:
    """A gateway that takes tokens which the provider gave for it."""
    audience = "http://127.0.0.1:{port}/mcp"
    settings: dict[str, Any] = {
        "authentication": "required",
        "jwt_issuer": oidc_server.issuer,
        "jwt_audience": audience,
    }
    yield from serving(Gateway("tests.mcp.recipes", **settings), pytestconfig)


class Person:
    """Somebody with a client: keeps its tokens, and is sent to the provider by it. grants: the scopes of each time."""

    def __init__(self, oidc: Oidc, *grants: set[str]) -> None:
        self.oidc, self.grants, self.asked = oidc, list(grants), list[dict[str, str]]()
        self.tokens: OAuthToken | None = None
        self._callback = ""

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull:
        return OAuthClientInformationFull(**CLIENT.model_dump(), client_id="toolpost-public", issuer=self.oidc.issuer)

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError("the client is known to the provider and has nothing to register")

    async def redirected(self, url: str) -> None:
        self.asked.append(dict(parameters(url)))
        self._callback = self.oidc.login(url, "alice", self.grants.pop(0))

    async def called_back(self) -> AuthorizationCodeResult:
        found = parameters(self._callback)
        return AuthorizationCodeResult(code=found["code"], state=found.get("state"), iss=found.get("iss"))


CLIENT = OAuthClientMetadata(
    redirect_uris=[Oidc.redirect_uri],
    token_endpoint_auth_method="none",
    grant_types=["authorization_code", "refresh_token"],
)


@asynccontextmanager
async def connected(gateway: Gateway, person: Person) -> AsyncIterator[Client]:
    """The client of a person."""
    auth = OAuthClientProvider(gateway.mcp, CLIENT, person, person.redirected, person.called_back)
    async with httpx2.AsyncClient(auth=auth, timeout=20) as http:
        async with Client(streamable_http_client(gateway.mcp, http_client=http)) as client:
            yield client


def text_of(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    return block.text


async def test_a_client_without_a_token_is_granted_one_for_this_gateway(gateway: Gateway, oidc: Oidc) -> None:
    person = Person(oidc, {"read", "write"})

    async with connected(gateway, person) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        told = text_of(await client.call_tool("write_recipe", {"text": "tea"}))

    assert listed == {"read_recipes", "write_recipe"}
    assert told == "written for alice"
    [asked] = person.asked
    assert asked["resource"] == gateway.mcp
    assert {"read", "write"} <= set(asked["scope"].split())


async def test_a_client_that_lacks_a_scope_is_granted_it_when_a_tool_needs_it(gateway: Gateway, oidc: Oidc) -> None:
    person = Person(oidc, {"read"}, {"read", "write"})

    async with connected(gateway, person) as client:
        read = text_of(await client.call_tool("read_recipes", {}))
        wrote = text_of(await client.call_tool("write_recipe", {"text": "soup"}))

    assert read.endswith("recipes for alice")
    assert wrote == "written for alice"
    assert len(person.asked) == 2
    assert "write" in person.asked[1]["scope"].split()


async def test_a_token_for_another_resource_is_not_taken(gateway: Gateway, oidc: Oidc) -> None:
    person = Person(oidc, {"read", "write"})
    async with connected(gateway, person):
        pass
    assert person.tokens is not None

    other = Gateway("tests.mcp.recipes", authentication="required", jwt_issuer=oidc.issuer, jwt_audience="elsewhere")
    with other:
        async with httpx2.AsyncClient() as http:
            headers = {"Authorization": f"Bearer {person.tokens.access_token}"}
            answer = await http.post(other.mcp, json={}, headers=headers)

    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
