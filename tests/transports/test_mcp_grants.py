"""Step-up at an OAuth provider within an MCP call: the page shows a code, and only who was there can tell it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.services import Oidc
from tests.transports.gateway import Served, gateway
from tests.transports.mcp_door import LINKS, META, TASKS, VERSION
from tests.transports.test_http_oauth import Person, code_on, executor_for, inbox
from toolpost import Hints, OAuth, Tool, ToolContext

KEYS = ["toolpost-authorization", "toolpost-code"]
URLS = {"elicitation": {"url": {}}}


@Tool(name="Mail.Slow", oauth=OAuth(scopes=("read",)), hints=Hints(task="optional"), register=False)
async def slow(ctx: ToolContext) -> int:
    """Read my inbox, which takes long."""
    return len(await ctx.token())


@pytest.fixture(scope="module")
def served(oidc_server: Oidc) -> Iterator[Served]:
    with gateway([inbox, slow], executor=executor_for(oidc_server, authentication="required")) as one:
        yield one


@pytest.fixture
def ann(served: Served, oidc: Oidc, request: pytest.FixtureRequest) -> Person:
    return Person(served, oidc, "ann", request.node.name)


@pytest.fixture
def bob(served: Served, oidc: Oidc, request: pytest.FixtureRequest) -> Person:
    return Person(served, oidc, "bob", request.node.name)


def ask(person: Person, method: str, capabilities: Any = LINKS, **params: Any) -> Any:
    """The answer to one request of a person's client."""
    envelope = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": capabilities}
    headers = {
        "mcp-protocol-version": VERSION,
        "mcp-method": method,
        "mcp-name": params.get("name") or params.get("taskId"),
        "accept": "application/json, text/event-stream",
        **person.headers,
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": envelope}}
    return person.served.client.post("/mcp", json=body, headers=headers).json()


def call(person: Person, capabilities: Any = LINKS, **params: Any) -> Any:
    return ask(person, "tools/call", capabilities, name="Mail.Inbox", arguments={}, **params)["result"]


def page_of(person: Person, asked: Any) -> str:
    """The code on the page at which a person arrives who opens the link that was asked about."""
    return code_on(person.callback({"authorization_url": asked["inputRequests"][KEYS[0]]["params"]["url"]}))


def answers(code: str) -> dict[str, Any]:
    return {KEYS[0]: {"action": "accept"}, KEYS[1]: {"action": "accept", "content": {"code": code}}}


def test_the_code_on_the_page_completes_the_grant_and_the_call_runs(ann: Person) -> None:
    asked = call(ann)
    code = page_of(ann, asked)

    done = call(ann, requestState=asked["requestState"], inputResponses=answers(code.lower()))

    assert sorted(asked["inputRequests"]) == KEYS
    assert done["isError"] is False
    assert call(ann)["isError"] is False


def test_a_wrong_code_says_so_and_grants_nothing(ann: Person) -> None:
    asked = call(ann)
    page_of(ann, asked)

    wrong = call(ann, requestState=asked["requestState"], inputResponses=answers("BBBB-BBBB"))

    assert wrong["isError"] is True
    assert "the code is not the one" in wrong["content"][0]["text"]
    assert call(ann)["resultType"] == "input_required"


def test_who_has_another_open_the_page_gets_nothing_of_theirs(ann: Person, bob: Person) -> None:
    asked = call(bob)
    code = page_of(ann, asked)  # Bob's link, opened by Ann, to whom alone the code is shown

    blind = call(bob, requestState=asked["requestState"], inputResponses=answers(""))
    stolen = ask(
        ann,
        "tools/call",
        name="Mail.Inbox",
        arguments={},
        requestState=asked["requestState"],
        inputResponses=answers(code),
    )

    assert blind["resultType"] == "input_required"
    assert stolen["error"]["code"] == -32602
    assert bob.ask("GET", "/v1/authorizations").json() == {"authorizations": []}
    assert ann.ask("GET", "/v1/authorizations").json() == {"authorizations": []}


@pytest.mark.parametrize("key", KEYS)
def test_who_declines_is_not_asked_again(ann: Person, key: str) -> None:
    asked = call(ann)

    said = {**answers("x"), key: {"action": "decline"}}
    declined = call(ann, requestState=asked["requestState"], inputResponses=said)

    assert "access was not granted" in declined["content"][0]["text"]


def test_a_client_that_shows_links_only_is_asked_for_no_code(ann: Person) -> None:
    assert list(call(ann, URLS)["inputRequests"]) == KEYS[:1]


def test_a_task_goes_on_with_the_code(ann: Person) -> None:
    knows = {**LINKS, **TASKS}
    task = ask(ann, "tools/call", knows, name="Mail.Slow", arguments={})["result"]["taskId"]
    standing = until(ann, task, "input_required")
    code = page_of(ann, standing)

    ask(ann, "tasks/update", knows, taskId=task, inputResponses=answers(code))

    assert until(ann, task, "completed")["result"]["isError"] is False


def until(person: Person, task: str, status: str) -> Any:
    """A task once it has a status."""
    for _ in range(1000):
        standing = ask(person, "tasks/get", {**LINKS, **TASKS}, taskId=task)["result"]
        if standing["status"] == status:
            return standing
    raise AssertionError(standing)
