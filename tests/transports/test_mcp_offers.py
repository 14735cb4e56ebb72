"""Resources, prompts and completion over MCP, and who hears that they changed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from tests.transports.mcp_door import FORMS, Mcp, key_of, mcp_door, over_http
from toolpost import Access, Content, Prompt, PromptArgument, Question, Resource, Tool, ToolContext
from toolpost.errors import StoreUnavailableError

NOTE = Resource(uri="notes://today", read="buy milk", title="Today", description="A note")
LOGO = Resource(uri="art://logo", read=b"\x89PNG", media_type="image/png")
BOOK = Resource(
    uri="books://{author}/{title}",
    name="book",
    read=lambda author, title: {"author": author, "title": title},
    complete={"author": lambda typed, given: [one for one in ("ann", "anton", "bob") if one.startswith(typed)]},
)
SECRET = Resource(uri="notes://secret", read="hush", access=Access(scopes=("notes",)))


@Tool(register=False)
async def export(rows: int, context: ToolContext) -> str:
    """Give a file."""
    context.artifact("data/rows é.txt", "0123456789" * rows)
    return "exported"


async def ask_for_tone(topic: str, context: ToolContext) -> Any:
    answer = (await context.ask({"tone": Question.form("Which tone?")}))["tone"]
    return [f"Write about {topic} ({answer['action']})", ("assistant", Content.text("Gladly"))]


WRITE = Prompt(name="write", description="Begin a text", render=ask_for_tone)
GREET = Prompt(
    name="greet",
    render=lambda name, manner="kindly": f"Greet {name} {manner}",
    arguments=(PromptArgument(name="name", description="whom"), PromptArgument(name="manner", required=False)),
    complete={"name": lambda typed, given: [f"{typed}{n}" for n in range(150)]},
)


async def read(door: Mcp, uri: str, **more: Any) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = (await door.ask("resources/read", {"uri": uri}, **more))["result"]["contents"]
    return contents


async def test_resources_are_listed_and_read() -> None:
    async with mcp_door(NOTE, LOGO, BOOK) as door:
        listed = (await door.ask("resources/list"))["result"]
        templates = (await door.ask("resources/templates/list"))["result"]["resourceTemplates"]

        assert [one["uri"] for one in listed["resources"]] == ["art://logo", "notes://today"]
        assert listed["resources"][1]["title"] == "Today"
        assert next(one["uriTemplate"] for one in templates) == "books://{author}/{title}"
        assert {one["uriTemplate"] for one in templates} > {"toolpost://calls/{id}/result"}
        assert await read(door, "notes://today") == [
            {"uri": "notes://today", "mimeType": "text/plain", "text": "buy milk"}
        ]
        assert (await read(door, "art://logo"))[0]["blob"] == "iVBORw=="
        assert (await read(door, "books://ann/A%20Life"))[0]["text"] == '{"author":"ann","title":"A Life"}'


async def test_what_is_not_there_and_what_is_not_for_the_caller_are_told_alike() -> None:
    async with mcp_door(SECRET) as door:
        ann = key_of(door.executor, "ann", scopes=["notes"])
        hidden = await door.error("resources/read", {"uri": "notes://secret"})
        missing = await door.error("resources/read", {"uri": "notes://nothing"})

        assert (hidden["code"], hidden["data"]) == (-32602, {"uri": "notes://secret"})
        assert missing["code"] == hidden["code"]
        assert (await door.ask("resources/list"))["result"]["resources"] == []
        assert (await read(door, "notes://secret", headers=ann))[0]["text"] == "hush"


async def test_a_call_can_be_read_with_its_files_by_its_caller_alone() -> None:
    async with mcp_door(export) as door:
        ann, bob = key_of(door.executor, "ann"), key_of(door.executor, "bob")
        result = await door.call("export", {"rows": 3}, headers=ann)
        link = result["content"][1]["uri"]
        whole = f"toolpost://calls/{result['_meta']['toolpost/call_id']}/result"

        assert (await read(door, link, headers=ann))[0]["text"] == "0123456789" * 3
        assert (await read(door, f"{link}?offset=8&length=4", headers=ann))[0]["text"] == "8901"
        assert '"exported"' in (await read(door, whole, headers=ann))[0]["text"]
        for uri in (link, whole):
            assert (await door.error("resources/read", {"uri": uri}, headers=bob))["code"] == -32602
        gone = link.replace("rows", "columns")
        assert (await door.error("resources/read", {"uri": gone}, headers=ann))["code"] == -32602


async def test_prompts_are_listed_and_rendered() -> None:
    async with mcp_door(GREET, WRITE) as door:
        listed = (await door.ask("prompts/list"))["result"]["prompts"]
        greeted = (await door.ask("prompts/get", {"name": "greet", "arguments": {"name": "Ann"}}))["result"]

        assert [one["name"] for one in listed] == ["greet", "write"]
        assert listed[0]["arguments"][0] == {"name": "name", "description": "whom", "required": True}
        assert listed[1]["arguments"] == [{"name": "topic", "required": True}]
        assert greeted["messages"] == [{"role": "user", "content": {"type": "text", "text": "Greet Ann kindly"}}]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"name": "greet", "arguments": {}}, "needs 'name'"),
        ({"name": "greet", "arguments": {"name": "Ann", "nom": "x"}}, "no argument 'nom'"),
        ({"name": "nothing"}, "no prompt 'nothing'"),
    ],
)
async def test_a_prompt_that_cannot_be_rendered_says_why(params: dict[str, Any], says: str) -> None:
    async with mcp_door(GREET) as door:
        error = await door.error("prompts/get", params)

        assert error["code"] == -32602
        assert says in error["message"]


async def test_a_prompt_may_ask_before_it_is_rendered() -> None:
    async with mcp_door(WRITE) as door:
        params: dict[str, Any] = {"name": "write", "arguments": {"topic": "cats"}}
        asked = (await door.ask("prompts/get", params, capabilities=FORMS))["result"]
        params |= {"requestState": asked["requestState"], "inputResponses": {"tone": {"action": "decline"}}}
        done = (await door.ask("prompts/get", params, capabilities=FORMS))["result"]

        assert asked["resultType"] == "input_required"
        assert [message["role"] for message in done["messages"]] == ["user", "assistant"]
        assert done["messages"][0]["content"]["text"] == "Write about cats (decline)"
        assert (await door.error("prompts/get", {"name": "write", "arguments": {"topic": "x"}}))["code"] == -32021


async def test_what_an_author_wrote_and_breaks_says_so_without_its_secrets() -> None:
    def broken(name: str = "") -> str:
        raise RuntimeError("password hunter2")

    async with mcp_door(Resource(uri="a:broken", read=broken), Prompt(name="broken", render=broken)) as door:
        for method, params in (("resources/read", {"uri": "a:broken"}), ("prompts/get", {"name": "broken"})):
            error = await door.error(method, params)

            assert (error["code"], "RuntimeError" in error["message"]) == (-32603, True)
            assert "hunter2" not in error["message"]


async def test_a_store_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mcp_door(NOTE) as door:

        async def away(*args: Any) -> None:
            raise StoreUnavailableError("the records cannot be reached")

        monkeypatch.setattr(door.service.calls, "show", away)
        error = await door.error("resources/read", {"uri": "toolpost://calls/1/result"})

        assert (error["code"], error["message"]) == (-32603, "the records cannot be reached")
        assert error["data"]["code"] == "store_unavailable"


async def test_arguments_are_completed() -> None:
    async with mcp_door(GREET, BOOK) as door:

        async def completed(ref: dict[str, str], name: str, value: str) -> Any:
            params = {"ref": ref, "argument": {"name": name, "value": value}}
            return (await door.ask("completion/complete", params))["result"]["completion"]

        many = await completed({"type": "ref/prompt", "name": "greet"}, "name", "a")
        few = await completed({"type": "ref/resource", "uri": "books://{author}/{title}"}, "author", "an")
        none = await completed({"type": "ref/prompt", "name": "greet"}, "manner", "")

        assert (len(many["values"]), many["total"], many["hasMore"]) == (100, 150, True)
        assert few == {"values": ["ann", "anton"], "total": 2, "hasMore": False}
        assert none["values"] == []


class Heard:
    """What a client was told, in order."""

    def __init__(self) -> None:
        self.methods: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, message: Any) -> None:
        method = getattr(getattr(message, "root", message), "method", None)
        if method is not None:
            self.methods.put_nowait(str(method))

    async def next(self) -> str:
        async with asyncio.timeout(10):
            return await self.methods.get()

    async def once_open(self, act: Callable[[], None]) -> str:
        """What is heard when act is done again and again: a session's stream opens some time after it begins."""
        async with asyncio.timeout(10):
            while self.methods.empty():
                act()
                await asyncio.sleep(0.02)
        heard = await self.next()
        while not self.methods.empty():
            self.methods.get_nowait()
        return heard


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[tuple[Client, Heard]]:
    heard = Heard()
    async with Client(url, mode="legacy", message_handler=heard) as client:
        yield client, heard


@pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")
async def test_a_session_hears_of_lists_that_change_and_of_what_it_subscribed_to() -> None:
    async with mcp_door(NOTE) as door, over_http(door) as url, listening(url) as (client, heard):
        await client.subscribe_resource("notes://today")
        catalog = door.executor.catalog
        assert await heard.once_open(lambda: catalog.changed("notes://today")) == "notifications/resources/updated"
        await client.list_tools()  # all that was told until now has arrived before this answer
        while not heard.methods.empty():
            await heard.next()

        catalog.changed("notes://other")
        door.executor.add(export)
        assert await heard.next() == "notifications/tools/list_changed"
        door.executor.add(GREET)
        assert await heard.next() == "notifications/prompts/list_changed"
        door.executor.catalog.remove("notes://today")
        assert await heard.next() == "notifications/resources/list_changed"

        await client.unsubscribe_resource("notes://today")
        door.executor.catalog.changed("notes://today")
        door.executor.registry.unregister_tool("export")
        assert await heard.next() == "notifications/tools/list_changed"
        with pytest.raises(MCPError):
            await client.read_resource("notes://today")


async def test_a_stateless_client_hears_of_what_it_asked_for_and_nothing_else() -> None:
    async with mcp_door(NOTE) as door, over_http(door) as url, Client(url) as client:
        async with client.listen(tools_list_changed=True, resource_subscriptions=["notes://today"]) as events:
            door.executor.add(GREET)
            door.executor.add(export)
            door.executor.catalog.changed("notes://today")
            seen: list[str] = []
            async with asyncio.timeout(10):
                async for event in events:
                    seen.append(type(event).__name__)
                    if len(seen) == 2:
                        break

    assert seen == ["ToolsListChanged", "ResourceUpdated"]


async def test_clients_that_only_listen_are_let_go_when_the_process_drains() -> None:
    async with mcp_door(NOTE) as door, over_http(door) as url, Client(url) as client, listening(url) as (_, heard):
        catalog = door.executor.catalog
        await heard.once_open(lambda: catalog.add(GREET, replace=True))
        async with client.listen(tools_list_changed=True) as events, asyncio.timeout(10):
            door.service.draining = True
            seen = [event async for event in events]  # which ends
            transport = next(iter(door.app._manager._server_instances.values()))
            while "_GET_stream" in transport._request_streams:
                await asyncio.sleep(0.02)

    assert seen == []
